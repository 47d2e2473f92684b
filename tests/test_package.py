"""What a person meets in an interpreter: names, the version, log records, and objects as they show themselves."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
import warnings

import pytest
from PIL import Image

import dita
from dita.methods import METHODS, Composition, Method, as_method, parse
from dita.plan import LETTERS, LONGEST_LETTERS, letters
from dita.shapes import named_shape
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]
SHAPES = ["flux-dev", "pixart-alpha-256", "dit-xl-2-256", "opensora-1.2-480p-2s"]
NAMES = {**{cls.__name__: cls for cls in METHODS.values()}, "Composition": Composition}


def test_completion_offers_all_there_is_and_nothing_of_the_inside():
    offered = [name for name in dir(dita) if not name.startswith("_")]
    assert {"enable", "enabled", "disable", "generate", "tune", "plot_plan", "pipelines", "ToCa"} <= set(offered)
    assert not {"annotations", "Any", "TYPE_CHECKING", "values", "logging"} & set(offered)
    assert all(getattr(dita, name) is not None for name in offered)


def test_plans_and_completion_import_no_torch_and_no_matplotlib():
    code = (
        "import sys, dita; dir(dita); repr(dita.ToCa().plan(dita.shapes.named_shape('flux-dev'), 28));"
        " print(sorted({'torch', 'matplotlib', 'diffusers'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(AttributeError, match="no attribute 'enabel'; did you mean 'enable'"):
        dita.enabel  # noqa: B018
    assert not hasattr(dita, "__wrapped__")


def test_the_version_is_the_packages():
    assert dita.__version__ == dita.version.__version__ and isinstance(dita.__version__, str)


@pytest.mark.parametrize("cls", METHODS.values(), ids=METHODS)
def test_a_method_shows_what_makes_it_again(cls: type[Method]):
    method = cls()
    assert eval(repr(method), dict(NAMES)) == method
    assert "None" not in repr(method) and "\n" not in repr(method) and len(repr(method)) < 80


@pytest.mark.parametrize(
    "text",
    [
        "toca:3:0.5:norm",
        "fora:full=0/3/7:of=28",
        "steps:0.5:unipc",
        "call:5:2:space=x0",
        "tome:0.5+toca:4:0.9",
    ],
)
def test_what_differs_from_the_defaults_is_shown(text):
    method = parse(text)
    assert eval(repr(method), dict(NAMES)) == method and "None" not in repr(method)


def test_long_parameters_are_cut_short():
    weights = tuple((-0.123456789, 1.123456789) for _ in range(25))
    shown = repr(dita.WholeCall(predictor="fitted", weights=weights))
    assert "weights=<25 items>" in shown and len(shown) < 120


def test_a_method_of_ones_own_keeps_its_repr():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Mine(dita.FORA):
        extra: int = 1

    @dataclasses.dataclass(frozen=True)
    class Telling(dita.FORA):
        def __repr__(self) -> str:
            return "told"

    assert repr(Mine(extra=2)) == "Mine(cycle=3, extra=2)" and repr(Telling()) == "told"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", ["plain", "toca:4:0.9", "steps:0.5", "call:3", "fora:3", "tgate", "pab:2", "deltadit"])
def test_a_plan_is_a_line(text, shape):
    method = parse(text)
    if named_shape(shape).family not in method.families:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = method.plan(named_shape(shape), 30)
    shown = repr(plan)
    assert shown.startswith(f"<Plan of {method.label()} on {shape}: ") and "\n" not in shown and len(shown) < 180
    assert "".join(LETTERS[kind] for kind in plan.kinds) in shown


def test_long_runs_are_cut_short():
    shown = repr(dita.FORA(3).plan(named_shape("dit-xl-2-256"), 250))
    assert "250 steps F..F" in shown and "... " not in shown and len(shown) < LONGEST_LETTERS + 110


def picture_in(html: str) -> Image.Image:
    encoded = html.split("data:image/png;base64,")[1].split('"')[0]
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_a_notebook_shows_a_plan_with_its_map():
    html = as_method("toca:4:0.9").plan(named_shape("dit-xl-2-256"), 10)._repr_html_()
    assert "Plan of toca on dit-xl-2-256" in html and 'alt="Map of toca' in html
    assert picture_in(html).width > 500


@pytest.mark.parametrize("family", FAMILIES, ids=lambda module: module.FAMILY)
def test_a_summary_is_a_line_and_in_a_notebook_a_map(family):
    pipe = dita.enable(family.tiny_pipeline(), "fora:2")
    family.call(pipe, steps=6)
    found = dita.summary(pipe, show=False)
    assert repr(found).startswith("<Summary of fora:2 on ") and f"6 steps {letters(found.kinds)}, " in repr(found)
    assert "\n" not in repr(found) and len(repr(found)) < 180
    html = found._repr_html_()
    assert "steps executed" in html and picture_in(html).width > 500
    assert repr(dita.Summary(dita.FORA())) == "<Summary of fora: nothing executed>"
    assert "steps executed" in dita.Summary(dita.FORA())._repr_html_()


def test_log_records_are_under_dita_and_nobody_hears_of_them_unasked(caplog):
    code = (
        "import dita, logging; log = logging.getLogger('dita');"
        "log.warning('unheard'); print([type(h).__name__ for h in log.handlers])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "['NullHandler']" and not said.stderr
    pipe = tiny_flux.tiny_pipeline()
    with caplog.at_level(logging.INFO, logger="dita"):
        dita.enable(pipe, "toca:4:0.9")
        dita.disable(pipe)
    assert [record.getMessage() for record in caplog.records] == [
        "toca enabled on FluxPipeline",
        "toca disabled on FluxPipeline",
    ]
    assert all(record.name.startswith("dita.") for record in caplog.records)


def test_enable_takes_data_and_paths(tmp_path):
    pipe = tiny_flux.tiny_pipeline()
    data = {"method": "toca", "cycle": 3, "ratio": 0.7}
    path = tmp_path / "method.json"
    path.write_text(json.dumps(data))
    for given in (data, path, str(path), tmp_path, str(tmp_path)):
        with dita.enabled(pipe, given):
            tiny_flux.call(pipe)
            assert dita.summary(pipe, show=False).method == dita.ToCa(3, 0.7)
