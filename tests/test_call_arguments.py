"""Arguments of pipeline calls that people give: what a job sets, values that cannot be meant, sizes, long prompts."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline
from typer.testing import CliRunner

import dita
from dita import cli, models
from dita.call_arguments import (
    SET_BY_JOB,
    PromptsCutWarning,
    ScaledSizeWarning,
    check_sides,
    checked_call,
    checked_values,
    cuts,
    cuts_in_words,
    from_entries,
    repeated,
)
from dita.compare import compare
from dita.generation import ray_engine, runner
from dita.generation.progress import Progress
from dita.miniature.tokenizers import clip_tokenizer, t5_tokenizer
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.generation.stand_in import StandIn, loading, settings, some_items
from tests.tiny_vae import tiny_vae

FAMILIES = {"flux": tiny_flux, "pixart": tiny_pixart, "dit": tiny_dit, "opensora": tiny_opensora}


@pytest.fixture(scope="module", params=FAMILIES)
def pipe(request):
    return FAMILIES[request.param].tiny_pipeline()


@pytest.fixture(scope="module")
def flux():
    return tiny_flux.tiny_pipeline()


@pytest.fixture(scope="module")
def pixart():
    """At 256 pixels, the least that the pipeline has a table of sizes for."""
    return PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_opensora.tiny_text_encoder(),
        vae=tiny_vae(),
        transformer=tiny_pixart.tiny_transformer(sample_size=32),
        scheduler=DPMSolverMultistepScheduler(),
    )


# ------------------------------------------------------------------------------------------ what a job sets itself


def prompts_of(pipe):
    return ["goldfish"] if hasattr(pipe, "get_label_ids") else ["a red circle"]


@pytest.mark.parametrize("name", SET_BY_JOB)
def test_what_the_job_sets_is_refused_for_every_family_and_names_what_to_use(pipe, name):
    with pytest.raises(ValueError, match=rf"^{name} is set for every call by the job itself") as caught:
        dita.generate(pipe, prompts_of(pipe), **{name: 3})
    instead = SET_BY_JOB[name][1]
    assert str(caught.value).endswith(f": use {instead}" if instead else ", and is fixed")


@pytest.mark.parametrize("name", [*SET_BY_JOB, "callback_on_step_end", "callback", "callback_steps"])
def test_the_command_refuses_it_before_a_folder_is_made(name, tmp_path):
    result = command("--prompt", "a red circle", "--call", f"{name}=3", out=tmp_path / "out")
    assert result.exit_code == 2 and result.stderr.startswith(f"error: {name} ")
    assert SET_BY_JOB.get(name, ("dita.generate",))[0] in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_pipeline_is_asked_for_what_it_takes(pipe):
    """The table has every argument of the pipelines that a job sets: what is left is for the user."""
    import inspect

    left = set(inspect.signature(type(pipe).__call__).parameters) - SET_BY_JOB.keys()
    assert not {
        name for name in left if "per_prompt" in name or name.startswith(("latents", "output", "return", "gen"))
    }


def test_functions_are_taken_in_python():
    def note(*_):
        return {}

    assert checked_call(FakePipe(), {"callback_on_step_end": note}) == {"callback_on_step_end": note}
    with pytest.raises(ValueError, match="callback_on_step_end must be a function, got 3"):
        checked_call(FakePipe(), {"callback_on_step_end": 3})


# ------------------------------------------------------------------------------------------------------------- values


class FakePipe:
    """Takes arguments of all kinds."""

    def __call__(
        self,
        prompt=None,
        height=None,
        width=None,
        num_inference_steps=28,
        guidance_scale=3.5,
        max_sequence_length=512,
        clean_caption=True,
        negative_prompt="",
        num_frames="2s",
        sigmas=None,
        timesteps=None,
        callback_on_step_end=None,
        extra=None,
    ): ...


NOT_FINITE = [
    math.nan,
    math.inf,
    -math.inf,
    [1.0, math.nan],
    {"scale": math.inf},
    np.float32("nan"),
    torch.tensor(math.nan),
]


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_nan_and_infinity_are_refused_wherever_they_stand(value):
    with pytest.raises(ValueError, match="extra must be finite, got "):
        checked_values({"extra": value})


def test_scalars_of_torch_and_numpy_are_the_numbers_in_them():
    given = {"height": torch.tensor(64), "width": np.int64(32), "guidance_scale": np.float64(2.5)}
    found = checked_call(FakePipe(), given)
    assert found == {"height": 64, "width": 32, "guidance_scale": 2.5}
    assert [type(value) for value in found.values()] == [int, int, float]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("height", "64", "height must be a whole number, at least 1, got '64'"),
        ("height", 64.5, "height must be a whole number, at least 1, got 64.5"),
        ("width", True, "width must be a whole number, at least 1, got True"),
        ("width", 0, "width must be a whole number, at least 1, got 0"),
        ("width", -64, "width must be a whole number, at least 1, got -64"),
        ("height", torch.tensor(64.5), "height must be a whole number"),
        ("height", torch.tensor([64, 64]), "height must be a whole number"),
        ("max_sequence_length", 0, "max_sequence_length must be a whole number, at least 1, got 0"),
        ("guidance_scale", "high", "guidance_scale must be a number, got 'high'"),
        ("guidance_scale", True, "guidance_scale must be a number, got True"),
        ("clean_caption", "False", "clean_caption must be true or false, got 'False'"),
        ("clean_caption", 0, "clean_caption must be true or false, got 0"),
        ("hight", 64, "FakePipe takes no 'hight'; it takes prompt, .*; did you mean 'height'?"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        checked_call(FakePipe(), {name: value})


@pytest.mark.parametrize("name", ["kwargs", "args", "guidence_scale", "mask_feature"])
def test_a_name_that_diffusers_would_forget_is_refused(pixart, name):
    with pytest.raises(ValueError, match=f"PixArtAlphaPipeline takes no {name!r}"):
        checked_call(pixart, {name: 3})


def test_a_pipeline_of_ones_own_may_take_any_name():
    class Own:
        def __call__(self, prompt, **arguments): ...

    assert checked_call(Own(), {"mood": 3, "height": 64}) == {"mood": 3, "height": 64}


@pytest.mark.parametrize("name", ["sigmas", "timesteps"])
def test_lists_of_steps_must_have_the_steps_of_the_run(name):
    assert checked_call(FakePipe(), {name: [1.0, 0.5]}, 2) == {name: [1.0, 0.5]}
    assert checked_call(FakePipe(), {name: [1.0, 0.5]}) == {name: [1.0, 0.5]}
    with pytest.raises(ValueError, match=f"{name} lists 2 steps, and the run has 3"):
        checked_call(FakePipe(), {name: [1.0, 0.5]}, 3)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["height"], "--call takes NAME=VALUE, got 'height'"),
        (["=3"], "--call takes NAME=VALUE"),
        (["a b=3"], "--call takes NAME=VALUE"),
        (["extra=1", "extra=2"], "--call gives extra twice: 1 and 2"),
        (["height=128"], "height is given twice: 64 by its own option, and 128 by --call"),
        (["extra=NaN"], "extra must be finite, got nan"),
        (["extra=[1, Infinity]"], "extra must be finite"),
        (["extra=1e999"], "extra must be finite, got inf"),
        (["extra=None"], r"extra=None is the text 'None'; values are JSON: write extra=null"),
        (["extra=True"], "write extra=true"),
        (["extra=False"], "write extra=false"),
    ],
)
def test_entries_of_the_command_line_are_checked(entries, message):
    with pytest.raises(ValueError, match=message):
        from_entries(entries, {"height": 64})


def test_entries_are_json_where_they_are_json():
    entries = ["a=3", "b=[1, 2]", "c=null", "d=a cat", 'e="3"', "f=x=y", "g=" + "9" * 5000, "h=" + "[" * 9999]
    found = from_entries(entries, {"height": 64})
    assert {name: found[name] for name in "abcdef"} == dict(a=3, b=[1, 2], c=None, d="a cat", e="3", f="x=y")
    assert found["height"] == 64


def test_a_text_of_a_prompt_goes_with_each_prompt_of_a_call():
    seen = []

    class Two(StandIn):
        def __call__(self, prompt, prompt_2=None, negative_prompt=None, generator=None, output_type="pil"):
            seen.append((prompt_2, negative_prompt))
            return super().__call__(prompt, generator=generator)

    list(dita.generate(Two(), ["a", "b", "c"], batch_size=2, prompt_2="more", negative_prompt="none"))
    assert seen == [(["more", "more"], "none"), (["more"], "none")]
    assert repeated("prompt_2", ["x"], 2) == ["x"]


# -------------------------------------------------------------------------------------------------- prompts and seeds


@pytest.mark.parametrize("prompts", ["a cat", b"a cat", dita.Prompt("x", "a cat"), {"a": "cat"}, 3, None])
def test_prompts_must_be_a_list(prompts):
    pipe = StandIn()
    with pytest.raises(ValueError, match="prompts must be a list"):
        dita.generate(pipe, prompts)
    assert not pipe.calls


@pytest.mark.parametrize("prompts", [["a", 3], [None], [["a"]], [b"a"], [], ["  "]])
def test_lists_of_other_things_are_refused(prompts):
    with pytest.raises(ValueError, match="prompts"):
        dita.generate(StandIn(), prompts)


@pytest.mark.parametrize(
    "prompts", [("a", "b"), iter(["a", "b"]), np.array(["a", "b"])], ids=["tuple", "iter", "array"]
)
def test_any_listing_of_texts_is_taken(prompts):
    assert [made.item.prompt for made in dita.generate(StandIn(), prompts)] == ["a", "b"]


@pytest.mark.parametrize("seeds", [3, "0..3", None, (-1,), (0.5,), (True,), (), (1, 1), (torch.tensor(1), 1), ("0",)])
def test_seeds_must_be_different_whole_numbers_from_0_on(seeds):
    with pytest.raises(ValueError, match="seed"):
        dita.generate(StandIn(), ["a"], seeds=seeds)


@pytest.mark.parametrize("seeds", [range(2), np.arange(2), torch.arange(2), [np.int32(0), np.uint8(1)]], ids=type)
def test_seeds_of_any_integer_type_draw_the_same_noise(seeds):
    expected = [made.picture.tobytes() for made in dita.generate(StandIn(), ["a"], seeds=(0, 1))]
    found = list(dita.generate(StandIn(), ["a"], seeds=seeds))
    assert [made.picture.tobytes() for made in found] == expected
    assert [type(made.seed) for made in found] == [int, int]


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_counts_are_of_any_integer_type_and_of_no_other(name):
    for count in (2, np.int64(2), torch.tensor(2)):
        pipe = StandIn()
        assert len(list(dita.generate(pipe, ["a", "b"], **{name: count}))) == 2
    for wrong in (True, 2.0, "2", torch.tensor(2.5), torch.tensor([2, 2]), -1, 0, math.nan):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1"):
            dita.generate(StandIn(), ["a"], **{name: wrong})


# -------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("key", ["height", "width"])
def test_a_size_that_the_model_would_round_is_refused_with_the_nearest(key):
    for family in (tiny_flux, tiny_pixart):
        pipe = family.tiny_pipeline()
        side = 2 * pipe.vae_scale_factor
        call = {"use_resolution_binning": False} if family is tiny_pixart else {}
        assert checked_call(pipe, {key: 3 * side, **call})[key] == 3 * side
        for off in (1, side // 2, side - 1):
            near = f"near it: {2 * side} and {3 * side}"
            with pytest.raises(
                ValueError, match=f"{key} of {type(pipe).__name__} must be a multiple of {side} .*{near}"
            ):
                checked_call(pipe, {key: 2 * side + off, **call})


def test_a_size_below_the_least_is_refused():
    configs = ({"patch_size": 2}, {"block_out_channels": (1, 2, 3, 4)})
    with pytest.raises(ValueError, match="must be a multiple of 16 pixels, got 8; near it: 16"):
        check_sides("m", "PixArtTransformer2DModel", *configs, {"height": 8})
    check_sides("m", "SomeTransformer", *configs, {"height": 7})


def test_sizes_and_lengths_of_videos_are_checked_before_the_call():
    pipe = tiny_opensora.tiny_pipeline()
    for wrong in ({"height": 33, "width": 32}, {"height": 32}, {"num_frames": 5}, {"resolution": "241p"}):
        with pytest.raises(ValueError):
            checked_call(pipe, wrong)
    assert checked_call(pipe, {"height": 32, "width": 32, "num_frames": 4})


def test_a_compiled_transformer_has_the_sizes_of_its_own(flux):
    compiled = SimpleNamespace(_orig_mod=flux.transformer, config=flux.transformer.config)

    class Compiled:
        transformer, vae = compiled, flux.vae

        def __call__(self, prompt, height=None): ...

    with pytest.raises(ValueError, match="must be a multiple of"):
        checked_call(Compiled(), {"height": 2 * flux.vae_scale_factor + 1})


@pytest.mark.parametrize(("size", "said"), [((256, 256), False), ((250, 256), True), ((128, 512), False)])
def test_a_size_that_pixart_scales_is_said(pixart, size, said):
    height, width = size
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        checked_call(pixart, {"height": height, "width": width})
    assert [warning.category for warning in found] == [ScaledSizeWarning] * said
    if said:
        assert f"scales them to {height}x{width}" in str(found[0].message)


def command(*arguments, out):
    return CliRunner().invoke(cli.app, ["generate", "--device", "cpu", "--out", str(out), *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--height", 65], "height of 'shapes-flux' must be a multiple of 4 pixels, got 65; near it: 64 and 68"),
        (["--width", 3], "width of 'shapes-flux' must be a multiple of 4 pixels, got 3; near it: 4"),
        (["--call", "height=65"], "must be a multiple of 4 pixels, got 65"),
        (["--model", "shapes-pixart", "--height", 65], "height of 'shapes-pixart' must be a multiple of"),
        (["--guidance", "nan"], "guidance must be a number, got nan"),
        (["--guidance", "inf"], "guidance must be a number, got inf"),
        (["--call", "guidance_scale=NaN"], "guidance_scale must be finite"),
        (["--format", "mp4", "--fps", "nan"], "fps must be"),
        (["--format", "mp4", "--fps", "0"], "fps must be above 0"),
        (["--method", "toca:4:nan"], "ratio"),
        (["--height", 64, "--call", "height=64"], "height is given twice"),
        (["--guidance", 3, "--call", "guidance_scale=3"], "guidance_scale is given twice"),
    ],
)
def test_the_command_refuses_bad_values_before_a_folder_is_made(arguments, message, tmp_path):
    result = command("--prompt", "a red circle", *arguments, out=tmp_path / "out")
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_hub_models_are_checked_once_they_are_loaded():
    models.check_size("someone/some-model", {"height": 7})


def test_a_list_of_steps_is_of_the_steps_that_a_method_leaves():
    class Scheduled(StandIn):
        def __call__(self, prompt, sigmas=None, num_inference_steps=4, generator=None, output_type="pil"):
            return super().__call__(prompt, generator=generator)

    assert list(dita.generate(Scheduled(), ["a"], steps=4, method="steps:0.5", sigmas=[1.0, 0.5]))
    with pytest.raises(ValueError, match="sigmas lists 4 steps, and the run has 2"):
        dita.generate(Scheduled(), ["a"], steps=4, method="steps:0.5", sigmas=[1.0, 0.7, 0.5, 0.2])


# ------------------------------------------------------------------------------------------------- prompts that are cut


class Reading(StandIn):
    """Reads prompts with FLUX's two tokenizers."""

    def __init__(self):
        super().__init__()
        self.tokenizer, self.tokenizer_2 = clip_tokenizer(), t5_tokenizer()

    def __call__(
        self, prompt, num_inference_steps=4, generator=None, output_type="pil", height=8, max_sequence_length=12
    ):
        return super().__call__(prompt, num_inference_steps, generator, output_type, height)


