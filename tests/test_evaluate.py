import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from dita import cli, evaluation_report, networks
from dita.cli.given_networks import networks_of
from dita.evaluate import available, evaluate, from_json
from dita.metrics import average, psnr, ssim
from dita.metrics.catalogue import METRICS, parse
from dita.metrics.distribution import collect, fid
from dita.metrics.picture_sets import open_pictures, write_manifest
from dita.networks import Found, Networks
from tests.metrics.test_streaming import noisy, pictures
from tests.metrics.tiny_networks import save_tiny_reward, tiny_features

QUIET = Console(quiet=True)
WORDS = ["a cat", "the moon", "a big red dog", "", "the old house", "the sea"]


def save(folder, images, *, first_seed=0, prompts=WORDS, manifest=True):
    folder.mkdir(parents=True)
    listed = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
        prompt = prompts[i % len(prompts)]
        listed.append({"id": f"{i:04d}", "seed": first_seed + i, "prompt": prompt, "file": f"{i:04d}.png"})
    if manifest:
        write_manifest(folder, listed)
    return folder


@pytest.fixture
def folders(tmp_path):
    """Plain pictures, an accelerated run's, and real ones that share no id with them."""
    plain = pictures(12, size=(32, 32))
    return SimpleNamespace(
        plain=save(tmp_path / "plain", plain),
        fast=save(tmp_path / "fast", noisy(plain)),
        real=save(tmp_path / "real", pictures(20, seed=5, size=(40, 36)), manifest=False),
        images=SimpleNamespace(plain=plain, fast=noisy(plain)),
    )


@pytest.fixture
def tiny(monkeypatch, golden, tmp_path):
    """Networks of which Inception is a tiny one, CLIP the golden one and ImageReward a tiny one."""
    inception = tiny_features()
    find = Networks.find

    def found(self, need):
        return Found("tiny", "given") if need == "inception" else find(self, need)

    monkeypatch.setattr(Networks, "find", found)
    monkeypatch.setattr(Networks, "_features", lambda self, need: inception)
    reward = save_tiny_reward(tmp_path / "weights" / "ImageReward", golden)
    chosen = {"clip": str(golden / "metrics" / "clip_tiny"), "image-reward": str(reward)}
    return Networks(chosen=chosen)


def run(folder, metrics, tiny, **options):
    return evaluate(open_pictures(folder), parse(metrics), tiny, console=QUIET, **options)


def by_name(evaluation):
    return {result.metric: result for result in evaluation.results}


def test_every_value_is_that_of_the_pure_functions(folders, tiny):
    found = by_name(
        run(
            folders.fast,
            "fid,kid,clip,image-reward,psnr,ssim",
            tiny,
            reference=folders.real,
            plain=open_pictures(folders.plain),
            batch=5,
        )
    )
    assert list(found) == ["kid", "fid", "clip", "image-reward", "psnr", "ssim"]
    pairs = list(zip(folders.images.fast, folders.images.plain, strict=True))
    assert found["psnr"].value == average([float(psnr(a, b)) for a, b in pairs])
    assert found["ssim"].value == average([float(ssim(a, b)) for a, b in pairs])
    network = tiny_features()
    reals = [entry.load() for entry in open_pictures(folders.real).entries]
    expected = fid(collect(network, [folders.images.fast]), collect(network, [reals])).value
    assert found["fid"].value.mean == pytest.approx(expected, rel=1e-6)
    assert (found["fid"].count, found["fid"].reference_count) == (12, 20)
    cosine, _ = tiny.clip().cosines(folders.images.fast, WORDS * 2)
    assert found["clip"].value.mean == pytest.approx(100 * cosine.clamp(min=0).mean().item(), rel=1e-5)
    assert found["clip"].identity.network == "clip_tiny"


def test_differences_to_plain_are_paired_and_have_intervals(folders, tiny):
    result = run(
        folders.fast, "fid,kid,clip,image-reward", tiny, reference=folders.real, plain=open_pictures(folders.plain)
    )
    for name, found in by_name(result).items():
        change = found.difference
        assert change.mean == pytest.approx(found.value.mean - found.plain.mean, rel=1e-6, abs=1e-9), name
        assert change.low <= change.mean <= change.high, name
    assert "Look at KID first" in by_name(result)["fid"].warnings[0]


