import dataclasses
import json
import math
import subprocess
import sys
import warnings
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.methods import (
    FORA,
    METHODS,
    PAB,
    SCORES,
    DeltaDiT,
    DuCa,
    FewerSteps,
    LoweredOrderWarning,
    NothingToSkipWarning,
    Plain,
    TaylorSeer,
    TGate,
    ToCa,
    from_json,
    parse,
)
from dita.schedules import RATIO_SCHEDULES
from dita.shapes import COMPUTED, FluxShape, Kind, named_shape

FLUX = named_shape("flux-dev")
SMALL = FluxShape(double_layers=2, single_layers=3, width=8, mlp_width=32, text_tokens=12, image_tokens=64, grid=(8, 8))

PICTURE_SCORES = [score for score in SCORES if score != "frame-uniqueness"]
shares = st.floats(0, 1)
weights = st.floats(0, 100)
tocas = st.builds(
    ToCa,
    cycle=st.integers(1, 60),
    ratio=shares,
    score=st.sampled_from(PICTURE_SCORES),
    schedule=st.sampled_from(RATIO_SCHEDULES),
    age_weight=weights,
    spatial_bonus=weights,
    spatial_grid=st.integers(1, 16),
    warmup=st.none() | st.integers(1, 60),
    seed=st.integers(0, 2**63),
    strict=st.booleans(),
)
bases = st.sampled_from(["taylor", "hermite"])
taylorseers = st.builds(
    TaylorSeer,
    cycle=st.integers(1, 60),
    order=st.integers(0, 4),
    basis=bases,
    scale=st.floats(0.1, 1),
    lite=st.booleans(),
    ramp=st.booleans(),
)
ducas = st.builds(
    DuCa,
    cycle=st.integers(1, 60),
    ratio=shares,
    score=st.sampled_from(PICTURE_SCORES),
    aggressive=st.sampled_from(["skip", "reuse"]),
    strict=st.booleans(),
)
flux_methods = st.one_of(
    st.just(Plain()),
    st.builds(FewerSteps, fraction=st.floats(0, 1, exclude_min=True)),
    st.builds(FORA, cycle=st.integers(1, 60)),
    tocas,
    taylorseers,
    ducas,
    st.builds(DeltaDiT, cycle=st.integers(1, 60), layers=st.none() | st.integers(1, 3), boundary=shares),
)
chosen = st.frozensets(st.integers(1, 59)).map(lambda later: (0, *sorted(later)))
chosen_methods = st.builds(
    dataclasses.replace,
    st.sampled_from([FORA(), ToCa(), DuCa(), TaylorSeer(), DeltaDiT()]),
    full_steps=chosen,
    full_of=st.none() | st.integers(60, 90),
)
methods = st.one_of(
    flux_methods,
    chosen_methods,
    st.builds(TGate, gate=st.none() | st.integers(1, 60), warmup=st.none() | st.integers(0, 9), strict=st.booleans()),
    st.builds(PAB, level=st.integers(1, 3), spatial=st.none() | st.integers(1, 9), mlp=st.booleans()),
)
cached_methods = st.one_of(st.builds(FORA, cycle=st.integers(1, 60)), tocas, taylorseers)


def quiet_plan(method, shape, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingToSkipWarning)
        warnings.simplefilter("ignore", LoweredOrderWarning)
        return method.plan(shape, steps)


def letters(plan):
    """One letter a step as the golden files have it: F full, P anything cached."""
    return "".join("F" if kind is Kind.FULL else "P" for kind in plan.kinds)


# --- published schedules


@pytest.mark.parametrize(
    ("method", "full_steps"),
    [
        (ToCa(cycle=4), (0, 1, *range(2, 50, 4))),
        (ToCa(cycle=5), (0, 1, *range(2, 50, 5))),
        (ToCa(cycle=6), (0, 1, *range(2, 50, 6))),
        (FORA(cycle=3), tuple(range(0, 50, 3))),
    ],
    ids=lambda value: value.label() if hasattr(value, "label") else "",
)
def test_flux_has_the_full_steps_of_the_paper(method, full_steps):
    assert method.plan(FLUX, 50).full_steps == full_steps


