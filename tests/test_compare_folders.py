"""`dita compare --pictures`: folders of `dita generate`, paired by id and seed, in one report."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from dita import cli, report
from dita.compare import from_json
from dita.compare_folders import SHOWN, compare_folders
from dita.evaluate import evaluate
from dita.generation import runner
from dita.generation.job import items
from dita.generation.progress import Progress
from dita.generation.prompts import Prompt
from dita.metrics.catalogue import parse
from dita.metrics.picture_sets import open_pictures
from dita.miniature import world
from dita.networks import Networks
from tests.generation.stand_in import StandIn, loading, settings

QUIET = Console(quiet=True)
HALF = {"method": "steps", "fraction": 0.5}
SCENES = world.evaluation_scenes(3, 0, ("one",))
CAPTIONS = [world.caption(scene) for scene in SCENES]


class Drawing(StandIn):
    """Draws the scene of a caption with a little noise, coarser where there are fewer steps."""

    def __call__(self, prompt, num_inference_steps=28, generator=None, output_type="pil", height=64):
        noise = [np.random.default_rng(g.initial_seed()).integers(-4, 5, (64, 64, 1)) for g in generator]
        drawn = [world.draw(SCENES[CAPTIONS.index(text)]) for text in prompt]
        noisy = [np.clip(d + n * (4 // num_inference_steps), 0, 255) for d, n in zip(drawn, noise, strict=True)]
        return SimpleNamespace(images=[Image.fromarray(picture.astype(np.uint8)) for picture in noisy])


def generated(out, captions=CAPTIONS, seeds=(0, 1), **changes):
    some = items([Prompt(f"p{i}", text) for i, text in enumerate(captions)], seeds)
    job = settings(**{"steps": 4, **changes})
    runner.run(job, some, out, batch_size=2, progress=Progress(quiet=True), load=loading(Drawing()))
    lines = (out / "manifest.jsonl").read_text().splitlines()
    slow = 2.0 if job.method["method"] == "plain" else 0.5
    noted = [{**json.loads(line), "seconds": slow * (1 + i / 10)} for i, line in enumerate(lines)]
    (out / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in noted))
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    return SimpleNamespace(plain=generated(place / "plain"), half=generated(place / "half", method=HALF))


@pytest.fixture(scope="module")
def compared(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    found = compare_folders([("", folders.half), ("", folders.plain)], out=out, console=QUIET)
    return SimpleNamespace(found=found, out=out)


def test_plain_is_first_and_fidelity_is_that_of_evaluate(compared, folders):
    plain, half = compared.found.results
    assert (plain.label, half.label) == ("plain", "steps:0.5")
    assert (plain.role, half.role) == ("the reference", "fewer-steps baseline: 2 of 4")
    assert (compared.found.pictures, plain.psnr) == (6, None)
    said = evaluate(
        open_pictures(folders.half), parse("psnr,ssim"), Networks(), plain=open_pictures(folders.plain), console=QUIET
    )
    psnr, ssim = said.results
    assert (half.psnr, half.ssim) == (psnr.value, ssim.value)
    keys = [f"p{i}, seed {seed}" for i in range(3) for seed in (0, 1)]
    assert half.psnr_each == tuple(psnr.each[key] for key in keys)
    assert compared.found.seeds == (0, 1) * 3


def test_seconds_are_those_of_the_manifest_pair_by_pair_and_are_called_so(compared):
    plain, half = compared.found.results
    assert plain.seconds_per_image.median == pytest.approx(2.5)
    assert (half.speedup.median, half.speedup.low, half.speedup.count) == (pytest.approx(4), pytest.approx(4), 6)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.terminal_table(compared.found))
    text = " ".join(console.export_text().split())
    assert "as noted" in text and "not interleaved, so no measurement of speed" in text
    assert "TFLOPs" not in text
    for name in (report.MARKDOWN, report.PAGE):
        written = (compared.out / name).read_text()
        assert "as noted" in written and "interleaved" in written and "FLOPs ratio" not in written


def test_the_judge_reads_the_pictures_of_bundled_models(compared):
    assert [result.judge.correct.right for result in compared.found.results] == [6, 6]


def test_it_goes_to_json_and_comes_back_and_pictures_stand_beside_it(compared):
    data = json.loads((compared.out / report.RESULTS).read_text())
    assert from_json(data) == compared.found
    assert all((compared.out / image).is_file() for result in compared.found.results for image in result.images)


def test_only_what_all_folders_have_is_compared_and_the_rest_is_counted(folders, tmp_path):
    fewer = generated(tmp_path / "fewer", CAPTIONS[1:], seeds=(0,), steps=2)
    damaged = generated(tmp_path / "damaged", method=HALF)
    cut = damaged / "images" / "p2-s0.png"
    cut.write_bytes(cut.read_bytes()[:400])
    with pytest.raises(ValueError, match="has the prompt"):
        compare_folders([("plain", folders.plain), ("x", fewer)], out=tmp_path / "out", console=QUIET)
    found = compare_folders([("plain", folders.plain), ("cut", damaged)], out=tmp_path / "out", console=QUIET)
    assert (found.results[1].psnr.count, len(found.prompts)) == (5, 5)
    assert [note.partition(" of ")[0] for note in found.notes] == ["1"] and "p2, seed 0" in found.notes[0]
    other = generated(tmp_path / "other", seeds=(1, 2), steps=2)
    found = compare_folders([("plain", folders.plain), ("two", other)], out=tmp_path / "out", console=QUIET)
    assert found.pictures == 3
    assert any("two was made with other settings than plain: steps is 2 there and 4 here" in n for n in found.notes)
    assert any(n.startswith("3 of ") and "without a counterpart" in n for n in found.notes)


def test_the_report_shows_the_first_pictures_of_many(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("dita.compare_folders.SHOWN", 2)
    found = compare_folders([("", folders.plain), ("", folders.half)], out=tmp_path, console=QUIET)
    assert (len(found.prompts), found.pictures, SHOWN) == (2, 6, 32)
    assert "The first 2 of 6." in (tmp_path / report.MARKDOWN).read_text()
    assert "The first 2 of 6." in (tmp_path / report.PAGE).read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("half",), "one folder must hold the plain pipeline's pictures: name it plain=DIR; of steps:0.5 (steps:0.5)"),
        (("plain", "plain"), "two folders are named 'plain'"),
        (("a=plain", "b=plain"), "name it plain=DIR; of a (plain), b (plain), several are plain"),
        (("plain",), "there is nothing to compare"),
        (("plain", "nowhere"), "has no manifest.jsonl: it is not one that dita generate made"),
        (("plain", "half", "--steps", "3"), "--steps belongs to making pictures"),
        (("plain", "half", "--metrics", "fid"), "fid needs --reference"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(folders, tmp_path, given, message):
    arguments = ["compare", "--out", str(tmp_path / "out")]
    options = given.index("--steps") if "--steps" in given else given.index("--metrics") if "--metrics" in given else 9
    for entry in given[:options]:
        name, _, folder = entry.rpartition("=")
        path = str(folders.plain.parent / folder)
        arguments += ["--pictures", f"{name}={path}" if name else path]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, [*arguments, *given[options:]])
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_the_command_compares_folders_under_names(folders, tmp_path):
    pictures = [f"plain={folders.plain}", f"half the steps={folders.half}"]
    arguments = ["compare", *(part for one in pictures for part in ("--pictures", one)), "--out", str(tmp_path / "out")]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "shapes-flux: 2 methods, 6 pictures, 4 steps" in result.stdout and "half the steps" in result.stdout
    assert (tmp_path / "out" / report.PAGE).is_file()


def test_clips_are_refused(folders, tmp_path):
    clips = generated(tmp_path / "clips")
    described = json.loads((clips / "job.json").read_text())
    described["settings"]["format"] = "mp4"
    (clips / "job.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="holds videos, as mp4"):
        compare_folders([("", folders.plain), ("x", clips)], out=tmp_path / "out", console=QUIET)


def test_pictures_of_one_colour_are_counted_and_not_compared(tmp_path):
    plain, half = generated(tmp_path / "plain"), generated(tmp_path / "half", method=HALF)
    files = sorted(path.name for path in (plain / "images").iterdir())[:2]
    for name in files:
        Image.new("RGB", (64, 64)).save(half / "images" / name)
    Image.new("RGB", (64, 64)).save(plain / "images" / files[0])
    found = compare_folders([("", plain), ("", half)], out=tmp_path / "out", console=QUIET)
    assert [len(result.constant) for result in found.results] == [1, 2]
    compared = found.results[1]
    assert compared.psnr.count == 5 and compared.psnr.infinite == 0
    assert sum(value is None for value in compared.ssim_each) == 1
    page = (tmp_path / "out/report.html").read_text()
    assert "2 of 6 pictures are of one colour" in page and "not compared</span>" in page
    assert any("both of one colour" in note for note in found.notes)
