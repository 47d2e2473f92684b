import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dita import miniature, model_names, models
from dita.cli import app
from dita.methods import METHODS, SCORES, parse
from dita.metrics.catalogue import METRICS
from dita.shapes import NAMED_SHAPES


def run(line):
    return CliRunner().invoke(app, line.split())


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_known_in_capitals(name):
    assert parse(name.upper()).label() == parse(name).label()


@pytest.mark.parametrize("score", [score for score in SCORES if score != "frame-uniqueness"])
def test_scores_and_parameters_are_known_in_capitals(score):
    assert parse(f"ToCa:4:0.9:{score.upper()}") == parse(f"toca:4:0.9:{score}")
    assert parse(f"TOCA:Cycle=3:SCORE={score.title()}") == parse(f"toca:cycle=3:score={score}")
    assert parse("ToMe:0.5+TOCA:4") == parse("tome:0.5+toca:4")


@pytest.mark.parametrize("name", NAMED_SHAPES)
def test_a_plan_knows_published_names_in_capitals_and_by_their_hub_ids(name):
    told = [run(f"plan --model {one} --method steps --steps 4 --json") for one in (name, name.upper())]
    if name in model_names.HUB_IDS:
        hub_id = model_names.HUB_IDS[name]
        told += [run(f"plan --model {one} --method steps --steps 4 --json") for one in (hub_id, hub_id.lower())]
    assert {one.exit_code for one in told} == {0}
    assert len({one.stdout for one in told}) == 1 and json.loads(told[0].stdout)["model"] == name


@pytest.mark.parametrize("name", sorted(miniature.MINIATURES))
def test_bundled_names_are_known_in_capitals(name):
    assert models.shape(name.upper()) == models.shape(name)
    assert models.default_call(name.title()) == models.default_call(name)
    assert models.is_bundled(name.upper()) and models.class_names(name.upper()) == models.class_names(name)


COMMANDS = (
    "compare --prompts 1 --out out --model {}",
    "tune --prompts 1 --out out --model {}",
    "generate --prompt cat --out out --model {}",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", model_names.HUB_IDS)
def test_a_published_name_stands_for_its_hub_id_and_nothing_is_downloaded(command, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", pytest.fail)
    told = run(command.format(name.upper()))
    hub_id = model_names.HUB_IDS[name]
    assert told.exit_code == 2
    lines = told.stderr.splitlines()
    assert lines[0] == f"{name} is {hub_id}"
    assert lines[-1].startswith(f"error: '{name}' stands for {hub_id}") and "to download it" in lines[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_published_video_model_is_to_be_converted_first(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "dita convert-opensora" in run(command.format("opensora-1.2-480p-2s")).stderr


def test_what_a_cached_published_name_stands_for_is_loaded_without_the_network(monkeypatch):
    asked = []
    monkeypatch.setattr(model_names, "cached_folder", lambda hub_id: Path("cached"))
    monkeypatch.setattr(models, "_from_pretrained", lambda *given: asked.append(given) or SimplePipe())
    models.load("Flux-Schnell", device="cpu")
    assert [(source, local) for source, _, local in asked] == [("black-forest-labs/FLUX.1-schnell", True)]


class SimplePipe:
    def to(self, device):
        return self


def test_a_folder_goes_before_a_name_in_capitals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Flux-Dev").mkdir()
    assert model_names.canonical("Flux-Dev") == "Flux-Dev" and model_names.canonical("FLUX-dev") == "flux-dev"


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("plan --model flux-dve --method fora", "flux-dev"),
        ("plan --model FLUX.1-dev --method fora", "flux-dev"),
        ("plan --model flux-dev --method forra", "fora"),
        ("plan --model flux-dev --method toca:4:0.9:randon", "random"),
        ("plan --model flux-dev --method toca:4:ratoi=0.9", "ratio"),
        ("plan --model flux-dev --method toca --schedule constnt", "constant"),
        ("plan --model flux-dev --method toca --accounting post", "post-projection"),
        ("compare --prompts 1 --out out --model shapes-fluks", "shapes-flux"),
        ("compare --prompts 1 --out out --model flux-dve", "flux-dev"),
        ("compare --prompts 1 --out out --metrics image-rewrad", "image-reward"),
        ("tune --out out --model shapes-pixert", "shapes-pixart"),
        ("tune --out out --reference convergd", "converged"),
        ("generate --prompt cat --out out --model shapes-ditt", "shapes-dit"),
        ("generate --prompt cat --out out --dtype bfloat", "bfloat16"),
        ("generate --prompt cat --out out --engine locl", "local"),
        ("generate --prompt cat --out out --format pgn", "png"),
        ("judge --model shapes-fluks", "shapes-flux"),
        ("study selektion --out out", "selection"),
        ("methods tocca", "toca"),
        ("tables fluxx", "flux"),
        ("bench --shape cpu-fluks", "cpu-flux"),
        ("bench --compile blcks", "blocks"),
    ],
)
def test_what_is_misspelt_names_the_nearest(line, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run(line)
    assert told.exit_code == 2 and f"did you mean {near!r}?" in told.stderr, told.output


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_known_in_capitals(name):
    from dita.metrics.catalogue import parse as parsed

    assert parsed(name.upper()) == parsed(name)
