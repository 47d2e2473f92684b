"""The job behind `dita judge`, on a stand-in pipeline that draws its prompts."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from dita import cli, judge, miniature, models
from dita.methods import FewerSteps, Plain
from dita.miniature import world

SCENES = {world.caption(scene): scene for scene in world.evaluation_scenes(24, 0, tuple(world.KINDS))}
QUIET = Console(quiet=True)


class Painter:
    """Draws the scenes of its prompts, but a grey picture for the kinds in `fails`."""

    def __init__(self, fails=()):
        self.fails, self.calls = fails, []
        self._progress_bar_config = {}

    def set_progress_bar_config(self, **config):
        self._progress_bar_config = config

    def __call__(self, prompt, num_inference_steps, generator, output_type, **arguments):
        self.calls.append((len(prompt), num_inference_steps, [g.initial_seed() for g in generator], arguments))
        grey = np.full((64, 64, 3), 140, np.uint8)
        made = [grey if SCENES[p].kind in self.fails else world.draw(SCENES[p]) for p in prompt]
        return SimpleNamespace(images=[Image.fromarray(picture) for picture in made])


class Animator:
    """Draws the clips of its prompts, all with the right motion or all still."""

    def __init__(self, moves=True):
        self.moves = moves
        rng = np.random.default_rng(0)
        clips = [world.sample_clip(rng, "held-out") for _ in range(6)]
        self.clips = {world.clip_caption(clip): clip for clip in clips}

    def set_progress_bar_config(self, **config):
        pass

    def __call__(self, prompt, num_inference_steps, generator, output_type, num_frames=16):
        drawn = [world.draw_clip(self.clips[p]) for p in prompt]
        frames = drawn if self.moves else [np.repeat(clip[:1], len(clip), axis=0) for clip in drawn]
        return SimpleNamespace(frames=[[Image.fromarray(frame) for frame in clip] for clip in frames])


def run(pipe, method=None, **how):
    return judge.judge_model(pipe, method or Plain(), console=QUIET, name="painter", **{"prompts": 24, **how})


def test_a_model_that_draws_what_it_is_told_is_right_in_every_kind():
    found = run(Painter())
    assert found.all.correct.share == 1 and found.all.correct.count == 24
    assert list(found.by_group) == list(world.KINDS)
    assert all(one.correct.count == 4 for one in found.by_group.values())


def test_a_model_that_fails_at_signs_is_wrong_there_only():
    found = run(Painter(fails=("sign",)))
    assert found.by_group["sign"].correct.right == 0 and found.all.attributes["sign"].right == 0
    assert found.all.correct.right == 20


def test_calls_are_batched_and_each_picture_has_a_seed_of_its_own():
    pipe = Painter()
    run(pipe, prompts=20, batch=8, steps=5, seed=0, call={"guidance_scale": 2.0, "num_inference_steps": 28})
    assert [call[:2] for call in pipe.calls] == [(8, 5), (8, 5), (4, 5)]
    assert [seed for call in pipe.calls for seed in call[2]] == list(range(20))
    assert pipe.calls[0][3] == {"guidance_scale": 2.0}


def test_fewer_steps_run_fewer_steps():
    pipe = Painter()
    run(pipe, FewerSteps(0.5), prompts=6, steps=28)
    assert pipe.calls[0][1] == 14


def test_a_video_model_is_judged_by_clips_and_their_motion():
    right = run(Animator(), prompts=6).all
    assert right.attributes["motion"].share == 1 and right.correct.share >= 5 / 6
    still = run(Animator(moves=False), prompts=6)
    assert still.all.attributes["motion"].right == 0 and set(still.groups) <= set(world.MOTIONS)


@pytest.mark.parametrize("what", ["prompts", "steps", "batch"])
def test_counts_below_one_are_refused(what):
    with pytest.raises(ValueError, match=f"{what} must be at least 1, got 0"):
        run(Painter(), **{what: 0})


def test_a_pipeline_without_prompts_is_refused():
    class Classes:
        def __call__(self, class_labels):
            raise AssertionError

    with pytest.raises(ValueError, match="Classes takes no prompts"):
        run(Classes())


def text(renderable):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_the_tables_show_every_kind_and_attribute_with_intervals():
    found = run(Painter(fails=("sign",)))
    lines = text(judge.table(found)).splitlines()
    assert lines[0].split()[:4] == ["prompts", "n", "all", "right"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:] if line.strip()}
    assert rows["one"][:3] == ["4", "100", "51–100"]
    assert rows["sign"][:3] == ["4", "0", "0–49"] and rows["all"][:2] == ["24", "83"]
    attributes = {line.split()[0]: line.split()[1:] for line in text(judge.attribute_table(found)).splitlines() if line}
    assert attributes["relation"] == ["12", "100", "76–100"] and attributes["sign"] == ["4", "0", "0–49"]
    assert max(map(len, lines)) <= 80


def saved(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, scene in zip(names, SCENES.values(), strict=False):
        Image.fromarray(world.draw(scene)).save(folder / name)
        paths.append(folder / name)
    return paths


def test_pictures_of_a_comparison_are_judged_method_by_method(tmp_path):
    saved(tmp_path / "images" / "plain", ["0.png", "1.png"])
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "black.png")
    results = [
        {"label": "plain", "images": ["images/plain/0.png", "images/plain/1.png"]},
        {"label": "toca:4:0.9", "images": ["images/black.png"] * 2},
    ]
    data = {"model": "shapes-flux", "prompts": list(SCENES)[:2], "results": results}
    (tmp_path / "results.json").write_text(json.dumps(data))
    plain, toca = judge.judge_images(tmp_path)
    assert (plain.label, plain.all.correct.right, toca.label, toca.all.correct.right) == ("plain", 2, "toca:4:0.9", 0)


def test_pictures_of_a_manifest_are_judged(tmp_path):
    saved(tmp_path, ["a.png", "b.png"])
    pictures = [{"id": n, "file": f"{n}.png", "prompt": p} for n, p in zip("ab", SCENES, strict=False)]
    (tmp_path / "manifest.json").write_text(json.dumps({"method": "fora:3", "pictures": pictures}))
    (found,) = judge.judge_images(tmp_path)
    assert found.label == "fora:3" and found.all.correct.share == 1


def test_pictures_of_a_generated_folder_are_judged(tmp_path):
    saved(tmp_path / "images", ["a.png", "b.png"])
    lines = [{"id": n, "seed": 0, "file": f"images/{n}.png", "prompt": p} for n, p in zip("ab", SCENES, strict=False)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = judge.judge_images(tmp_path)
    assert found.label == tmp_path.name and found.all.correct.share == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "holds neither results"), ("{", "is not JSON"), ("{}", "holds no list 'results'")],
)
def test_a_folder_without_pictures_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        judge.judge_images(tmp_path)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(models, "load", lambda *a, **k: (Painter(fails=("two",)), {"num_inference_steps": 28}))
    monkeypatch.setattr("dita.cli.libraries.silence", lambda: None)
    return lambda *arguments: CliRunner().invoke(cli.app, ["judge", *map(str, arguments)])


def test_the_command_prints_the_tables_and_writes_json(command, tmp_path):
    result = command("--prompts", 12, "--steps", 3, "--json", tmp_path / "new" / "verdicts.json")
    assert result.exit_code == 0, result.output
    assert "shapes-flux, plain, 3 steps: 12 prompts" in result.stdout
    (data,) = json.loads((tmp_path / "new" / "verdicts.json").read_text())
    assert data["all"]["correct"]["right"] == 10 and len(data["pictures"]) == 12
    assert [one["correct"] for one in data["pictures"] if one["group"] == "two"] == [False, False]


def test_the_command_refuses_models_that_do_not_know_the_world(command):
    result = command("--model", "flux-dev")
    assert result.exit_code == 2 and "'flux-dev' does not know the shapes world" in result.stderr


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(miniature, "__file__", str(tmp_path / "__init__.py"))
    for name in miniature.EVALUATORS:
        with pytest.raises(FileNotFoundError, match=r"docs/judge\.md"):
            miniature.folder(name)
    with pytest.raises(ValueError, match="no bundled model is named 'shapes-eye'"):
        miniature.folder("shapes-eye")
