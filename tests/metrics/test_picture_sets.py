import json

import numpy as np
import pytest
from PIL import Image

from dita.metrics.picture_sets import (
    batches,
    from_memory,
    open_pictures,
    with_prompts,
    without_odd_sizes,
    write_manifest,
)


def picture(value, size=(8, 6)):
    return Image.new("RGB", size, (value, value, value))


def listed(folder, *items):
    """A folder with a manifest of (id, seed, prompt) and a picture each."""
    folder.mkdir(exist_ok=True)
    for i, (id, seed, _) in enumerate(items):
        picture(i * 10).save(folder / f"{id}-{seed}.png")
    pictures = [{"id": id, "seed": seed, "prompt": prompt, "file": f"{id}-{seed}.png"} for id, seed, prompt in items]
    write_manifest(folder, pictures, model="tiny")
    return folder


def read_all(pictures, size=2):
    problems = []
    got = {
        e.key: p
        for entries, images in batches(pictures.entries, size, problems)
        for e, p in zip(entries, images, strict=True)
    }
    return got, problems


def test_a_manifest_gives_id_seed_prompt_and_file(tmp_path):
    found = open_pictures(listed(tmp_path / "a", ("x", 3, "a cat \U0001f600"), ("x", 4, "a dog")))
    assert [(e.id, e.seed, e.prompt) for e in found.entries] == [("x", 3, "a cat \U0001f600"), ("x", 4, "a dog")]
    pictures, problems = read_all(found)
    assert pictures["x", 4][0, 0, 0] == 10 and not problems


def test_a_manifest_of_lines_leaves_out_a_line_that_was_cut(tmp_path):
    listed(tmp_path / "a", ("x", 3, "a cat"), ("x", 4, "a dog"))
    lines = [json.dumps(one) for one in json.loads((tmp_path / "a" / "manifest.json").read_text())["pictures"]]
    (tmp_path / "a" / "manifest.json").unlink()
    (tmp_path / "a" / "manifest.jsonl").write_text(f"{lines[0]}\n{lines[1]}\n")
    assert [(e.key, e.prompt) for e in open_pictures(tmp_path / "a").entries] == [
        (("x", 3), "a cat"),
        (("x", 4), "a dog"),
    ]
    (tmp_path / "a" / "manifest.jsonl").write_text(f"{lines[0]}\n{lines[1][:20]}")
    assert [e.key for e in open_pictures(tmp_path / "a").entries] == [("x", 3)]


def test_pictures_that_the_manifest_does_not_know_are_named(tmp_path):
    folder = listed(tmp_path / "a", ("x", 3, "a"))
    picture(9).save(folder / "stray.png")
    (problem,) = open_pictures(folder).problems
    assert problem.name.endswith("stray.png") and problem.reason == "is not in the manifest"


def test_without_a_manifest_the_whole_file_name_is_the_id(tmp_path):
    for name in ("cat 1.png", "cat 10.png", "notes.txt"):
        picture(1).save(tmp_path / name, "PNG")
    assert sorted(e.key for e in open_pictures(tmp_path).entries) == [("cat 1", None), ("cat 10", None)]


def test_an_adm_batch_is_a_set_in_any_order_of_reading(tmp_path):
    arrays = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    np.savez(tmp_path / "b.npz", arr_0=arrays)
    found = without_odd_sizes(open_pictures(tmp_path / "b.npz"))
    assert [e.id for e in found.entries] == ["0000", "0001", "0002", "0003"]
    for index in (2, 0, 3, 1, 1):
        assert np.array_equal(found.entries[index].load(), arrays[index])


def test_missing_damaged_and_wrong_sized_pictures_are_named_and_the_others_kept(tmp_path):
    folder = listed(tmp_path / "a", *((str(i), i, "p") for i in range(6)))
    (folder / "0-0.png").unlink()
    (folder / "1-1.png").write_bytes(b"junk")
    picture(1, (9, 9)).save(folder / "2-2.png")
    Image.new("CMYK", (8, 6)).save(folder / "3-3.png", "JPEG")
    sized = without_odd_sizes(open_pictures(folder))
    pictures, problems = read_all(sized)
    assert set(pictures) == {("4", 4), ("5", 5)}
    reasons = {problem.name.rpartition("/")[2]: problem.reason for problem in (*sized.problems, *problems)}
    assert reasons["0-0.png"] == "there is no such file"
    assert "not a picture" in reasons["1-1.png"]
    assert reasons["2-2.png"] == "is 9x9 pixels, most others are 8x6"
    assert "CMYK" in reasons["3-3.png"]


