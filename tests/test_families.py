"""The published schedules, token counts and FLOPs of PixArt and DiT (spec/methods.md 2, 3 and 11.7)."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.families import FAMILIES, Phase
from dita.methods import FORA, FewerSteps, Plain, ToCa
from dita.shapes import DiTShape, Kind, PixArtShape, Site, named_shape

PIXART, DIT = named_shape("pixart-alpha-256"), named_shape("dit-xl-2-256")

# 3 image tokens in a row, 2 text tokens, width 4: every number below can be worked by hand
SMALL_PIXART = PixArtShape(
    name="small",
    layers=2,
    width=4,
    mlp_width=16,
    text_tokens=2,
    grid=(1, 3),
    guided=False,
    caption_width=6,
    cross_width=4,
)
SMALL_DIT = DiTShape(name="small", layers=2, width=4, mlp_width=16, grid=(1, 3), guided=False)


# --- golden plans: step types and token counts that the reference's own functions print


@pytest.mark.parametrize(("family", "shape", "cases"), [("pixart", PIXART, 15), ("dit", DIT, 6)])
def test_step_types_and_token_counts_equal_those_printed_by_the_reference(golden, family, shape, cases) -> None:
    content = json.loads((golden / "plans" / f"{family}_toca.json").read_text())
    assert len(content) == cases
    for title, expected in content.items():
        words = title.split()
        steps, cycle = int(words[0].removeprefix("S=")), int(words[1].removeprefix("N="))
        fresh, schedule = float(words[2].removeprefix("r=")), words[3].replace("ToCa", "toca")
        method = ToCa(cycle, 1 - fresh, schedule=schedule, strict=True) if fresh else FORA(cycle)
        plan = method.plan(shape, steps)
        for number, types in expected["types_per_step"].items():
            step = FAMILIES[family].number(int(number), steps)
            full = [plan.steps[step][Site("block", layer, "attn")].kind is Kind.FULL for layer in range(28)]
            expanded = types[0] * 28 if "*" in types else types
            assert full == [letter == "F" for letter in expanded], (title, number)
        for number, counts in (expected.get("k_per_layer") or expected.get("k_mlp_per_layer") or {}).items():
            step = plan.steps[FAMILIES[family].number(int(number), steps)]
            by_module = {"mlp": counts} if isinstance(counts, list) else counts
            for module, per_layer in by_module.items():
                sites = [Site("block", layer, {"cross": "cross_attn"}.get(module, module)) for layer in range(28)]
                got = [-1 if step[site].kind is Kind.FULL else step[site].tokens for site in sites]
                assert got == per_layer, (title, number, module)


# --- FLOPs, in units of 10^12


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("shape", "method", "steps", "tflops"),
    [
        (PIXART, ToCa(3, 0.6), 20, 6.30),
        (PIXART, ToCa(3, 0.7), 20, 5.75),
        (PIXART, ToCa(3, 0.8), 20, 5.02),
        (PIXART, ToCa(3, 0.9), 20, 4.23),
        (DIT, ToCa(3, 0.93), 50, 10.233),
        (DIT, ToCa(4, 0.93), 50, 8.731),
        (DIT, ToCa(5, 0.93), 50, 7.436),
        (DIT, ToCa(4, 0.93), 250, 43.42),
    ],
    ids=lambda value: getattr(value, "label", lambda: None)(),
)
def test_flops_of_toca_are_the_published_ones(shape, method, steps, tflops, strict: bool) -> None:
    plan = dataclasses.replace(method, strict=strict).plan(shape, steps)
    assert plan.flops() / 1e12 == pytest.approx(tflops, rel=0.007)


@pytest.mark.parametrize(
    ("shape", "method", "steps", "tflops"),
    [
        (PIXART, Plain(), 20, 11.15),
        (PIXART, FORA(2), 20, 5.64),
        (PIXART, FORA(3), 20, 3.98),
        (DIT, Plain(), 50, 23.735),
        (DIT, FORA(2), 50, 12.35),
        (DIT, FORA(3), 50, 8.56),
        (DIT, Plain(), 250, 118.68),
        (PIXART, FewerSteps(0.5), 20, 11.15 / 2),
    ],
    ids=lambda value: getattr(value, "label", lambda: None)(),
)
def test_flops_of_whole_steps_are_the_published_ones(shape, method, steps, tflops) -> None:
    assert method.plan(shape, steps).flops("pre-projection") / 1e12 == pytest.approx(tflops, rel=0.007)


def test_the_text_is_projected_for_a_partial_step_and_not_for_a_reused_one() -> None:
    cross, text = Site("block", 0, "cross_attn"), 2 * 2 * (2 * 4 * 4)
    assert SMALL_PIXART.flops(cross, Kind.PARTIAL, 1) == text + 2 * (2 * 4 * 4) + 2 * (2 * 2 * 4)
    assert SMALL_PIXART.flops(cross, Kind.FULL, 3) == text + 3 * (2 * (2 * 4 * 4) + 2 * (2 * 2 * 4))
    assert SMALL_PIXART.flops(cross, Kind.REUSE, 0) == 0
    assert SMALL_PIXART.flops(cross, Kind.REUSE, 0, "pre-projection") == text


@pytest.mark.parametrize("shape", [SMALL_PIXART, SMALL_DIT])
def test_flops_of_self_attention_and_mlp_are_those_worked_by_hand(shape) -> None:
    attn, mlp = Site("block", 1, "attn"), Site("block", 1, "mlp")
    assert shape.flops(attn, Kind.FULL, 3) == 3 * 4 * 32 + 3 * 2 * (2 * 3 * 4)
    assert shape.flops(attn, Kind.REUSE, 0) == shape.flops(attn, Kind.REUSE, 0, "pre-projection") == 0
    assert shape.flops(mlp, Kind.PARTIAL, 2) == 2 * 256


def test_flops_outside_the_sites_are_those_worked_by_hand() -> None:
    timestep, patches = 2 * 256 * 4 + 2 * 4 * 4, 3 * (2 * 16 * 4 + 2 * 4 * 32)
    caption = 2 * (2 * 6 * 4 + 2 * 4 * 4)
    assert SMALL_PIXART.step_flops() == timestep + 2 * 4 * 24 + caption + patches
    micro = dataclasses.replace(SMALL_PIXART, micro_conditions=True).step_flops() - SMALL_PIXART.step_flops()
    assert micro == 3 * (2 * 256 * 1 + 2 * 1 * 1)
    assert SMALL_DIT.step_flops() == 3 * timestep + 2 * (2 * 4 * 24) + 2 * 4 * 8 + patches


@pytest.mark.parametrize("shape", [SMALL_PIXART, SMALL_DIT])
def test_guidance_doubles_what_a_call_costs_and_stores(shape) -> None:
    guided, site = dataclasses.replace(shape, guided=True), Site("block", 0, "mlp")
    assert guided.rows == 2 * shape.rows
    assert guided.flops(site, Kind.PARTIAL, 1) == 2 * shape.flops(site, Kind.PARTIAL, 1)
    assert guided.step_flops() == 2 * shape.step_flops()
    method = ToCa(3, 0.5, schedule="constant")
    assert method.plan(guided, 9).cache_bytes == 2 * method.plan(shape, 9).cache_bytes


# --- schedules


def test_a_step_that_is_full_in_the_first_layer_only_is_strict() -> None:
    strict, clean = ToCa(3, 0.7, strict=True).plan(PIXART, 20), ToCa(3, 0.7).plan(PIXART, 20)
    first, second = Site("block", 0, "mlp"), Site("block", 1, "mlp")
    assert (strict.steps[4][first].kind, strict.steps[4][second].kind) == (Kind.FULL, Kind.PARTIAL)
    assert {action.kind for action in clean.steps[4].values()} == {Kind.REUSE, Kind.PARTIAL}
    assert clean.full_steps == strict.full_steps == (0, 6, 9, 12, 15, 18)
    assert strict.map()[1].split()[-1] == "FpppfpFppFppFppFppFp"


def test_cross_attention_can_have_a_cycle_of_its_own() -> None:
    plan = ToCa(2, 0.5, cross_cycle=4, schedule="constant").plan(SMALL_PIXART, 9)
    attn, cross, mlp = (row.split()[-1] for row in plan.map())
    assert cross.count("F") < mlp.count("F") == attn.count("F")
    assert ToCa(2, 0.5, cross_cycle=4).plan(SMALL_DIT, 9).steps == ToCa(2, 0.5).plan(SMALL_DIT, 9).steps


def test_the_last_step_of_dit_is_full() -> None:
    for method in (FORA(3), FORA(7), ToCa(4, 0.93), ToCa(5, 0.5, strict=True)):
        assert method.plan(DIT, 50).kinds[-1] is Kind.FULL


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.integers(1, 60),
    st.integers(2, 20),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
def test_runs_begin_with_the_warmup_and_only_strict_has_steps_of_one_full_layer(
    family: str, steps: int, cycle: int, warmup: int, varying: bool, strict: bool
) -> None:
    phases = FAMILIES[family].phases(steps, cycle, warmup=warmup, varying=varying, strict=strict)
    assert len(phases) == steps
    assert set(phases[:warmup]) == {Phase.FULL}
    assert strict or Phase.FIRST_LAYER not in phases
    if not varying:
        gaps = [i for i, phase in enumerate(phases) if phase is Phase.FULL] + [steps]
        assert all(later - earlier <= cycle for earlier, later in pairwise(gaps))


def test_the_papers_spatial_bonus_is_the_default_of_each_family() -> None:
    assert [ToCa().spatial(family) for family in ("flux", "pixart", "dit")] == [(0.0, 2), (0.4, 4), (0.6, 2)]
    assert ToCa(spatial_bonus=0.0).spatial("pixart") == (0.0, 4)
    assert ToCa(spatial_grid=3).spatial("dit") == (0.6, 3)


def test_dit_takes_the_profile_of_50_or_250_steps() -> None:
    for steps, named in ((50, "toca-ddim50"), (250, "toca-ddpm250")):
        assert ToCa(4, 0.9).plan(DIT, steps).steps == ToCa(4, 0.9, schedule=named).plan(DIT, steps).steps