def test_toca_with_nothing_computed_is_fora_with_the_same_cycle():
    toca, fora = ToCa(cycle=3, ratio=1.0).plan(FLUX, 50), FORA(cycle=3).plan(FLUX, 50)
    assert toca.steps == fora.steps


@pytest.mark.parametrize(
    ("method", "full"),
    [
        (TaylorSeer(5, 1, ramp=True), (0, 1, 2, 4, 7, 11, 16, 21)),
        (TaylorSeer(3, 1, ramp=True), (0, 1, 2, 4, 7, 10, 13, 16, 19, 22)),
        (TaylorSeer(5, 1, ramp=True, warmup=1), (0, 2, 5, 9, 14, 19, 24)),
        (TaylorSeer(6, 1, ramp=True, lite=True), (0, 1, 2, 4, 7, 11, 16, 22)),
        (TaylorSeer(1, 1, ramp=True), tuple(range(25))),
    ],
    ids=str,
)
def test_a_ramp_lengthens_the_first_cycles_one_by_one(method: TaylorSeer, full: tuple[int, ...]):
    assert method.plan(SMALL, 25).full_steps == full


def test_a_cycle_of_two_has_no_ramp():
    assert TaylorSeer(2, 1, ramp=True).plan(SMALL, 25).full_steps == TaylorSeer(2, 1).plan(SMALL, 25).full_steps


def test_the_counter_restarts_at_every_full_step_so_a_longer_warmup_moves_the_cycle():
    assert ToCa(cycle=4, warmup=1).plan(SMALL, 10).full_steps == (0, 4, 8)
    assert ToCa(cycle=4, warmup=2).plan(SMALL, 10).full_steps == (0, 1, 5, 9)


def test_step_types_equal_those_printed_by_the_reference(golden):
    cases = _golden_cases(golden, "types")
    assert len(cases) == 24
    for case, expected in cases:
        method = ToCa(cycle=int(case["N"]), ratio=1 - float(case["r"]))
        assert letters(method.plan(FLUX, int(case["S"]))) == expected, method


def test_token_counts_equal_those_printed_by_the_reference(golden):
    cases = _golden_cases(golden, "k")
    assert {_schedule(case) for case, _ in cases} == set(RATIO_SCHEDULES) - {"toca-ddim50", "toca-ddpm250"}
    for case, expected in cases:
        method = ToCa(int(case.get("N", 4)), 1 - float(case["r"]), schedule=_schedule(case), strict=True)
        shape = dataclasses.replace(FLUX, image_tokens=int(case["img"]), text_tokens=int(case["txt"]))
        step = method.plan(shape, int(case.get("S", 50))).steps[int(case.get("s", 3))]
        counts = {"img": [], "txt": [], "single": []}
        for site, action in step.items():
            if site.module != "attn":
                counts[{"mlp": "img", "text_mlp": "txt", "single": "single"}[site.module]].append(action.tokens)
        assert counts == expected, (method, shape)


def _golden_cases(golden, kind):
    """The cases of plans/flux_toca.json: the words of a title such as "k exp r=0.1 S=50" as a dict, and the content."""
    content = json.loads((golden / "plans" / "flux_toca.json").read_text())
    cases = [(dict(word.partition("=")[::2] for word in title.split()), content[title]) for title in content]
    return [(case, expected) for case, expected in cases if kind in case]


def _schedule(case):
    return list(case)[1].lower()


@pytest.mark.parametrize(
    ("module", "first", "last", "total"),
    [
        ("mlp", [245, 239, 233], [148, 142, 136], 3622),
        ("text_mlp", [30, 29, 29], [18, 17, 17], 444),
        ("single", [1105, 1078, 1051], [150, 122, 95], 22810),
    ],
)
def test_a_cached_step_of_flux_computes_the_tokens_of_the_paper(module, first, last, total):
    counts = ToCa(cycle=4, ratio=0.9).plan(FLUX, 50).tokens()[module]
    assert (counts[:3], counts[-3:], sum(counts)) == (first, last, total)


