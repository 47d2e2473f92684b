"""Token ratios of each cached step: what is measured, what is chosen, and that time and budget are kept."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import types

import numpy as np
import pytest

from dita.methods import DuCa, Plain, ToCa
from dita.shapes import named_shape
from dita.tuning import token_ratios
from dita.tuning.candidates import group_of, token_wise, with_schedule
from dita.tuning.crew import Solo
from dita.tuning.token_ratios import TokenRatios, allowed_flops, cheapest, grids, token_flops, with_ratios
from dita.tuning.trials import Bench, Model, Prompts, Trial, squared_errors
from tests.tuning.test_job import CALL, PROMPTS, pipeline

SHAPES = [named_shape(name) for name in ("flux-dev", "pixart-alpha-256", "dit-xl-2-256", "opensora-1.2-480p-2s")]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.family)
each_method = pytest.mark.parametrize("method", [ToCa(full_steps=(0, 4, 5, 7)), DuCa(full_steps=(0, 4, 5, 7))])


@each_shape
@each_method
def test_places_are_all_cached_steps_that_may_compute_tokens_each_once(method: ToCa, shape) -> None:
    computing = set(method.token_steps(shape.family, 10))
    found = grids(method, shape.family, 10)
    assert [len(one) for one in found[0].places] == [1] * len(computing)
    for grid in found:
        steps = list(itertools.chain(*grid.places))
        assert sorted(steps) == sorted(computing)
        for place in grid.places:  # no place spans a full step
            assert not any(place[0] < full < place[-1] for full in (0, 4, 5, 7))
    runs = [grid.runs(method.ratio) for grid in found]
    assert max(runs) == runs[0] == 5 * len(computing) and min(runs) == runs[-1]
    assert all(method.ratio in grid.options and 1.0 in grid.options for grid in found)


def test_another_ratio_to_begin_with_is_one_of_the_options() -> None:
    grid = grids(ToCa(ratio=0.7, full_steps=(0, 3)), "flux", 8)[0]
    assert 0.7 in grid.options and grid.runs(0.7) == 6 * len(grid.places)


@each_shape
@each_method
def test_flops_of_tokens_are_what_the_plan_takes_beyond_reuse(method: ToCa, shape) -> None:
    none, all_of_them = (dataclasses.replace(method, ratio=ratio).plan(shape, 10) for ratio in (1.0, 0.6))
    found = token_flops(method, shape, 10, (0.6,))
    assert found.shape == (1, 10) and found.min() >= 0
    full = none.step_flops(none.steps[0])
    np.testing.assert_allclose(found.sum(), (all_of_them.flops() - none.flops()) / full, rtol=1e-6)
    assert set(np.flatnonzero(found[0])) <= set(method.token_steps(shape.family, 10))
    even = token_flops(dataclasses.replace(method, schedule="constant"), shape, 10, (0.6,))[0]
    assert set(np.flatnonzero(even)) == set(method.token_steps(shape.family, 10))


def test_what_fits_is_on_the_line_through_two_runs() -> None:
    assert allowed_flops(1.0, 10.0, 8.0, 11.0) == pytest.approx(1.5)
    assert allowed_flops(1.0, 10.0, 8.0, 9.0) == pytest.approx(0.5)
    assert allowed_flops(1.0, 10.0, 8.0, 7.0) == 0.0
    assert allowed_flops(1.0, 10.0, 9.9, 99.0) == token_ratios.MOST
    assert allowed_flops(1.0, 10.0, 10.5, 11.0) == 1.0, "seconds that say nothing"


def test_the_cheapest_options_spend_no_more_than_is_allowed() -> None:
    draw = np.random.default_rng(3)
    costs, spent = draw.normal(size=(4, 3)), np.sort(draw.uniform(0, 0.4, (4, 3)), axis=1)
    spent[:, 0] = 0.0
    for allowed in (0.0, 0.3, 0.7, 5.0):
        found = cheapest(costs, spent, allowed)
        assert found is not None
        units = np.ceil(spent / token_ratios.UNIT)
        fitting = [
            (sum(costs[place, n] for place, n in enumerate(each)), each)
            for each in itertools.product(range(3), repeat=4)
            if sum(units[place, n] for place, n in enumerate(each)) <= math.floor(allowed / token_ratios.UNIT)
        ]
        assert found == min(fitting)[1]
    assert cheapest(np.full((2, 2), math.inf), np.ones((2, 2)), 0.0) is None


def test_ratios_of_other_full_steps_stay_only_where_there_are_as_many() -> None:
    own = ToCa(full_steps=(0, 3), ratios=(0.9, 0.5, 1.0))
    assert with_schedule(own, (0, 2)) == ToCa(full_steps=(0, 2), ratios=(0.9, 0.5, 1.0))
    assert with_schedule(own, (0, 2, 3)) == ToCa(full_steps=(0, 2, 3))
    assert with_ratios(ToCa(full_steps=(0, 3)), 5, {2: 0.3}).ratios == (0.9, 0.3, 0.9)
    assert group_of(own) == "tokens" and token_wise(ToCa(4)) and not token_wise(Plain())
    assert group_of(ToCa(ratio=1.0, full_steps=(0, 3))) == "chosen steps"


# ------------------------------------------------------------------------------------------------ on a tiny model

CALIBRATION = Prompts(tuple(PROMPTS[:4]), (1, 2, 3, 4))


class Found:
    """A search of ratios on a tiny model, whose seconds are counted in FLOPs."""

    def __init__(self, budget: float, seconds: float) -> None:
        self.model = Model(pipeline(), dict(CALL), 8, batch=2)
        plain = self.model.sample(Plain(), CALIBRATION)
        assert plain.shape is not None
        self.shape, self.drawn = plain.shape, 0
        self.bench = Bench(self.model, CALIBRATION, {"plain": plain.latents})
        self.crew = Solo(self.model)
        self.seconds, self.budget = seconds, budget
        stock = self.crew.draw

        def draw(methods, prompts):
            self.drawn += len(methods)
            return stock(methods, prompts)

        self.crew.draw = draw  # type: ignore[method-assign]

    def attempt(self, method) -> Trial:
        latents = self.model.sample(method, CALIBRATION).latents
        errors = {"plain": squared_errors(latents, self.bench.references["plain"])}
        plan = method.plan(self.shape, 8)
        trial = Trial(method, plan.flops() / plan.plain_flops, errors)
        self.bench.known[method] = trial
        return trial

    def improved(self, base: ToCa) -> tuple[Trial, Trial | None]:
        before = self.attempt(base)
        until = time.monotonic() + self.seconds
        search = TokenRatios(self.bench, self.crew, self.shape, "flux", 8, "plain", self.budget, until, self.attempt)
        return before, search.improved(before)


@pytest.mark.parametrize(
    "base",
    [
        ToCa(ratio=0.8, schedule="constant", full_steps=(0, 3, 5)),
        DuCa(ratio=0.8, schedule="constant", full_steps=(0, 3, 5)),
    ],
    ids=lambda method: method.name,
)
def test_ratios_are_found_that_fit_the_budget_and_come_nearer(base: ToCa) -> None:
    room = 0.05
    budget = base.plan(Found(1.0, 0.0).shape, 8).flops() / base.plan(Found(1.0, 0.0).shape, 8).plain_flops + room
    found = Found(budget, 600.0)
    before, after = found.improved(base)
    assert after is not None and after.method.ratios is not None  # type: ignore[attr-defined]
    assert after.seconds <= budget
    assert after.error("plain") < before.error("plain")
    assert found.drawn == grids(base, "flux", 8)[0].runs(0.8)


def test_nothing_is_measured_where_time_is_short() -> None:
    found = Found(1.0, 0.0)
    _, after = found.improved(ToCa(ratio=0.8, full_steps=(0, 3, 5)))
    assert after is None and found.drawn == 0 and len(found.bench.known) == 1


def test_measuring_ends_in_time_and_what_was_measured_is_used(monkeypatch) -> None:
    found = Found(1.0, 600.0)
    clock = map(float, itertools.count())
    monkeypatch.setattr(token_ratios, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    base = ToCa(ratio=0.8, schedule="constant", full_steps=(0, 3, 5))
    before = found.attempt(base)
    search = TokenRatios(found.bench, found.crew, found.shape, "flux", 8, "plain", 1.0, 8.0, found.attempt)
    before = dataclasses.replace(before, seconds=0.0)
    search.improved(before)
    assert 0 < found.drawn < 8
