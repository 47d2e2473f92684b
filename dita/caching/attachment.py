"""Attaches a method to one pipeline or transformer: `enable`, `disable`, `summary`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from diffusers import DiffusionPipeline
from torch import nn

from dita.caching import pipeline_attachment, second_cache, transformer_attachment
from dita.caching.adapters import UnsupportedModelError, adapter_for
from dita.caching.attached import Attachment
from dita.caching.broken import Checks, OnNan
from dita.caching.origin import Origin, target_facts
from dita.caching.ownership import known, transformer_of
from dita.caching.pipeline_attachment import PipelineAttachment
from dita.caching.summary import Summary
from dita.caching.transformer_attachment import TransformerAttachment
from dita.methods import MethodLike, saved_method
from dita.stores import Store
from dita.values import integer, number, shown, switch, whole

__all__ = ["PipelineAttachment", "attachment_of", "disable", "enable", "enabled", "summary", "transformer_of"]

_LOG = logging.getLogger(__name__)

Target = TypeVar("Target", DiffusionPipeline, nn.Module)


def enable(
    target: Target,
    method: MethodLike,
    *,
    steps: int | None = None,
    calls_per_step: int = 1,
    timesteps: Sequence[float] | None = None,
    record: bool = False,
    memory_limit: int | None = None,
    store: Store | None = None,
    guided_halves: bool = False,
    on_nan: OnNan = "raise",
    guard: float | None = None,
) -> Target:
    """Accelerates `target`, in place, until `disable`. Enabling again replaces the method.

    Args:
        target: a diffusers pipeline, or a bare transformer for people with their own sampling loop.
        method: a method, its short form such as `"toca:4:0.9"`, the path of its file such as `"tuned/method.json"`, or
            two that work together: `[ToMe(), ToCa()]`. Where a file says what its method was made for, and that is
            another model, scheduler or type than this, or steps and size of a call, one warning names it.
        steps: denoising steps of a run; bare transformers only, where it is required. A sampler of second order that
            calls the model twice in a step takes two here. A new run begins after them, after an exception, and when
            the size of the input changes; to break one off, enable again.
        calls_per_step: transformer calls in each step, bare transformers only (2 with guidance by two calls).
        timesteps: of the steps, 1000 to 0, bare transformers only: for methods that go by them (PAB), and on a CPU to
            compute FLUX's modulations ahead. PAB takes the family's usual ones by default.
        record: keep which tokens each step computed and merged, for `summary(...).tokens` and the plots of them.
        memory_limit: bytes that the feature store may take, an error where it needs more; without it, the memory that
            is free.
        store: how features are kept: in fewer bits, in the host's memory, or not more than so many bytes. Without it,
            as they were computed.
        guided_halves: bare transformers only: whether each call holds two equal halves of latents, one under the
            prompts and one under the null prompt, as the pipelines of PixArt, DiT and Open-Sora put them together.
            Their halves then compute the same tokens, and T-GATE ends their guidance. Without it, each row of a call is
            a sample of its own. A pipeline tells by its class and its arguments.
        on_nan: what is done where a transformer call, the final latents or the decoded picture holds NaN or infinity:
            `"raise"` a `BrokenNumbersError` that names the step and, where it can be told, the module; `"warn"` once a
            run, and go on. `summary(...).broken` has the steps. On CUDA a step is known some steps later.
        guard: a bound for cached steps: where the transformer's output is farther from that of the last full step than
            this share of its length (0.3: |now - full| > 0.3 |full|, of any sample), the step is computed in full, and
            those that follow go on from it. `summary(...).guarded` has the steps. Waits for the device in cached steps.

    Returns the target. Raises `UnsupportedModelError` for a family without an adapter, `ForeignHookError` if another
    cache or an unknown hook is on the transformer, `ValueError` for bad arguments, and where dita is enabled on a
    pipeline and shall be on its transformer too, or the other way round; the target is then as it was.
    """
    method, made_for = saved_method(method)
    record = switch("record", record)
    memory_limit = None if memory_limit is None else whole("memory_limit", memory_limit)
    timesteps = None if timesteps is None else _checked_timesteps(timesteps)
    checks = Checks(on_nan, guard)
    if memory_limit is not None and memory_limit < 0:
        raise ValueError(f"memory_limit must be at least 0 bytes, got {memory_limit}")
    if store is not None and not isinstance(store, Store):
        raise ValueError(f"store must be a dita.Store such as Store(dtype='fp8'), got {store!r}")
    guided_halves = switch("guided_halves", guided_halves)
    model = transformer_of(target)
    adapter = adapter_for(model)
    method.check_family(adapter.family)
    if guided_halves and isinstance(target, DiffusionPipeline):
        raise ValueError("guided_halves is for bare transformers; a pipeline tells by its class and its arguments")
    if guided_halves and not adapter.halves:
        raise ValueError(
            f"guided_halves=True is not for {adapter.family}, whose guidance is distilled or a second call of its own:"
            " leave it out, and pass calls_per_step=2 for two calls a step"
        )
    earlier = attachment_of(target)
    _check_alone(target, model, earlier)
    second_cache.check_all(model, adapter, target)
    attachment: Attachment
    if isinstance(target, DiffusionPipeline):
        if steps is not None or calls_per_step != 1 or timesteps is not None:
            raise ValueError(
                "steps and calls_per_step are for bare transformers, and so are timesteps; a pipeline's scheduler tells"
                " them"
            )
        attachment = PipelineAttachment(target, method, record, memory_limit, store, checks)
    else:
        if steps is None:
            raise ValueError(
                "a bare transformer does not know its sampling loop: pass steps, at least 1, and calls_per_step, at"
                " least 1; got steps=None"
            )
        if steps == 0:
            raise ValueError(f"steps must be a whole number, at least 1, got steps={steps}")
        steps, calls_per_step = integer("steps", steps), integer("calls_per_step", calls_per_step)
        if timesteps is not None and len(timesteps) != steps:
            raise ValueError(f"timesteps must be one for each of the {steps} steps, got {len(timesteps)}")
        attachment = TransformerAttachment(
            target, method, record, memory_limit, store, checks, steps, calls_per_step, timesteps, guided_halves
        )
    attachment.origin = Origin(made_for)
    here = replace(target_facts(target), steps=steps)
    attachment.origin.compare(method, here)  # which raises where the user made warnings errors
    attachment.attach()
    if earlier is not None:
        earlier.detach()
    _LOG.info("%s enabled on %s", method.label(), type(target).__name__)
    return target


@contextmanager
def enabled(target: Target, method: MethodLike, **options: Any) -> Iterator[Target]:
    """`with dita.enabled(pipe, "toca:4:0.9"):` accelerates `target` within the block.

    Behind it, also after an error, `target` is as it was in front of it: plain, or with the method that was enabled,
    its options and its last summary. Within it, `dita.summary(target)` is of the block's runs.

    Args:
        target, method: as of `enable`.
        options: further arguments of `enable`, such as `record=True`, or `steps=28` on a bare transformer.

    Raises as `enable` does; `target` is then as it was.
    """
    transformer_of(target)  # which refuses what is none
    earlier = attachment_of(target)
    enable(target, method, **options)
    try:
        yield target
    finally:
        restore(target, earlier)


def restore(target: DiffusionPipeline | nn.Module, earlier: Attachment | None) -> None:
    """Brings back what `attachment_of` gave, in place of what is enabled now; None leaves `target` plain."""
    now = attachment_of(target)
    if now is earlier:
        return
    if now is not None:
        now.detach()
    if earlier is not None:
        earlier.attach()


def _checked_timesteps(given: object) -> list[float]:
    """Timesteps as numbers. Raises `ValueError` for anything else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"timesteps must be numbers, one for each step, got {shown(given)}")
    return [number("each of the timesteps", timestep) for timestep in given]


