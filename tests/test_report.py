import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from dita import report
from dita.metrics import Average, share
from dita.miniature.judge.tally import Tally
from dita.quality_plot import FRONT, quality_plot
from tests.sample_comparison import PROMPTS, result, sample_comparison


@pytest.fixture
def comparison():
    return sample_comparison()


def pictures(comparison, size=64):
    rng = np.random.default_rng(0)
    return {r.label: [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in PROMPTS] for r in comparison.results}


class Elements(HTMLParser):
    """All start tags with their attributes, and the text of the page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, wanted):
        return [attributes for tag, attributes in self.tags if tag == wanted]


def test_the_page_needs_nothing_from_outside(comparison):
    page = report.page(comparison, pictures(comparison))
    assert "http:" not in page and "https:" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    elements = Elements(page)
    assert not elements.all("link") and not elements.all("script") and not elements.all("iframe")
    assert all(image["src"].startswith("data:image/") for image in elements.all("img"))
    assert all(use["xlink:href"].startswith("#") for use in elements.all("use"))


def test_the_page_has_a_picture_for_each_prompt_and_method_plain_first(comparison):
    images = Elements(report.page(comparison, pictures(comparison))).all("img")
    assert [image["alt"] for image in images] == [
        f"{prompt} ({label})" for prompt in PROMPTS for label in ("plain", "steps:0.5", "toca:4:0.9")
    ]


def test_prompts_are_escaped(comparison):
    page = report.page(comparison, pictures(comparison))
    assert "<b>bold</b>" not in page
    assert PROMPTS[1] in Elements(page).text


def test_the_page_says_decibels_under_the_pictures_and_what_the_numbers_mean(comparison):
    text = Elements(report.page(comparison, pictures(comparison))).text
    assert "27.0 dB" in text and "identical" in text
    assert "never a speed-up" in text
    assert "9F+19p" in text
    assert "torch 2.13.0" in text and "a CPU" in text


def test_small_pictures_are_shown_pixel_by_pixel(comparison):
    assert "image-rendering: pixelated" in report.page(comparison, pictures(comparison, 64))
    assert "image-rendering: pixelated" not in report.page(comparison, pictures(comparison, 256))


def test_large_pictures_are_scaled_down_and_link_to_the_file(comparison):
    elements = Elements(report.page(comparison, pictures(comparison, 600)))
    assert [a["href"] for a in elements.all("a")][:2] == ["images/plain/0000.png", "images/steps-0.5/0000.png"]
    assert all(image["src"].startswith("data:image/jpeg") for image in elements.all("img"))
    assert not Elements(report.page(comparison, pictures(comparison, 64))).all("a")


@pytest.fixture
def judged(comparison):
    """The comparison, with pictures that were judged: 9 and 4 of 10 right, and none of the fewer-steps baseline's."""
    tallies = (Tally(share(9, 10), {"sign": share(3, 4)}), None, Tally(share(4, 10), {"sign": share(0, 4)}))
    pairs = zip(comparison.results, tallies, strict=True)
    return dataclasses.replace(comparison, results=tuple(dataclasses.replace(r, judge=t) for r, t in pairs))


def test_where_pictures_were_judged_the_share_stands_beside_psnr_and_ssim(judged):
    markdown, page = report.markdown(judged), report.page(judged, pictures(judged))
    head = next(line for line in markdown.splitlines() if line.startswith("| method"))
    assert head.endswith("| PSNR dB | SSIM | judge right |")
    rows = [line for line in markdown.splitlines() if line.startswith("| `")]
    assert rows[0].endswith("| 90 % (60–98 %, 9 of 10) |") and rows[1].endswith("| – |")
    assert len({line.count("|") for line in [head, *rows]}) == 1
    assert "9 of 10" in Elements(page).text and "ground-truth judge" in Elements(page).text


def test_the_terminal_table_has_a_column_for_the_judge_only_where_pictures_were_judged(comparison, judged):
    def printed(one):
        console = Console(width=100, file=io.StringIO(), record=True)
        console.print(report.terminal_table(one))
        return console.export_text()

    assert "judge" not in printed(comparison)
    assert "judge" in printed(judged) and "90 %" in printed(judged)


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_the_plot_names_every_method_and_follows_the_colours_of_the_page(comparison, metric):
    plot = quality_plot(comparison, metric)
    for label in ("plain", "steps:0.5", "toca:4:0.9"):
        assert f">{label}<" in plot
    assert "var(--ink)" in plot or "var(--soft)" in plot
    assert "var(--series-2)" in plot
    assert "#0101" not in plot and "#0102" not in plot
    assert plot == quality_plot(comparison, metric)


def test_judged_pictures_have_a_plot_with_plain_and_its_front(judged):
    plot = quality_plot(judged, "judge")
    assert f'id="{FRONT}"' in plot and 'aria-label="Judge against' in plot
    assert quality_plot(dataclasses.replace(judged, results=judged.results[:1]), "judge") == ""


def test_the_plot_leaves_out_methods_that_draw_identical_pictures(comparison):
    same = dataclasses.replace(comparison.results[2], psnr=Average(None, None, None, 0, 2))
    only = dataclasses.replace(comparison, results=(comparison.results[0], same))
    assert quality_plot(only, "psnr") == ""
    assert "identical" in report.page(only, pictures(only))


