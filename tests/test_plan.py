import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.footprint import Compiled, peak_bytes
from dita.methods import FORA, DuCa, FewerSteps, Method, NothingToSkipWarning, Plain, TaylorSeer, ToCa, parse
from dita.plan import Action, Plan, full_step, step_kind
from dita.shapes import FluxShape, Kind, Site, named_shape

FLUX = named_shape("flux-dev")
SMALL = FluxShape(
    name="small", double_layers=1, single_layers=2, width=8, mlp_width=32, text_tokens=10, image_tokens=20, grid=None,
    head_dim=4,
)  # fmt: skip
ANGLES = 2 * 30 * 4 * 4  # bytes of the rotary embedding: cosines and sines of 30 tokens, 4 numbers of 4 bytes each
ATTN, MLP, TEXT_MLP = (Site("double", 0, module) for module in ("attn", "mlp", "text_mlp"))
SINGLES = (Site("single", 0, "single"), Site("single", 1, "single"))
CONSTANT = ToCa(cycle=3, ratio=0.8, schedule="constant", warmup=1)  # computes 2, 4 and 6 of 10, 20 and 30 tokens


# --- FLOPs: published totals of FLUX.1-dev, 50 steps (spec/methods.md 5.6 and 11.7), in units of 10^12


@pytest.mark.parametrize(
    ("method", "accounting", "tflops"),
    [
        (Plain(), "pre-projection", 3719.2),
        (Plain(), "post-projection", 3719.2),
        (ToCa(cycle=4, ratio=0.9), "pre-projection", 1263.4),
        (ToCa(cycle=5, ratio=0.9), "pre-projection", 1126.9),
        (ToCa(cycle=6, ratio=0.9), "pre-projection", 990.4),
        (ToCa(cycle=6, ratio=0.9), "post-projection", 924.3),
        (ToCa(cycle=8, ratio=0.9), "post-projection", 784.54),
        (ToCa(cycle=12, ratio=0.9), "post-projection", 644.70),
        (FORA(cycle=3), "pre-projection", 1319.9),
        (FORA(cycle=3), "post-projection", 1265.3),
        (FORA(cycle=4), "post-projection", 967.9),
        (FORA(cycle=5), "post-projection", 744.7),
        (FewerSteps(0.6), "post-projection", 2231.7),
        (FewerSteps(0.5), "post-projection", 1859.75),
    ],
    ids=str,
)
def test_flops_of_flux_are_the_published_ones(method, accounting, tflops):
    assert method.plan(FLUX, 50).flops(accounting) / 1e12 == pytest.approx(tflops, rel=1e-3)


def test_the_two_kinds_of_step_cost_what_the_specification_says():
    plan = ToCa(cycle=4, ratio=0.9).plan(FLUX, 50)
    full, partial = plan.steps[2], plan.steps[3]
    assert plan.step_flops(full) / 1e12 == pytest.approx(74.385, rel=1e-3)
    assert plan.step_flops(partial, "pre-projection") / 1e12 == pytest.approx(6.164, rel=1e-3)
    assert plan.step_flops(partial, "post-projection") / 1e12 == pytest.approx(4.51, rel=1e-3)


def test_the_flops_ratio_is_plain_over_plan():
    plan = ToCa(cycle=4, ratio=0.9).plan(FLUX, 50)
    assert plan.flops_ratio("pre-projection") == pytest.approx(2.94, abs=0.01)
    assert FewerSteps(0.5).plan(FLUX, 50).flops_ratio() == 2
    assert Plain().plan(FLUX, 50).flops_ratio() == 1


def test_scores_are_paid_only_at_full_steps_that_a_partial_step_follows():
    plan = ToCa(cycle=4, ratio=0.9, score="attention").plan(FLUX, 50)
    assert len(plan.full_steps) == 14
    per_step = sum(FLUX.score_flops(site, "attention") for site in FLUX.sites())
    assert plan.score_flops == pytest.approx(12 * per_step)  # not at steps 0 and 1


@pytest.mark.parametrize(
    "method", [Plain(), FORA(3), ToCa(score="random"), ToCa(ratio=1.0, score="attention")], ids=str
)
def test_nothing_is_paid_for_scores_that_nobody_reads(method):
    assert method.plan(FLUX, 50).score_flops == 0


# --- memory, worked by hand: 30 joint tokens of width 8 in 2 bytes


