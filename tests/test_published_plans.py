"""Plans of the published methods at full size: their FLOPs, and what the references' own schedules printed."""

from __future__ import annotations

import json
import warnings

import pytest

from dita.methods import FORA, PAB, DeltaDiT, DuCa, LoweredOrderWarning, NothingToSkipWarning, TaylorSeer, TGate, ToCa
from dita.plan import LETTERS
from dita.shapes import Kind, Site, named_shape

FLUX, PIXART, DIT = (named_shape(name) for name in ("flux-dev", "pixart-alpha-256", "dit-xl-2-256"))
VIDEO = named_shape("opensora-1.2-480p-2s")


@pytest.mark.parametrize(
    ("method", "shape", "steps", "tflops"),
    [
        (TaylorSeer(4, 1), FLUX, 50, 1042.3),
        (TaylorSeer(5, 2), FLUX, 50, 893.5),
        (TaylorSeer(6, 2), FLUX, 50, 744.8),
        (TaylorSeer(7, 1, lite=True), FLUX, 50, 670.4),
        (DuCa(5), FLUX, 50, 978.8),
        (DuCa(5, aggressive="reuse"), FLUX, 50, 978.8),
        (DuCa(7), FLUX, 50, 760.1),
        (DeltaDiT(2), FLUX, 50, 2480.0),
        (DeltaDiT(3), FLUX, 50, 1686.8),
        (TGate(cross_interval=12), VIDEO, 30, 2819),
        (TGate(), VIDEO, 30, 2804),
        (PAB(2), VIDEO, 30, 2615.1),
        (PAB(1, mlp=True), VIDEO, 30, 2621),
        (PAB(2, mlp=True), VIDEO, 30, 2559),
        (PAB(3, mlp=True), VIDEO, 30, 2482),
        (PAB(1), VIDEO, 30, 2657.70),
        (PAB(3), VIDEO, 30, 2558.25),
        (DeltaDiT(), VIDEO, 30, 3166.47),
        (FORA(2), VIDEO, 30, 1754.1),
        (ToCa(3, 0.9), VIDEO, 30, 1394.8),
    ],
    ids=lambda value: value.label() if hasattr(value, "label") else getattr(value, "name", ""),
)
def test_flops_are_the_published_ones_within_one_percent(method, shape, steps, tflops) -> None:
    assert method.plan(shape, steps).flops() / 1e12 == pytest.approx(tflops, rel=0.01)


def test_guidance_that_ends_halves_a_step() -> None:
    plan = TGate(15).plan(PIXART, 25)
    assert plan.joined == 15 and plan.row_share(14) == 1 and plan.row_share(15) == 0.5
    unguided = TGate(15).plan(named_shape("pixart-alpha-256").__class__(guided=False), 25)
    assert unguided.joined is None


# --- plans of the references (golden/plans)


def _golden(golden, name: str) -> dict:
    return json.loads((golden / "plans" / name).read_text())


def _words(case: str) -> dict[str, str]:
    return dict(word.split("=") for word in case.split() if "=" in word)


def test_taylorseer_has_the_full_steps_of_the_reference(golden) -> None:
    compared = 0
    for case, expected in _golden(golden, "flux_taylor.json").items():
        words = _words(case)
        steps, cycle = int(words["S"]), int(words["N"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LoweredOrderWarning)
            if case.startswith("taylor"):
                assert list(TaylorSeer(cycle).plan(FLUX, steps).full_steps) == expected, case
            elif case.startswith("delta"):
                plan = DeltaDiT(cycle).plan(FLUX, steps)
                letters = {Kind.FULL: "F", Kind.PARTIAL: "D", Kind.REUSE: "T"}
                assert "".join(letters[kind] for kind in plan.kinds) == expected, case
            else:
                plan = ToCa(cycle).plan(FLUX, steps)
                assert "".join("F" if kind is Kind.FULL else "P" for kind in plan.kinds) == expected, case
        compared += 1
    for case, expected in _golden(golden, "dit_taylor.json").items():
        words = _words(case)
        steps = int(words["S"])
        plan = TaylorSeer(int(words["N"])).plan(DIT, steps)
        assert [steps - 1 - s for s in plan.full_steps] == expected, case
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("file", ["dit_duca.json", "pixart_duca.json"])
def test_duca_has_the_steps_and_tokens_of_the_reference(golden, file) -> None:
    letters = {Kind.FULL: "F", Kind.PARTIAL: "P", Kind.REUSE: "P", Kind.SKIP: "S"}
    shape = DIT if file.startswith("dit") else PIXART
    down = shape is DIT
    for case, expected in _golden(golden, file).items():
        words = _words(case)
        steps = int(words["S"])
        schedule = next((word for word in case.split() if word.startswith("ToCa")), "ToCa").replace("ToCa", "toca")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingToSkipWarning)
            method = DuCa(int(words["N"]), 1 - float(words["r"]), schedule=schedule, strict=True)
            plan = method.plan(shape, steps)
        for number, types in expected["types_per_step"].items():
            step = plan.steps[steps - 1 - int(number) if down else int(number)]
            got = "".join(letters[step[Site("block", i, "mlp")].kind] for i in range(28))
            wanted = types[0] * 28 if "*" in types else types
            assert got == wanted, (case, number)
        tokens = {
            key.removeprefix("k_").removesuffix("_per_layer"): v for key, v in expected.items() if key[:2] == "k_"
        }
        for module, per_step in tokens.items():
            for number, counts in per_step.items():
                by_module = {"mlp": counts} if module == "mlp" else counts
                step = plan.steps[steps - 1 - int(number) if down else int(number)]
                for name, wanted in by_module.items():
                    site = {"cross": "cross_attn", "mlp": "mlp"}[name]
                    got = [step[Site("block", i, site)] for i in range(28)]
                    partial = [a.tokens for a in got if a.kind is not Kind.FULL]
                    assert partial == wanted[-len(partial) :], (case, number, name)


