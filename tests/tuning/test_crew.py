"""Trials that several processes draw: what one finds, with seconds of one that draws alone."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal

import numpy as np
import pytest
import torch

from dita import sharing
from dita.methods import FORA, FewerSteps, Plain, ToCa, WholeCall, from_json
from dita.tuning import crew, job
from dita.tuning.crew import Drawn, Launched, Seat, Solo, Timing, tried
from dita.tuning.journal import TRIALS
from dita.tuning.trials import Bench, Model, Prompts, Sampled, squared_errors
from tests.launched import launched
from tests.tuning.test_job import CALL, PROMPTS, QUIET, pipeline

CALIBRATION = Prompts(tuple(PROMPTS[:3]), (1, 2, 3))
METHODS = [FORA(2), FORA(3), ToCa(2, 0.5), WholeCall(2), FewerSteps(0.5), WholeCall(full_steps=(0, 1, 99))]


def loaded(device="cpu"):
    return pipeline(), {}


def a_model() -> Model:
    return Model(pipeline(), dict(CALL), 8)


def a_bench(model: Model) -> Bench:
    return Bench(model, CALIBRATION, {"plain": model.sample(Plain(), CALIBRATION).latents})


def judged(found) -> dict[str, object]:
    return {
        method.label(): one if isinstance(one, str) else {name: list(values) for name, values in one.errors.items()}
        for method, one in found.items()
    }


def one_by_one() -> dict[str, object]:
    model = a_model()
    bench, found = a_bench(model), {}
    for method in METHODS:
        found |= tried(Solo(model), bench, Timing(bench), [method])
    return judged(found)


def test_two_processes_judge_as_one_does(tmp_path):
    def share():
        with sharing.opened() as team:
            if team is None:
                return
            model = a_model()
            bench = a_bench(model)
            with crew.crew_of(team, model, loaded) as both:
                assert isinstance(both, Launched) and both.count == 2
                timing, found, places = Timing(bench), {}, []
                for i in range(0, len(METHODS), 2):
                    found |= tried(both, bench, timing, METHODS[i : i + 2])
                places = [one.crowded for one in both.draw(METHODS[:2], CALIBRATION)]
                places += [one.crowded for one in both.draw(METHODS[:1], CALIBRATION)]
            (tmp_path / "found.json").write_text(json.dumps([judged(found), places]))

    assert launched(share) == [0, 0]
    found, crowded = json.loads((tmp_path / "found.json").read_text())
    alone = one_by_one()
    assert found == json.loads(json.dumps(alone)) and len(alone) == len(METHODS)
    assert "99" in str(alone[METHODS[-1].label()]) and isinstance(alone["fora:2"], dict)
    assert crowded == [True, True, False]


class Pretended:
    """A crew of two on one device, whose seconds are wrong where both draw."""

    count = 2

    def __init__(self, model: Model, crowded: bool = True) -> None:
        self._model, self._crowded = model, crowded

    def draw(self, methods, prompts):
        made = [crew.drawn(self._model, method, prompts) for method in methods]
        return [Drawn(Sampled(one.sampled.latents, 1e6, one.sampled.shape, 1e5), crowded=self._crowded) for one in made]


def test_seconds_of_a_crowd_are_measured_again_alone_and_once_for_all_that_take_as_long(monkeypatch):
    model = a_model()
    bench = a_bench(model)
    timing, both = Timing(bench), Pretended(model)
    timed = []
    stock = Model.sample

    def sample(self, method, prompts, *, steps=None):
        timed.append((method, len(prompts)))
        return stock(self, method, prompts, steps=steps)

    first, moved = WholeCall(full_steps=(0, 1, 3)), WholeCall(full_steps=(0, 2, 5))
    more = WholeCall(full_steps=(0, 2, 5, 6))
    drawn = [both.draw([method], CALIBRATION)[0] for method in (first, moved, more)]
    monkeypatch.setattr(Model, "sample", sample)
    seconds = [timing.of(method, one.sampled, True) for method, one in zip((first, moved, more), drawn, strict=True)]
    assert timed == [(first, 1), (more, 1)]  # one call of the bench's prompts, here one prompt
    assert seconds[0] == seconds[1] and all(0 < one < 1e3 and 0 < call < 1e3 for one, call in seconds)
    assert timing.of(first, drawn[0].sampled, False) == (1e6, 1e5)


def test_seconds_of_a_device_of_ones_own_count():
    model = a_model()
    bench = a_bench(model)
    found = tried(Pretended(model, crowded=False), bench, Timing(bench), [FORA(2), FORA(3)])
    assert [one.seconds for one in found.values()] == [1e6, 1e6]


def test_what_fails_in_a_crowd_is_tried_alone():
    model = a_model()
    bench = a_bench(model)

    class Short(Pretended):
        def draw(self, methods, prompts):
            return [Drawn(None, "out of memory", crowded=self._crowded) for _ in methods]

    found = tried(Short(model), bench, Timing(bench), [FORA(2)])
    assert math.isfinite(found[FORA(2)].seconds) and found[FORA(2)].seconds < 1e3
    assert tried(Short(model, False), bench, Timing(bench), [FORA(3)]) == {FORA(3): "out of memory"}


def test_a_seat_travels_without_its_pipeline_where_it_can_be_loaded():
    model = a_model()
    seat = pickle.loads(pickle.dumps(Seat(model, loaded, "cpu")))
    other = seat.on("cpu").model
    assert other.pipe is not model.pipe and (other.steps, other.arguments) == (8, CALL)
    a, b = (one.sample(FORA(2), CALIBRATION).latents for one in (model, other))
    assert np.array_equal(a, b)
    assert Seat(model, None, "cpu").model.pipe is model.pipe
    assert len(pickle.dumps(Seat(model, loaded, "cpu"))) < 20_000


def tune_shared(out, team, **changes):
    arguments = {"out": out, "speedup": 2.0, "minutes": 0.08, "steps": 8, "batch": 2, "call": CALL, "console": QUIET}
    return job.tune(pipeline(), PROMPTS, workers=team, load=loaded, **(arguments | changes))


@pytest.fixture
def all_reached(monkeypatch):
    monkeypatch.setattr(job, "TOLERANCE", 0.0)


def journal_of(folder) -> dict[str, dict[str, list[float]]]:
    lines = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    return {json.dumps(line["method"]): line["errors"] for line in lines}


@pytest.mark.slow
def test_a_tuning_by_two_processes_is_written_by_the_first_and_goes_on_alone(tmp_path, all_reached):
    def share():
        torch.set_num_threads(1)
        with sharing.opened() as team:
            (tmp_path / f"rank-{os.environ['RANK']}").write_text(str(team is None))
            if team is not None:
                found = tune_shared(tmp_path / "tuned", team)
                (tmp_path / "found").write_text(found.answer)

    assert launched(share) == [0, 0]
    assert (tmp_path / "rank-1").read_text() == "True"
    assert json.loads((tmp_path / "tuned/results.json").read_text())["answer"] == (tmp_path / "found").read_text()
    together = journal_of(tmp_path / "tuned")
    assert len(together) >= 3
    again = tune_shared(tmp_path / "tuned", None, minutes=0.02)
    assert journal_of(tmp_path / "tuned").items() >= together.items() and len(again.candidates) >= len(together)
    model, (prompts, _, _) = Model(pipeline(), dict(CALL), 8, batch=2), job.split(PROMPTS, 0)[0]
    plain = model.sample(Plain(), prompts).latents
    for method, errors in together.items():
        alone = squared_errors(model.sample(from_json(json.loads(method)), prompts).latents, plain)
        assert errors["plain"] == list(alone)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "lost"])
def test_what_was_found_is_kept_where_it_ends_early(tmp_path, how, all_reached):
    """Ctrl-C in the first process, or the death of the other."""

    stock, drawn_here = crew.drawn, []

    def drawn(*given):
        drawn_here.append(given)
        first = os.environ["RANK"] == "0"
        if len(drawn_here) > 3 and first and how == "stopped":
            raise KeyboardInterrupt
        if len(drawn_here) > 3 and not first and how == "lost":
            os.kill(os.getpid(), signal.SIGKILL)
        return stock(*given)

    def share():
        torch.set_num_threads(1)
        crew.drawn = drawn
        try:
            with sharing.opened() as team:
                if team is not None:
                    tune_shared(tmp_path / "tuned", team, minutes=5)
        except (KeyboardInterrupt, RuntimeError) as error:
            (tmp_path / f"said-{os.environ['RANK']}").write_text(type(error).__name__)

    launched(share)
    said = (tmp_path / "said-0").read_text()
    assert said == ("KeyboardInterrupt" if how == "stopped" else "WorkerLostError")
    kept = journal_of(tmp_path / "tuned")
    assert len(kept) >= 3 and (tmp_path / "tuned/method.json").is_file()
    tune_shared(tmp_path / "tuned", None, minutes=0.02)
    assert journal_of(tmp_path / "tuned").items() >= kept.items()


@pytest.mark.slow
def test_two_actors_of_ray_judge_as_one_process_does():
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        model = a_model()
        bench = a_bench(model)
        with sharing.opened("ray", (2, 2)) as team, crew.crew_of(team, model, loaded) as both:
            assert both.count == 2
            timing, found = Timing(bench), {}
            for i in range(0, len(METHODS), 2):
                found |= tried(both, bench, timing, METHODS[i : i + 2])
            assert all(one.crowded for one in both.draw(METHODS[:2], CALIBRATION))
            ray.kill(both._all[0], no_restart=False)
            again = both.draw(METHODS[:2], CALIBRATION)  # it is started again
        assert all(one.sampled is not None for one in again)
    finally:
        ray.shutdown()
    assert judged(found) == one_by_one()
