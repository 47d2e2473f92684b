"""Token merging in live models of every family: alone, and beside the caching methods."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch._dynamo.testing import CompileCounter

import dita
from dita.merges import Cells
from dita.merging.matching import Matching, cell_order, match
from dita.methods import SCORES, MergingRefusedWarning
from dita.shapes import Kind, Site
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.plans import on_a_cpu

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]


def tome(ratio: float = 0.5, **fields) -> dita.ToMe:
    """Merging of tiny models, which the cost model would refuse."""
    return dita.ToMe(ratio, **{"force": True, **fields})


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY, scope="module")
def family(request):
    return request.param


@pytest.fixture
def pipe(family):
    return family.tiny_pipeline()


@pytest.fixture(scope="module")
def plain(family) -> torch.Tensor:
    return family.call(family.tiny_pipeline())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0)


def modules_of(family) -> tuple[str, ...]:
    return ("attn", "mlp") if family in (tiny_flux, tiny_dit) else ("attn", "cross_attn", "mlp")


# ------------------------------------------------------------------------------------------------ nothing changes


@pytest.mark.parametrize("method", ["tome:0.0:force=true", "tome:0.0:proportional=true:force=true", "tome:0.0+toca:1"])
def test_nothing_merged_is_bit_equal_to_plain(family, pipe, plain, method: str) -> None:
    dita.enable(pipe, method)
    assert torch.equal(family.call(pipe), plain)


def test_disable_restores_classes_attributes_and_output(family, pipe, plain) -> None:
    family.call(pipe)
    classes = [type(m) for m in pipe.transformer.modules()]
    attributes = [set(vars(m)) for m in pipe.transformer.modules()]
    dita.enable(pipe, tome(modules=modules_of(family)))
    assert not torch.equal(family.call(pipe), plain)
    dita.disable(pipe)
    assert [type(m) for m in pipe.transformer.modules()] == classes
    assert [set(vars(m)) for m in pipe.transformer.modules()] == attributes
    assert torch.equal(family.call(pipe), plain)


def test_merging_that_costs_more_is_refused_with_its_numbers_and_the_output_is_plain(family, pipe, plain) -> None:
    dita.enable(pipe, "tome")
    with pytest.warns(
        MergingRefusedWarning, match=r"would take [\d.]+ ms to save [\d.]+ ms .*machine='cpu'.*force=True"
    ):
        out = family.call(pipe)
    assert torch.equal(out, plain)
    assert dita.summary(pipe, show=False).merged_share == 0


# ------------------------------------------------------------------------------------------------ what is computed


def first_of_each_cell(cells: Cells) -> torch.Tensor:
    return cell_order(cells, torch.zeros(cells.destinations, dtype=torch.int64))


@contextmanager
def merged_by_hooks(family, model, modules: tuple[str, ...], ratio: float, cells: dict[str, Cells]):
    """Merges in a plain model by hooks in front of its modules and behind them: what the engine must compute."""
    handles = []

    def on(module, before=None, after=None) -> None:
        if before is not None:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if after is not None:
            handles.append(module.register_forward_hook(after))

    for number, block in enumerate(family.blocks(model)):
        _hook_block(family, block, modules, ratio, cells, on, number)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook_block(family, block, modules, ratio, cells, on, number) -> None:
    state: dict[str, Matching] = {}
    stack = {tiny_opensora: ("spatial", "temporal")[number % 2]}.get(family, "block")
    geometry = cells[stack]
    time = stack == "temporal" and geometry.interleaved
    attn = block.attn if family is tiny_flux else block.attn1

    def sequences(x):
        if geometry.sequences == 1:
            return x
        x = x.reshape(x.shape[0], tiny_opensora.FRAMES, -1, x.shape[-1])
        return (x.transpose(1, 2) if time else x).flatten(0, 1)

    def tokens(x, batch):
        if geometry.sequences == 1:
            return x
        x = x.unflatten(0, (batch, -1))
        return (x.transpose(1, 2) if time else x).flatten(1, 2)

    def enter(_, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        order = first_of_each_cell(geometry)
        state["m"] = match(sequences(hidden), order, geometry.destinations, geometry.removed(ratio))
        state["batch"] = hidden.shape[0]

    on(block, before=enter)
    if family is tiny_flux:
        _hook_flux(block, attn, modules, geometry, state, on)
        return

    def attn_before(_, args, kwargs):
        kwargs = dict(kwargs)
        if kwargs.get("rotary") is not None:
            kwargs["rotary"] = tuple(table[state["m"].kept] for table in kwargs["rotary"])
        return (state["m"].merge(args[0]), *args[1:]), kwargs

    def leaf_before(_, args, kwargs):
        merged = state["m"].merge(sequences(args[0]))
        return (merged.reshape(args[0].shape[0], -1, args[0].shape[-1]), *args[1:]), kwargs

    def leaf_after(_, __, out):
        out = out.reshape(state["m"].kept.shape[0], -1, out.shape[-1])
        return tokens(state["m"].unmerge(out), state["batch"])

    if "attn" in modules and (stack != "temporal" or time):
        on(attn, attn_before, lambda _, __, out: state["m"].unmerge(out))
    if "cross_attn" in modules:
        on(block.attn2, leaf_before, leaf_after)
    if "mlp" in modules:
        on(block.ff, leaf_before, leaf_after)


def _hook_flux(block, attn, modules, geometry, state, on) -> None:
    """For one sample: then the stock attention takes the angles of the tokens that are kept."""
    text = tiny_flux.TEXT_TOKENS
    single = not hasattr(block, "ff")

    def merge(x):
        m = state["m"]
        return torch.cat([x[:, :text], m.merge(x[:, text:])], dim=1) if single else m.merge(x)

    def unmerge(x):
        m = state["m"]
        return torch.cat([x[:, :text], m.unmerge(x[:, text:])], dim=1) if single else m.unmerge(x)

    def rotary(kwargs):
        kept = torch.cat([torch.arange(text), text + state["m"].kept[0]])
        return {**kwargs, "image_rotary_emb": tuple(table[kept] for table in kwargs["image_rotary_emb"])}

    def attn_before(_, args, kwargs):
        return args, rotary({**kwargs, "hidden_states": merge(kwargs["hidden_states"])})

    def attn_after(_, __, out):
        return unmerge(out) if single else (unmerge(out[0]), *out[1:])

    both = single and set(modules) == {"attn", "mlp"}
    if both:
        on(block.norm, after=lambda _, __, out: (merge(out[0]), out[1]))
        on(attn, before=lambda _, args, kwargs: (args, rotary(kwargs)))
        on(block.proj_out, after=lambda _, __, out: unmerge(out))
        return
    if "attn" in modules:
        on(attn, attn_before, attn_after)
    if "mlp" in modules:
        mlp_in, mlp_out = (block.proj_mlp, block.act_mlp) if single else (block.ff, block.ff)
        on(mlp_in, before=lambda _, args, kwargs: ((merge(args[0]),), kwargs))
        on(mlp_out, after=lambda _, __, out: unmerge(out))


MODULES = [("attn",), ("mlp",), ("attn", "mlp")]


@pytest.mark.parametrize("modules", MODULES, ids="/".join)
def test_merged_modules_compute_what_hooks_round_the_plain_ones_do(family, modules) -> None:
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=1 if family is tiny_flux else 2)
    grid = (5, 7) if family is tiny_opensora else (8, 8)
    cells = dict.fromkeys(("block", "spatial", "temporal"), Cells(grid, (2, 2)))
    if family is tiny_opensora:
        cells = dict.fromkeys(cells, Cells(grid, (2, 2), sequences=tiny_opensora.FRAMES))
    with merged_by_hooks(family, model, modules, 0.4, cells):
        expected = family.forward(model, inputs, 0.3)
    dita.enable(model, tome(0.4, modules=modules, random=False), steps=4)
    assert close(family.forward(model, inputs, 0.3), expected)


@pytest.mark.parametrize("family", [tiny_pixart, tiny_opensora], ids=lambda module: module.FAMILY)
def test_merged_cross_attention_computes_what_hooks_round_the_plain_one_do(family) -> None:
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    grid = (5, 7) if family is tiny_opensora else (8, 8)
    frames = tiny_opensora.FRAMES if family is tiny_opensora else 1
    cells = dict.fromkeys(("block", "spatial", "temporal"), Cells(grid, (2, 2), sequences=frames))
    with merged_by_hooks(family, model, ("cross_attn",), 0.4, cells):
        expected = family.forward(model, inputs, 0.3)
    dita.enable(model, tome(0.4, modules=("cross_attn",), random=False), steps=4)
    assert close(family.forward(model, inputs, 0.3), expected)


def test_videos_merge_in_space_and_time() -> None:
    """Spatial blocks within a frame; temporal blocks along time, with the angles of the times that are kept."""
    family = tiny_opensora
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    cells = {
        "spatial": Cells((5, 7), (2, 3), sequences=family.FRAMES),
        "temporal": Cells((family.FRAMES,), (2,), sequences=35, interleaved=True),
    }
    modules = ("attn", "cross_attn", "mlp")

    def rotate(x, rotary):  # as the model's, with the angles of each sequence
        cos, sin = (table[:, :, None] if table.ndim == 3 else table[:, None] for table in rotary)
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin

    with pytest.MonkeyPatch.context() as patch, merged_by_hooks(family, model, modules, 0.5, cells):
        patch.setattr("dita.pipelines.opensora.attention.rotate", rotate)
        expected = family.forward(model, inputs, 0.3)
    dita.enable(model, tome(0.5, stride=(2, 2, 3), modules=modules, random=False), steps=4)
    assert close(family.forward(model, inputs, 0.3), expected)


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("family", [tiny_flux], ids=lambda module: module.FAMILY)
def test_tokens_that_are_all_alike_lose_nothing_where_merged_ones_count_in_proportion(family, proportional) -> None:
    """Beside text it matters how much the image weighs: with no positions, and the same in all image tokens, only
    proportional attention is exact."""
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    inputs["hidden_states"] = inputs["hidden_states"][:, :1].expand(-1, 64, -1).contiguous()
    model.pos_embed.register_forward_pre_hook(lambda _, args: (torch.zeros_like(args[0]),))
    expected = family.forward(model, inputs, 0.3)
    dita.enable(model, tome(0.75, modules=("attn",), proportional=proportional), steps=4)
    assert close(family.forward(model, inputs, 0.3), expected) == proportional


def test_proportional_attention_runs_and_differs(family, pipe) -> None:
    dita.enable(pipe, tome(0.6))
    without = family.call(pipe)
    dita.enable(pipe, tome(0.6, proportional=True))
    assert not torch.equal(family.call(pipe), without)


@pytest.mark.parametrize("beside", [None, "toca"])
def test_a_batch_of_two_prompts_gives_what_each_gives_alone(family, pipe, beside) -> None:
    methods = [tome(modules=modules_of(family)), dita.ToCa(3, 0.6, schedule="constant") if beside else "plain"]
    dita.enable(pipe, methods)
    both = family.call(pipe, count=2)
    assert close(both[:1], family.call(pipe, count=1))
    assert close(both[1:], family.call(pipe, count=1, first=1))


def test_same_seed_gives_the_same_output_and_another_seed_another(family, pipe) -> None:
    dita.enable(pipe, tome())
    first = family.call(pipe)
    assert torch.equal(family.call(pipe), first)
    dita.enable(pipe, tome(seed=1))
    assert not torch.equal(family.call(pipe), first)


def test_destinations_are_those_of_all_samples_and_of_both_calls_of_true_guidance(family) -> None:
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    kept: list[torch.Tensor] = []

    def note(block, *_):
        merger = block._dita.matcher
        kept.append(merger.matching.kept[:, -merger.destinations :])

    handle = family.blocks(model)[0].register_forward_hook(note)
    dita.enable(model, tome(0.75), steps=4, calls_per_step=2)
    with torch.no_grad():
        for _ in range(2):
            family.forward(model, inputs, 0.3)
            family.forward(model, {**inputs, "hidden_states": inputs["hidden_states"].flip(0)}, 0.3)
    handle.remove()
    once, again, next_step, _ = kept
    assert all(torch.equal(row, once[0]) for row in (*once, *again))
    assert not torch.equal(once, next_step)


# ------------------------------------------------------------------------------------------------ matchings in time


def matches(family, method, steps: int = 6) -> list[list[int]]:
    """By step: the blocks that matched their tokens."""
    model, inputs = family.tiny_transformer(), family.transformer_inputs()
    dita.enable(model, method, steps=steps)
    found: list[list[int]] = [[] for _ in range(steps)]
    now = [0]
    for number, block in enumerate(family.blocks(model)):
        block.register_forward_pre_hook(
            lambda block, _, number=number: found[now[0]].append(number) if block._dita.matcher else None
        )
    for s in range(steps):
        now[0] = s
        family.forward(model, inputs, s / steps)
    return found


def test_a_matching_serves_the_steps_and_layers_it_is_asked_to() -> None:
    everywhere = [0, 1, 2, 3, 4]  # two double-stream blocks, three single-stream ones
    assert matches(tiny_flux, tome()) == [everywhere] * 6
    assert matches(tiny_flux, tome(reuse_steps=4)) == [everywhere, [], [], [], everywhere, []]
    assert matches(tiny_flux, tome(reuse_layers=2)) == [[0, 2, 4]] * 6
    assert matches(tiny_flux, tome(reuse_steps=3, reuse_layers=9)) == [[0, 2], [], [], [0, 2], [], []]


def test_steps_between_full_ones_match_nothing() -> None:
    method = dita.methods.as_method([tome(reuse_steps=2), dita.FORA(3)])
    assert matches(tiny_dit, method, steps=7) == [[0, 1, 2], [], [], [0, 1, 2], [], [], [0, 1, 2]]


def test_a_prompt_of_another_length_in_mid_run_matches_anew() -> None:
    model = tiny_flux.tiny_transformer()
    dita.enable(model, tome(reuse_steps=9), steps=9)
    inputs = tiny_flux.transformer_inputs()
    run_with = [inputs, inputs, {**inputs, **_longer(inputs)}, {**inputs, **_longer(inputs)}]
    for s, arguments in enumerate(run_with):
        assert torch.isfinite(tiny_flux.forward(model, arguments, s / 9)).all()


def _longer(inputs):
    return {
        "encoder_hidden_states": inputs["encoder_hidden_states"].repeat(1, 2, 1),
        "txt_ids": inputs["txt_ids"].repeat(2, 1),
    }


# ------------------------------------------------------------------------------------------------ beside caching


def scores_of(family) -> list[str]:
    return [score for score in SCORES if score != "frame-uniqueness" or family is tiny_opensora]


@pytest.mark.parametrize(
    ("family", "score"),
    [(family, score) for family in FAMILIES for score in scores_of(family)],
    ids=lambda value: getattr(value, "FAMILY", value),
)
def test_executed_flops_tokens_and_bytes_are_those_of_the_plan(family, pipe, score: str) -> None:
    method = dita.methods.as_method(
        [tome(modules=modules_of(family), reuse_steps=5), dita.ToCa(3, 0.6, score=score, schedule="constant")]
    )
    dita.enable(pipe, method)
    family.call(pipe, count=2)
    summary = dita.summary(pipe, show=False)
    plan = method.plan(summary.shape, 8)
    assert summary.method == method
    assert summary.kinds == plan.kinds
    assert summary.flops == plan.flops() < summary.plain_flops == plan.plain_flops
    assert summary.score_flops == plan.score_flops
    assert summary.matching_flops == plan.matching_flops > 0
    assert summary.merged_share == pytest.approx(plan.merged_share)
    assert summary.token_share == plan.token_share()
    assert summary.cache_bytes == on_a_cpu(plan).cache_bytes
    assert "tokens merged" in str(summary) and method.label() in str(summary)


@pytest.mark.parametrize("reuse", [1, 4])
def test_bytes_without_a_cache_are_those_of_the_matchings(family, pipe, reuse: int) -> None:
    method = tome(reuse_steps=reuse, reuse_layers=2, modules=modules_of(family))
    dita.enable(pipe, method)
    family.call(pipe, count=2)
    summary = dita.summary(pipe, show=False)
    assert summary.cache_bytes == on_a_cpu(method.plan(summary.shape, 8)).cache_bytes
    assert (summary.cache_bytes > 0) == (reuse > 1)


def test_cached_steps_reuse_what_the_merged_full_step_computed(family, pipe) -> None:
    """FORA beside merging: between full steps every module's output is the merged one's, token by token."""
    stored = {}
    dita.enable(pipe, [tome(modules=modules_of(family)), dita.FORA(8)])
    block = family.blocks(pipe.transformer)[0]
    attn, calls = block.attn if family is tiny_flux else block.attn1, []
    mlp = block.ff
    for name, module in (("attn", attn), ("mlp", mlp)):
        module.register_forward_hook(lambda _, __, out, name=name: stored.__setitem__(name, out))

    def note(block, *_):
        slots = block._dita.slots
        calls.append((slots["attn"].kind, slots["attn"].merger is not None))
        if slots["attn"].kind is Kind.REUSE:
            for name in ("attn", "mlp"):
                kept, made = slots[name].out, stored[name]
                pairs = zip(kept, made, strict=True) if isinstance(made, tuple) else [(kept, made)]
                assert all(mine is theirs for mine, theirs in pairs)

    block.register_forward_hook(note)
    family.call(pipe)
    assert (Kind.FULL, True) in calls and (Kind.REUSE, False) in calls
    assert {merged for kind, merged in calls if kind is Kind.FULL} == {True}


def test_scores_of_merged_full_steps_are_those_of_all_tokens(family, pipe) -> None:
    for score in scores_of(family):
        dita.enable(
            pipe, [tome(modules=modules_of(family)), dita.ToCa(3, 0.5, score=score, schedule="constant")], record=True
        )
        family.call(pipe)
        selections = dita.summary(pipe, show=False).selections
        shape = dita.summary(pipe, show=False).shape
        for (_, site), index in selections.items():
            assert (index.diff() > 0).all() and index.max() < shape.tokens(site.module)


def test_fewer_steps_merge_too(family, pipe) -> None:
    dita.enable(pipe, [tome(), dita.FewerSteps(0.5)])
    family.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 4 and summary.merged_share > 0.4
    assert summary.plain_flops > 2 * summary.flops


BESIDE = {
    "duca:3": FAMILIES,
    "taylorseer:3": FAMILIES,
    "deltadit:2": FAMILIES,
    "taylorseer:3:1:modules=attention": FAMILIES,
    "pab:1": FAMILIES,
    "tgate:5": [tiny_pixart, tiny_opensora],
}


@pytest.mark.parametrize("reuse", [1, 5])
@pytest.mark.parametrize(
    ("family", "other"),
    [(family, other) for other, families in BESIDE.items() for family in families],
    ids=lambda value: getattr(value, "FAMILY", value),
)
def test_every_method_runs_beside_merging_as_its_plan_says(family, other: str, reuse: int) -> None:
    method = dita.methods.as_method([tome(0.4, modules=modules_of(family), reuse_steps=reuse), other])
    pipe = dita.enable(family.tiny_pipeline(), method)
    out = family.call(pipe, count=2)
    assert torch.isfinite(out).all()
    summary = dita.summary(pipe, show=False)
    plan = method.plan(summary.shape, 8)
    if not other.startswith("pab"):  # whose plan goes by the timesteps of the run
        assert summary.kinds == plan.kinds
        assert summary.flops == pytest.approx(plan.flops()) and summary.cache_bytes == on_a_cpu(plan).cache_bytes
        assert summary.matching_flops == pytest.approx(plan.matching_flops)
    assert 0.2 < summary.merged_share <= 0.4


def test_where_guidance_ends_tokens_are_matched_anew() -> None:
    method = dita.methods.as_method([tome(reuse_steps=99), "tgate:5"])
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), method)
    tiny_pixart.call(pipe)
    plan = method.plan(dita.summary(pipe, show=False).shape, 8)
    assert plan.joined == 5
    assert [bool(matched) for matched in plan.matched] == [s in (0, 5) for s in range(8)]
    assert dita.summary(pipe, show=False).matching_flops == plan.matching_flops


def test_modules_with_cycles_of_their_own_merge_where_they_are_full() -> None:
    method = dita.methods.as_method([tome(modules=("attn", "cross_attn", "mlp")), dita.ToCa(2, 0.5, cross_cycle=4)])
    for family in (tiny_pixart, tiny_opensora):
        pipe = dita.enable(family.tiny_pipeline(), method)
        assert torch.isfinite(family.call(pipe, steps=9)).all()
        summary = dita.summary(pipe, show=False)
        plan = method.plan(summary.shape, 9)
        assert summary.flops == plan.flops() and summary.cache_bytes == on_a_cpu(plan).cache_bytes
        mixed = [step for step, kind in zip(plan.steps, plan.kinds, strict=True) if kind is Kind.PARTIAL]
        assert any(action.merged for step in mixed for action in step.values())


def test_text_is_never_merged() -> None:
    pipe = dita.enable(tiny_flux.tiny_pipeline(), tome(0.75, modules=("attn", "mlp")))
    lengths = set()
    for block in pipe.transformer.transformer_blocks:
        block.ff_context.register_forward_pre_hook(lambda _, args: lengths.add(args[0].shape[1]))
    tiny_flux.call(pipe)
    assert lengths == {tiny_flux.TEXT_TOKENS}
    plan = dita.ToMe(modules=("attn", "mlp"), force=True).plan(dita.summary(pipe, show=False).shape, 8)
    assert plan.steps[0][Site("double", 0, "text_mlp")].merged == 0


# ------------------------------------------------------------------------------------------------ instances and errors


def test_two_pipelines_with_different_methods_do_not_touch_each_other(family, plain) -> None:
    one, two, untouched = family.tiny_pipeline(), family.tiny_pipeline(), family.tiny_pipeline()
    dita.enable(one, tome())
    alone = family.call(one)
    dita.enable(two, [tome(0.25), "fora:2"])
    family.call(two)
    assert torch.equal(family.call(one), alone)
    assert torch.equal(family.call(untouched), plain)


def test_an_exception_in_a_call_leaves_the_pipeline_usable_and_the_next_call_right(family, pipe) -> None:
    dita.enable(pipe, [tome(reuse_steps=4), "toca:4:0.9"])
    expected = family.call(pipe)
    calls = []

    def explode(*_):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("boom")

    handle = family.blocks(pipe.transformer)[-1].register_forward_hook(explode)
    with pytest.raises(RuntimeError, match="boom"):
        family.call(pipe)
    handle.remove()
    assert all(block._dita.matcher is None for block in family.blocks(pipe.transformer))
    assert torch.equal(family.call(pipe), expected)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("tome:0.8", r"ratio must be in \[0, 0.75\].*got 0.8"),
        ("tome:0.51:stride=1x2", r"ratio must be in \[0, 0.5\]"),
        (["fora:3", "toca:4"], "fora and toca both claim every block's modules"),
        (["tome", "tome:0.3"], "tome and tome:0.3 both claim the merging of tokens"),
        ([], "a composition takes one tome and one other method, got none"),
        (3, "method must be a dita method or its short form"),
    ],
)
def test_bad_methods_are_refused_before_anything_is_changed(family, pipe, plain, method, message) -> None:
    with pytest.raises(ValueError, match=message):
        dita.enable(pipe, method)
    assert not any("_dita" in vars(module) for module in pipe.transformer.modules())
    assert torch.equal(family.call(pipe), plain)


@pytest.mark.parametrize("stride", [(9, 2), (2, 9)])
def test_a_grid_smaller_than_the_stride_is_an_error_that_leaves_the_pipeline_as_it_was(
    family, pipe, plain, stride
) -> None:
    dita.enable(pipe, tome(stride=stride))
    grid = "2x2" if family is tiny_opensora else "8x8"
    with pytest.raises(ValueError, match=f"{stride[0]}x{stride[1]} tokens does not fit into a grid of {grid} tokens"):
        family.call(pipe)
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)


def test_a_module_that_the_family_does_not_have_is_an_error() -> None:
    pipe = dita.enable(tiny_dit.tiny_pipeline(), tome(modules=("cross_attn",)))
    with pytest.raises(ValueError, match="merges cross_attn, which dit does not have; it has attn, mlp"):
        tiny_dit.call(pipe)


def test_pictures_without_a_grid_and_foreign_processors_are_errors() -> None:
    model, inputs = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs()
    dita.enable(model, tome(), steps=4)
    with pytest.raises(ValueError, match="merging needs image tokens that form one grid"):
        tiny_flux.forward(model, {**inputs, "img_ids": inputs["img_ids"].flip(0)}, 0.3)

    class Other(type(model.transformer_blocks[0].attn.processor)):
        pass

    model.transformer_blocks[0].attn.processor = Other()
    with pytest.raises(ValueError, match="tokens cannot be merged in attention with a Other"):
        tiny_flux.forward(model, inputs, 0.3)


@pytest.mark.parametrize("family", [tiny_pixart, tiny_dit], ids=lambda module: module.FAMILY)
@pytest.mark.parametrize("proportional", [False, True])
def test_other_processors_run_on_merged_tokens(family, proportional: bool) -> None:
    method = [tome(proportional=proportional), dita.ToCa(3, 0.5, score="attention", schedule="constant")]
    expected = family.call(dita.enable(family.tiny_pipeline(), method))
    pipe = family.tiny_pipeline()
    for module in pipe.transformer.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(AttnProcessor())
    assert close(family.call(dita.enable(pipe, method)), expected)


def test_fused_projections(family) -> None:
    if family is tiny_dit:
        pytest.skip("diffusers does not fuse DiT's projections")
    method = [tome(modules=modules_of(family)), dita.ToCa(3, 0.5, schedule="constant")]
    expected = family.call(dita.enable(family.tiny_pipeline(), method))
    pipe = family.tiny_pipeline()
    pipe.transformer.fuse_qkv_projections()
    assert close(family.call(dita.enable(pipe, method)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(family, dtype: torch.dtype) -> None:
    model, inputs = family.tiny_transformer().to(dtype), family.transformer_inputs()
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    expected = family.forward(model, inputs, 0.0)
    dita.enable(model, [tome(modules=modules_of(family), proportional=True), dita.ToCa(3, 0.5)], steps=4)
    for s in range(4):
        out = family.forward(model, inputs, s / 4)
        assert out.dtype == expected.dtype and torch.isfinite(out).all()


def test_accelerated_pipelines_take_compositions_for_one_call() -> None:
    from dita.pipelines import AcceleratedDiTPipeline

    pipe = tiny_dit.tiny_pipeline()
    dita.enable(pipe, [tome(), "fora:2"])
    expected = tiny_dit.call(pipe)
    dita.disable(pipe)
    twin = AcceleratedDiTPipeline.from_pipe(pipe)
    twin.set_progress_bar_config(disable=True)
    assert torch.equal(tiny_dit.call(twin, method=[tome(), "fora:2"]), expected)


@pytest.mark.parametrize("family", FAMILIES[:3], ids=lambda module: module.FAMILY)
def test_compiled_blocks_merge_in_a_few_graphs_whatever_the_depth(family) -> None:
    counts = {}
    for depth in (4, 7):
        torch._dynamo.reset()
        eager, compiled = (_enabled(family, depth) for _ in range(2))
        counter = CompileCounter()
        for block in family.blocks(compiled):
            block.compile(fullgraph=True, backend=counter)
        for s in range(6):
            expected = family.forward(eager, family.transformer_inputs(), s / 6)
            assert close(family.forward(compiled, family.transformer_inputs(), s / 6), expected)
        counts[depth] = counter.frame_count
    torch._dynamo.reset()
    assert counts[4] == counts[7]


def _enabled(family, depth: int):
    method = [tome(reuse_steps=2), "toca:3:0.5:schedule=constant"]
    return dita.enable(family.tiny_transformer(1, depth), method, steps=6)
