"""An exploration measures every point of its grid beside the plain pipeline and fewer steps."""

from __future__ import annotations

import pytest

from dita.demo.grid import Done, Point, check_grid, explore, grid_methods, rivals
from dita.demo.request import Limits, Refused, checked
from dita.demo.sampling import Stopped
from dita.methods import FORA, FewerSteps, Plain, ToCa


def requests_of(studio, count=2, **changes):
    return [checked(studio.loaded, studio.limits, "a red circle", seed=i, **changes) for i in range(count)]


def test_a_grid_changes_what_the_method_has():
    assert grid_methods(ToCa(score="random"), [2, 4], [0.5, 0.9]) == [
        ToCa(n, r, "random") for n in (2, 4) for r in (0.5, 0.9)
    ]
    assert grid_methods(FORA(), [2, 3], [0.5]) == [FORA(2), FORA(3)]
    chosen = FORA(full_steps=(0, 5), full_of=9)
    assert grid_methods(chosen, [2, 3], []) == [FORA(2), FORA(3)], "cycles of their own"


def test_grids_that_cannot_be_are_refused():
    with pytest.raises(Refused, match="neither a cycle"):
        grid_methods(FewerSteps(), [2], [0.5])
    with pytest.raises(Refused, match="at least one N"):
        grid_methods(ToCa(), [], [0.5])
    with pytest.raises(Refused, match="at least one R"):
        grid_methods(ToCa(), [2], [])
    with pytest.raises(Refused, match="ratio must be in"):
        grid_methods(ToCa(), [2], [2.0])


def test_grids_have_limits(studio):
    limits = Limits(points=2, prompts=1)
    with pytest.raises(Refused, match="3 points; at most 2"):
        check_grid(limits, [FORA(2), FORA(3), FORA(4)], requests_of(studio, 1))
    with pytest.raises(Refused, match="2 prompts; at most 1"):
        check_grid(limits, [FORA(2)], requests_of(studio, 2))
    with pytest.raises(Refused, match="at least one prompt"):
        check_grid(limits, [FORA(2)], [])


def test_all_methods_run_in_turn_prompt_by_prompt(studio):
    events = list(explore(studio, [FORA(1), FORA(2)], requests_of(studio)))
    points = [event for event in events if isinstance(event, Point)]
    others = rivals("flux", 8, 1)
    assert others[:3] == [FewerSteps(0.7), FewerSteps(0.5), FewerSteps(0.35)]
    assert others[3:] == [FewerSteps(f, sampler) for sampler in ("unipc", "dpm++") for f in (0.5, 0.35)]
    assert [point.method for point in points] == 2 * [Plain(), *others, FORA(1), FORA(2)]
    assert [point.rival for point in points] == 2 * [*8 * [True], False, False]
    assert [point.prompts for point in points] == 10 * [1] + 10 * [2]
    points = points[10:]
    plain, same, cached = points[0], points[-2], points[-1]
    assert plain.speedup == 1
    assert same.psnr == 99
    assert cached.psnr < 60
    assert cached.flops_ratio > 1.2
    assert points[2].flops_ratio == pytest.approx(2)
    counts = [event.pictures for event in events if isinstance(event, Done)]
    assert counts == list(range(21))
    assert {event.of for event in events if isinstance(event, Done)} == {20}


def test_an_exploration_lets_others_in_between(studio):
    events = explore(studio, [FORA(2)], requests_of(studio, steps=20), "anna")
    next(events)
    others = studio.compare(checked(studio.loaded, studio.limits, "a blue star"), [FORA(2)], "ben")
    list(others)  # ends, although the exploration has not
    assert studio.visits == 1
    events.close()
    assert studio.visits == 0


def test_an_exploration_can_be_stopped(studio):
    events = explore(studio, [FORA(2)], requests_of(studio, steps=100), "anna")
    next(events)
    studio.stop("anna")
    with pytest.raises(Stopped):
        list(events)
