"""Full steps that are chosen one by one: checked, carried over, and the plan of a cycle where they are its own."""

from __future__ import annotations

import dataclasses
import warnings
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.methods import (
    FORA,
    CarriedOverWarning,
    DeltaDiT,
    DuCa,
    LoweredOrderWarning,
    Method,
    NothingToSkipWarning,
    TaylorSeer,
    ToCa,
)
from dita.methods.full_steps import chosen_positions, first_difference
from dita.plan import Plan
from dita.shapes import Kind, named_shape

SHAPES = {
    "flux": named_shape("flux-dev"),
    "pixart": named_shape("pixart-alpha-256"),
    "dit": named_shape("dit-xl-2-256"),
    "opensora": named_shape("opensora-1.2-480p-2s"),
}
CHOSEN = (0, 3, 5, 7, 10, 14, 18, 22, 25, 27)
EVERY = [FORA(), ToCa(), DuCa(), TaylorSeer(), DeltaDiT()]
each_method = pytest.mark.parametrize("method", EVERY, ids=lambda method: method.name)
each_family = pytest.mark.parametrize("family", SHAPES)


def with_steps(method: Method, full: tuple[int, ...], of: int | None = None) -> Method:
    return dataclasses.replace(method, full_steps=full, full_of=of)


# --- plans


@each_family
@each_method
def test_the_chosen_steps_are_full_and_all_others_are_not(method: Method, family: str) -> None:
    plan = with_steps(method, CHOSEN).plan(SHAPES[family], 28)
    assert plan.full_steps == CHOSEN
    assert plan.as_json()["full_steps"] == list(CHOSEN)
    assert plan.as_json()["method"]["full_steps"] == list(CHOSEN)
    assert {index for row in plan.map() for index, letter in enumerate(row.split()[-1]) if letter == "F"} >= set(CHOSEN)
    assert 0 < plan.flops() < plan.plain_flops and plan.cache_bytes > 0


@each_method
def test_cycle_and_start_decide_nothing(method: Method) -> None:
    for family, shape in SHAPES.items():
        given = with_steps(method, CHOSEN)
        plan = given.plan(shape, 28)
        assert dataclasses.replace(given, cycle=1).plan(shape, 28).steps == plan.steps, family
        assert dataclasses.replace(given, cycle=9).plan(shape, 28).steps == plan.steps, family


@pytest.mark.parametrize(
    "method",
    [
        FORA(3),
        FORA(4, modules="attention"),
        ToCa(4, 0.9),
        ToCa(3, 0.9, warmup=2, strict=True),
        ToCa(3, 0.8, forecast=2),
        ToCa(2, 0.9, schedule="layerwise", forecast=2),
        ToCa(5, 1.0),
        DuCa(5, 0.9),
        DuCa(4, 0.9, strict=True),
        DuCa(3, 0.9, aggressive="reuse", forecast=1),
        TaylorSeer(5, 2),
        TaylorSeer(3, 2, ramp=True),
        TaylorSeer(4, 1, lite=True, warmup=2),
        TaylorSeer(2, 3, modules="attention", warmup=1),
        DeltaDiT(2),
        DeltaDiT(3),
    ],
    ids=lambda method: method.label(),
)
@each_family
def test_the_full_steps_of_a_cycle_give_its_plan(method: Method, family: str) -> None:
    shape = SHAPES[family]
    if isinstance(method, ToCa):
        if family == "opensora":  # where cross-attention has a cycle of its own unless one is given
            method = dataclasses.replace(method, cross_cycle=2 * method.cycle)
        if family != "flux" and method.strict:
            method = dataclasses.replace(method, strict=False)  # no step is full in the first layer only
        if family == "dit" and isinstance(method, DuCa):
            method = dataclasses.replace(method, ratio=1.0)  # N does not vary
    cycle = method.plan(shape, 28)
    full = main_full_steps(cycle)
    assert len(full) > 2
    chosen = with_steps(method, full).plan(shape, 28)
    assert chosen.steps == cycle.steps
    assert (chosen.skips, chosen.forecast) == (cycle.skips, cycle.forecast)
    assert (chosen.flops(), chosen.cache_bytes) == (cycle.flops(), cycle.cache_bytes)