def test_a_reference_with_the_same_ids_is_the_plain_pipeline_and_fid_to_it_is_called_drift(folders, tiny):
    result = run(folders.fast, "fid,clip,psnr", tiny, reference=folders.plain)
    assert result.plain == str(folders.plain)
    assert any("are drift" in note for note in result.notes)
    found = by_name(result)
    assert found["fid"].plain is None and found["clip"].difference is not None


def photographs(folder, names, sizes=((40, 36), (36, 40), (32, 32))):
    """Photos of sizes of their own, under the names of pictures."""
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(pictures(1, seed=50 + i, size=sizes[i % len(sizes)])[0]).save(folder / f"{name}.jpg")
    return folder


@pytest.mark.parametrize("sizes", [((40, 36), (36, 40), (32, 32)), ((32, 32),)], ids=["mixed", "as the pictures"])
@pytest.mark.parametrize("manifest", [False, True])
def test_photographs_of_the_pictures_names_are_a_reference_set(folders, tiny, tmp_path, sizes, manifest):
    made = save(tmp_path / "made", folders.images.fast, manifest=manifest)
    names = [f"{i:04d}" for i in range(12)]
    same = photographs(tmp_path / "photos", names, sizes)
    other = photographs(tmp_path / "others", [f"x{name}" for name in names], sizes)
    found = [run(made, "fid,kid", tiny, reference=reference) for reference in (same, other)]
    assert [result.plain for result in found] == [None, None] and found[0].notes == found[1].notes == ()
    assert found[0].results == found[1].results
    chosen = [[metric.name for metric in available(open_pictures(made), tiny, r, None)] for r in (same, other)]
    assert chosen[0] == chosen[1] and "psnr" not in chosen[0]
    with pytest.raises(ValueError, match="equal names of photographs are no pairs"):
        run(made, "psnr", tiny, reference=same)


def test_a_manifest_of_photographs_without_seeds_makes_them_no_pairs(folders, tiny, tmp_path):
    photos = save(tmp_path / "photos", folders.images.plain, manifest=False)
    listed = [{"id": f"{i:04d}", "prompt": WORDS[i % 6], "file": f"{i:04d}.png"} for i in range(12)]
    write_manifest(photos, listed)
    write_manifest(folders.fast, listed)
    assert run(folders.fast, "fid", tiny, reference=photos).plain is None


def test_samples_of_two_npz_files_are_no_pairs_by_their_numbers(folders, tiny, tmp_path):
    for name, images in (("made", folders.images.fast), ("real", folders.images.plain)):
        np.savez(tmp_path / f"{name}.npz", arr_0=np.stack(images))
    assert run(tmp_path / "made.npz", "fid", tiny, reference=tmp_path / "real.npz").plain is None