def test_the_strict_divisor_shows_only_at_another_depth():
    assert ToCa(strict=True).plan(FLUX, 10).steps == ToCa(strict=False).plan(FLUX, 10).steps
    assert ToCa(strict=True).plan(SMALL, 10).steps != ToCa(strict=False).plan(SMALL, 10).steps


# --- what holds for every plan


@given(flux_methods, st.integers(1, 60))
def test_no_site_computes_more_tokens_than_it_has(method, steps):
    for step in quiet_plan(method, SMALL, steps).steps:
        assert set(step) == set(SMALL.sites())
        for site, action in step.items():
            assert 0 <= action.tokens <= SMALL.tokens(site.module)
            assert action.kind is not Kind.FULL or action.tokens == SMALL.tokens(site.module)
            assert (action.kind in COMPUTED) == (action.tokens > 0)


@given(flux_methods, st.integers(1, 60))
def test_the_first_step_is_full(method, steps):
    assert quiet_plan(method, SMALL, steps).kinds[0] is Kind.FULL


@given(cached_methods, st.integers(1, 60))
def test_full_steps_are_never_further_apart_than_the_cycle(method, steps):
    full = (*quiet_plan(method, SMALL, steps).full_steps, steps)
    assert all(later - earlier <= method.cycle for earlier, later in pairwise(full))


@given(cached_methods, st.integers(1, 60))
def test_a_step_is_full_as_a_whole_or_not_at_all(method, steps):
    for step in quiet_plan(method, SMALL, steps).steps:
        assert len({action.kind is Kind.FULL for action in step.values()}) == 1


@given(tocas, st.integers(1, 60))
def test_self_attention_is_never_partial(method, steps):
    for step in quiet_plan(method, SMALL, steps).steps:
        assert all(action.kind is not Kind.PARTIAL for site, action in step.items() if site.module == "attn")


@given(cached_methods, st.integers(1, 60))
def test_a_cycle_of_one_is_the_plain_pipeline(method, steps):
    plan = dataclasses.replace(method, cycle=1).plan(SMALL, steps)
    assert plan.steps == Plain().plan(SMALL, steps).steps


@given(tocas, st.integers(1, 60), shares)
def test_a_higher_ratio_never_costs_more(method, steps, other):
    low, high = sorted((method.ratio, other))
    less = quiet_plan(dataclasses.replace(method, ratio=high), SMALL, steps)
    more = quiet_plan(dataclasses.replace(method, ratio=low), SMALL, steps)
    assert less.flops() <= more.flops() <= more.plain_flops


@given(st.integers(1, 200), st.floats(0, 1, exclude_min=True))
def test_fewer_steps_takes_its_fraction_of_full_steps_and_at_least_one(steps, fraction):
    method = FewerSteps(fraction)
    plan = method.plan(SMALL, steps)
    assert len(plan.steps) == method.run_steps(steps) == max(1, round(steps * fraction))
    assert set(plan.kinds) == {Kind.FULL}
    assert plan.requested_steps == steps


# --- text and JSON


@given(methods)
def test_a_method_comes_back_from_its_json(method):
    assert from_json(method.as_json()) == method
    assert from_json(json.loads(json.dumps(method.as_json()))) == method


@given(methods)
def test_a_method_comes_back_from_its_label(method):
    assert parse(method.label()) == method


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("plain", Plain()),
        ("steps", FewerSteps(0.5)),
        ("steps:0.4", FewerSteps(0.4)),
        ("steps:1", FewerSteps(1.0)),
        ("fora:3", FORA(3)),
        ("toca:4:0.9", ToCa(4, 0.9)),
        ("toca:4:0.9:random", ToCa(4, 0.9, "random")),
        ("toca:cycle=5:score=norm", ToCa(cycle=5, score="norm")),
        ("toca:6:strict=true:warmup=1", ToCa(6, strict=True, warmup=1)),
        (" toca:4 ", ToCa(4)),
        ("toca:full=0/3/7", ToCa(full_steps=(0, 3, 7))),
        ("fora:full_steps=0/3/7:full_of=9", FORA(full_steps=(0, 3, 7), full_of=9)),
        ("taylorseer:order=1:full=0", TaylorSeer(order=1, full_steps=(0,))),
        ("toca:full=0/3:cycle=2", ToCa(2, full_steps=(0, 3))),
        ("toca:full=0/3:ratios=0.9/1/0.25", ToCa(full_steps=(0, 3), ratios=(0.9, 1.0, 0.25))),
        ("duca:full=0:ratios=0.9", DuCa(full_steps=(0,), ratios=(0.9,))),
    ],
)
def test_the_short_form_reads_as_the_method(text, method):
    assert parse(text) == method