def main_full_steps(plan: Plan) -> tuple[int, ...]:
    """The steps that are full for all modules but cross-attention."""
    return tuple(
        s
        for s, step in enumerate(plan.steps)
        if {action.kind for site, action in step.items() if site.module != "cross_attn"} == {Kind.FULL}
    )


@each_family
def test_cross_attention_is_full_in_every_chosen_step_or_in_those_that_its_own_cycle_leaves(family: str) -> None:
    shape = SHAPES[family]
    plain = ToCa(full_steps=(0, 2, 5, 9, 13)).plan(shape, 16)
    sites = [site for site in shape.sites() if site.module == "cross_attn"]
    full = {s for s, step in enumerate(plain.steps) for site in sites if step[site].kind is Kind.FULL}
    assert full == ({0, 2, 5, 9, 13} if sites else set())
    fewer = ToCa(full_steps=(0, 2, 5, 9, 13), warmup=1, cross_cycle=6).plan(shape, 16)
    full = {s for s, step in enumerate(fewer.steps) for site in sites if step[site].kind is Kind.FULL}
    assert full == ({0, 9, 13} if sites else set())  # the first at or behind 0, 6 and 12
    assert main_full_steps(fewer) == (0, 2, 5, 9, 13)


def test_duca_counts_from_the_chosen_step_before_and_on_dit_to_the_next() -> None:
    chosen = DuCa(full_steps=(0, 4, 6, 11), ratio=0.5, schedule="constant")
    kinds = {family: "".join(k.value[0] for k in chosen.plan(shape, 13).kinds) for family, shape in SHAPES.items()}
    assert kinds["flux"] == "fspsfsfspspfs"
    assert kinds["pixart"] == kinds["opensora"] == "fpspfpfpspsfp"
    assert kinds["dit"] == "fpspfpfspspfp"


def test_the_place_between_two_full_steps_is_that_of_the_actual_ones() -> None:
    shape = SHAPES["pixart"]
    plan = ToCa(ratio=0.5, schedule="linear-mode", full_steps=(0, 2, 6)).plan(shape, 12)
    tokens = [next(action.tokens for site, action in step.items() if site.module == "mlp") for step in plan.steps]
    for step, (start, gap) in {1: (0, 2), 4: (2, 4), 11: (6, 6)}.items():
        share = 0.5 * (1.9 - 1.8 * step / 12 + 0.1 * ((step - start) / gap - 0.5))
        assert tokens[step] == int(share * shape.tokens("mlp"))


@pytest.mark.parametrize(
    ("full", "warmup", "since"),
    [
        ((0, 1, 2, 6, 10), 3, 2),
        ((0, 1, 2, 3, 6), 3, 2),
        ((0, 1, 5), 3, 1),
        ((0, 3, 5), 3, 1),
        ((0,), 3, 1),
        ((0, 1, 2, 3), 9, 3),
    ],
)
def test_differences_begin_with_the_last_full_step_of_the_start(full, warmup: int, since: int) -> None:
    assert first_difference(full, warmup) == since


def test_a_forecast_needs_as_many_chosen_steps_as_its_order() -> None:
    with pytest.warns(LoweredOrderWarning, match="order 2 needs more full steps than the 2 of these 9 steps"):
        assert TaylorSeer(5, 2, full_steps=(0, 4)).plan(SHAPES["flux"], 9).forecast.order == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TaylorSeer(5, 1, full_steps=(0, 4)).plan(SHAPES["flux"], 9).forecast.order == 1


@each_method
def test_all_steps_chosen_is_plain_with_a_warning(method: Method) -> None:
    for shape in SHAPES.values():
        with pytest.warns(NothingToSkipWarning, match="saves nothing in 3 steps: all of them are full_steps"):
            plan = with_steps(method, (0, 1, 2)).plan(shape, 3)
        assert plan.flops() == plan.plain_flops


@each_method
def test_the_first_step_alone_may_be_full(method: Method) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LoweredOrderWarning)
        assert with_steps(method, (0,)).plan(SHAPES["flux"], 9).full_steps == (0,)