def test_names_that_dita_generate_gives_say_the_seed(folders, tiny, tmp_path):
    for name, images in (("fast", folders.images.fast), ("plain", folders.images.plain)):
        (tmp_path / name).mkdir(exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i // 3:05d}-s{i % 3}.png")
    for folder in ("fast", "plain"):
        for file in [*(tmp_path / folder).glob("????.png"), tmp_path / folder / "manifest.json"]:
            file.unlink()
    result = run(tmp_path / "fast", "psnr,fid", tiny, reference=tmp_path / "plain")
    assert result.plain and by_name(result)["psnr"].count == 12
    assert not any("by file name" in note for note in result.notes)


def test_plain_pictures_that_are_given_as_such_are_paired_by_name_and_that_is_said(folders, tiny, tmp_path):
    made = save(tmp_path / "made", folders.images.fast, manifest=False)
    plain = save(tmp_path / "beside", folders.images.plain, manifest=False)
    result = run(made, "psnr", tiny, plain=open_pictures(plain))
    assert by_name(result)["psnr"].count == 12
    assert any("paired by file name" in note for note in result.notes)


def test_a_reference_of_the_same_ids_and_seeds_and_other_prompts_is_a_reference_set_and_that_is_said(
    folders, tiny, tmp_path
):
    other = save(tmp_path / "other", folders.images.plain, prompts=["something else"])
    result = run(folders.fast, "fid", tiny, reference=other)
    assert result.plain is None
    assert any(
        "not taken for the plain pipeline's pictures: " in note and "'something else'" in note for note in result.notes
    )


def test_pairing_is_by_id_and_seed_and_not_by_position(folders, tiny, tmp_path):
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    items = json.loads((folders.plain / "manifest.json").read_text())["pictures"]
    for i, item in enumerate(reversed(items)):
        (shuffled / f"other-{i}.png").write_bytes((folders.plain / item["file"]).read_bytes())
        item["file"] = f"other-{i}.png"
    write_manifest(shuffled, list(reversed(items)))
    straight = by_name(run(folders.fast, "psnr", tiny, plain=open_pictures(folders.plain)))["psnr"]
    assert by_name(run(folders.fast, "psnr", tiny, plain=open_pictures(shuffled)))["psnr"] == straight


def test_other_seeds_are_no_pairs(folders, tiny, tmp_path):
    other = save(tmp_path / "other", folders.images.plain, first_seed=100)
    with pytest.raises(ValueError, match="psnr needs the plain pipeline's pictures of the same ids and seeds"):
        run(folders.fast, "psnr", tiny, plain=open_pictures(other))


def test_other_prompts_are_no_pairs_either(folders, tiny, tmp_path):
    other = save(tmp_path / "other", folders.images.plain, prompts=["something else"])
    with pytest.raises(ValueError, match=r"has the prompt 'a cat' in .* and 'something else' in .*they are not pairs"):
        run(folders.fast, "psnr", tiny, plain=open_pictures(other))


def test_missing_unreadable_and_wrong_sized_pictures_are_named_and_the_rest_is_measured(folders, tiny):
    (folders.fast / "0000.png").unlink()
    (folders.fast / "0001.png").write_bytes(b"junk")
    Image.new("RGB", (9, 9)).save(folders.fast / "0002.png")
    (folders.plain / "0003.png").write_bytes((folders.plain / "0004.png").read_bytes()[:100])
    result = run(folders.fast, "clip,psnr", tiny, plain=open_pictures(folders.plain))
    assert result.count == 9
    found = by_name(result)
    assert found["clip"].count == 9 and found["psnr"].count == 8
    assert {(p.name.split("/")[-2], p.name.split("/")[-1]) for p in result.problems} == {
        ("fast", "0000.png"),
        ("fast", "0001.png"),
        ("fast", "0002.png"),
        ("plain", "0003.png"),
    }
    lines = evaluation_report.remarks(result)
    assert "4 pictures were not used, or not for everything:" in lines
    assert any("9x9 pixels, most others are 32x32" in line for line in lines)


def test_pictures_without_a_counterpart_are_counted(folders, tiny, tmp_path):
    fewer = save(tmp_path / "fewer", folders.images.plain[:10])
    result = run(folders.fast, "psnr,fid", tiny, plain=open_pictures(fewer), reference=folders.real)
    assert by_name(result)["psnr"].count == 10
    assert any("2 of" in note and "no counterpart" in note and "0010, seed 10" in note for note in result.notes)
    assert "no paired difference" in by_name(result)["fid"].warnings[-1]


def test_identical_pictures_are_counted_apart(folders, tiny):
    found = by_name(run(folders.plain, "psnr,ssim", tiny, plain=open_pictures(folders.plain)))
    assert found["psnr"].value.infinite == 12 and found["psnr"].value.mean is None
    assert found["psnr"].each["0000, seed 0"] is None
    assert found["ssim"].value.mean == pytest.approx(1)


def test_statistics_are_written_and_serve_as_a_reference(folders, tiny, tmp_path):
    direct = by_name(run(folders.fast, "fid", tiny, reference=folders.real))["fid"]
    run(folders.real, "fid", tiny, reference=folders.real, save_statistics=tmp_path / "real.npz")
    again = by_name(run(folders.fast, "fid", tiny, reference=tmp_path / "real.npz"))["fid"]
    assert again.value.mean == pytest.approx(direct.value.mean, rel=1e-6)
    assert (again.reference_count, again.warnings) == (20, direct.warnings)


def test_statistics_of_others_are_used_with_a_warning_and_refused_for_another_width(folders, tiny, tmp_path):
    np.savez(tmp_path / "six.npz", mu=np.zeros(6), sigma=np.eye(6))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    found = by_name(run(folders.fast, "fid", tiny, reference=tmp_path / "six.npz"))["fid"]
    assert found.reference_count is None
    assert "does not say its network and resize mode" in found.warnings[0]
    with pytest.raises(ValueError, match="the reference has 2048 features a picture, but the network tiny gives 6"):
        run(folders.fast, "fid", tiny, reference=tmp_path / "wide.npz")
    with pytest.raises(ValueError, match="kid needs the reference's pictures"):
        run(folders.fast, "kid", tiny, reference=tmp_path / "six.npz")


def test_an_adm_batch_is_a_reference(folders, tiny, tmp_path):
    reals = [entry.load() for entry in open_pictures(folders.real).entries]
    np.savez(tmp_path / "batch.npz", arr_0=np.stack(reals))
    direct, batch = (
        by_name(run(folders.fast, "fid,kid", tiny, reference=r)) for r in (folders.real, tmp_path / "batch.npz")
    )
    assert batch["kid"].value.mean == pytest.approx(direct["kid"].value.mean)


def test_truncated_prompts_are_counted(folders, tiny, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({f"{i:04d}": "the cat " * 1500 + "\U0001f600" for i in range(12)}))
    from dita.metrics.picture_sets import with_prompts

    made = with_prompts(open_pictures(folders.fast), tmp_path / "p.json")
    result = evaluate(made, parse("clip,image-reward"), tiny, console=QUIET)
    assert [r.truncated for r in result.results] == [12, 12]
    assert any("12 of 12 prompts were too long, and cut" in line for line in evaluation_report.remarks(result))


@pytest.mark.parametrize(
    ("metrics", "options", "message"),
    [
        ("fid", {}, "fid needs --reference"),
        ("psnr", {}, "psnr needs the plain pipeline's pictures"),
        ("psnr", {"save_statistics": "x.npz"}, "needs the plain"),
    ],
)
def test_a_metric_without_what_it_compares_with_is_refused(folders, tiny, metrics, options, message):
    with pytest.raises(ValueError, match=message):
        run(folders.fast, metrics, tiny, **options)


def test_prompts_sizes_and_counts_that_cannot_be_measured_are_refused(folders, tiny, tmp_path):
    with pytest.raises(ValueError, match=r"clip needs prompts: .* give --prompts"):
        run(folders.real, "clip", tiny)
    one = save(tmp_path / "one", folders.images.plain[:1])
    with pytest.raises(ValueError, match="fid needs at least 2 pictures, got 1"):
        run(one, "fid", tiny, reference=folders.real)
    large = save(tmp_path / "large", pictures(12, size=(64, 48)))
    with pytest.raises(ValueError, match=r"are 32x32 pixels, those of .* 48x64: no pair fits"):
        run(folders.fast, "psnr", tiny, plain=open_pictures(large))
    for file in one.glob("*.png"):
        file.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"no picture of .* can be used: .*0000.png"):
        run(one, "clip", tiny)


def test_an_evaluation_goes_to_json_and_comes_back(folders, tiny):
    result = run(folders.plain, "fid,clip,psnr", tiny, reference=folders.real, plain=open_pictures(folders.plain))
    assert from_json(json.loads(json.dumps(result.as_json(), allow_nan=False))) == result


def test_by_default_all_that_is_possible_is_measured(folders, tiny, monkeypatch):
    def absent(name):
        raise FileNotFoundError(name)

    monkeypatch.setattr("dita.miniature.folder", absent)  # no bundled stand-ins
    fast = open_pictures(folders.fast)
    names = [m.name for m in available(fast, tiny, folders.plain, None)]
    assert names == ["kid", "fid", "clip", "image-reward", "psnr", "ssim", "clip-image"]
    assert [m.name for m in available(fast, tiny, None, None)] == ["clip", "image-reward"]
    assert [m.name for m in available(open_pictures(folders.real), tiny, None, None)] == []


# ------------------------------------------------------------------------------------------------------ command line


@pytest.fixture
def command(tiny, monkeypatch):
    monkeypatch.setattr("dita.cli.evaluate.networks_of", lambda *_, **__: tiny)

    def invoke(*arguments):
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["evaluate", *map(str, arguments)])

    return invoke


def test_the_command_prints_a_table_and_writes_json(folders, command, tmp_path):
    out = tmp_path / "result.json"
    result = command(folders.fast, "--reference", folders.real, "--plain", folders.plain, "--json", out)
    assert result.exit_code == 0, result.output
    for words in ("KID x1000", "FID", "CLIP score", "PSNR, dB", "paired difference", "lower", "Look at KID first"):
        assert words in result.stdout
    assert from_json(json.loads(out.read_text())).count == 12


def test_the_first_line_says_that_bundled_networks_serve(folders, command, tiny, monkeypatch):
    monkeypatch.setattr(type(tiny), "bundled", property(lambda self: ["shapes-clip"]))
    result = command(folders.fast, "--metrics", "clip")
    assert result.stdout.splitlines()[0].startswith(
        "bundled small networks in place of the published ones: shapes-clip"
    )


def test_bad_input_to_evaluate_is_one_clear_line(folders, command, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "p.txt").write_text("a cat\n")
    for arguments, message in (
        ((tmp_path / "nowhere",), "there is no folder"),
        ((tmp_path / "empty",), "holds no pictures"),
        ((folders.fast, "--metrics", "fidd"), "unknown metric 'fidd'; known: kid, fid"),
        ((folders.fast, "--metrics", ","), "no metrics were given"),
        ((folders.fast, "--prompts", tmp_path / "p.txt"), "never by position"),
        ((folders.fast, "--batch", 0), "batch must be at least 1, got 0"),
        ((folders.real,), "nothing can be measured"),
        ((folders.fast, "--metrics", "fid", "--reference", tmp_path / "no.npz"), "there is no folder or .npz file"),
    ):
        result = command(*arguments)
        assert result.exit_code == 2 and result.stdout == "", arguments
        assert result.stderr.strip().splitlines()[-1].startswith("error: ") and message in result.stderr


def test_networks_of_the_command_line_are_checked(tmp_path):
    for arguments, message in (
        ((["clip"],), "NAME=PATH or NAME=HUB_ID, got clip"),
        ((["klip=x"],), "unknown network 'klip'"),
    ):
        with pytest.raises(ValueError, match=message):
            networks_of(None, *arguments, device="cpu")
    with pytest.raises(ValueError, match="unknown resize 'tf'"):
        networks_of(None, [], device="cpu", resize="tf")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        networks_of(None, [], device="gpu")
    assert isinstance(networks_of(None, ["clip=a/b"], device="cpu"), networks.Networks)


def test_every_metric_of_the_command_line_is_in_the_catalogue_with_range_direction_and_source():
    for metric in METRICS.values():
        assert metric.range and metric.source and metric.better in ("higher", "lower")
        assert f"{0.5:{metric.form}}"


def test_pictures_of_one_colour_are_noted_and_not_compared_with_each_other(folders, tiny, tmp_path):
    for name in ("plain", "fast"):
        for number in (1, 4):
            Image.new("RGB", (32, 32)).save(getattr(folders, name) / f"{number:04d}.png")
    Image.new("RGB", (32, 32), (7, 7, 7)).save(folders.fast / "0002.png")
    pictures_, plain = open_pictures(folders.fast), open_pictures(folders.plain)
    found = evaluate(pictures_, parse("psnr,ssim"), Networks(), plain=plain, console=QUIET)
    for result in found.results:
        assert result.count == 10 and result.value.infinite == 0
        assert "0001, seed 1" not in result.each and "0002, seed 2" in result.each
        assert result.warnings == ("2 pairs left out, of which both pictures are of one colour",)
    said = "\n".join(evaluation_report.remarks(found))
    assert f"3 of 12 pictures of {folders.fast} are of one colour, as those made of NaN are: 0001, seed 1, 0002" in said
    assert f"2 of 12 pictures of {folders.plain} are of one colour" in said and "identical" not in said


def test_pictures_that_are_all_black_are_never_identical(tmp_path):
    black = [np.zeros((16, 16, 3), np.uint8)] * 3
    one, other = (open_pictures(save(tmp_path / name, black)) for name in ("one", "other"))
    found = evaluate(one, parse("psnr,ssim"), Networks(), plain=other, console=QUIET)
    assert [result.value.mean for result in found.results] == [None, None]
    assert [evaluation_report.number(result, result.value) for result in found.results] == ["–", "–"]
    assert any("3 of 3 pictures" in note for note in found.notes)