SHORT, LONG, LONGEST = "a red circle", "a red circle " * 10, "a red circle " * 40


def test_prompts_that_are_cut_are_counted_for_each_tokenizer_and_the_longest_is_named():
    found = cuts(Reading(), [("p0", SHORT), ("p1", LONG), ("p2", LONGEST)], {})
    assert {(cut.tokenizer, cut.limit, cut.id) for cut in found} == {
        ("CLIPTokenizer", 77, "p2"),
        ("T5Tokenizer", 12, "p1"),
        ("T5Tokenizer", 12, "p2"),
    }
    clip = len(clip_tokenizer()(LONGEST).input_ids)
    t5 = len(t5_tokenizer()(LONGEST).input_ids)
    assert cuts_in_words(found) == (
        f"CLIPTokenizer reads 77 tokens: 1 prompt is cut, the longest, 'p2', of {clip};"
        f" T5Tokenizer reads 12 tokens: 2 prompts are cut, the longest, 'p2', of {t5}"
    )
    assert cuts_in_words([]) is None


def test_the_length_of_a_call_counts():
    assert not cuts(Reading(), [("p1", LONG)], {"max_sequence_length": 64})
    exact = len(t5_tokenizer()(LONG).input_ids)
    assert not cuts(Reading(), [("p1", LONG)], {"max_sequence_length": exact})
    assert cuts(Reading(), [("p1", LONG)], {"max_sequence_length": exact - 1})