@given(st.frozensets(st.integers(1, 30)), st.integers(1, 9), st.booleans())
def test_positions_count_from_one_full_step_to_the_next(later, more: int, counts_down: bool) -> None:
    full = (0, *sorted(later))
    steps = full[-1] + more
    positions = chosen_positions(full, steps, counts_down)
    assert [s for s, (phase, _) in enumerate(positions) if phase.value == "full"] == list(full)
    for start, end in pairwise((*full, steps)):
        inside = [position for _, position in positions[start:end]]
        counted = list(range(1, end - start))
        assert inside == [0, *(reversed(counted) if counts_down else counted)]


# --- runs of another number of steps


@each_method
def test_steps_beyond_the_run_are_refused_with_what_would_help(method: Method) -> None:
    message = r"full_steps must be below 20, the steps of this run, got step 27; .* full_of \(of= in short\)"
    for shape in SHAPES.values():
        with pytest.raises(ValueError, match=message):
            with_steps(method, CHOSEN).plan(shape, 20)
    assert with_steps(method, CHOSEN).plan(SHAPES["flux"], 40).full_steps == CHOSEN, "taken as they are"


@each_family
@each_method
def test_chosen_steps_are_carried_over_with_a_warning(method: Method, family: str) -> None:
    chosen = with_steps(method, CHOSEN, of=28)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen.plan(SHAPES[family], 28).full_steps == CHOSEN
    with pytest.warns(CarriedOverWarning, match=r"chosen for 28 steps, are carried over to these 84 by noise level"):
        assert chosen.plan(SHAPES[family], 84).full_steps == tuple(3 * s for s in CHOSEN)
    with pytest.warns(CarriedOverWarning, match="these 14 by noise level: 0/"):
        half = chosen.plan(SHAPES[family], 14)
    assert 6 <= len(half.full_steps) <= 10 and half.full_steps[0] == 0
    with pytest.warns(CarriedOverWarning), pytest.warns(NothingToSkipWarning):
        assert chosen.plan(SHAPES[family], 1).full_steps == (0,)


def test_the_nearest_noise_levels_of_the_run_take_their_place() -> None:
    chosen = FORA(full_steps=(0, 2, 3), full_of=4)
    levels = [1000.0, 900.0, 800.0, 500.0, 400.0, 300.0, 200.0, 20.0]
    with pytest.warns(CarriedOverWarning):  # halfway is 400, three quarters are 200
        assert chosen.plan(SHAPES["flux"], 8, levels).full_steps == (0, 4, 6)
    with (
        pytest.warns(CarriedOverWarning),
        pytest.warns(NothingToSkipWarning),
    ):  # between 900 and 400, in the middle; between 400 and 0, a quarter behind
        assert chosen.plan(SHAPES["flux"], 3, [1000.0, 900.0, 400.0]).full_steps == (0, 1, 2)


def test_a_run_that_begins_midway_has_the_chosen_steps_that_are_left_of_it() -> None:
    chosen = FORA(full_steps=(0, 1, 5, 8), full_of=10)
    rest = [600.0, 500.0, 400.0, 300.0, 200.0, 100.0]  # of 10 steps, from a picture
    with pytest.warns(CarriedOverWarning):
        assert chosen.plan(SHAPES["flux"], 6, rest).full_steps == (0, 1, 4)
    with pytest.warns(CarriedOverWarning):
        same_number = [500.0 - 50 * s for s in range(10)]
        assert chosen.plan(SHAPES["flux"], 10, same_number).full_steps == (0, 6)


@given(
    st.sampled_from(list(SHAPES)),
    st.frozensets(st.integers(1, 49), max_size=12),
    st.integers(1, 100),
    st.integers(0, 9),
)
def test_carried_over_steps_ascend_from_0_and_never_grow_in_number(family: str, later, steps: int, more: int) -> None:
    full = (0, *sorted(later))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = FORA(full_steps=full, full_of=full[-1] + 1 + more).plan(SHAPES[family], steps).full_steps
    assert found[0] == 0 and len(found) <= len(full) and found[-1] < steps
    assert list(found) == sorted(set(found))


# --- bad input


