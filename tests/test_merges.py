"""Token merging without a model: cells, FLOPs, what is refused, and what a merging plan says."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dita import cli
from dita.merges import MACHINES, Cells, matching_seconds, merging_seconds
from dita.methods import (
    FORA,
    Composition,
    FewerSteps,
    MergingRefusedWarning,
    Plain,
    ToCa,
    ToMe,
    as_method,
    from_json,
    parse,
)
from dita.shapes import NAMED_SHAPES, DiTShape, FluxShape, Kind, OpenSoraShape, PixArtShape, Site, named_shape

FLUX, PIXART_1024 = named_shape("flux-dev"), named_shape("pixart-alpha-1024")
SMALL = (
    FluxShape(double_layers=2, single_layers=3, width=8, mlp_width=32, text_tokens=12, image_tokens=64, grid=(8, 8)),
    PixArtShape(layers=3, width=8, mlp_width=32, grid=(8, 8), cross_width=8),
    DiTShape(layers=3, width=8, mlp_width=32, grid=(8, 8)),
    OpenSoraShape(layers=2, width=8, mlp_width=32, frames=4, grid=(8, 8)),
)


def forced(ratio: float = 0.5, **fields) -> ToMe:
    return ToMe(ratio, **{"force": True, **fields})


# ------------------------------------------------------------------------------------------------ cells


@pytest.mark.parametrize(
    ("cells", "ratio", "removed"),
    [
        (Cells((8, 8), (2, 2)), 0.5, 32),
        (Cells((8, 8), (2, 2)), 0.75, 48),  # all that are no destinations
        (Cells((9, 7), (2, 2)), 0.5, 31),  # 31.5 is rounded down
        (Cells((9, 7), (2, 2)), 0.9, 51),  # 63 tokens, of which 12 are destinations
        (Cells((5,), (1,)), 0.5, 0),
    ],
)
def test_how_many_tokens_merging_removes(cells: Cells, ratio: float, removed: int) -> None:
    assert cells.removed(ratio) == removed


def test_videos_have_a_sequence_for_each_frame_or_for_each_place() -> None:
    shape = SMALL[3]
    assert shape.cells("spatial", (2, 2)) == shape.cells("temporal", (2, 2)) == Cells((8, 8), (2, 2), 4)
    assert shape.cells("spatial", (3, 2, 2)) == Cells((8, 8), (2, 2), 4)
    assert shape.cells("temporal", (3, 2, 2)) == Cells((4,), (3,), 64, interleaved=True)


# ------------------------------------------------------------------------------------------------ FLOPs


def test_flops_of_merged_modules_by_hand() -> None:
    c, m, r = 3072, 12288, 2048
    joint = 512 + 4096 - r

    def flops(site: Site, *modules: str) -> float:
        return FLUX.merged_flops(site, frozenset(modules), r)

    attention = 4 * joint**2 * c
    assert flops(Site("double", 0, "attn"), "attn") == 8 * joint * c * c + attention
    assert flops(Site("double", 0, "mlp"), "mlp") == (4096 - r) * 4 * c * m
    both = flops(Site("single", 0, "single"), "attn", "mlp")
    assert both == 6 * joint * c * c + attention + joint * (2 * c * m + 2 * (c + m) * c)
    alone = flops(Site("single", 0, "single"), "attn")
    assert alone == 6 * joint * c * c + attention + (joint + r) * (2 * c * m + 2 * (c + m) * c)
    video = OpenSoraShape(frames=4, grid=(8, 8), width=16)
    spatial, temporal = (Site(stack, 0, "attn") for stack in video.stacks)
    attn = frozenset({"attn"})
    assert video.merged_flops(spatial, attn, 4 * 32) == 2 * 4 * (8 * 32 * 256 + 4 * 32 * 32 * 16)
    assert video.merged_flops(temporal, attn, 64 * 2) == 2 * 64 * (8 * 2 * 256 + 4 * 2 * 2 * 16)


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.family)
def test_merging_nothing_costs_what_a_full_site_does_and_more_merging_less(shape) -> None:
    for site in shape.sites():
        modules = shape.mergeable(site, (2, 2))
        if modules:
            full = shape.flops(site, Kind.FULL, shape.tokens(site.module))
            assert shape.merged_flops(site, modules, 0) == full
            assert shape.merged_flops(site, modules, 32) < shape.merged_flops(site, modules, 16) < full


def test_matching_is_sources_times_destinations() -> None:
    plan = forced().plan(PIXART_1024, 20)
    one = 2 * 3072 * 1024 * 1152 * 2  # both halves of guidance
    assert plan.matching_flops == 28 * 20 * one
    assert forced(reuse_steps=10, reuse_layers=7).plan(PIXART_1024, 20).matching_flops == 4 * 2 * one
    assert forced().plan(FLUX, 2).matching_flops == 57 * 2 * (2 * 3072 * 1024 * 3072)


def test_what_merging_saves_of_a_whole_run() -> None:
    """PixArt-alpha at 1024: self-attention is 4096 tokens in projections and products; half of them is 34.7 %."""
    plan = forced().plan(PIXART_1024, 20)
    saved = 2 * (8 * 2048 * 1152**2 + 4 * (4096**2 - 2048**2) * 1152) * 28 * 20
    assert plan.plain_flops - plan.flops() == saved
    assert plan.flops_ratio() == pytest.approx(1.53, abs=0.005)


# ------------------------------------------------------------------------------------------------ plans


def test_tokens_are_merged_in_full_steps_only() -> None:
    plan = Composition((forced(modules=("attn", "mlp")), ToCa(4, 0.9))).plan(FLUX, 12)
    assert plan.kinds == ToCa(4, 0.9).plan(FLUX, 12).kinds
    for step, kind in zip(plan.steps, plan.kinds, strict=True):
        merged = {site.module for site, action in step.items() if action.merged}
        assert merged == ({"attn", "mlp", "single"} if kind is Kind.FULL else set())
    assert plan.map()[0].split()[-1] == "MMM...M...M."
    assert plan.merged_share == 0.5


def test_modules_choose_what_is_merged() -> None:
    step = forced(modules=("cross_attn",)).plan(SMALL[1], 1).steps[0]
    assert {site.module for site, action in step.items() if action.merged} == {"cross_attn"}


def test_self_attention_along_time_is_merged_with_a_stride_in_time_only() -> None:
    video = SMALL[3]
    for stride, stacks in (((2, 2), {"spatial"}), ((2, 2, 2), {"spatial", "temporal"})):
        step = forced(stride=stride).plan(video, 1).steps[0]
        assert {site.stack for site, action in step.items() if action.merged} == stacks


def test_matchings_are_kept_while_a_later_step_uses_them() -> None:
    plan = forced(reuse_steps=3, reuse_layers=2).plan(SMALL[2], 5)
    first = frozenset({("block", 0), ("block", 2)})
    assert plan.matched == (first, frozenset(), frozenset(), first, frozenset())
    assert plan.matchings_kept == (first, first, frozenset(), first, frozenset())
    assert plan.cache_bytes == 2 * 2 * (16 * 64 + 4 * 32), "two matchings of two halves"


def test_between_full_steps_a_matching_grows_old() -> None:
    plan = Composition((forced(reuse_steps=4), FORA(3))).plan(SMALL[0], 10)
    assert [bool(matched) for matched in plan.matched] == [s in (0, 6) for s in range(10)]
    assert Composition((forced(reuse_steps=3), FORA(3))).plan(SMALL[0], 10).matched[3]


def test_fewer_steps_merge_in_each_of_them() -> None:
    plan = Composition((forced(), FewerSteps(0.5))).plan(SMALL[1], 10)
    assert len(plan.steps) == 5 and plan.requested_steps == 10
    assert plan.flops_ratio() > 2


# ------------------------------------------------------------------------------------------------ what does not pay


def test_merging_few_tokens_is_refused_with_the_numbers() -> None:
    shape = named_shape("dit-xl-2-256")
    with pytest.warns(MergingRefusedWarning) as caught:
        plan = ToMe().plan(shape, 50)
    assert plan.flops() == plan.plain_flops and plan.merged_share == plan.matching_flops == 0
    machine = MACHINES["accelerator"]
    cells, sizes = Cells((16, 16), (2, 2)), dict(rows=2, width=1152, element_bytes=2, machine=machine)
    cost = matching_seconds(cells, **sizes) + merging_seconds(cells, 128, **sizes)
    saved = machine.seconds(flops=2 * (8 * 128 * 1152**2 + 4 * (256**2 - 128**2) * 1152))
    text = str(caught[0].message)
    assert f"would take {cost * 1e3:.3g} ms to save {saved * 1e3:.3g} ms in a block" in text
    assert "tome does not merge tokens of dit-xl-2-256, batch 1" in text and "force=True merges all the same" in text


@pytest.mark.parametrize(
    ("model", "batch", "method", "merges"),
    [
        ("pixart-alpha-256", 1, ToMe(), False),
        ("pixart-alpha-1024", 1, ToMe(), True),
        ("flux-dev", 1, ToMe(), True),
        ("dit-xl-2-512", 1, ToMe(), False),
        ("dit-xl-2-512", 8, ToMe(), True),
        ("dit-xl-2-512", 1, ToMe(reuse_steps=5, reuse_layers=4), True),
        ("dit-xl-2-256", 1, ToMe(machine="cpu"), True),
        ("dit-xl-2-256", 1, ToMe(force=True), True),
        ("pixart-alpha-1024", 1, ToMe(0.05), False),
    ],
)
def test_the_cost_model_merges_where_it_saves_more_than_it_takes(model, batch, method, merges) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = method.plan(named_shape(model, batch=batch), 20)
    assert (plan.merged_share > 0) == merges
    assert [warning.category for warning in caught] == [MergingRefusedWarning] * (not merges)


def test_each_stack_is_refused_by_itself() -> None:
    """Attention of a single-stream block has no projection behind it that would be shorter, too."""
    with pytest.warns(MergingRefusedWarning, match="ms in a single block"):
        plan = ToMe().plan(named_shape("flux-dev", height=448, width=448), 4)
    assert {site.stack for site, action in plan.steps[0].items() if action.merged} == {"double"}
    assert {stack for stack, _ in plan.matched[0]} == {"double"}


def test_a_run_says_whose_speed_is_assumed_unless_the_method_does() -> None:
    assert ToMe().on("cuda").machine == "accelerator" and ToMe().on("cpu").machine == "cpu"
    assert ToMe(machine="accelerator").on("cpu").machine == "accelerator"
    assert Composition((ToMe(), FORA(3))).on("cpu").merging == ToMe(machine="cpu")
    assert ToCa().on("cpu") == ToCa()


# ------------------------------------------------------------------------------------------------ names and bad input

strides = st.tuples(st.integers(1, 4), st.integers(1, 4)) | st.tuples(*[st.integers(1, 3)] * 3)
tomes = st.builds(
    lambda stride, share, **fields: ToMe(share * (1 - 1 / _product(stride)), stride, **fields),
    stride=strides,
    share=st.floats(0, 1),
    modules=st.lists(st.sampled_from(("attn", "cross_attn", "mlp")), min_size=1, unique=True).map(tuple),
    reuse_steps=st.integers(1, 20),
    reuse_layers=st.integers(1, 20),
    proportional=st.booleans(),
    random=st.booleans(),
    seed=st.integers(0, 2**63),
    force=st.booleans(),
    machine=st.sampled_from((None, "accelerator", "cpu")),
)


def _product(stride: tuple[int, ...]) -> int:
    total = 1
    for size in stride:
        total *= size
    return total


@given(tomes, st.none() | st.builds(ToCa, cycle=st.integers(1, 9), ratio=st.floats(0, 1)) | st.just(FewerSteps(0.3)))
def test_the_short_form_and_json_are_read_back(tome, other) -> None:
    method = tome if other is None else Composition((tome, other))
    assert parse(method.label()) == method
    assert from_json(json.loads(json.dumps(method.as_json()))) == method
    assert hash(method) is not None


@given(tomes, st.sampled_from(SMALL), st.integers(1, 7))
def test_any_merging_keeps_the_contracts_of_plans(tome, shape, steps) -> None:
    tome = forced(tome.ratio, stride=tome.stride, reuse_steps=tome.reuse_steps, reuse_layers=tome.reuse_layers)
    if len(tome.stride) == 3 and shape.family != "opensora":
        with pytest.raises(ValueError, match=f"stride must be 2 numbers, height and width, for {shape.family}"):
            tome.plan(shape, steps)
        return
    plan = tome.plan(shape, steps)
    assert plan.kinds == (Kind.FULL,) * steps and set(plan.steps[0]) == set(shape.sites())
    assert plan.flops() <= plan.plain_flops
    assert plan.merged_share <= tome.ratio
    for step, matched in zip(plan.steps, plan.matched, strict=True):
        assert matched <= {(site.stack, site.layer) for site, action in step.items() if action.merged}
    assert not plan.matchings_kept[-1]


def test_short_forms_of_people() -> None:
    assert parse("tome") == ToMe() and parse("tome:0.4") == ToMe(0.4)
    assert parse("tome:0.4:stride=4x2:modules=attn/mlp") == ToMe(0.4, (4, 2), ("attn", "mlp"))
    assert parse("toca:4:0.9+tome") == Composition((ToMe(), ToCa(4, 0.9)))
    assert as_method([ToCa(), "tome"]) == as_method("tome+toca") == as_method((ToMe(), "plain", ToCa()))
    assert as_method([ToMe(), Plain()]) == as_method(ToMe()) == ToMe()
    assert ToMe(stride=[2, 3], modules=["mlp"]) == ToMe(stride=(2, 3), modules=("mlp",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tome:0.76", r"ratio must be in \[0, 0.75\], as one of the 2x2 tokens of a cell stays, got 0.76"),
        ("tome:-0.1", r"ratio must be in \[0, 0.75\].*got -0.1"),
        ("tome:0.9:stride=3x3", r"\[0, 0.8889\]"),
        ("tome:stride=2", "'stride' of method 'tome' must be whole numbers such as 2x2, got 2"),
        ("tome:stride=2xa", "must be whole numbers such as 2x2, got '2xa'"),
        ("tome:stride=2x2x2x2", r"stride must be \(height, width\) or \(frames, height, width\)"),
        ("tome:stride=0x2", "each number of stride must be a whole number, at least 1"),
        ("tome:modules=text", "unknown module to merge 'text'; known: attn, cross_attn, mlp"),
        ("tome:modules=7", "must be names such as attn/mlp, got 7"),
        ("tome:reuse_steps=0", "reuse_steps must be a whole number, at least 1"),
        ("tome:machine=tpu", "unknown machine 'tpu'"),
        ("tome+tome:0.2", "tome and tome:0.2 both claim the merging of tokens"),
        ("fora:2+toca", "fora:2 and toca both claim every block's modules"),
        ("plain+plain", "a composition takes one tome and one other method"),
        ("tome+tocca", "unknown method 'tocca'"),
    ],
)
def test_bad_input_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_a_picture_smaller_than_a_cell() -> None:
    with pytest.raises(ValueError, match="a stride of 9x2 tokens does not fit into a grid of 8x8 tokens"):
        forced(stride=(9, 2)).plan(SMALL[1], 4)
    with pytest.raises(ValueError, match="merging needs image tokens that form one grid"):
        forced().plan(FluxShape(grid=None), 4)


# ------------------------------------------------------------------------------------------------ the command line


def run(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def test_dita_plan_shows_what_is_merged() -> None:
    text = run("plan", "--model", "pixart-alpha-1024", "--method", "tome+toca:3", "--steps", "10").stdout
    assert text.startswith("tome+toca:3 on pixart-alpha-1024")
    assert "M full on merged tokens" in text and "block.attn       x28  M" in text
    assert "tokens merged      50.0% of the image tokens, where merged; matching takes" in text
    data = json.loads(run("plan", "--model", "flux-dev", "--method", "tome", "--ratio", "0.3", "--json").stdout)
    assert data["method"]["ratio"] == 0.3 and data["tflops_matching"] > 0 and data["merged_share"] < 0.3
    assert from_json(data["method"]) == ToMe(0.3)


def test_dita_plan_says_what_it_refuses() -> None:
    result = run("plan", "--model", "dit-xl-2-256", "--method", "tome")
    assert "warning: tome does not merge tokens of dit-xl-2-256" in result.stderr
    assert "tokens merged      none" in result.stdout
    assert run("plan", "--model", "dit-xl-2-256", "--method", "tome:0.8").exit_code == cli.BAD_INPUT


def test_dita_methods_lists_merging() -> None:
    text = run("methods").stdout
    assert "tome:RATIO" in text and "tome:0.5+toca:4:0.9" in text
    assert "2x2 in short" in run("methods", "tome").stdout


@pytest.mark.parametrize("name", NAMED_SHAPES)
def test_every_named_shape_can_be_merged(name: str) -> None:
    plan = forced(0.25).plan(named_shape(name), 2)
    assert 0.24 < plan.merged_share <= 0.25