def test_cache_bytes_of_toca_are_outputs_single_attention_and_the_selections_of_a_cycle():
    outputs, attention = (30 + 20 + 10 + 2 * 30) * 8 * 2, 2 * 30 * 8 * 2
    bytes_held = outputs + attention + ANGLES
    assert CONSTANT.plan(SMALL, 9).cache_bytes == bytes_held, "of all tokens, until the end of the full step"
    deep = FluxShape(**{**vars(SMALL), "single_layers": 17})
    outputs, one = (30 + 20 + 10 + 17 * 30) * 8 * 2, 30 * 8 * 2
    of_selected, numbers = 2 * 6 * 8 * 2, 2 * 6 * 8  # two cached steps, 6 tokens each, numbers of 8 bytes
    plan = CONSTANT.plan(deep, 9)
    storing = next(s for s, kept in enumerate(plan.kept) if kept)
    assert plan.settled(storing) == {("single", 8), ("single", 16)}
    assert plan.cache_bytes == outputs + 8 * (of_selected + numbers) + 8 * one + ANGLES, "in front of the last block"
    assert peak_bytes(plan, Compiled.BLOCKS) == plan.cache_bytes - ANGLES, "which compiled blocks do not keep"
    assert peak_bytes(plan, Compiled.WHOLE) == outputs + 17 * one


def test_cache_bytes_of_fora_are_one_output_a_site():
    assert FORA(3).plan(SMALL, 9).cache_bytes == (30 + 20 + 10 + 2 * 30) * 8 * 2 + ANGLES


def test_cache_bytes_grow_with_the_batch_and_selections_are_shared_by_the_calls_of_a_step():
    shape = FluxShape(**{**vars(SMALL), "batch": 3, "branches": 2})
    outputs, attention = (30 + 20 + 10 + 2 * 30) * 8 * 2, 2 * 30 * 8 * 2
    of_selected, selections = 2 * 2 * 6 * 8 * 2, 2 * (4 + 2 + 6 + 6) * 8  # two cached steps, numbers of 8 bytes
    first, second = outputs + of_selected, outputs + attention
    assert CONSTANT.plan(shape, 9).cache_bytes == 3 * (first + second + selections) + 2 * ANGLES


@pytest.mark.parametrize("method", [Plain(), FewerSteps(0.5), ToCa(cycle=1), FORA(cycle=1)], ids=str)
def test_a_plan_of_full_steps_stores_nothing(method):
    plan = method.plan(SMALL, 9)
    assert plan.cache_bytes == 0
    assert not any(plan.kept)


def test_flux_needs_less_than_the_three_gibibytes_that_the_specification_predicts():
    plan = ToCa(cycle=4, ratio=0.9).plan(FLUX, 50)
    assert peak_bytes(plan, Compiled.WHOLE) / 2**30 == pytest.approx(3.0, abs=0.1)
    assert plan.cache_bytes / 1e9 == pytest.approx(2.73, abs=0.01)
    assert FORA(cycle=3).plan(FLUX, 50).cache_bytes / 2**30 == pytest.approx(2.0, abs=0.1)


# --- what a full step must keep, and for whom


def test_a_full_step_keeps_every_site_exactly_when_the_next_step_uses_it():
    plan = ToCa(cycle=3, ratio=0.8, warmup=3).plan(SMALL, 9)
    assert [s for s in range(9) if plan.kept[s]] == [2, 5]
    assert plan.full_steps == (0, 1, 2, 5, 8)
    assert plan.kept[2] == plan.kept[5] == set(SMALL.sites())


@given(st.integers(1, 12), st.floats(0, 1), st.integers(1, 40))
def test_what_a_full_step_keeps_is_what_the_next_step_does_not_compute(cycle, ratio, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingToSkipWarning)
        plan = ToCa(cycle, ratio).plan(SMALL, steps)
    for step, kept in enumerate(plan.kept):
        following = plan.steps[step + 1] if step + 1 < steps else {}
        full = plan.kinds[step] is Kind.FULL
        assert kept == {site for site, action in following.items() if full and action.kind is not Kind.FULL}


def test_a_site_is_kept_for_a_later_step_even_where_others_are_computed_anew():
    attn_cached = {**full_step(SMALL), ATTN: Action(Kind.REUSE, 0)}
    plan = Plan(Plain(), SMALL, (full_step(SMALL), attn_cached, attn_cached), 3)
    assert plan.kept == ({ATTN}, frozenset(), frozenset())


def test_cycle_tokens_are_those_of_the_cached_steps_up_to_the_next_full_one():
    plan = CONSTANT.plan(SMALL, 8)  # F p p F p p F p
    assert plan.cycle_tokens(0, MLP) == (4, 4)
    assert plan.cycle_tokens(3, TEXT_MLP) == (2, 2)
    assert plan.cycle_tokens(6, SINGLES[0]) == (6,)
    assert plan.cycle_tokens(0, ATTN) == (0, 0)


# --- reading a plan


def test_a_step_is_partial_as_soon_as_one_site_computes_a_part():
    reuse = {site: Action(Kind.REUSE, 0) for site in SMALL.sites()}
    assert step_kind(full_step(SMALL)) is Kind.FULL
    assert step_kind(reuse) is Kind.REUSE
    assert step_kind({**reuse, MLP: Action(Kind.PARTIAL, 4)}) is Kind.PARTIAL
    assert step_kind({**reuse, MLP: Action(Kind.FULL, 20)}) is Kind.PARTIAL