def test_names_in_the_plot_do_not_lie_on_each_other(comparison):
    close = [result(f"toca:{n}:0.9", 0.4 + n / 1000, psnr=27 + n / 100) for n in range(4)]
    plot = quality_plot(dataclasses.replace(comparison, results=(comparison.results[0], *close)), "psnr")
    places = re.findall(r'<text style="[^"]*" (?:x|transform)="[^"]*"[^>]*>toca:\d:0.9<', plot)
    assert len(set(places)) == 4


def test_a_comparison_of_plain_with_itself_has_no_plot_and_no_findings(comparison):
    only = dataclasses.replace(comparison, results=comparison.results[:1])
    page = report.page(only, pictures(only))
    assert "<svg" not in page and "Fastest" not in page


def test_the_table_has_a_line_a_method_with_spreads(comparison):
    rows = report.rows(comparison)
    assert [row.label for row in rows] == ["plain", "steps:0.5", "toca:4:0.9"]
    assert str(rows[2].seconds) == "0.400 (0.360–0.480)"
    assert str(rows[2].speedup) == "2.50× (2.25–2.75)"
    assert str(rows[2].psnr) == "27.0 (25.0–29.0)"
    assert str(rows[0].psnr) == "–" and str(rows[0].speedup) == "1.00×"
    assert rows[2].cache_mb == "9.00"


def test_the_terminal_table_fits_eighty_characters(comparison):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.terminal_table(comparison))
    text = console.export_text()
    assert "toca:4:0.9" in text and "2.50×" in text and "0.400 ±15%" in text
    assert "…" not in text
    assert "fewer-steps baseline: 14 of 28" in text


def test_markdown_has_one_table_line_a_method_and_links_the_pictures(comparison):
    text = report.markdown(comparison)
    assert (
        "| `toca:4:0.9` | 9F+19p | 0.400 (0.360–0.480) | 2.50× (2.25–2.75) | 0.0500 | 2.50 | 9.00 | 27.0 (25.0–29.0) |"
        in text
    )
    assert "![toca:4:0.9](images/toca-4-0.9/0000.png) 27.0 dB" in text
    assert "blue \\| star" in text
    columns = {line.count(" | ") for line in text.splitlines() if line.startswith("| a ")}
    assert len(columns) == 1


def test_written_files_are_whole_and_nothing_else_remains(comparison, tmp_path):
    written = report.write(comparison, pictures(comparison), tmp_path / "new" / "out")
    assert [path.name for path in written] == ["results.json", "report.md", "report.html"]
    names = {str(p.relative_to(tmp_path / "new" / "out")) for p in (tmp_path / "new" / "out").rglob("*") if p.is_file()}
    images = {image for r in comparison.results for image in r.images}
    manifests = {f"images/{folder}/manifest.json" for folder in {image.split("/")[1] for image in images}}
    assert names == {"results.json", "report.md", "report.html"} | images | manifests
    json.loads(written[0].read_text(), parse_constant=pytest.fail)  # no NaN or Infinity, which are not JSON


def test_a_failing_write_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path, monkeypatch):
    target = tmp_path / "report.md"
    target.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_file(target, b"new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_picture_that_cannot_be_saved_leaves_the_old_pictures(comparison, tmp_path):
    report.write(comparison, pictures(comparison), tmp_path)
    before = (tmp_path / "images/plain/0000.png").read_bytes()
    broken = {**pictures(comparison, 32), "toca:4:0.9": [np.zeros((2, 2, 7), np.uint8)] * 2}
    with pytest.raises((TypeError, ValueError)):
        report.write(comparison, broken, tmp_path)
    assert (tmp_path / "images/plain/0000.png").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "report.html", "report.md", "results.json"]


def test_where_results_may_be_written(tmp_path):
    assert report.check_folder(tmp_path / "new") == tmp_path / "new"
    assert report.check_folder(tmp_path) == tmp_path
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(FileExistsError, match="holds other files"):
        report.check_folder(tmp_path)
    assert report.check_folder(tmp_path, overwrite=True) == tmp_path
    (tmp_path / "results.json").write_text("{}")
    assert report.check_folder(tmp_path) == tmp_path
    with pytest.raises(NotADirectoryError, match="is a file"):
        report.check_folder(tmp_path / "mine.txt")


def test_image_paths_are_safe_names():
    assert report.image_paths("toca:4:0.9:age_weight=0.5", 2) == (
        "images/toca-4-0.9-age_weight=0.5/0000.png",
        "images/toca-4-0.9-age_weight=0.5/0001.png",
    )
    assert report.image_paths("a/../b c", 1) == ("images/a-..-b-c/0000.png",)


def test_numbers_have_three_digits_and_no_exponent():
    numbers = [0, 0.0000512, 0.05121, 3, 4.697, 12.34, 1203.8]
    assert [report.three_digits(n) for n in numbers] == ["0", "0.0000512", "0.0512", "3.00", "4.70", "12.3", "1204"]
