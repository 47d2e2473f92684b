"""Evaluations whose pictures several workers share: the figures of one process, whoever measured."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from rich.console import Console

from dita import sharing
from dita.evaluate import evaluate, from_json
from dita.metrics.catalogue import parse
from dita.metrics.distribution import Sample, joined
from dita.metrics.frechet import FeatureStatistics
from dita.metrics.picture_sets import open_pictures
from dita.networks import Found, Networks
from tests.launched import launched
from tests.metrics.test_streaming import noisy, pictures
from tests.metrics.tiny_networks import save_tiny_reward, tiny_features
from tests.test_evaluate import save

METRICS = "fid,kid,clip,image-reward,psnr,ssim"
QUIET = Console(quiet=True)


class TinyNetworks(Networks):
    """A tiny network in the place of Inception; it travels, as those of users do."""

    def find(self, need):
        return Found("tiny", "given") if need == "inception" else super().find(need)

    def _features(self, need):
        return tiny_features()


@pytest.fixture(scope="module")
def job(tmp_path_factory, golden):
    """Arguments of an evaluation in which pictures are missing, broken, and without a prompt."""
    folder = tmp_path_factory.mktemp("pictures")
    plain = pictures(22, size=(32, 32))
    fast = save(folder / "fast", noisy(plain))
    (fast / "0003.png").unlink()
    (fast / "0013.png").write_bytes(b"junk")
    manifest = json.loads((fast / "manifest.json").read_text())
    manifest["pictures"][17]["prompt"] = None
    (fast / "manifest.json").write_text(json.dumps(manifest))
    reward = save_tiny_reward(folder / "ImageReward", golden)
    chosen = {"clip": str(golden / "metrics" / "clip_tiny"), "image-reward": str(reward)}
    return {
        "pictures": open_pictures(fast),
        "metrics": parse(METRICS),
        "networks": TinyNetworks(chosen=chosen),
        "reference": save(folder / "real", pictures(30, seed=5, size=(40, 36)), manifest=False),
        "plain": open_pictures(save(folder / "plain", plain)),
        "batch": 4,
    }


@pytest.fixture(scope="module")
def alone(job):
    return evaluate(**job, console=QUIET)


def same_figures(one, other):
    """Values of single pictures and problems exactly, distances but for the order of additions in float64."""
    assert (one.count, one.problems, one.notes) == (other.count, other.problems, other.notes)
    for mine, theirs in zip(one.results, other.results, strict=True):
        assert mine.each == theirs.each and mine.truncated == theirs.truncated
        assert (mine.identity, mine.warnings) == (theirs.identity, theirs.warnings)
        for field in ("value", "plain", "difference"):
            a, b = getattr(mine, field), getattr(theirs, field)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.count == b.count
                assert a.mean == pytest.approx(b.mean, rel=1e-9)
    return True


def test_two_processes_find_what_one_finds(job, alone, tmp_path):
    read = tmp_path / "read"
    read.mkdir()

    def share():
        with sharing.opened() as team:
            (read / str(os.environ["RANK"])).write_text(str(team is None))
            if team is not None:
                found = evaluate(**job, workers=team, console=QUIET)
                (tmp_path / "found.json").write_text(json.dumps(found.as_json()))

    assert launched(share) == [0, 0]
    assert {path.name: path.read_text() for path in read.iterdir()} == {"0": "False", "1": "True"}
    assert same_figures(from_json(json.loads((tmp_path / "found.json").read_text())), alone)


def test_an_error_in_any_share_is_that_of_the_first_process_and_ends_all(job, tmp_path):
    def share(number):
        with sharing.opened() as team:
            if team is None:
                return 0
            try:
                list(team.shares(fail_at, job["networks"], [*range(7), number], 4))
            except ValueError as error:
                (tmp_path / f"error-{number}").write_text(str(error))
                return 0
        return 1

    for number in (100, 200):
        assert launched(lambda number=number: share(number)) == [0, 0]
        assert (tmp_path / f"error-{number}").read_text() == f"no figure for {number}"


def fail_at(networks, items, tick):
    for item in items:
        if item >= 100:
            raise ValueError(f"no figure for {item}")


def test_bad_input_ends_the_others_too():
    def share():
        with sharing.opened() as team:
            if team is not None:
                raise ValueError("there is no folder")

    def child():
        try:
            share()
        except ValueError:
            return 2

    assert launched(child) == [2, 0]


def test_a_process_that_dies_ends_the_evaluation(job):
    def share():
        with sharing.opened() as team:
            if team is not None:
                list(team.shares(die_unless_first, job["networks"], list(range(8)), 4))

    codes = launched(share)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0


def die_unless_first(networks, items, tick):
    if 0 not in items:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("count", "batch", "workers", "sizes"),
    [(9, 2, 2, [6, 3]), (8, 2, 3, [4, 2, 2]), (3, 4, 5, [3]), (0, 4, 2, [0]), (64, 32, 2, [32, 32])],
)
def test_portions_begin_with_a_batch_and_hold_everything_in_order(count, batch, workers, sizes):
    portions = sharing.portioned(list(range(count)), batch, workers)
    assert [len(portion) for portion in portions] == sizes
    assert [item for portion in portions for item in portion] == list(range(count))
    assert all(portion[0] % batch == 0 for portion in portions if portion)


def test_samples_of_shares_are_added_exactly_enough():
    features = 1e4 + torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    whole = Sample(None, FeatureStatistics.of(features), features)
    parts = [Sample(None, FeatureStatistics.of(part), part) for part in features.split(13)]
    found = joined([*parts, Sample(None, FeatureStatistics.empty(7), torch.empty(0, 7))])
    assert found.count == 50 and torch.equal(found.features, features)
    torch.testing.assert_close(found.statistics.mean, whole.statistics.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.statistics.covariance, whole.statistics.covariance, rtol=1e-9, atol=1e-9)


def test_networks_travel_without_what_is_loaded(job):
    networks = job["networks"].on("cpu")
    networks.features("inception")
    state = networks.__getstate__()
    assert state["_loaded"] == {} and networks._loaded
    assert networks.on("meta").device == torch.device("meta") and networks.on("meta")._loaded == {}


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="unknown engine 'slurm'; known: local, ray"), sharing.opened("slurm"):
        pass


def test_a_file_that_only_this_machine_sees_is_an_error(job, tmp_path):
    class Elsewhere(sharing.Alone):
        """A worker on a machine without the folder."""

        def shares(self, work, networks, items, batch, tick=None):
            hidden = tmp_path / "hidden"
            folder.rename(hidden)
            yield work(networks, items, lambda count: None)
            hidden.rename(folder)

    folder = save(tmp_path / "fast", pictures(3, size=(32, 32)))
    with pytest.raises(ValueError, match="the folders must lie on a disk that all machines share"):
        evaluate(open_pictures(folder), parse("clip"), job["networks"], workers=Elsewhere(), console=QUIET)


@pytest.mark.slow
def test_two_actors_of_ray_find_what_one_process_finds(job, alone):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with sharing.opened("ray", (2, 2)) as team:
            assert same_figures(evaluate(**job, workers=team, console=QUIET), alone)
            with pytest.raises(ValueError, match="no figure for 100"):
                list(team.shares(fail_at, job["networks"], [1, 100], 1))
    finally:
        ray.shutdown()


def test_adm_batches_are_shared_too(job, tmp_path):
    reals = [entry.load() for entry in open_pictures(job["reference"]).entries]
    np.savez(tmp_path / "batch.npz", arr_0=np.stack(reals))
    given = {**job, "reference": tmp_path / "batch.npz", "metrics": parse("fid,kid")}
    expected = evaluate(**given, console=QUIET)

    def share():
        with sharing.opened() as team:
            if team is not None:
                same_figures(evaluate(**given, workers=team, console=QUIET), expected)

    assert launched(share) == [0, 0]