def disable(target: DiffusionPipeline | nn.Module) -> None:
    """Restores `target`: same classes, same `state_dict` keys, bit-equal output. Harmless where nothing is enabled.

    Raises `UnsupportedModelError` for what is neither a pipeline nor a model.
    """
    _check_target(target)
    attachment = attachment_of(target)
    if attachment is not None:
        attachment.detach()
        _LOG.info("%s disabled on %s", attachment.method.label(), type(target).__name__)


def attachment_of(target: DiffusionPipeline | nn.Module) -> Attachment | None:
    """What is enabled on `target` itself, None for nothing."""
    if isinstance(target, DiffusionPipeline):
        return pipeline_attachment.attachment_of(target)
    return transformer_attachment.attachment_of(target)


def summary(target: DiffusionPipeline | nn.Module, show: bool = True) -> Summary:
    """What the last run on `target` really executed; printed too, unless `show` is False.

    Raises `RuntimeError` if dita is not enabled there, or nothing has run since; `UnsupportedModelError` for what is
    neither a pipeline nor a model.
    """
    _check_target(target)
    attachment = attachment_of(target)
    if attachment is None:
        raise RuntimeError(f"dita is not enabled on this {type(target).__name__}")
    attachment.settle()
    if attachment.last is None:
        raise RuntimeError(f"this {type(target).__name__} has not run since dita was enabled")
    if show:
        print(attachment.last)
    return attachment.last


def _check_target(target: object) -> None:
    """Refuses a class, and values such as a name; nothing else is looked at where nothing is enabled."""
    if isinstance(target, type) or not hasattr(target, "__dict__"):
        raise UnsupportedModelError(f"{shown(target)} is neither a diffusers pipeline nor a transformer")


def _check_alone(target: object, model: nn.Module, earlier: Attachment | None) -> None:
    """Raises `ValueError` where a pipeline is to be enabled whose transformer is, or the other way round."""
    transformer = known(model)
    bare: object = None if transformer is None or transformer.bare is None else transformer.bare()
    if isinstance(target, DiffusionPipeline):
        if bare is not None:
            raise ValueError(
                f"dita is enabled on this pipeline's transformer, the {type(model).__name__}, already:"
                " dita.disable(pipe.transformer) first"
            )
    elif bare is not None and bare is not earlier:
        raise ValueError(
            f"dita is enabled on this {type(model).__name__} already, by another module that wraps it or that it wraps:"
            " disable it there first"
        )
    elif transformer is not None and transformer.users > (bare is not None):
        raise ValueError(
            f"dita is enabled on a pipeline that this {type(model).__name__} is the transformer of: dita.disable(pipe)"
            " first"
        )