def test_the_token_share_counts_modules_that_can_select_in_cached_steps():
    assert CONSTANT.plan(SMALL, 9).token_share() == pytest.approx(0.2)
    assert FORA(3).plan(SMALL, 9).token_share() == 0
    assert Plain().plan(SMALL, 9).token_share() == 1


def test_tokens_are_listed_per_layer_and_module():
    assert CONSTANT.plan(SMALL, 9).tokens() == {"mlp": [4], "text_mlp": [2], "single": [6, 6]}
    assert FORA(3).plan(SMALL, 9).tokens() == {"mlp": [0], "text_mlp": [0], "single": [0, 0]}
    assert Plain().plan(SMALL, 9).tokens() == {}


def test_the_map_has_a_line_a_module_and_a_letter_a_step():
    assert [line.split() for line in CONSTANT.plan(SMALL, 8).map()] == [
        ["double.attn", "x1", "F..F..F."],
        ["double.mlp", "x1", "FppFppFp"],
        ["double.text_mlp", "x1", "FppFppFp"],
        ["single", "x2", "FppFppFp"],
    ]


def test_json_has_the_facts_that_programs_read():
    plan = ToCa(cycle=4, ratio=0.9).plan(FLUX, 50)
    data = json.loads(json.dumps(plan.as_json("pre-projection")))
    assert data["model"] == "flux-dev"
    assert data["method"] == ToCa(cycle=4, ratio=0.9).as_json()
    assert data["steps"] == 50
    assert data["full_steps"] == [0, 1, *range(2, 50, 4)]
    assert data["step_kinds"] == "FFF" + "pppF" * 11 + "ppp"
    assert {module: len(counts) for module, counts in data["tokens"].items()} == {
        "mlp": 19,
        "text_mlp": 19,
        "single": 38,
    }
    assert data["tflops"] == pytest.approx(1263.4, rel=1e-3)
    assert data["tflops_plain"] == pytest.approx(3719.2, rel=1e-3)
    assert data["flops_ratio"] == pytest.approx(data["tflops_plain"] / data["tflops"])
    assert data["cache_bytes"] == plan.cache_bytes


def test_json_of_fewer_steps_says_how_many_were_asked_for_and_which_run():
    data = FewerSteps(0.5).plan(FLUX, 50).as_json()
    assert (data["steps"], len(data["full_steps"])) == (50, 25)


# --- what planning costs


def costs_asked(monkeypatch: pytest.MonkeyPatch, method: Method, steps: int) -> int:
    """How often FLOPs and bytes of a site are worked out for a plan and for what `dita plan` prints of it."""
    asked: list[str] = []

    def counted(patch: pytest.MonkeyPatch, name: str) -> None:
        work_out = getattr(FluxShape, name)
        patch.setattr(FluxShape, name, lambda *args: asked.append(name) or work_out(*args))

    with monkeypatch.context() as patch:
        for name in ("flops", "score_flops", "feature_bytes"):
            counted(patch, name)
        plan = method.plan(SMALL, steps)
        plan.as_json()
        plan.map()
    return len(asked)


@pytest.mark.parametrize(
    "method",
    [ToCa(4, 0.9), ToCa(4, 0.9, "norm"), DuCa(4, 0.9), FORA(3), TaylorSeer(3, 2), parse("deltadit:3"), parse("pab:2")],
    ids=Method.label,
)
def test_costs_are_worked_out_once_for_steps_that_are_equal(monkeypatch, method: Method):
    assert costs_asked(monkeypatch, method, 2000) < 2 * costs_asked(monkeypatch, method, 50)


@pytest.mark.parametrize("method", ["toca:4:0.9", "duca:4:0.9", "pab:2", "tome:0.5:force=true+toca:4:0.9"])
def test_equal_steps_are_one_object(method: str):
    plan = parse(method).plan(FLUX, 100)
    assert len(plan.distinct) == len({tuple(step.items()) for step in plan.steps}) < 8
    assert {id(step) for step in plan.steps} == {id(step) for step in plan.distinct}


def test_steps_that_are_made_apart_are_shared():
    plan = Plan(Plain(), SMALL, (full_step(SMALL), full_step(SMALL)), 2)
    assert plan.steps[0] is plan.steps[1]


def test_a_step_before_another_one_is_counted_apart():
    """What is stored at a full step depends on what follows: the last one stores nothing."""
    plan = FORA(2).plan(SMALL, 5)
    assert plan.steps[0] is plan.steps[4] and plan.situation(0) == plan.situation(2) != plan.situation(4)
