"""Nobody is measured who does not do what he claims."""

from __future__ import annotations

import pytest
import torch

from dita.bench.contenders import Accelerated, Claim, Contender, Refused, blocks_of, check, twin
from dita.bench.job import _count
from dita.bench.workloads import workload
from dita.methods import parse
from tests.bench.test_workloads import TINY

STEPS = 7


@pytest.fixture(scope="module", params=["cpu-flux", "cpu-pixart", "cpu-opensora", "dit-xl-2-256"])
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


@pytest.mark.parametrize(
    "method",
    [
        "fora:3",
        "toca:3:0.6",
        "toca:3:0.6:random",
        "duca:3:0.6",
        "taylorseer:3:1",
        "taylorseer:3:1:lite=true",
        "deltadit:2",
        "tgate:3",
        "pab:2:low=0:high=1000",
        "tome:0.5:force=true",
        "tome:0.5:force=true+toca:3:0.6",
    ],
)
@torch.no_grad()
def test_every_method_executes_the_rows_of_its_plan(work, model, inputs, plain, method: str) -> None:
    parsed = parse(method)
    if work.shape.family not in parsed.families:
        pytest.skip(f"{parsed.name} is not for {work.shape.family}")
    plan = parsed.on("cpu").plan(work.shape, STEPS, work.timesteps(STEPS))
    contender = Accelerated(twin(model), parsed, plan, work.timesteps(STEPS))
    counted, _, _ = _count(work, contender, inputs)
    claims = check(contender, plain, counted)
    assert tuple(claim.kind for claim in claims) == tuple(kind.value for kind in plan.kinds)
    assert sum(sum(c.rows.values()) for c in counted) < STEPS * sum(plain.rows.values()), "something was skipped"


@torch.no_grad()
def test_a_false_claim_is_found_and_told(work, model, inputs, plain) -> None:
    class Boasting(Contender):
        def claims(self, plain, counted):
            return [Claim("cached", {**plain.rows, "mlp": 0})] * self.steps

    contender = Boasting("boasting", twin(model), 2)
    counted, _, _ = _count(work, contender, inputs)
    with pytest.raises(Refused, match=rf"step 0, said to be cached, executed {plain.rows['mlp']} rows of mlp, not 0"):
        check(contender, plain, counted)


def test_a_twin_shares_weights_and_nothing_else(model) -> None:
    other = twin(model)
    assert [t.data_ptr() for t in other.parameters()] == [t.data_ptr() for t in model.parameters()]
    assert not {id(m) for m in other.modules()} & {id(m) for m in model.modules()}
    assert len(blocks_of(other)) == len(blocks_of(model))