def test_duca_on_opensora_has_periods_of_full_partial_and_skip() -> None:
    """(methods.md 8.6): cross-attention is full every sixth step, and computes no token between."""
    plan = DuCa(3, 0.9).plan(VIDEO, 30)
    letters = {Kind.FULL: "F", Kind.PARTIAL: "P", Kind.SKIP: "S", Kind.REUSE: "."}
    rows = {m: "".join(letters[step[Site("spatial", 3, m)].kind] for step in plan.steps) for m in ("mlp", "cross_attn")}
    assert rows["mlp"] == "FFF" + "FPS" * 9
    assert rows["cross_attn"] == "FFF" + "..S" + "F.S..S" * 4


@pytest.mark.parametrize(("level", "name"), [(1, "PAB246"), (2, "PAB357"), (3, "PAB579")])
def test_pab_reuses_in_the_steps_of_the_reference(golden, level, name) -> None:
    compared = 0
    for case, facts in _golden(golden, "opensora_pab.json").items():
        if "timesteps_f32" not in facts:
            continue
        steps = len(facts["timesteps_f32"])
        plan = PAB(level, mlp=True, strict=True).plan(VIDEO, steps, facts["int_bf16"])
        for kind, site in (
            ("spatial", Site("spatial", 3, "attn")),
            ("temporal", Site("temporal", 3, "attn")),
            ("cross", Site("spatial", 3, "cross_attn")),
            ("mlp_block0_reuse", Site("temporal", 0, "mlp")),
        ):
            reused = [s for s, step in enumerate(plan.steps) if step[site].kind is Kind.REUSE]
            assert reused == facts[f"{name} reuse steps"][kind], (case, kind)
        compared += 1
    assert compared


def test_the_usual_timesteps_of_a_video_are_those_of_its_sampler(golden) -> None:
    facts = next(iter(_golden(golden, "opensora_pab.json").values()))
    for level in (1, 2, 3):
        usual = PAB(level).plan(VIDEO, 30)
        assert usual.steps == PAB(level).plan(VIDEO, 30, facts["timesteps_f32"]).steps


def test_every_kind_of_step_has_a_letter_of_its_own() -> None:
    assert set(LETTERS) == set(Kind) and len(set(LETTERS.values())) == len(Kind)
    lines = DuCa(3).plan(DIT, 8).map()
    assert any("-" in line for line in lines)
    assert "~" in TaylorSeer(3).plan(FLUX, 20).map()[0]


# --- bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PAB(spatial=0), "spatial must be a whole number, at least 1 .*got 0"),
        (lambda: PAB(cross=0), "cross must be a whole number, at least 1 .*got 0"),
        (lambda: PAB(4), "unknown level 4; known: 1, 2, 3"),
        (lambda: PAB(low=900, high=500), "got 900 and 500"),
        (lambda: TGate(26).plan(PIXART, 25), "gate must be at most the number of steps, 25, got 26"),
        (lambda: TGate(0), "gate must be a whole number, at least 1, got 0"),
        (lambda: TGate(cross_interval=12).plan(PIXART, 25), "cross_interval=12 is for opensora"),
        (lambda: TGate().plan(FLUX, 50), "tgate does not run on flux: it gates cross-attention"),
        (lambda: TGate().plan(DIT, 50), "that family has none; families: pixart, opensora"),
        (lambda: PAB(mlp=True).plan(FLUX, 50), "mlp=True does not run on flux"),
        (lambda: TaylorSeer(order=-1), "order must be a whole number, at least 0 .*got -1"),
        (lambda: TaylorSeer(basis="fourier"), "unknown basis 'fourier'; known: taylor, hermite"),
        (lambda: TaylorSeer(scale=0.0), r"scale must be in \(0, 1\], got 0.0"),
        (lambda: DeltaDiT(layers=29).plan(DIT, 50), "layers must be at most 28, the depth of .* got 29"),
        (lambda: DeltaDiT(boundary=1.5), r"boundary must be in \[0, 1\].*got 1.5"),
        (lambda: DuCa(aggressive="maybe"), "unknown aggressive 'maybe'; known: skip, reuse"),
    ],
)
def test_bad_parameters_are_refused_with_the_value_and_the_range(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("method", [TaylorSeer(10, 4), ToCa(10, 0.9, forecast=4)], ids=lambda m: m.name)
def test_an_order_that_the_run_has_too_few_full_steps_for_is_lowered_with_a_warning(method) -> None:
    with pytest.warns(
        LoweredOrderWarning, match=r"order 4 needs more full steps than the 4 of these 20 steps; .* to 2"
    ):
        plan = method.plan(FLUX, 20)
    assert plan.forecast.order == 2