@pytest.mark.parametrize(
    ("method", "label"),
    [
        (Plain(), "plain"),
        (ToCa(), "toca"),
        (ToCa(4, 0.9, "random"), "toca:4:0.9:random"),
        (ToCa(cycle=5), "toca:5"),
        (ToCa(cycle=5, spatial_bonus=0.4), "toca:5:spatial_bonus=0.4"),
        (DuCa(ratio=0.8, full_steps=(0, 3, 7), full_of=28), "duca:5:0.8:full=0/3/7:of=28"),
        (ToCa(full_steps=(0, 2), full_of=4, ratios=(0.9, 1.0)), "toca:full=0/2:of=4:ratios=0.9/1.0"),
        (ToCa(full_steps=(0, 2), ratios=(0, 1)), "toca:full=0/2:ratios=0.0/1.0"),
    ],
)
def test_a_label_says_what_differs_from_the_defaults(method, label):
    assert method.label() == label


def test_json_names_the_method_and_all_its_parameters():
    unchosen = {"full_steps": None, "full_of": None}
    assert FORA(5).as_json() == {"method": "fora", "cycle": 5, "modules": "all", **unchosen}
    assert FORA(full_steps=(0, 2)).as_json()["full_steps"] == [0, 2]
    assert set(ToCa().as_json()) == {"method"} | {field.name for field in dataclasses.fields(ToCa)}


