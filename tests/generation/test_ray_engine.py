import json

import pytest

from dita.generation import ray_engine
from dita.generation.progress import Progress
from tests.generation.stand_in import LoadDyingOnce, same_pictures, settings, some_items
from tests.generation.test_runner import complete, run

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


class LoadFailingAt:
    """Loads a pipeline that cannot make one prompt."""

    def __init__(self, prompt):
        self.prompt = prompt

    def __call__(self, *args, **kwargs):
        from tests.generation.stand_in import StandIn

        def trouble(prompts):
            if self.prompt in prompts:
                raise RuntimeError("cannot draw it")

        return StandIn(trouble), {}


def run_ray(out, load, count=6):
    return ray_engine.run(
        settings(),
        some_items(count),
        out,
        batch_size=1,
        workers=(2, 2),
        progress=Progress(quiet=True),
        load=load,
    )


def test_a_worker_killed_in_the_middle_loses_nothing_and_files_are_those_of_one_process(tmp_path):
    run(tmp_path / "one")
    outcome = run_ray(tmp_path / "ray", LoadDyingOnce(tmp_path / "memory", "prompt 3"))
    assert (tmp_path / "memory").exists(), "no worker was killed"
    assert (outcome.made, outcome.failures) == (6, [])
    assert complete(tmp_path / "ray")
    assert same_pictures(tmp_path / "ray" / "images", tmp_path / "one" / "images")


def test_failures_are_listed_and_a_later_run_of_the_other_engine_goes_on(tmp_path):
    out = tmp_path / "out"
    outcome = run_ray(out, LoadFailingAt("prompt 2"), count=3)
    assert [failure["id"] for failure in outcome.failures] == ["p2"]
    assert json.loads((out / "failures.jsonl").read_text())["error"] == "RuntimeError: cannot draw it"
    assert run(out, count=3).made == 1
    assert complete(out, 3)