def test_pipelines_without_tokenizers_cut_nothing():
    assert cuts(StandIn(), [("p0", LONGEST)], {}) == []


def test_it_is_as_the_pixart_pipeline_reads(pixart):
    call = {"clean_caption": False, "max_sequence_length": 8}
    assert [cut.id for cut in cuts(pixart, [("a", SHORT.upper()), ("b", LONG)], call)] == ["b"]


def test_it_is_as_the_video_pipeline_reads():
    """Scores, which a call appends, count."""
    pipe = tiny_opensora.tiny_pipeline()
    most = pipe.transformer.config.caption_max_length
    fits = " ".join(["circle"] * (most - 1))
    plain = {"aesthetic_score": None, "clean_caption": False}
    assert cuts(pipe, [("a", fits)], plain) == []
    found = cuts(pipe, [("a", fits)], {"clean_caption": False})
    assert [(cut.id, cut.limit) for cut in found] == [("a", most)] and found[0].tokens > most


def cut_warnings(run):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in found if issubclass(one.category, PromptsCutWarning)]


def test_python_is_warned_once_of_all_prompts():
    said = cut_warnings(lambda: list(dita.generate(Reading(), [SHORT, LONG, LONGEST, LONG], seeds=(0, 1))))
    assert len(said) == 1 and "T5Tokenizer reads 12 tokens: 3 prompts are cut, the longest, '00002'" in said[0]
    assert not cut_warnings(lambda: list(dita.generate(Reading(), [SHORT])))