def test_prompts_come_from_a_file_by_id_and_by_seed_where_it_has_one(tmp_path):
    folder = listed(tmp_path / "a", ("x", 1, None), ("x", 2, None), ("y", 1, "own"))
    objects = [{"id": "x", "seed": 1, "prompt": "one"}, {"id": "x", "prompt": "any"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, objects)) + "\n\n")
    (tmp_path / "p.json").write_text('{"x": "both", "other": "unused"}')
    assert [e.prompt for e in with_prompts(open_pictures(folder), tmp_path / "p.jsonl").entries] == [
        "one",
        "any",
        "own",
    ]
    assert [e.prompt for e in with_prompts(open_pictures(folder), tmp_path / "p.json").entries] == [
        "both",
        "both",
        "own",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "ID, Prompt ,Seed\nx,one,1\nx,any,\n"),
        ("p.csv", '\ufeff"prompt";"id";"seed"\n"one";"x";"1"\n"any";"x";""\n'),
        ("p.tsv", "Seed\tid\tPROMPT\n1\tx\tone\n\tx\tany\n"),
        ("p.jsonl", '\ufeff{"ID": "x", "Prompt": "one", "Seed": "1"}\n{"id": "x", "prompt": "any"}'),
        ("p.json", '[{"Id": "x", "Prompt": "one", "seed": 1.0}, {"id": "x", "prompt": "any", "seed": null}]'),
    ],
)
def test_prompt_tables_and_keys_are_read_whatever_their_spelling(tmp_path, name, text):
    folder = listed(tmp_path / "a", ("x", 1, None), ("x", 2, None))
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert [e.prompt for e in with_prompts(open_pictures(folder), tmp_path / name).entries] == ["one", "any"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "prompt\na cat\n", "each entry needs an id and a prompt"),
        ("p.csv", "id,caption\nx,a cat\n", "needs a header with a column 'prompt', got id, caption"),
        ("p.csv", "id,prompt,seed\nx,a cat,one\n", "a seed must be a whole number, got 'one'"),
        ("p.json", '[{"id": "x", "prompt": "a", "seed": true}]', "a seed must be a whole number, got True"),
    ],
)
def test_prompt_tables_without_what_pairs_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        with_prompts(open_pictures(listed(tmp_path / "a", ("x", 1, None))), tmp_path / name)


def test_sets_in_memory_have_numbers_as_ids():
    found = from_memory("plain", [np.zeros((4, 6, 3), np.uint8)] * 2, ["a", "b"], [7, 8])
    assert [e.key for e in found.entries] == [("0000", 7), ("0001", 8)]
    assert found.entries[0].size == (6, 4)


def test_folders_without_pictures_and_whole_comparisons_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_pictures(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no pictures"):
        open_pictures(tmp_path)
    (tmp_path / "images").mkdir()
    listed(tmp_path / "images" / "fora-3", ("0000", 0, "a"))
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a comparison; give the pictures of one method: .*images/fora-3"):
        open_pictures(tmp_path)


def test_the_folder_below_that_holds_pictures_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    picture(1).save(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match=r"holds no pictures .*images' holds some"):
        open_pictures(tmp_path)


def test_a_picture_that_is_to_be_turned_counts_by_the_size_that_it_has_then(tmp_path):
    for name in ("a", "b"):
        picture(1, (6, 8)).save(tmp_path / f"{name}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    sized = without_odd_sizes(open_pictures(tmp_path))
    pictures, problems = read_all(sized)
    assert not problems and not sized.problems
    assert {image.shape for image in pictures.values()} == {(8, 6, 3)}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a manifest of dita"),
        ('{"pictures": [{"id": "a"}]}', "'file'"),
        ('{"pictures": []}', "lists no pictures"),
        ('{"pictures": [{"id": "a", "seed": "one", "file": "a.png"}]}', "a seed must be a whole number, got 'one'"),
        ('{"pictures": [{"id": "a", "file": "../../etc/passwd.png"}]}', "is not inside the folder"),
        ('{"pictures": [{"id": "a", "file": "/x.png"}]}', "is not inside the folder"),
        ('{"pictures": [{"id": "a", "file": "a.png"}, {"id": "a", "file": "b.png"}]}', "id 'a' with seed None more"),
    ],
)
def test_damaged_manifests_are_refused(tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        open_pictures(tmp_path)


def test_two_files_of_one_id_are_refused(tmp_path):
    picture(1).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="several pictures named 'a'"):
        open_pictures(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat\na dog\n", "paired by id, never by position"),
        ('["a cat", "a dog"]', "each entry needs an id and a prompt"),
        ('{"z": "a cat"}', "no id of .* is that of a picture"),
        ('[{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}]', "two prompts for id 'x'"),
    ],
)
def test_prompt_files_that_do_not_name_ids_are_refused(tmp_path, text, message):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        with_prompts(open_pictures(listed(tmp_path / "a", ("x", 1, None))), tmp_path / "p.txt")
