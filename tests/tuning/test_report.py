import dataclasses
import html
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from dita.output_files import CannotWriteError
from dita.plan import LETTERS
from dita.quality_plot import FRONT
from dita.shapes import named_shape
from dita.tuning import report
from dita.tuning.front_plot import GROUPS, HOLLOW, MARKERS, Mark, frame_of
from dita.tuning.results import Goal, from_json
from tests.tuning import sample


@pytest.fixture(scope="module")
def tuning():
    return sample.tuning()


@pytest.fixture(scope="module")
def plan():
    return sample.TUNED.plan(named_shape("flux-dev"), sample.STEPS)


@pytest.fixture(scope="module")
def written(tuning, plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "tuned"
    sample.write_pictures(out)
    report.write(tuning, out, plan)
    return out


@pytest.fixture(scope="module")
def page(written):
    return (written / "report.html").read_text()


class Elements(HTMLParser):
    """Start tags with their attributes; the text of the page, and that of each table row."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.rows = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data):
        self.text += data
        if self.rows:
            self.rows[-1] += f"{data} "

    def all(self, wanted):
        return [attributes for tag, attributes in self.tags if tag == wanted]


def lines(tuning, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report.terminal(tuning))
    return console.export_text().splitlines()


def test_what_was_written_reads_back(written, tuning):
    assert sorted(path.name for path in written.iterdir()) == ["compare", "report.html", "results.json"]
    read = from_json(json.loads((written / "results.json").read_text()))
    assert read.candidates == tuning.candidates
    assert read.finalists == tuning.finalists
    assert read.reported == tuning.reported
    assert (read.goal, read.answer, read.method) == (tuning.goal, tuning.answer, tuning.method)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_decibels_without_end_are_strict_json_and_come_back(tuning, value):
    first = dataclasses.replace(tuning.candidates[0], decibels={"plain": value, "converged": 3.0})
    reported = dataclasses.replace(tuning.reported[0], psnr={"plain": (value,) * 3, "converged": (1.0, 0.0, 2.0)})
    odd = dataclasses.replace(
        tuning, candidates=(first, *tuning.candidates[1:]), reported=(reported, *tuning.reported[1:])
    )

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    read = from_json(json.loads(report.results_json(odd), parse_constant=refuse))
    assert str(read.candidates[0].decibels["plain"]) == str(value)
    assert [str(one) for one in read.reported[0].psnr["plain"]] == [str(value)] * 3


def test_a_page_and_a_table_are_made_of_decibels_without_end(tuning, tmp_path):
    first = dataclasses.replace(tuning.candidates[0], decibels={"plain": math.inf, "converged": math.nan})
    reported = tuple(
        dataclasses.replace(one, psnr={**one.psnr, "plain": (math.inf,) * 3}) for one in tuning.reported[:1]
    )
    odd = dataclasses.replace(tuning, candidates=(first, *tuning.candidates[1:]), reported=reported)
    text = Elements(report.page(odd, tmp_path)).text
    assert "identical" in text and "not finite" in text
    assert any("identical" in line for line in lines(odd))


def test_the_page_needs_nothing_from_outside(page):
    assert "http:" not in page and "https:" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    elements = Elements(page)
    assert not elements.all("link") and not elements.all("iframe")
    assert all("src" not in script for script in elements.all("script"))
    assert all(image["src"].startswith("data:image/") for image in elements.all("img"))
    assert all(image["alt"] for image in elements.all("img"))
    for link in elements.all("a"):
        assert link["href"].startswith(("#", "compare/images/"))


def test_links_lead_to_pictures_and_places_that_are_there(page, written):
    elements = Elements(page)
    identifiers = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    for link in elements.all("a"):
        if link["href"].startswith("#"):
            assert identifiers.count(link["href"][1:]) == 1
        else:
            assert (written / link["href"]).is_file()
    for use in elements.all("use"):
        assert (use.get("href") or use["xlink:href"])[1:] in identifiers


def test_the_answer_is_the_heading_with_the_name_as_code(page, tuning):
    heading = re.search(r"<h1>(.*?)</h1>", page, re.S).group(1)
    plain = html.unescape(re.sub("<[^>]+>", "", heading))
    assert plain == tuning.answer
    assert re.sub("<wbr>", "", re.search("<code>(.*?)</code>", heading).group(1)) == tuning.chosen
    assert "<wbr>" in heading


def test_a_name_is_not_taken_for_the_start_of_another(tuning):
    answer = "Use steps:0.3:unipc, not steps:0.35, steps:0.3 or steps:0.3: it is nearer."
    reported = (dataclasses.replace(tuning.reported[0], label="steps:0.3"),)
    named = str(report._with_names(dataclasses.replace(tuning, answer=answer, chosen="steps:0.3", reported=reported)))
    assert named.replace("<wbr>", "") == (
        "Use steps:0.3:unipc, not steps:0.35, <code>steps:0.3</code> or <code>steps:0.3</code>: it is nearer."
    )


def test_every_candidate_is_a_point_of_both_sizes_with_its_name(page, tuning):
    for size in ("wide", "narrow"):
        for number, candidate in enumerate(tuning.candidates):
            title = re.search(rf'<g id="tried-{size}-{number}"><title>(.*?)</title>', page).group(1)
            assert html.unescape(title).startswith(f"{candidate.label}: ")
        assert f'id="tried-{size}-{FRONT}"' in page
        assert len(re.findall(rf'<g id="measured-{size}-\d+">', page)) == len(tuning.reported)


def test_groups_differ_in_shape_and_all_have_one():
    assert len(set(MARKERS.values())) == len(GROUPS) == len(MARKERS)
    assert set(GROUPS) >= HOLLOW
    assert set(report.ABOUT_GROUPS) == set(GROUPS)


def test_outliers_are_at_the_border_and_do_not_flatten_the_rest(tuning, page):
    marks = report._tried(tuning)
    frame = frame_of(marks)
    outside = {mark.words.split(": ")[0] for mark in marks if not frame.holds(mark)}
    assert outside == {"call:3:3:full=0/14", "duca:2:0.5"}
    assert frame.quality[0] > 0 and frame.seconds[1] < 1
    assert "Beyond the borders, with an arrow: 2 (" in Elements(page).text
    for mark in marks:
        x, y = frame.place(mark)
        assert frame.seconds[0] <= x <= frame.seconds[1] and frame.quality[0] <= y <= frame.quality[1]


def test_what_has_a_name_is_never_an_outlier():
    marks = [Mark("published", 1 + i / 10, 20 + i, "") for i in range(8)]
    far = Mark("whole calls", 1.2, 90.0, "", "use this", True)
    assert not frame_of([*marks, dataclasses.replace(far, name="", chosen=False)]).holds(far)
    assert frame_of([*marks, far]).holds(far)


def test_a_single_point_has_room_around_it():
    frame = frame_of([Mark("published", 2.0, 30.0, "")])
    assert frame.seconds[1] > frame.seconds[0] and frame.quality[1] > frame.quality[0]


def drawn(tuning, tmp_path, what):
    """The goal's words in the plot `what`, once for each size."""
    page = report.page(tuning, tmp_path)
    figures = page[page.index('id="front"') :].split("<figure")[1:3]
    return figures[("tried", "measured").index(what)].count(f"goal: {tuning.goal}<")


@pytest.mark.parametrize(
    "goal, tried, measured",
    [(Goal(speedup=3.0), 2, 2), (Goal(seconds=0.35), 2, 2), (Goal(psnr=35.0), 0, 2), (Goal(speedup=90.0), 0, 0)],
)
def test_the_goal_is_a_line_where_it_can_be_read(goal, tried, measured, tmp_path):
    tuning = sample.tuning(goal)
    assert drawn(tuning, tmp_path, "tried") == tried
    assert drawn(tuning, tmp_path, "measured") == measured


def test_the_steps_are_those_of_the_plan_and_of_the_run_without_one(page, plan, tuning, tmp_path):
    letters = [LETTERS[kind] for kind in plan.kinds]
    for text in (page, report.page(tuning, tmp_path)):
        steps = re.search(r'<ol class="steps".*?</ol>', text, re.S).group(0)
        assert re.findall(r">([^<\s])</li>", steps) == letters
    assert 'srcset="data:image/png' in page
    assert "srcset" not in report.page(tuning, tmp_path)


def test_pictures_are_of_eight_prompts_with_differences(page):
    images = [image["alt"] for image in Elements(page).all("img") if "loading" in image][1:]
    assert len(images) == 8 * (3 + 2)
    assert images[:5] == [
        f"{sample.PROMPTS[0]} (plain)",
        f"{sample.PROMPTS[0]} (fewer steps)",
        "difference of fewer steps from plain",
        f"{sample.PROMPTS[0]} (tuned)",
        "difference of tuned from plain",
    ]
    assert "<b>green</b>" not in page


def test_fewer_steps_as_the_answer_stand_beside_the_tuned_method(tuning, written):
    fewer = tuning.reported[1].label
    other = dataclasses.replace(tuning, chosen=fewer, method=sample.REPORTED[1][1].as_json(), answer=f"Use {fewer}.")
    images = [image["alt"] for image in Elements(report.page(other, written)).all("img")]
    assert images[1:5:2] == [f"{sample.PROMPTS[0]} (tuned)", f"{sample.PROMPTS[0]} (fewer steps)"]
    assert [row.role for row in report.rows(other) if row.chosen] == ["fewer steps"]


def test_broken_pictures_are_said_and_not_taken_for_the_plain_ones(tuning, written):
    results = [dict(one) for one in tuning.comparison["results"]]
    results[2] |= {"broken": list(range(len(sample.PROMPTS))), "psnr": None, "ssim": None}
    broken = dataclasses.replace(tuning, comparison={**tuning.comparison, "results": results})
    rows = report.rows(broken)
    assert [row.role for row in rows] == ["plain", "tuned", *(role for role, *_ in sample.REPORTED[1:])]
    assert rows[2].speedup == "2.97×"
    assert Elements(report.page(broken, written)).text.count("NaN") == 8


def test_a_clip_is_shown_moving(tuning, tmp_path):
    sample.write_pictures(tmp_path, side=32)
    clips = dataclasses.replace(tuning, comparison={**tuning.comparison, "frames": 4})
    page = report.page(clips, tmp_path)
    assert page.count('src="data:image/webp') == 8 * (3 + 2)
    assert "seconds<br>a clip" in page


def test_without_its_pictures_the_page_is_whole(tuning, tmp_path):
    page = report.page(tuning, tmp_path)
    assert "#pictures" not in page and "<img" not in page
    assert "Use it" in page


def test_a_tuning_that_was_ended_before_it_measured_has_a_page_and_a_table(tuning, tmp_path):
    early = dataclasses.replace(tuning, comparison={}, reported=(), finalists=())
    page = report.page(early, tmp_path)
    assert "Nothing was measured" in page and page.count("data-value=") >= 4 * len(tuning.candidates)
    assert lines(early)
    bare = dataclasses.replace(early, candidates=())
    assert "#front" not in report.page(bare, tmp_path)


def test_the_tables_have_every_candidate_the_nearest_first(page, tuning):
    table = page[page.index("sortable") :]
    labels = re.findall(r'<th scope="row" class="label" data-value="(.*?)"', table)
    best = sorted(tuning.candidates, key=lambda one: -one.decibels["plain"])
    assert [html.unescape(label) for label in labels] == [one.label for one in best]


def test_rows_have_numbers_with_their_intervals(page):
    rows = [" ".join(row.split()) for row in Elements(page).rows]
    tuned = next(row for row in rows if row.startswith("tuned use this"))
    for part in ("9 evaluations, 0.345 s", "3.01× 2.92–3.07", "41.2 40.0–42.3", "30.1 29.1–31.0"):
        assert part in tuned


@pytest.mark.parametrize("reference", ["plain", "converged"])
def test_plots_go_by_the_reference(reference, tmp_path):
    text = Elements(report.page(sample.tuning(reference=reference), tmp_path)).text
    assert f"PSNR to {reference}, dB (up is closer)" in text
    assert f"decibels of latents to {reference} (up is closer)" in text


def test_the_lines_that_use_it_name_the_folder_and_the_steps(page, written):
    text = Elements(page).text
    assert 'dita.enable(pipe, "tuned/method.json")' in text
    assert "--model shapes-flux --steps 28 --method tuned/method.json" in text
    assert str(written) not in page


def test_the_terminal_says_the_answer_first_and_cuts_nothing(tuning):
    found = lines(tuning)
    assert all(len(line) <= 80 for line in found)
    assert "…" not in "".join(found)
    whole = " ".join(" ".join(found).split())
    assert whole.startswith(tuning.answer[:40])
    for one, (_, _, _, _, seconds, _, _) in zip(tuning.reported, sample.REPORTED, strict=True):
        row = next(line for line in found if line[2:].startswith(one.role + " "))
        for number in (f"{seconds:.3f}", f"{one.psnr['plain'][0]:.1f}", f"{one.psnr['converged'][0]:.1f}"):
            assert number in row
        assert ("→" in row) == (one.label == tuning.chosen)
        pieces = report.folded(one.label, report.METHOD_WIDTH - 2)
        assert "".join(pieces) == one.label
        assert all(any(line.strip().startswith(piece) for line in found) for piece in pieces)
    assert tuning.notes[0] in whole


@pytest.mark.parametrize("label", ["", "plain", "call:full=" + "/".join(map(str, range(60))), "x" * 99, "a:+/b"])
def test_names_are_broken_into_lines_that_fit(label):
    pieces = report.folded(label, 12)
    assert "".join(pieces) == label
    assert all(len(piece) <= 12 for piece in pieces)


def test_what_cannot_be_written_is_said(tuning, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match=r"results\.json"):
        report.write(tuning, tmp_path / "file", None)
