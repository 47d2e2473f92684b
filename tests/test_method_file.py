"""A method in a file: written and read back, in every form; what it was made for; errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dita.methods import (
    FORA,
    METHODS,
    Composition,
    MadeFor,
    MadeForAnotherWarning,
    Plain,
    SavedMethod,
    ToCa,
    ToMe,
    as_method,
    names_a_file,
    read_method,
    saved_method,
    warn_of_another,
    write_method,
)
from dita.methods.method_file import read_fields
from dita.version import __version__

MADE_FOR = MadeFor(
    model="shapes-flux",
    revision="files-0123",
    steps=28,
    scheduler="FlowMatchEulerDiscreteScheduler:12ab34cd",
    height=64,
    width=64,
    dtype="float32",
    device="cpu",
    dita=__version__,
)
EVERY = [*(cls() for cls in METHODS.values()), FORA(full_steps=(0, 2, 5), full_of=8), Composition((ToMe(), ToCa()))]


@pytest.mark.parametrize("method", EVERY, ids=lambda method: method.label())
def test_every_method_is_read_back_from_a_file_with_what_it_was_made_for(method, tmp_path):
    path = write_method(tmp_path / "tuned", method, MADE_FOR, {"speedup": 2.9, "answer": "use it"})
    assert path == tmp_path / "tuned" / "method.json"
    data = json.loads(path.read_text())
    assert data == {
        "format": 1,
        "method": method.as_json(),
        "made_for": MADE_FOR.as_json(),
        "found": {"speedup": 2.9, "answer": "use it"},
    }
    for source in (path, str(path), path.parent, f"{path.parent}/", str(path.parent), data):
        assert read_method(source) == saved_method(source) == (method, MADE_FOR)
        assert as_method(source) == method


def test_what_as_json_gives_is_read_too(tmp_path):
    (tmp_path / "plain.JSON").write_text(json.dumps(ToCa(3, 0.8).as_json()))
    assert read_method(tmp_path / "plain.JSON") == saved_method(str(tmp_path / "plain.JSON")) == (ToCa(3, 0.8), None)
    assert as_method({"method": "fora", "cycle": 5}) == FORA(5)
    assert as_method(Path(__file__).parent.parent / "examples" / "my_method.json").name == "toca"


def test_a_file_goes_beside_other_methods(tmp_path):
    path = write_method(tmp_path, ToCa(3, 0.8), MADE_FOR)
    assert saved_method(["tome:0.5", path]) == (Composition((ToMe(0.5), ToCa(3, 0.8))), MADE_FOR)
    assert saved_method(SavedMethod(FORA(), MADE_FOR)) == (FORA(), MADE_FOR)
    assert as_method(({"method": "plain"}, str(path))) == ToCa(3, 0.8)


def test_a_short_form_never_looks_at_the_disk(tmp_path, monkeypatch):
    for name in ("toca", "fora:3", "tuned"):
        write_method(tmp_path / name, FORA(7))
    monkeypatch.chdir(tmp_path)
    assert as_method("toca") == ToCa() and as_method("fora:3") == FORA(3)
    assert as_method("tuned") == as_method("toca/") == as_method("./fora:3") == as_method("toca/method.json") == FORA(7)
    monkeypatch.setattr("os.path.isfile", None)
    for text in ("toca:4:0.9", "fora:full=0/3/5", "tome:0.5:modules=attn/mlp+toca", "plain", "ToCa", ""):
        assert not names_a_file(text)


def test_files_can_be_refused(tmp_path):
    path = write_method(tmp_path / "tuned", FORA())
    for given in (str(path), f"{path.parent}/", path, [str(path)]):
        with pytest.raises(ValueError, match=r"^(unknown method|method must be a dita method)"):
            as_method(given, files=False)
    assert as_method("fora:3", files=False) == as_method({"method": "fora", "cycle": 3}, files=False) == FORA(3)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_method(tmp_path / "a" / "b.json", FORA())
    with pytest.raises(ValueError, match="found must be JSON"):
        write_method(path, FORA(5), found={"psnr": float("nan")})
    with pytest.raises(ValueError, match=r"^method must be a dita method, got 'toca'$"):
        write_method(path, "toca")

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dita.output_files.write_whole", full)
    with pytest.raises(OSError, match=r"b\.json.*No space left on device"):
        write_method(path, FORA(5))
    assert read_method(path) == (FORA(), None) and [one.name for one in path.parent.iterdir()] == ["b.json"]


GOOD = {"format": 1, "method": {"method": "fora"}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "unknown method None; known: plain"),
        ({"method": {"method": "fora"}}, '"format": 1'),
        ({"format": 2, "method": {"method": "other"}, "new": 1}, "format 2 is newer than dita .* update dita"),
        ({"format": 0, "method": {"method": "fora"}}, "format must be a whole number, at least 1, got 0"),
        ({"format": "1", "method": {"method": "fora"}}, "format must be a whole number"),
        ({"format": 1}, "a method in JSON is an object .* got None"),
        ({"format": 1, "method": "fora:3"}, "a method in JSON is an object .* got 'fora:3'"),
        ({"format": 1, "method": {"method": "tocca"}}, "unknown method 'tocca'.*did you mean 'toca'"),
        ({"format": 1, "method": {"method": "fora", "circle": 1}}, "no parameter 'circle'.*did you mean 'cycle'"),
        ({**GOOD, "made_fro": {}}, "has no 'made_fro'; it has: format, .*did you mean 'made_for'"),
        ({**GOOD, "made_for": "shapes-flux"}, "'made_for' must be an object, got 'shapes-flux'"),
        ({**GOOD, "found": [1]}, r"'found' must be an object, got \[1\]"),
        ({**GOOD, "made_for": {"modle": "x"}}, "made_for has no 'modle'; .*did you mean 'model'"),
        ({**GOOD, "made_for": {"steps": 0}}, "'steps' of made_for must be a whole number, at least 1, got 0"),
        ({**GOOD, "made_for": {"height": "64"}}, "'height'|height must be a whole number"),
        ({**GOOD, "made_for": {"model": 3}}, "'model' of made_for must be a text, got 3"),
        ({**GOOD, "made_for": {"dtype": ""}}, "'dtype' of made_for must be a text, got ''"),
    ],
)
def test_bad_data_is_one_line_that_names_file_and_fault(data, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as refused:
        as_method(str(path))
    assert "bad.json" in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=message):
        as_method(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "must hold an object such as .*, got \\[1\\]"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        (b"\xff\xfe", "is not JSON: it is no text in UTF-8"),
        ('{"method": "fora", "cycle": 3, "cycle": 4}', "gives 'cycle' twice"),
        (None, "does not exist"),
    ],
)
def test_a_bad_file_is_one_line(content, message, tmp_path):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as refused:
        as_method(path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_method_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder without a method\.json"):
        as_method(tmp_path)
    with pytest.raises(ValueError, match=r"gone/' does not exist.*or a short form"):
        as_method(f"{tmp_path}/gone/")


def test_the_fields_that_a_file_gives_are_told_apart_from_defaults(tmp_path):
    (tmp_path / "a.json").write_text('{"method": "fora", "cycle": 5}')
    (tmp_path / "b.json").write_text('{"format": 1, "method": {"method": "toca"}}')
    assert read_fields(tmp_path / "a.json") == {"method": "fora", "cycle": 5}
    assert read_fields(tmp_path / "b.json") == {"method": "toca"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "shapes-pixart"}, {"model": "model shapes-flux, here shapes-pixart"}),
        ({"scheduler": "UniPC:1"}, {"scheduler": "scheduler FlowMatchEulerDiscreteScheduler, here UniPC"}),
        (
            {"scheduler": "FlowMatchEulerDiscreteScheduler:0"},
            {"scheduler": "scheduler FlowMatchEulerDiscreteScheduler, here with other settings"},
        ),
        ({"dtype": "bfloat16"}, {"dtype": "float32, here bfloat16"}),
        ({"steps": 50}, {"steps": "28 steps, here 50"}),
        ({"width": 128}, {"size": "64x64 pixels, here 64x128"}),
        ({"height": 32, "width": 32}, {"size": "64x64 pixels, here 32x32"}),
        ({"height": 32, "width": None}, {"size": "height 64 pixels, here 32"}),
        ({"height": None, "width": 32}, {"size": "width 64 pixels, here 32"}),
        ({"model": "/somewhere/shapes-dit/"}, {"model": "model shapes-flux, here shapes-dit"}),
        ({"model": "org/other"}, {"model": "model shapes-flux, here org/other"}),
        ({"model": "/somewhere/Shapes-Flux/"}, {}),
        ({"device": "cuda", "dita": "9.9", "revision": "files-4567"}, {}),
    ],
)
def test_differences_are_named_one_by_one(change, words):
    assert MADE_FOR.differences(replace(MADE_FOR, **change)) == words
    unknown = {field.name: None for field in fields(MadeFor) if field.name not in change}
    if "size" not in words:
        assert MADE_FOR.differences(replace(MADE_FOR, **change, **unknown)) == words


def test_what_is_not_known_is_compared_with_nothing():
    assert MADE_FOR.differences(MadeFor()) == MadeFor().differences(MADE_FOR) == {}


def test_the_warning_names_every_difference_once():
    here = replace(MADE_FOR, model="other", steps=50, device="cuda")
    told: set[str] = set()
    with pytest.warns(MadeForAnotherWarning) as said:
        warn_of_another(SavedMethod(FORA(), replace(MADE_FOR, dita="0.0.1")), here, told)
        warn_of_another(SavedMethod(FORA(), MADE_FOR), here, told)
        warn_of_another(SavedMethod(FORA(), MADE_FOR), replace(here, dtype="float16"), told)
    assert [str(one.message) for one in said] == [
        "fora was made for something else (on cpu, with dita 0.0.1): model shapes-flux, here other; 28 steps, here 50",
        "fora was made for something else (on cpu): float32, here float16",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_another(SavedMethod(FORA(), MADE_FOR), MADE_FOR)
        warn_of_another(SavedMethod(Plain()), here)


def test_reading_needs_no_torch(tmp_path):
    path = write_method(tmp_path, FORA(5), MADE_FOR)
    code = "import sys; from dita.methods import as_method; as_method(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