@pytest.mark.parametrize(
    ("full", "of", "message"),
    [
        ((), None, r"full_steps must begin with 0, .*, got \(\)"),
        ((3, 5), None, "full_steps must begin with 0, .*, got 3/5"),
        ((-1, 0, 5), None, "full_steps must begin with 0, .*, got -1/0/5"),
        ((0, 5, 3), None, "full_steps must be in ascending order, each step once, got 0/5/3"),
        ((0, 3, 3), None, "full_steps must be in ascending order, each step once, got 0/3/3"),
        ((0, True), None, r"full_steps must be whole numbers such as 0/3/7, got \(0, True\)"),
        ((0, 1.5), None, r"full_steps must be whole numbers such as .*, got \(0, 1.5\)"),
        ("0/a", None, "full_steps must be whole numbers such as 0/3/7, got '0/a'"),
        (3, None, "full_steps must be whole numbers such as .*, got 3"),
        ((0, 27), 27, "full_steps of a run of full_of=27 steps must be at most 26, got step 27"),
        ((0, 3), 0, "full_of must be a whole number, at least 1 .*, got 0"),
        (None, 28, "full_of says which run full_steps are for: give both, got full_of=28 alone"),
    ],
)
@each_method
def test_steps_that_no_run_has_are_refused(method: Method, full, of, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_steps(method, full, of)


def test_a_list_or_the_short_form_is_as_good_as_a_tuple() -> None:
    assert ToCa(full_steps="0/3") == ToCa(full_steps=(0, 3))
    method = ToCa(full_steps=[0, 3])
    assert method == ToCa(full_steps=(0, 3)) and hash(method) == hash(ToCa(full_steps=(0, 3)))


@each_method
def test_full_steps_are_given_by_name(method: Method) -> None:
    positional = [getattr(method, field.name) for field in dataclasses.fields(method) if not field.kw_only]
    assert type(method)(*positional) == method
    with pytest.raises(TypeError):
        type(method)(*positional, (0, 3))


# --- token ratios of each cached step

each_token_method = pytest.mark.parametrize("method", [ToCa(schedule="constant"), DuCa(schedule="constant")])


def mlp_tokens(plan: Plan) -> list[int | None]:
    """Tokens that an MLP computes in each step, None where it is full."""
    actions = [next(action for site, action in step.items() if site.module == "mlp") for step in plan.steps]
    return [None if action.kind is Kind.FULL else action.tokens for action in actions]


@each_family
@pytest.mark.parametrize("cross_cycle", [None, 7])
@pytest.mark.parametrize("schedule", ["toca", "constant", "linear-mode"])
@pytest.mark.parametrize("cls", [ToCa, DuCa])
def test_the_same_ratio_in_each_step_gives_the_plan_of_the_ratio(cls, schedule, cross_cycle, family: str) -> None:
    one = cls(ratio=0.7, schedule=schedule, cross_cycle=cross_cycle, full_steps=CHOSEN)
    each = dataclasses.replace(one, ratios=(0.7,) * 18)
    plan, expected = each.plan(SHAPES[family], 28), one.plan(SHAPES[family], 28)
    assert plan.steps == expected.steps and plan.skips == expected.skips
    assert (plan.flops(), plan.cache_bytes, plan.map()) == (expected.flops(), expected.cache_bytes, expected.map())
    assert plan.as_json()["method"]["ratios"] == [0.7] * 18


@each_family
@each_token_method
def test_every_cached_step_has_its_own_ratio(method: ToCa, family: str) -> None:
    shape, full, given = SHAPES[family], (0, 3, 6), (1.0, 0.9, 0.5, 0.25, 0.0, 0.75)
    chosen = dataclasses.replace(method, ratio=0.1, full_steps=full, ratios=given)
    tokens = mlp_tokens(chosen.plan(shape, 9))
    of_step = dict(zip((1, 2, 4, 5, 7, 8), given, strict=True))
    computing = chosen.token_steps(family, 9)
    assert computing == (tuple(of_step) if method.name == "toca" else (2, 5, 8) if family == "flux" else computing)
    total = shape.tokens("mlp")
    for step, count in enumerate(tokens):
        if step in full:
            assert count is None
        elif step in computing:
            assert count == pytest.approx((1 - of_step[step]) * total, abs=1)
        else:
            assert count == 0
    assert chosen.plan(shape, 9).flops() < dataclasses.replace(chosen, ratios=(0.0,) * 6).plan(shape, 9).flops()


def test_ratios_that_compute_nothing_are_reuse() -> None:
    for family, shape in SHAPES.items():
        reused = ToCa(full_steps=CHOSEN, ratios=(1.0,) * 18).plan(shape, 28)
        assert reused.steps == ToCa(full_steps=CHOSEN, ratio=1.0).plan(shape, 28).steps, family
        assert reused.token_share() == 0 and reused.score_flops == 0


@each_family
def test_ratios_are_carried_over_with_the_full_steps(family: str) -> None:
    of_ten = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    chosen = ToCa(schedule="constant", full_steps=(0, 5), full_of=10, ratios=of_ten)
    total = SHAPES[family].tokens("mlp")
    with pytest.warns(CarriedOverWarning):
        tokens = mlp_tokens(chosen.plan(SHAPES[family], 20, [1000 - 50 * step for step in range(20)]))
    assert [step for step, count in enumerate(tokens) if count is None] == [0, 10]
    shares = [None if count is None else round(1 - count / total, 1) for count in tokens]
    # Step s of 20 is at the level of step s / 2 of 10; those in between go with the lower number
    expected = [0.3 if s == 19 else of_ten[s // 2 - (1 if s < 10 else 2)] if s >= 2 else 1.0 for s in range(20)]
    expected[11] = 0.6  # between a full step and step 6
    assert shares == [None if s in (0, 10) else expected[s] for s in range(20)]
    with pytest.warns(CarriedOverWarning):
        usual = chosen.plan(SHAPES[family], 15)
    assert {count for count in mlp_tokens(usual) if count is not None} <= {
        count for count in mlp_tokens(chosen.plan(SHAPES[family], 10)) if count is not None
    }


def test_carried_over_ratios_are_not_those_of_aggressive_steps() -> None:
    for family, shape in SHAPES.items():
        chosen = DuCa(schedule="constant", full_steps=(0, 4), full_of=8)
        computing = chosen.token_steps(family, 8)
        cached = [step for step in range(8) if step not in (0, 4)]
        chosen = dataclasses.replace(chosen, ratios=tuple(0.5 if step in computing else 0.0 for step in cached))
        with pytest.warns(CarriedOverWarning):
            tokens = mlp_tokens(chosen.plan(shape, 13))
        total = shape.tokens("mlp")
        assert {count for count in tokens if count is not None} == {0, total // 2}, family


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ratios": (0.9,)}, "ratios are those of the steps between full_steps: give both"),
        ({"full_steps": (0, 3), "ratios": ()}, "ratios must be one for each cached step, such as 0.9/0.8, got none"),
        ({"full_steps": (0, 3), "ratios": 0.9}, "ratios must be numbers such as 0.9/0.8, got 0.9"),
        ({"full_steps": (0, 3), "ratios": (0.9, True)}, r"ratios must be numbers such as 0.9/0.8, got \(0.9, True\)"),
        ({"full_steps": (0, 3), "ratios": (0.9, 1.5)}, r"ratios\[1\] must be in \[0, 1\] .*, got 1.5"),
        ({"full_steps": (0, 3), "ratios": (float("nan"),)}, r"ratios\[0\] must be in \[0, 1\] .*, got nan"),
        (
            {"full_steps": (0, 3), "full_of": 8, "ratios": (0.9,) * 5},
            "ratios must be one for each of the 6 cached steps of 8 steps with 2 full_steps, got 5",
        ),
    ],
)
@each_token_method
def test_ratios_that_no_run_has_are_refused(method: ToCa, given, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(method, **given)


@each_family
@each_token_method
def test_ratios_for_another_run_are_refused_where_they_do_not_say_for_which(method: ToCa, family: str) -> None:
    chosen = dataclasses.replace(method, full_steps=(0, 3), ratios=(0.9,) * 6)
    chosen.plan(SHAPES[family], 8)
    with pytest.raises(ValueError, match="each of the 7 cached steps of 9 steps with 2 full_steps, got 6"):
        chosen.plan(SHAPES[family], 9)
