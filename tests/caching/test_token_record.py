"""What a record says was computed and merged is what the plan says, and what the sites did."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import dita
from dita.caching import run as engine
from dita.caching.adapters import adapter_for
from dita.merging.merger import Merger
from dita.shapes import Kind, Site
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.for_family import method_for

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]
METHODS = [
    "steps:0.5",
    "fora:3",
    "toca:3:0.5",
    "toca:3:0.7:norm",
    "toca:3:0.5:random:strict=true",
    "duca:3:0.5",
    "taylorseer:3",
    "deltadit",
    "tgate",
    "pab",
    "tome:0.5:force=true",
    "tome:0.5:force=true+toca:3:0.5",
]


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY, scope="module")
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(family):
    return family.tiny_pipeline()


def summary_of(family, pipe, method: dita.methods.MethodLike, count: int = 1, **kwargs) -> dita.Summary:
    dita.enable(pipe, method, record=True)
    with warnings.catch_warnings():  # tiny models have nothing to skip, and a few steps no second order
        warnings.simplefilter("ignore", UserWarning)
        family.call(pipe, count=count, **kwargs)
    return dita.summary(pipe, show=False)


def record_of(family, pipe, method: dita.methods.MethodLike, count: int = 1, **kwargs) -> dita.TokenRecord:
    record = summary_of(family, pipe, method, count, **kwargs).tokens
    assert record is not None
    return record


# ------------------------------------------------------------------------------------------------ true to the run


@pytest.mark.parametrize("text", METHODS)
def test_every_site_computed_as_many_tokens_as_planned_and_recording_changes_no_bit(family, pipe, text: str) -> None:
    method = method_for(family.FAMILY, text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dita.enable(pipe, method)
        expected = family.call(pipe, count=2)
        assert dita.summary(pipe, show=False).tokens is None
        dita.enable(pipe, method, record=True)
        assert torch.equal(family.call(pipe, count=2), expected)
        summary = dita.summary(pipe, show=False)
        plan = method.on("cpu").plan(summary.shape, 8, pipe.scheduler.timesteps.tolist())
    assert summary.plan is not None and summary.plan.steps == plan.steps
    record = summary.tokens
    assert record is not None and record.steps == len(plan.steps) and record.samples == 2
    assert tuple(map(record.kind, range(record.steps))) == plan.kinds
    for s, step in enumerate(plan.steps):
        for site, action in step.items():
            assert (record.computed(s, site).sum(axis=1) == action.tokens).all(), (s, site, action)
        merging = {(site.stack, site.layer) for site, action in step.items() if action.merged}
        assert set(record.merging_blocks(s)) == merging
        if plan.kinds[s] is Kind.FULL:
            assert (record.share(s, sample=1) == 1).all()


@pytest.mark.parametrize("score", ["uniform", "norm"])  # selected before the cycle, and inside its steps
def test_the_tokens_recorded_as_computed_are_those_whose_stored_output_changed(family, score: str) -> None:
    pipe = family.tiny_pipeline()
    changed: dict[tuple[int, Site], torch.Tensor] = {}
    before: dict[str, torch.Tensor] = {}
    step = 0

    def enter(block, *_) -> None:
        before.clear()
        for module, slot in block._dita.slots.items():
            if slot.kind is Kind.PARTIAL and module != "cross_attn":  # which a prompt of one word leaves as it is
                before[module] = slot.out.clone()

    def leave(block, *_) -> None:
        for module, stored in before.items():
            differs = (block._dita.slots[module].out != stored).any(dim=-1)
            changed[step, Site(*names[block], module)] = differs

    def end(*_) -> None:
        nonlocal step
        step += 1

    dita.enable(pipe, dita.ToCa(3, 0.5, score, schedule="constant"), record=True)
    for block in family.blocks(pipe.transformer):
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    pipe.transformer.register_forward_hook(end)
    names = {block: (stack, layer) for stack, layer, block in adapter_for(pipe.transformer).blocks(pipe.transformer)}
    family.call(pipe, count=2)
    record = dita.summary(pipe, show=False).tokens
    assert record is not None and record.blocks == tuple(names.values())
    assert len({s for s, _ in changed}) > 2 and set(changed) == {
        (s, site) for s, site, _ in record.selections() if site.module != "cross_attn"
    }
    for (s, site), differs in changed.items():
        assert np.array_equal(record.computed(s, site), differs.numpy()), (s, site)


def test_selections_of_the_summary_are_the_record_as_tensors(family, pipe) -> None:
    summary = summary_of(family, pipe, "toca:3:0.5:random:schedule=constant", count=2)
    assert summary.tokens is not None and summary.selections
    for (step, site), index in summary.selections.items():
        assert index.dtype == torch.int32 and (index.diff() > 0).all()
        mask = torch.from_numpy(summary.tokens.computed(step, site))
        assert torch.equal(torch.zeros_like(mask).scatter(1, index.long(), True), mask)


@pytest.mark.parametrize("text", ["tome:0.6:force=true", "tome:0.5:force=true:reuse_steps=3:reuse_layers=2"])
def test_groups_are_the_tokens_that_become_one(family, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    members: dict[Merger, torch.Tensor] = {}
    stock = Merger.match

    def match(self: Merger, tokens: torch.Tensor) -> None:
        stock(self, tokens)
        every = torch.eye(tokens.shape[1]).expand(len(tokens), -1, -1)  # a token's row becomes its group's mean of them
        members[self] = self.unmerge(self.merge(every)) > 0

    monkeypatch.setattr(Merger, "match", match)
    pipe = family.tiny_pipeline()
    per_step: list[list[torch.Tensor]] = []

    def end(model, *_) -> None:
        mergers = [
            next((slot.merger for slot in block._dita.slots.values() if slot.merger is not None), None)
            for block in family.blocks(model)
        ]
        per_step.append([members[merger] for merger in mergers if merger is not None])

    dita.enable(pipe, text, record=True)
    pipe.transformer.register_forward_hook(end)
    family.call(pipe, count=2)
    record = dita.summary(pipe, show=False).tokens
    assert record is not None and len(per_step) == record.steps == 8
    for step, expected in enumerate(per_step):
        blocks = record.merging_blocks(step)
        assert len(blocks) == len(expected) > 0
        for block, together in zip(blocks, expected, strict=True):
            for sample in range(2):
                groups = record.groups(step, block, sample=sample)
                assert groups.shape == record.grid
                flat = groups.ravel()
                assert np.array_equal(flat[:, None] == flat[None], together[sample].numpy())
                assert (flat[flat] == flat).all()  # a destination is in its own group
                assert len(np.unique(flat)) < flat.size


def test_a_batch_records_for_each_prompt_what_it_records_alone(family, pipe) -> None:
    method = dita.ToCa(3, 0.5, schedule="constant")
    both = record_of(family, pipe, method, count=2)
    for sample in range(2):
        alone = record_of(family, pipe, method, first=sample)
        for step in range(8):
            assert np.array_equal(both.share(step, sample=sample), alone.share(step))
    shares = [np.array_equal(both.share(step, sample=0), both.share(step, sample=1)) for step in range(8)]
    assert not all(shares)


# ------------------------------------------------------------------------------------------------ reading it


def test_the_share_is_the_mean_over_the_sites_that_have_image_tokens(family, pipe) -> None:
    record = record_of(family, pipe, "toca:3:0.5:random:schedule=constant")
    shape = record.recorded[0].geometry.shape
    step = next(s for s in range(8) if record.kind(s) is Kind.PARTIAL)
    sites = [site for site in shape.sites() if site.module != "text_mlp"]
    images = {site: record.computed(step, site)[0, -np.prod(record.grid) :].reshape(record.grid) for site in sites}
    share = record.share(step)
    assert share.shape == record.grid and 0 < share.mean() < 1
    np.testing.assert_allclose(share, np.mean([images[site] for site in sites], axis=0), atol=1e-6)
    for number, (stack, layer) in enumerate(record.blocks):
        here = [site for site in sites if (site.stack, site.layer) == (stack, layer)]
        np.testing.assert_allclose(record.share(step, number), np.mean([images[s] for s in here], axis=0), atol=1e-6)
        assert np.array_equal(record.share(step, number), record.share(step, (stack, layer)))
        assert np.array_equal(record.share(step, number, here[-1].module), images[here[-1]].astype(np.float32))
    assert {site.module for site in sites} == set(record.modules)


def test_the_grid_is_that_of_the_picture_or_video() -> None:
    record = record_of(tiny_opensora, tiny_opensora.tiny_pipeline(), "fora:2", height=48, width=96)
    assert record.grid == record.share(0).shape == (tiny_opensora.FRAMES, 3, 6)
    record = record_of(tiny_pixart, tiny_pixart.tiny_pipeline(), "fora:2", height=32, width=48)
    rows, columns = record.grid
    assert 2 * columns == 3 * rows


def test_tokens_without_a_grid_are_a_line() -> None:
    model = tiny_flux.tiny_transformer()
    inputs = tiny_flux.transformer_inputs()
    inputs["img_ids"] = inputs["img_ids"].flip(0)
    dita.enable(model, "toca:3:0.5", steps=4, record=True)
    for step in range(4):
        tiny_flux.forward(model, inputs, step / 4)
    record = dita.summary(model, show=False).tokens
    assert record is not None and record.grid == (64,) and record.share(3).shape == (64,)
    with pytest.raises(ValueError, match="64 image tokens of this run form no grid"):
        dita.plot_tokens(record, 3)


def test_halves_that_choose_apart_count_half_each() -> None:
    pipe = tiny_dit.tiny_pipeline()
    shared = record_of(tiny_dit, pipe, "toca:3:0.5", guidance_scale=4.0)
    apart = record_of(tiny_dit, pipe, "toca:3:0.5:strict=true", guidance_scale=4.0)
    for record, values in ((shared, {0, 1}), (apart, {0, 0.5, 1})):
        seen = set()
        for step in range(8):
            if record.kind(step) is Kind.PARTIAL:
                seen |= set(record.share(step, 0, "mlp").ravel().tolist())
        assert seen == values


def test_the_second_call_of_true_guidance_is_not_recorded_apart() -> None:
    pipe = tiny_flux.tiny_pipeline()
    alone = record_of(tiny_flux, pipe, "toca:3:0.5:uniform")
    negative = {f"negative_{name}": value for name, value in tiny_flux.prompts(seed=2).items()}
    summary = summary_of(tiny_flux, pipe, "toca:3:0.5:uniform", true_cfg_scale=2.0, **negative)
    assert len(summary.executed) == 16 and summary.tokens is not None and summary.tokens.steps == 8
    for step in range(8):
        assert np.array_equal(summary.tokens.share(step), alone.share(step))


def test_a_record_is_small(family, pipe) -> None:
    """A bit for each token of a partial site, rounded up to a byte a row, and 4 bytes for each matched token."""
    record = record_of(family, pipe, "toca:3:0.5:random:schedule=constant")
    shape = record.recorded[0].geometry.shape
    sites = [site for _, site, _ in record.selections()]
    assert sites and record.nbytes == sum(shape.rows * -(-shape.tokens(site.module) // 8) for site in sites)
    record = record_of(family, pipe, "tome:0.5:force=true")
    matched = sum(len(record.merging_blocks(step)) for step in range(8))
    assert record.nbytes == 4 * matched * shape.rows * np.prod(record.grid)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda r: r.share(8), "step must be one of the 8 recorded ones, counted from 0, got 8"),
        (lambda r: r.share(0, 5), r"layer must be a number from 0 to 4, or of \('double', 0 to 1\), .* got 5"),
        (lambda r: r.share(0, ("double", 2)), r"got \('double', 2\)"),
        (lambda r: r.share(0, module="text_mlp"), "'text_mlp' has no image tokens here; those that have are attn, mlp"),
        (lambda r: r.share(0, ("double", 0), "single"), "block 0 of the stack 'double' has no module 'single'"),
        (lambda r: r.share(0, sample=1), "sample must be 0 to 0, got 1"),
        (lambda r: r.groups(0), "no tokens were merged at step 0"),
        (lambda r: r.computed(0, Site("block", 0, "mlp")), "site block.0.mlp is not in this model"),
    ],
)
def test_what_is_not_there_is_named(ask, words: str) -> None:
    record = record_of(tiny_flux, tiny_flux.tiny_pipeline(), "fora:2")
    with pytest.raises(ValueError, match=words):
        ask(record)


def test_a_block_that_merged_nothing_is_named() -> None:
    pipe = (
        tiny_opensora.tiny_pipeline()
    )  # its temporal blocks have sequences along time, which a picture's cells do not
    record = record_of(tiny_opensora, pipe, "tome:0.5:force=true:modules=attn")
    with pytest.raises(ValueError, match="block temporal 0 merged no tokens at step 0; those that did: spatial 0"):
        record.groups(0, ("temporal", 0))


# ------------------------------------------------------------------------------------------------ what it costs


def test_tokens_leave_the_device_once_a_cycle(family, pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = 0
    stock = torch.Tensor.cpu

    def counted(self: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        nonlocal moves
        moves += 1
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    method = dita.ToCa(3, 0.5, "uniform", schedule="constant", cross_cycle=3)
    counts = []
    for record in (False, True):
        moves = 0
        dita.enable(pipe, method, record=record)
        family.call(pipe)
        counts.append(moves)
    kinds = "".join(kind.value[0] for kind in dita.summary(pipe, show=False).kinds)
    cycles = len([run for run in kinds.split("f") if run])
    assert cycles > 1
    assert counts[1] - counts[0] <= cycles + 1  # and once for the grid, where the family reads it off the device


def test_nothing_is_set_up_without_record(family, pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_) -> None:
        raise AssertionError("a recorder was made")

    monkeypatch.setattr(engine, "Recorder", refuse)
    dita.enable(pipe, "toca:3:0.5")
    family.call(pipe)
    assert dita.summary(pipe, show=False).tokens is None and dita.summary(pipe, show=False).selections == {}


def test_a_run_that_breaks_off_keeps_what_it_recorded(family) -> None:
    pipe = family.tiny_pipeline()

    calls = 0

    def stop(*_) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("stopped")

    dita.enable(pipe, "toca:3:0.5:uniform", record=True)
    pipe.transformer.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        family.call(pipe)
    record = dita.summary(pipe, show=False).tokens
    assert record is not None and record.steps == 5 and record.grid == record.share(4).shape