# --- bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ToCa(cycle=0), r"cycle must be .*at least 1.*got 0"),
        (lambda: FORA(cycle=-2), r"cycle must be .*at least 1.*got -2"),
        (lambda: ToCa(cycle=2.5), r"cycle must be a whole number.*got 2\.5"),
        (lambda: ToCa(ratio=1.5), r"ratio must be in \[0, 1\].*got 1\.5"),
        (lambda: ToCa(ratio=-0.1), r"ratio must be in \[0, 1\].*got -0\.1"),
        (lambda: ToCa(ratio=math.nan), r"ratio must be in \[0, 1\].*got nan"),
        (lambda: ToCa(score="saliency"), r"unknown score 'saliency'; known: attention-sampled, attention, k-norm"),
        (lambda: ToCa(schedule="cosine"), r"unknown schedule 'cosine'; known: toca, constant"),
        (lambda: ToCa(age_weight=-1), r"age_weight must be .*at least 0.*got -1"),
        (lambda: ToCa(age_weight=math.nan), r"age_weight must be .*at least 0.*got nan"),
        (lambda: ToCa(spatial_bonus=-0.5), r"spatial_bonus must be .*at least 0.*got -0\.5"),
        (lambda: ToCa(spatial_bonus=math.inf), r"spatial_bonus must be .*at least 0.*got inf"),
        (lambda: ToCa(spatial_grid=0), r"spatial_grid must be .*at least 1.*got 0"),
        (lambda: ToCa(warmup=0), r"warmup must be .*at least 1.*got 0"),
        (lambda: FewerSteps(0), r"fraction must be in \(0, 1\], got 0"),
        (lambda: FewerSteps(1.2), r"fraction must be in \(0, 1\], got 1\.2"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_value_and_the_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("method", [Plain(), FewerSteps(), FORA(), ToCa()], ids=lambda method: method.name)
def test_a_run_without_steps_is_refused(method):
    with pytest.raises(ValueError, match="number of steps must be at least 1, got 0"):
        method.plan(SMALL, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacache:3", "unknown method 'teacache'; known: plain, steps, fora, toca"),
        ("", "unknown method ''; known: plain"),
        ("fora:3:0.9", "'fora:3:0.9' has too many values; its form is 'fora:cycle'"),
        ("plain:1", "'plain:1' has too many values; its form is 'plain'"),
        ("toca:speed=2", "'toca' has no parameter 'speed'; it has: cycle, ratio, score"),
        ("plain:cycle=2", "'plain' has no parameter 'cycle'; it has: none"),
        ("toca:four", "'cycle' of method 'toca' must be a whole number, got 'four'"),
        ("toca:4.5", "'cycle' of method 'toca' must be a whole number, got 4.5"),
        ("toca:NaN", "'cycle' of method 'toca' must be a whole number, got nan"),
        ("toca:Infinity", "'cycle' of method 'toca' must be a whole number, got inf"),
        ("toca:true", "'cycle' of method 'toca' must be a whole number, got True"),
        ("toca:4:much", "'ratio' of method 'toca' must be a number, got 'much'"),
        ("toca:4:NaN", "'ratio' of method 'toca' must be a number, got nan"),
        ("toca:strict=1", "'strict' of method 'toca' must be true or false, got 1"),
        ("fora:full=", "'full_steps' of method 'fora' must be whole numbers such as 0/3/7, got ''"),
        ("fora:full=0/a", "'full_steps' of method 'fora' must be whole numbers such as 0/3/7, got '0/a'"),
        ("fora:full=true", "'full_steps' of method 'fora' must be whole numbers such as 0/3/7, got 'true'"),
        ("fora:full=0/3:full_steps=0/2", "gives 'full_steps' twice"),
        ("pab:full=0/3", "'pab' has no parameter 'full_steps'; it has: level"),
        ("toca:full=0/3:ratios=0.9/high", "'ratios' of method 'toca' must be numbers such as 0.9/0.8, got '0.9/high'"),
        ("toca:full=0/3:ratios=", "'ratios' of method 'toca' must be numbers such as 0.9/0.8, got ''"),
        ("duca:full=0/3:ratios=0.9/nan", "'ratios' of method 'duca' must be numbers such as 0.9/0.8, got '0.9/nan'"),
        ("fora:full=0/3:ratios=0.9", "'fora' has no parameter 'ratios'; it has: cycle"),
        ("toca:4:0.9:5", "unknown score 5; known: attention-sampled"),
        ("toca:4:0.9:saliency", "unknown score 'saliency'; known: attention-sampled"),
    ],
)
def test_a_bad_short_form_is_refused_with_what_is_allowed(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("data", [{}, {"method": None}, {"method": "TOKA"}])
def test_json_without_a_known_method_is_refused_with_the_known_ones(data):
    with pytest.raises(ValueError, match="unknown method .*; known: " + ", ".join(METHODS)):
        from_json(data)


def test_reading_json_leaves_it_as_it_was():
    data = {"method": "toca", "cycle": 5}
    from_json(data)
    assert data == {"method": "toca", "cycle": 5}


# --- plans that save nothing


@pytest.mark.parametrize(
    ("method", "steps"), [(ToCa(cycle=4), 3), (ToCa(cycle=4, warmup=9), 9), (FORA(cycle=3), 1)], ids=str
)
def test_a_plan_that_saves_nothing_warns(method, steps):
    with pytest.warns(NothingToSkipWarning, match=f"saves nothing in {steps} steps"):
        method.plan(SMALL, steps)


@pytest.mark.parametrize(("method", "steps"), [(ToCa(cycle=60), 4), (FORA(cycle=2), 2), (ToCa(cycle=1), 9)], ids=str)
def test_a_plan_that_saves_something_or_is_plain_on_purpose_does_not_warn(method, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.plan(SMALL, steps)


# --- light to import


def test_methods_plans_and_shapes_import_neither_torch_nor_diffusers():
    code = (
        "import sys, dita, dita.methods, dita.plan, dita.shapes, dita.schedules\n"
        "assert {'plot_plan', 'plot_tokens', 'TokenRecord'} <= set(dita.__all__)\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "print(*sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr
