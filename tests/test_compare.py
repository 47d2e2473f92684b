import dataclasses
import io
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import dita
from dita import report
from dita.compare import compare, from_json
from dita.methods import FORA, FewerSteps, Plain, ToCa
from dita.metrics.catalogue import parse as parse_metrics
from dita.metrics.picture_sets import open_pictures
from dita.miniature import world
from dita.networks import Found, Networks
from dita.shapes import Kind
from tests.metrics.tiny_networks import tiny_features
from tests.tiny_flux import tiny_pipeline

FAST = ToCa(cycle=4, ratio=0.9)
PROMPTS = ["a", "b", "c", "d"]


class Clock:
    """Time that passes only where the stand-in pipeline says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class StandIn:
    """Draws noise from the generators, a little darker under a cache, and lets seconds pass as `cost` says."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, clock, cost):
        self.clock, self.cost = clock, cost
        self.attached = None
        self.calls = []
        self._progress_bar_config = {"leave": False}
        self.seen_config = None

    def set_progress_bar_config(self, **config):
        self._progress_bar_config = config

    def __call__(self, prompt, num_inference_steps, generator, output_type, **arguments):
        self.seen_config = self._progress_bar_config
        method = self.attached or Plain()
        self.calls.append(SimpleNamespace(method=method, prompts=prompt, steps=num_inference_steps, **arguments))
        noise = [torch.randint(40, 200, (16, 16, 3), generator=g, dtype=torch.uint8) for g in generator]
        dark = 0 if isinstance(method, Plain) else 5
        self.clock.now += self.cost(self, method, num_inference_steps) * len(prompt)
        return SimpleNamespace(images=[Image.fromarray(n.numpy() - np.uint8(dark)) for n in noise])


@pytest.fixture
def engine(monkeypatch):
    """Instead of the engine: remembers what is attached, and counts FLOPs as steps."""

    def enable(pipe, method, store=None, on_nan="raise"):
        assert pipe.attached is None
        pipe.attached = method

    def disable(pipe):
        pipe.attached = None

    def summary(pipe, show):
        assert not show
        call = pipe.calls[-1]
        cached = call.steps - 9 if isinstance(pipe.attached, ToCa) else 0
        full = call.steps - cached
        return SimpleNamespace(
            steps=call.steps,
            kinds=(Kind.FULL,) * full + (Kind.PARTIAL,) * cached,
            flops=1e12 * full * len(call.prompts),
            plain_flops=1e12 * call.steps * len(call.prompts),
            score_flops=0.5e12 * len(call.prompts) if cached else 0.0,
            matching_flops=0.25e12 * len(call.prompts) if pipe.attached.merging else 0.0,
            cache_bytes=1000 * len(call.prompts) if cached else 0,
            token_share=0.1 if cached else 1.0,
            seconds={Kind.FULL: [0.1, 0.3, 0.2], Kind.PARTIAL: [0.01] if cached else []},
        )

    for function in (enable, disable, summary):
        monkeypatch.setattr(dita, function.__name__, function)


def cost(pipe, method, steps):
    return 0.4 if isinstance(method, ToCa) else steps / 28


@pytest.fixture
def pipe(engine):
    return StandIn(Clock(), cost)


def labels(comparison):
    return [result.label for result in comparison.results]


def run(pipe, tmp_path, methods=(FAST,), prompts=PROMPTS, **options):
    options = {"batch": 2, "clock": pipe.clock, "console": Console(quiet=True)} | options
    return compare(pipe, methods, prompts, out=tmp_path / "out", **options)


def test_plain_is_always_there_and_first(pipe, tmp_path):
    assert labels(run(pipe, tmp_path, [FAST, FewerSteps(0.5)])) == ["plain", "toca:4:0.9", "steps:0.5"]
    assert labels(run(pipe, tmp_path, ["toca:4:0.9", "plain"])) == ["plain", "toca:4:0.9"]
    assert labels(run(pipe, tmp_path, ["toca:age_weight=0"])) == ["plain", "toca:4:0.9:age_weight=0.0"]


def test_methods_are_interleaved_and_their_order_rotates(pipe, tmp_path):
    run(pipe, tmp_path, [FAST, FewerSteps(0.5)], prompts=PROMPTS[:3], batch=1)
    order = [(c.prompts[0], "toca" if isinstance(c.method, ToCa) else c.steps) for c in pipe.calls[3:]]
    assert order == [
        *[("a", m) for m in (28, "toca", 14)],
        *[("b", m) for m in ("toca", 14, 28)],
        *[("c", m) for m in (14, 28, "toca")],
    ]


def test_plain_and_fewer_steps_are_timed_with_nothing_attached(pipe, tmp_path):
    attached = []
    pipe.cost = lambda pipe, method, steps: attached.append(pipe.attached) or 1
    run(pipe, tmp_path, [FAST, FewerSteps(0.5)], prompts=["a"])
    assert attached == [Plain(), FAST, Plain(), None, FAST, None]


class Painter(StandIn):
    """Draws the scenes of its prompts; under a cache, without their objects."""

    scenes: ClassVar = {world.caption(scene): scene for scene in world.evaluation_scenes(4, 0, ("one", "two"))}

    def __call__(self, prompt, **arguments):
        self.clock.now += 1
        self.calls.append(SimpleNamespace(method=self.attached, prompts=prompt, steps=28))
        known = [self.scenes.get(p, world.Scene((), world.Background("plain", ("white",)))) for p in prompt]
        drawn = known if not isinstance(self.attached, ToCa) else [dataclasses.replace(s, things=()) for s in known]
        return SimpleNamespace(images=[Image.fromarray(world.draw(scene)) for scene in drawn])


def test_pictures_of_a_bundled_model_are_judged_by_the_prompts_that_the_world_knows(engine, tmp_path):
    prompts = [*Painter.scenes, "an astronaut"]
    comparison = run(Painter(Clock(), cost), tmp_path, prompts=prompts, name="shapes-flux")
    plain, fast = (result.judge for result in comparison.results)
    assert (plain.correct.right, plain.correct.count) == (4, 4)
    assert (fast.correct.right, fast.correct.count) == (0, 4)
    assert fast.attributes["background"].right == 4 and fast.attributes["count"].right == 0
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    assert data["results"][1]["judge"]["correct"]["count"] == 4
    assert from_json(data) == comparison
    assert "judge right" in (tmp_path / "out" / "report.md").read_text()


def test_other_models_and_other_prompts_are_not_judged(engine, tmp_path):
    named = run(Painter(Clock(), cost), tmp_path / "a", prompts=list(Painter.scenes), name="another")
    unknown = run(Painter(Clock(), cost), tmp_path / "b", name="shapes-flux")
    assert {result.judge for result in (*named.results, *unknown.results)} == {None}
    assert "judge" not in (tmp_path / "a" / "out" / "report.md").read_text()


def test_the_warm_up_is_not_timed(pipe, tmp_path):
    pipe.cost = lambda pipe, method, steps: 1000 if len(pipe.calls) <= 4 else 1
    comparison = run(pipe, tmp_path, prompts=["a"], warmup=2)
    assert len(pipe.calls) == 6
    assert [t.seconds for r in comparison.results for t in r.timings] == [1, 1]


def test_every_size_of_batch_is_warmed_up(pipe, tmp_path):
    run(pipe, tmp_path, prompts=["a", "b", "c"], batch=2)
    assert [len(call.prompts) for call in pipe.calls[:4]] == [1, 2, 1, 2]


def test_all_methods_start_from_the_same_noise(pipe, tmp_path):
    comparison = run(pipe, tmp_path)
    plain, fast = comparison.results
    for one, other in zip(plain.images, fast.images, strict=True):
        difference = read(tmp_path, one).astype(int) - read(tmp_path, other)
        assert (difference == 5).all()


def test_a_picture_does_not_depend_on_its_batch(pipe, tmp_path):
    paths = run(pipe, tmp_path, batch=4).results[0].images
    together = [read(tmp_path, path) for path in paths]
    run(pipe, tmp_path, batch=3)
    assert all((read(tmp_path, path) == picture).all() for path, picture in zip(paths, together, strict=True))


def test_seeds_count_up_or_are_given(pipe, tmp_path):
    assert run(pipe, tmp_path, seeds=7).seeds == (7, 8, 9, 10)
    assert run(pipe, tmp_path, seeds=[3, 1, 3, 1]).seeds == (3, 1, 3, 1)
    first, _, third, _ = (read(tmp_path, path) for path in run(pipe, tmp_path, seeds=[3, 1, 3, 1]).results[0].images)
    assert (first == third).all()


def test_seconds_are_per_image_with_quartiles(pipe, tmp_path):
    slow = iter([9, 9, 1.0, 9, 9, 2.0, 3.0, 9])  # warm-up of both, then plain and toca with the order rotating
    pipe.cost = lambda *_: next(slow)
    plain = run(pipe, tmp_path, prompts=PROMPTS[:3], batch=1, steps=28).results[0].seconds_per_image
    assert (plain.median, plain.low, plain.high, plain.count) == (2.0, 1.5, 2.5, 3)


def test_speed_up_is_the_median_of_ratios_of_the_same_batch(pipe, tmp_path):
    # The machine gets ten times slower in batch 1: the ratio of medians would be 10 / 4, that of pairs is 2.
    seconds = {("a", Plain): 2, ("b", Plain): 20, ("c", Plain): 10, ("a", ToCa): 1, ("b", ToCa): 10, ("c", ToCa): 4}
    pipe.cost = lambda pipe, method, steps: seconds[pipe.calls[-1].prompts[0], type(method)]
    plain, fast = run(pipe, tmp_path, prompts=PROMPTS[:3], batch=1).results
    assert (fast.speedup.median, fast.speedup.count) == (2.0, 3)
    assert plain.speedup.median == 1.0


def test_flops_come_from_the_executed_steps_and_include_the_scores(pipe, tmp_path):
    plain, fast, fewer = run(pipe, tmp_path, [FAST, FewerSteps(0.5)]).results
    assert (plain.tflops, fewer.tflops, fast.tflops) == pytest.approx((28, 14, 9.5))
    assert (plain.flops_ratio, fewer.flops_ratio, fast.flops_ratio) == pytest.approx((1, 2, 28 / 9.5))
    assert (plain.steps, fewer.steps, fast.steps) == ("28F", "14F", "9F+19p")
    assert fast.cache_bytes == 2000
    assert fast.seconds_by_kind == {"full": 0.2, "partial": 0.01}


def test_merging_beside_another_method_is_named_and_its_matchings_are_counted(pipe, tmp_path):
    data = run(pipe, tmp_path, ["tome", ["tome:0.25", "toca:4:0.9:random"]])
    _, alone, beside = data.results
    assert [r.label for r in data.results] == ["plain", "tome:0.5", "tome:0.25+toca:4:0.9:random"]
    assert (alone.tflops, alone.tflops_scores) == pytest.approx((28.25, 0.25))
    assert beside.role == "random-selection baseline"
    assert beside.method["methods"][0]["ratio"] == 0.25
    assert Path(tmp_path / "out" / beside.images[0]).is_file()


def test_fidelity_is_against_the_plain_picture_of_the_same_prompt(pipe, tmp_path):
    plain, fast = run(pipe, tmp_path).results
    assert plain.psnr is None and plain.psnr_each == ()
    assert fast.psnr_each == pytest.approx([20 * np.log10(255 / 5)] * 4)
    assert fast.psnr.mean == pytest.approx(34.151, abs=1e-3)
    assert 0.9 < fast.ssim.mean < 1


def test_identical_pictures_are_counted_and_have_no_decibels(pipe, tmp_path):
    fewer = run(pipe, tmp_path, [FewerSteps(0.5)]).results[1]  # the stand-in draws the same
    assert (fewer.psnr.mean, fewer.psnr.infinite, fewer.psnr_each) == (None, 4, (None,) * 4)
    assert fewer.ssim.mean == pytest.approx(1)


def test_baselines_are_labelled_as_such(pipe, tmp_path):
    results = run(pipe, tmp_path, ["steps:0.5", "toca:4:0.9:random", "toca:4:0.9"]).results
    roles = ["the reference", "fewer-steps baseline: 14 of 28", "random-selection baseline", ""]
    assert [r.role for r in results] == roles


def test_the_result_goes_to_json_and_comes_back(pipe, tmp_path):
    comparison = run(pipe, tmp_path, [FAST, FewerSteps(0.5)], call={"height": 16}, repeats=2)
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    assert from_json(data) == comparison
    assert data["results"][1]["method"] == FAST.as_json()
    assert {"dita", "torch", "diffusers", "transformers", "python"} <= set(data["versions"])
    assert {"platform", "cpus", "threads", "gpu"} <= set(data["machine"])
    assert data["call"] == {"height": 16}
    assert len(data["results"][0]["timings"]) == 4


def test_call_arguments_and_steps_reach_the_pipeline(pipe, tmp_path):
    run(pipe, tmp_path, steps=10, call={"guidance_scale": 2.0})
    assert {(call.steps, call.guidance_scale) for call in pipe.calls} == {(10, 2.0)}


def test_the_pipeline_is_left_plain_and_its_progress_bar_as_it_was(pipe, tmp_path):
    run(pipe, tmp_path)
    assert pipe.attached is None
    assert pipe.seen_config == {"leave": False, "disable": True}
    assert pipe._progress_bar_config == {"leave": False}


def test_after_an_error_the_pipeline_is_plain_and_nothing_is_written(pipe, tmp_path):
    def fail(pipe, method, steps):
        if isinstance(method, ToCa) and len(pipe.calls) > 3:
            raise RuntimeError("out of memory")
        return 1

    pipe.cost = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        run(pipe, tmp_path)
    assert pipe.attached is None
    assert pipe._progress_bar_config == {"leave": False}
    assert not (tmp_path / "out").exists()


def test_results_of_an_earlier_comparison_are_replaced(pipe, tmp_path):
    run(pipe, tmp_path, [FAST])
    run(pipe, tmp_path, [FORA(3)])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "images",
        "report.html",
        "report.md",
        "results.json",
    ]
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == ["fora-3", "plain"]


def test_a_folder_with_other_files_is_refused_before_anything_runs(pipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        run(pipe, tmp_path)
    assert pipe.calls == []
    run(pipe, tmp_path, overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "no prompts"),
        ({"seeds": [1, 2]}, "2 seeds for 4 prompts"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"warmup": 0}, "warmup must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"methods": ["toca", "toca:4:0.9"]}, "more than once: toca:4:0.9"),
        ({"methods": ["toka"]}, "unknown method 'toka'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(pipe, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(pipe, tmp_path, **options)
    assert pipe.calls == []


def prompted_pipeline():
    pipe = tiny_pipeline()

    def encode_prompt(prompt, **_):
        generators = [torch.Generator().manual_seed(ord(text[0])) for text in prompt]
        embeds = torch.stack([torch.randn(6, 24, generator=g) for g in generators])
        return embeds, embeds[:, 0, :12], torch.zeros(6, 3)

    pipe.encode_prompt = encode_prompt
    return pipe


def test_the_engine_and_a_tiny_flux_go_through_a_comparison(tmp_path):
    pipe = prompted_pipeline()
    options = {"steps": 8, "batch": 2, "call": {"height": 32, "width": 32}, "console": Console(quiet=True)}
    comparison = compare(pipe, ["steps:0.5", "fora:2", "toca:2:0.5", "fora:1"], list("abc"), out=tmp_path, **options)
    by_label = {result.label: result for result in comparison.results}
    steps = {label: result.steps for label, result in by_label.items()}
    assert steps == {"plain": "8F", "steps:0.5": "4F", "fora:2": "4F+4r", "toca:2:0.5": "5F+3p", "fora:1": "8F"}
    assert by_label["fora:1"].psnr.infinite == 3  # a cycle of 1 is the plain pipeline, bit for bit
    assert by_label["toca:2:0.5"].cache_bytes > 0
    assert by_label["plain"].cache_bytes == 0
    assert by_label["steps:0.5"].flops_ratio == pytest.approx(2)
    assert all(len(result.images) == 3 for result in comparison.results)
    assert dataclasses.asdict(comparison)["model"] == "FluxPipeline"


def read(tmp_path, path):
    return np.asarray(Image.open(tmp_path / "out" / path))


# ------------------------------------------------------------------------------------------------- metrics, efficiency


class Judging(Networks):
    """Networks of which Inception is a tiny one."""

    def find(self, need):
        return Found("tiny", "bundled")

    def features(self, need):
        return tiny_features()


def test_metrics_are_columns_with_paired_differences_to_plain(pipe, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(real / f"{i}.png")
    comparison = run(pipe, tmp_path, [FAST], metrics=parse_metrics("fid,kid,psnr"), networks=Judging(), reference=real)
    plain, fast = comparison.results
    assert [m.metric for m in plain.metrics] == [m.metric for m in fast.metrics] == ["kid", "fid"]
    assert plain.metrics[1].difference is None
    change = fast.metrics[1].difference
    assert change.mean == pytest.approx(fast.metrics[1].value.mean - plain.metrics[1].value.mean)
    assert change.low < change.mean < change.high or change.low == pytest.approx(change.high)
    assert from_json(json.loads((tmp_path / "out" / "results.json").read_text())) == comparison
    page = (tmp_path / "out" / "report.html").read_text()
    assert "KID<br>x1000" in page and "against plain" in page and "Look at KID first" in page
    assert "| KID x1000 | FID |" in (tmp_path / "out" / "report.md").read_text()


def test_missing_networks_and_references_are_refused_before_anything_runs(pipe, tmp_path):
    with pytest.raises(ValueError, match="fid needs --reference"):
        run(pipe, tmp_path, metrics=parse_metrics("fid"), networks=Judging())
    with pytest.raises(ValueError, match="neither a file or folder nor a hub id"):
        run(pipe, tmp_path, metrics=parse_metrics("clip"), networks=Networks(chosen={"clip": "/no where"}))
    assert pipe.calls == []


def test_the_pictures_of_each_method_have_a_manifest_that_pairs_them(pipe, tmp_path):
    run(pipe, tmp_path, [FAST])
    plain, fast = (open_pictures(tmp_path / "out" / "images" / name) for name in ("plain", "toca-4-0.9"))
    assert plain.keys == fast.keys == {(f"{i:04d}", i) for i in range(4)}
    assert [entry.prompt for entry in fast.entries] == PROMPTS
    assert np.array_equal(fast.entries[2].load(), read(tmp_path, "images/toca-4-0.9/0002.png"))


def test_every_timed_call_has_its_peak_of_memory_where_the_system_tells_it(pipe, tmp_path):
    (plain, *_) = run(pipe, tmp_path, [FAST]).results
    assert plain.images_per_second == pytest.approx(1 / plain.seconds_per_image.median)
    if Path("/proc/self/status").exists():
        assert plain.peak_bytes == max(t.peak_bytes for t in plain.timings) > 1e7


def test_results_of_before_there_were_metrics_are_still_read(pipe, tmp_path):
    comparison = run(pipe, tmp_path, [FAST])
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    del data["reference"], data["bundled"]
    for result in data["results"]:
        del result["metrics"]
        for timing in result["timings"]:
            del timing["peak_bytes"], timing["joules"]
    assert from_json(data).results[1].psnr == comparison.results[1].psnr


class Autoencoder:
    def decode(self, latents):
        return (latents,)


class Breaking(StandIn):
    """What it decodes is NaN for `broken`, pairs of a method's class and a prompt; and one colour for `black`."""

    def __init__(self, clock, cost, broken=(), black=()):
        super().__init__(clock, cost)
        self.vae, self.broken, self.black = Autoencoder(), broken, black

    def __call__(self, prompt, num_inference_steps, generator, output_type, **arguments):
        made = super().__call__(prompt, num_inference_steps, generator, output_type, **arguments)
        method = FewerSteps if num_inference_steps == 14 else type(self.attached or Plain())
        for row, one in enumerate(prompt):
            pixels = torch.from_numpy(np.array(made.images[row])).float()
            if (method, one) in self.broken:
                pixels[0, 0, 0] = float("nan")
            if (method, one) in self.black:
                pixels[:] = 0
            (pixels,) = self.vae.decode(pixels[None])
            made.images[row] = Image.fromarray(pixels[0].nan_to_num(0).numpy().astype(np.uint8))
        return made


@pytest.fixture
def breaking(engine):
    return lambda **what: Breaking(Clock(), cost, **what)


def test_a_row_with_broken_numbers_is_counted_and_not_compared(breaking, tmp_path):
    pipe = breaking(broken=[(ToCa, "b"), (ToCa, "d"), (FewerSteps, "a")])
    found = run(pipe, tmp_path, [FAST, FewerSteps(0.5)], batch=3)
    plain, fast, fewer = found.results
    assert (plain.broken, fast.broken, fewer.broken) == ((), (1, 3), (0,))
    assert [value is None for value in fast.ssim_each] == [False, True, False, True]
    assert [value is None for value in fast.psnr_each] == [False, True, False, True]
    assert (fast.psnr.count, fast.psnr.infinite) == (2, 0)
    assert (fewer.psnr.count, fewer.psnr.infinite) == (0, 3)
    assert from_json(json.loads(json.dumps(found.as_json()))) == found
    page = (tmp_path / "out/report.html").read_text()
    assert '<tr class="broken">' in page and "2 of 4 pictures hold NaN or infinity" in page
    assert page.count("NaN</span>") == 3
    told = Console(record=True, width=200, file=io.StringIO(), force_terminal=True, color_system="standard")
    told.print(report.terminal_table(found))
    assert "\x1b[31m" in told.file.getvalue()
    assert "toca:4:0.9: 2 of 4 pictures hold NaN or infinity" in told.export_text()
    assert "**2 of 4 pictures hold NaN or infinity**" in report.markdown(found)


@pytest.mark.parametrize("method", [Plain, ToCa])
def test_where_every_picture_is_broken_none_is_identical(breaking, tmp_path, method):
    pipe = breaking(broken=[(method, prompt) for prompt in PROMPTS])
    found = run(pipe, tmp_path, [FAST])
    fast = found.results[1]
    assert found.results[method is ToCa].broken == (0, 1, 2, 3)
    assert (fast.psnr.mean, fast.psnr.infinite, fast.ssim.mean) == (None, 0, None)
    assert "identical" not in report.markdown(found).partition("## How")[0]
    assert report.rows(found)[1].psnr.value == "–" and report.rows(found)[1].ssim.value == "–"


def test_two_pictures_of_one_colour_are_not_compared(breaking, tmp_path):
    found = run(breaking(black=[(Plain, "a"), (ToCa, "a"), (ToCa, "b")]), tmp_path, [FAST])
    plain, fast = found.results
    assert (plain.constant, fast.constant, fast.broken) == ((0,), (0, 1), ())
    assert fast.ssim_each[0] is None and fast.psnr_each[0] is None
    assert fast.ssim_each[1] is not None and fast.psnr.count == 3, "one of them is a picture: they differ"
    assert "2 of 4 pictures are of one colour" in (tmp_path / "out/report.html").read_text()


def test_metrics_of_a_row_leave_broken_pictures_out(breaking, tmp_path, monkeypatch):
    monkeypatch.setattr(Networks, "locate", lambda *_: {})
    seen = {}

    def measure(pictures, metrics, networks):
        seen[pictures.name] = [entry.id for entry in pictures.entries]
        return SimpleNamespace(name=pictures.name)

    monkeypatch.setattr("dita.compare.measure", measure)
    monkeypatch.setattr("dita.compare.measure_pairs", lambda *_: None)
    monkeypatch.setattr("dita.compare.results_of", lambda *_: ())
    pipe = breaking(broken=[(ToCa, "b")] + [(FewerSteps, prompt) for prompt in PROMPTS])
    found = run(pipe, tmp_path, [FAST, FewerSteps(0.5)], metrics=parse_metrics("lpips"))
    assert seen == {"plain": ["0000", "0001", "0002", "0003"], "toca:4:0.9": ["0000", "0002", "0003"]}
    assert found.results[2].metrics == ()


def test_what_broke_is_known_again_after_an_interruption(breaking, tmp_path):
    pipe = breaking(broken=[(ToCa, "a")])
    stopped = []

    def until(pipe, method, steps):
        stopped.append(1)
        if len(stopped) == 5:
            raise KeyboardInterrupt
        return 1

    pipe.cost = until
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path, batch=2)
    pipe.cost, pipe.broken = cost, []
    found = run(pipe, tmp_path, batch=2)
    assert found.results[1].broken == (0,), "the first batch was drawn before"


def test_nothing_is_warned_of_that_the_report_says(tmp_path):
    pipe = prompted_pipeline()
    next(iter(pipe.transformer.parameters())).data.fill_(float("nan"))
    options = {"steps": 3, "call": {"height": 32, "width": 32}, "console": Console(quiet=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = compare(pipe, ["fora:3", "steps:0.5"], ["a"], out=tmp_path / "out", **options)
    assert [result.broken for result in found.results] == [(0,)] * 3
