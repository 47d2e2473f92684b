"""What a job finds in its folder when it goes on: files held against their checksums, damaged lines, repeated lines."""

import json

import pytest

from dita.generation import folder, ray_engine, runner
from dita.generation.progress import Progress
from tests.generation.stand_in import StandIn, loading, same_pictures, settings, some_items
from tests.generation.test_runner import complete, entries, run


class Heard(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, remark):
        self.said.append(remark)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "job"
    run(out)
    return out


@pytest.fixture
def out(tmp_path):
    run(tmp_path / "out")
    return tmp_path / "out"


def again(out, count=6, **options):
    """The outcome of a second run, the prompts that were drawn, and what was said."""
    pipe, heard = StandIn(), Heard()
    given = {"batch_size": 1, "progress": heard, "load": loading(pipe)} | options
    outcome = runner.run(settings(), some_items(count), out, **given)
    return outcome, [prompt for call in pipe.calls for prompt in call], heard.said


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_bytes(b""), "has 0 bytes of "),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "has "),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has "),
        (lambda path: path.write_bytes(flipped(path.read_bytes())), "is damaged"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "is damaged"),
    ],
    ids=["gone", "empty", "cut", "longer", "flipped", "zeros"],
)
def test_a_file_that_is_not_as_the_manifest_says_is_made_again_and_said(out, reference, damage, words):
    damage(out / "images" / "p2-s0.png")
    outcome, drawn, said = again(out)
    assert (outcome.made, outcome.found, drawn) == (1, 5, ["prompt 2"])
    assert len(said) == 1 and f"images/p2-s0.png {words}" in said[0]
    assert said[0].startswith("made again, for they are not as the manifest says (1): ")
    assert complete(out) and same_pictures(out / "images", reference / "images")
    assert again(out)[1:] == ([], [])


def test_a_damaged_file_that_this_run_does_not_make_is_listed_no_longer(out):
    for number in (1, 5):
        (out / "images" / f"p{number}-s0.png").write_bytes(b"x")
    _, drawn, said = again(out, count=3)
    assert drawn == ["prompt 1"]
    assert said[1].startswith("no longer listed, and not of this run (1): images/p5-s0.png has 1 bytes of ")
    assert again(out)[1] == ["prompt 5"]
    assert complete(out)


def test_many_damaged_files_are_counted(out):
    for path in (out / "images").iterdir():
        path.write_bytes(b"x")
    outcome, _, said = again(out)
    assert outcome.made == 6
    assert "(6): images/p0-s0.png has 1 bytes of " in said[0] and said[0].endswith(" and 3 more")


DAMAGE = {
    "cut": lambda line: line[:100],
    "garbage": lambda line: b"\x93\xff{" + line[::-1],
    "zeros": lambda line: bytes(len(line)),
    "run together": lambda line: line[:100] + line,
    "not an object": lambda _: b'["p1", 0]',
    "deep": lambda _: b"[" * 5000,
    "another kind": lambda _: b'{"id": "p1", "seed": 0, "prompt": 3, "file": "images/p1-s0.png", "bytes": 3}',
    "keys missing": lambda _: b'{"id": "p1", "seed": 0}',
}


@pytest.mark.parametrize("number", [0, 1, 4])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_line_is_named_and_repaired_from_the_others(out, reference, damage, number):
    manifest = out / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines()
    manifest.write_bytes(b"\n".join([*lines[:number], damage(lines[number]), *lines[number + 1 :], b""]))
    damaged = manifest.read_bytes()
    for use in (again, folder.read_manifest):
        with pytest.raises(ValueError, match=rf"line {number + 1}: not an entry .* 5 others are; .*--repair"):
            use(out)
    assert manifest.read_bytes() == damaged
    outcome, drawn, said = again(out, repair=True)
    assert (outcome.made, outcome.found, drawn) == (1, 5, [f"prompt {number}"])
    assert said == [f"manifest.jsonl, line {number + 1}: damaged, and dropped; the rest is kept"]
    assert complete(out) and same_pictures(out / "images", reference / "images")
    assert again(out)[1:] == ([], [])


def test_several_damaged_lines_are_named_together(out):
    manifest = out / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(["x\n"] * 5 + lines[5:]))
    with pytest.raises(ValueError, match=r"lines 1, 2, 3 and 2 more: not an entry .* 1 others are"):
        again(out)
    assert again(out, repair=True)[0].made == 5


def test_damaged_lines_of_other_workers_are_repaired_as_well(out):
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:2]))
    (out / "manifest.1.jsonl").write_text("".join([lines[2], "x\n", lines[4], lines[5][:50]]))
    with pytest.raises(ValueError, match=r"manifest\.1\.jsonl', line 2: not an entry"):
        again(out)
    assert again(out, repair=True)[1] == ["prompt 3", "prompt 5"]
    assert complete(out)
    assert not (out / "manifest.1.jsonl").exists()


def test_repeated_lines_are_kept_once(out):
    manifest = out / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([*lines, lines[3], lines[0]]))
    outcome, drawn, said = again(out)
    assert (outcome.found, drawn) == (6, [])
    assert said == ["manifest.jsonl: lines that repeat others (2) are dropped"]
    assert complete(out)


@pytest.mark.parametrize("last", [True, False])
def test_of_lines_that_contradict_each_other_the_one_that_is_true_of_the_file_stays(out, last):
    manifest = out / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    wrong = json.dumps(json.loads(lines[3]) | {"sha256": "0" * 64}) + "\n"
    manifest.write_text("".join([*lines[:3], *lines[4:], *([lines[3], wrong] if last else [wrong, lines[3]])]))
    assert again(out)[1] == []
    assert next(entry for entry in entries(out) if entry["id"] == "p3") == json.loads(lines[3])


def test_a_manifest_that_has_no_checksums_is_held_against_sizes(out):
    kept = [{key: value for key, value in entry.items() if key != "sha256"} for entry in entries(out)]
    (out / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    (out / "images" / "p4-s0.png").write_bytes(b"x")
    assert again(out)[1] == ["prompt 4"]


def test_both_engines_take_the_same_folder(out, monkeypatch):
    """Ray itself is not asked where nothing is missing."""
    manifest = out / "manifest.jsonl"
    manifest.write_text(manifest.read_text() + "x\n" + manifest.read_text().splitlines()[0] + "\n")
    monkeypatch.setattr(ray_engine.cluster, "connected", lambda workers: None)
    with pytest.raises(ValueError, match="line 7: not an entry"):
        ray_engine.run(settings(), some_items(6), out, batch_size=1, progress=Heard())
    outcome = ray_engine.run(settings(), some_items(6), out, batch_size=1, repair=True, progress=Heard())
    assert outcome.found == 6
    assert complete(out)
