"""One pipeline serves many visitors: in line, never mixed, stopped one by one."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dita.compare import numbered_label
from dita.demo import studio as studio_module
from dita.demo.method_picker import planned
from dita.demo.request import Limits, Refused, checked
from dita.demo.sampling import Stopped
from dita.demo.studio import Finished, Progress, Repeated, ServerError, Studio, Visit, Waiting
from dita.methods import FORA, FewerSteps, Plain, ToCa
from tests.demo.small import small


def ask(studio: Studio, prompt: str = "a red circle", **changes):
    return checked(studio.loaded, studio.limits, prompt, **changes)


def finished(events) -> list[Finished]:
    return [event for event in events if isinstance(event, Finished)]


def test_a_comparison_is_the_plain_picture_then_each_method(studio):
    events = list(studio.compare(ask(studio), [FORA(2), FewerSteps(0.5)]))
    done = finished(events)
    assert [one.slot for one in done] == [0, 1, 2]
    assert [one.made.method for one in done] == [Plain(), FORA(2), FewerSteps(0.5)]
    slots = [event.slot for event in events if isinstance(event, (Progress, Finished))]
    assert slots == sorted(slots)  # one after the other: nothing else computes while one is timed
    assert [one.seen.step for one in events if isinstance(one, Progress) and one.slot == 2] == [1, 2, 3]


def test_its_numbers_are_those_of_what_ran(studio):
    plain, cached, fewer, full = finished(studio.compare(ask(studio), [FORA(2), FewerSteps(0.5), FORA(1)]))
    assert plain.flops == plain.plain_flops == cached.plain_flops == fewer.plain_flops
    assert fewer.plain_flops / fewer.flops == pytest.approx(2)
    assert 1 < cached.plain_flops / cached.flops < 2
    assert plain.scores.psnr is None
    assert full.scores.psnr == float("inf")
    assert full.scores.ssim == pytest.approx(1)
    assert cached.scores.psnr < 60
    assert cached.speedup == plain.made.seconds / cached.made.seconds


def test_broken_pictures_are_compared_with_nothing(studio, monkeypatch):
    made = finished(studio.compare(ask(studio), [FORA(1)]))
    plain, full = (one.made for one in made)
    broken = dataclasses.replace(plain, broken=True)
    visit = Visit("anna")
    request = ask(studio)
    assert studio.measured(visit, request, full, plain).psnr == float("inf")
    assert studio.measured(visit, request, full, broken).psnr is None
    assert studio.measured(visit, request, dataclasses.replace(full, broken=True), plain).psnr is None
    black = dataclasses.replace(plain, frames=np.zeros_like(plain.frames))
    assert studio.measured(visit, request, black, black).ssim is None


def test_visitors_at_once_get_what_they_would_get_alone(studio):
    asked = [("a red circle", 1, ToCa(2, 0.5)), ("a blue star", 2, FORA(3)), ("a red circle", 3, FORA(2))]

    def served(session: str, prompt: str, seed: int, method) -> list[np.ndarray]:
        events = studio.compare(ask(studio, prompt, seed=seed), [method], session)
        return [one.made.frames for one in finished(events)]

    alone = [served("alone", *one) for one in asked]
    with ThreadPoolExecutor(3) as visitors:
        together = list(visitors.map(served, ("anna", "ben", "carl"), *zip(*asked, strict=True)))
    for mine, theirs in zip(alone, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert not np.array_equal(alone[0][0], alone[1][0])


def test_those_who_wait_are_told_how_many_are_ahead(studio, monkeypatch):
    monkeypatch.setattr(studio_module, "POLL", 0.01)
    go = threading.Event()
    busy = studio._worker.submit(go.wait)
    studio._submitted += 1
    busy.add_done_callback(studio._one_done)
    events = studio.compare(ask(studio), [FORA(2)], "anna")
    assert next(events) == Waiting(1)
    go.set()
    assert len(finished(events)) == 2


def test_one_who_stops_does_not_stop_the_others(studio):
    mine = studio.compare(ask(studio), [FORA(2)], "anna")
    theirs = studio.compare(ask(studio, "a blue star"), [FORA(2)], "ben")
    next(mine)
    next(theirs)
    assert studio.stop("anna") == 1
    with pytest.raises(Stopped):
        list(mine)
    assert len(finished(theirs)) == 2
    assert studio.visits == 0


def test_one_who_waits_can_be_stopped_too(studio, monkeypatch):
    monkeypatch.setattr(studio_module, "POLL", 0.01)
    go = threading.Event()
    studio._worker.submit(go.wait)
    events = studio.compare(ask(studio), [FORA(2)], "anna")
    threading.Timer(0.05, studio.stop, ["anna"]).start()
    with pytest.raises(Stopped):
        list(events)
    go.set()


def test_who_leaves_stops_their_run(studio):
    events = studio.compare(ask(studio, steps=100), [FORA(2)], "anna")
    next(events)
    events.close()
    assert studio.visits == 0
    assert len(finished(studio.compare(ask(studio), [FORA(2)], "ben"))) == 2  # the pipeline is free again


def test_the_line_has_an_end_and_nobody_has_all_of_it():
    studio = Studio(small("flux"), Limits(waiting=2, sessions=1))
    first = studio.compare(ask(studio), [FORA(2)], "anna")
    next(first)
    with pytest.raises(Refused, match="still running"):
        next(studio.compare(ask(studio), [FORA(2)], "anna"))
    second = studio.compare(ask(studio), [FORA(2)], "ben")
    next(second)
    with pytest.raises(Refused, match="2 requests are waiting"):
        next(studio.compare(ask(studio), [FORA(2)], "carl"))
    first.close()
    second.close()
    assert studio.visits == 0
    studio.close()


def test_what_the_pipeline_refuses_is_said_in_its_words(studio, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("the grid does not fit")

    monkeypatch.setattr(studio_module, "sample", refuse)
    with pytest.raises(Refused, match=r"The grid does not fit\."):
        list(studio.compare(ask(studio), [FORA(2)]))


def test_other_errors_say_nothing_of_the_server(studio, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("/home/secret/weights.bin is broken")

    monkeypatch.setattr(studio_module, "sample", fail)
    with pytest.raises(ServerError) as failed:
        list(studio.compare(ask(studio), [FORA(2)]))
    assert "secret" not in str(failed.value)
    assert "secret" in caplog.text  # the owner of the server can see it


def test_memory_that_ran_out_is_said(studio, monkeypatch, caplog):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(studio_module, "sample", fail)
    with pytest.raises(Refused, match="smaller picture"):
        list(studio.compare(ask(studio), [FORA(2)]))


def test_warming_up_tells_the_models_sizes(studio):
    assert studio.default_shape is None
    studio.warm_up()
    assert studio.default_shape.family == "flux"
    assert studio.default_shape.image_tokens == 64


def test_five_draws_give_medians_of_seconds_and_of_the_pairs_ratios(studio, monkeypatch):
    taken = iter([4.0, 2.0, 9.0, 1.0, 6.0, 6.0, 5.0, 2.5, 4.0, 2.0])  # plain and the method, in turn
    sampled = studio_module.sample

    def timed(*given, record=False):
        made = sampled(*given, record=record)
        return made if record else dataclasses.replace(made, seconds=next(taken))

    monkeypatch.setattr(studio_module, "sample", timed)
    events = list(studio.compare(ask(studio), [FORA(2)], draws=5))
    repeats = [event for event in events if isinstance(event, Repeated)]
    assert [(one.draw, one.of) for one in repeats] == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert len(finished(events)) == 2  # the pictures are shown once
    plain, cached = repeats[-1].finished
    assert plain.draws == (4.0, 9.0, 6.0, 5.0, 4.0) and (plain.seconds, plain.speedup) == (5.0, 1.0)
    assert cached.draws == (2.0, 1.0, 6.0, 2.5, 2.0) and (cached.seconds, cached.speedup) == (2.0, 2.0)
    assert cached.made is finished(events)[1].made


def test_repeats_can_be_stopped(studio):
    events = studio.compare(ask(studio), [FORA(2)], "anna", draws=5)
    assert isinstance(next(event for event in events if isinstance(event, Repeated)), Repeated)
    studio.stop("anna")
    with pytest.raises(Stopped):
        list(events)
    assert studio.visits == 0


@pytest.mark.parametrize("family", ["flux", "pixart", "dit", "opensora"])
def test_every_preset_has_a_plan_for_the_models_own_size(family):
    studio = Studio(small(family))
    studio.warm_up()
    for name, method in studio.presets.items():
        assert 'role="alert"' not in planned(studio, numbered_label(method), 6), name
    studio.close()