def test_open_sora_does_not_say_it_again_for_each_prompt():
    pipe = tiny_opensora.tiny_pipeline()
    call = {"height": 32, "width": 32, "num_frames": 4, "clean_caption": False}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        list(dita.generate(pipe, [LONGEST, LONGEST + "x"], steps=1, **call))
    said = [str(one.message) for one in found if "tokens" in str(one.message)]
    assert len(said) == 1 and "2 prompts are cut" in said[0]


def test_compare_checks_the_same_before_it_draws(flux, tmp_path):
    for prompts, call, message in (
        ("a cat", {}, "prompts must be a list, got the one text 'a cat'"),
        (["a cat"], {"height": 2 * flux.vae_scale_factor + 1}, "height of FluxPipeline must be a multiple of"),
        (["a cat"], {"generator": 3}, "generator is set for every call by the job itself"),
        (["a cat"], {"guidance_scale": math.nan}, "guidance_scale must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(flux, ["fora:2"], prompts, out=tmp_path / "out", call=call)


def long_items(count=6):
    from dita.generation.job import Item

    return [Item(item.id, LONG, item.seed) for item in some_items(count)]


def test_a_job_says_it_once(tmp_path):
    def job():
        runner.run(
            settings(),
            long_items(),
            tmp_path / "out",
            batch_size=2,
            progress=Progress(quiet=True),
            load=loading(Reading()),
        )

    said = cut_warnings(job)
    assert len(said) == 1 and "6 prompts are cut" in said[0]
    assert not cut_warnings(job), "nothing is drawn, and nothing read"


def test_workers_of_ray_hand_it_to_the_job():
    actor = ray_engine.Actor(json.dumps(settings().as_json()), 2, False, loading(Reading()))
    rows = [
        row
        for item in long_items(3)
        for row in actor({"items": json.dumps([{"id": item.id, "prompt": item.prompt, "seed": item.seed}])})
    ]
    said = cut_warnings(lambda: list(ray_engine._results(rows)[1]))
    assert len(said) == 1 and "3 prompts are cut" in said[0]


def test_the_command_says_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.run, "__kwdefaults__", {**runner.run.__kwdefaults__, "load": loading(Reading())})
    monkeypatch.setattr(models, "default_call", lambda model: {})
    result = command("--prompt", LONG, "--prompt", SHORT, "--steps", 2, out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1 and "1 prompt is cut, the longest, '00000'" in lines[0]
