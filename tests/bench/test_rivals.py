"""diffusers' and cache-dit's caches: where they work, they are set as asked for; elsewhere they are refused."""

from __future__ import annotations

import gc
import importlib.util
import sys

import pytest
import torch

from dita.bench.contenders import Contender, Refused, check, twin
from dita.bench.job import _count, _tune
from dita.bench.rivals import (
    RIVALS,
    DBCache,
    DBCacheTaylorSeer,
    FasterCache,
    FirstBlockCache,
    MagCache,
    PyramidAttentionBroadcast,
    Setting,
    TaylorSeer,
    TaylorSeerLite,
    TaylorSeerModules,
    chosen,
)
from dita.bench.sampling import sample
from dita.bench.workloads import workload
from tests.bench.test_workloads import TINY

SETTING = Setting(steps=10, full_steps=(0, 1, 2, 5, 8))

WORKS = {
    "cpu-flux": set(RIVALS),
    "cpu-pixart": {MagCache, PyramidAttentionBroadcast, FasterCache, DBCache, DBCacheTaylorSeer},
    "cpu-opensora": {PyramidAttentionBroadcast, FasterCache},
}
"""As shared/spec/peers.md found it; a new release of theirs that works elsewhere too should be noticed."""

needs_cache_dit = pytest.mark.skipif(importlib.util.find_spec("cache_dit") is None, reason="cache-dit is not installed")


def rivals() -> list:
    return [
        pytest.param(rival, marks=[needs_cache_dit] if rival.library == "cache-dit" else [], id=rival.name)
        for rival in RIVALS
    ]


@pytest.fixture(scope="module", params=WORKS)
def work(request):
    return workload(request.param, scale=TINY[request.param])


@pytest.fixture(scope="module")
def model(work):
    return work.build(torch.float32, "cpu")


@pytest.fixture(scope="module")
def inputs(work):
    return work.inputs(torch.float32, "cpu")


@pytest.fixture(scope="module")
def plain(work, model, inputs):
    with torch.no_grad():
        return _count(work, Contender("plain", twin(model), 1), inputs)[0][0]


@pytest.mark.parametrize("rival", rivals())
@torch.no_grad()
def test_it_skips_what_it_claims_where_it_works_and_is_refused_elsewhere(work, model, inputs, plain, rival) -> None:
    works = rival in WORKS[work.shape.name.split()[0]]
    try:
        contender = rival(twin(model), SETTING)
        if isinstance(contender, FirstBlockCache):
            _tune(work, contender, inputs, plain)
        for _ in range(2):  # the second run finds nothing of the first
            counted, _, _ = _count(work, contender, inputs)
            claims = check(contender, plain, counted)
    except Exception as error:
        assert not works, error
        return
    assert works, "it works where it did not: tell docs/performance.md"
    full = [claim.kind for claim in claims].count("full")
    assert abs(full - len(SETTING.full_steps)) <= 1
    assert counted[0].rows == plain.rows and any(count.rows != plain.rows for count in counted)


@torch.no_grad()
def test_a_first_block_cache_that_cannot_be_tuned_is_refused() -> None:
    """A model whose blocks put out the same in every step, and so crosses no threshold."""
    work = workload("cpu-flux", scale=0.05)
    model, inputs = work.build(torch.float32, "cpu"), work.inputs(torch.float32, "cpu")
    plain = _count(work, Contender("plain", twin(model), 1), inputs)[0][0]
    contender = FirstBlockCache(twin(model), Setting(4, (0, 2)))
    with pytest.raises(Refused, match="no threshold computes 2 of 4 steps in full"):
        contender.claims(plain, [plain] * 4)


@pytest.mark.parametrize(
    ("rival", "full"),
    [
        (MagCache, [0, 1, 2, 5, 8]),
        (TaylorSeer, [0, 1, 2, 4, 7]),
        (PyramidAttentionBroadcast, [0, 1, 2, 4, 8]),
    ],
)
def test_intervals_are_those_that_come_nearest_to_the_full_steps_to_match(rival, full: list[int]) -> None:
    assert SETTING.leading == 3
    assert rival(workload("cpu-flux", scale=0.05).build(torch.float32, "cpu"), SETTING).full_steps() == full


@pytest.mark.parametrize(
    "rival", [TaylorSeerModules, PyramidAttentionBroadcast, pytest.param(DBCache, marks=needs_cache_dit)]
)
@torch.no_grad()
def test_what_a_cache_holds_is_freed_at_the_end_of_a_run(rival) -> None:
    """Twenty of them on FLUX would fill a GPU otherwise."""
    work = workload("cpu-flux", scale=0.1)
    contender = rival(twin(work.build(torch.float32, "cpu")), SETTING)
    inputs, before = work.inputs(torch.float32, "cpu"), held()
    sample(work, contender, inputs)
    assert held() <= before


def held() -> int:
    """Bytes of all tensors that there are."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


def test_lists_of_rivals() -> None:
    assert chosen("none") == [] == chosen("")
    assert chosen("diffusers:magcache, diffusers:pab") == [MagCache, PyramidAttentionBroadcast]
    assert chosen("diffusers") == [rival for rival in RIVALS if rival.library == "diffusers"]
    assert {TaylorSeer, TaylorSeerLite, TaylorSeerModules} < set(chosen("diffusers:taylorseer,diffusers"))
    with pytest.raises(ValueError, match=r"unknown rival 'teacache'; known: none, diffusers, cache-dit, .*dbcache"):
        chosen("teacache")


def test_cache_dit_that_is_not_installed_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    with pytest.raises(ValueError, match=r"cache-dit is not installed; `pip install cache-dit`"):
        chosen("cache-dit")
