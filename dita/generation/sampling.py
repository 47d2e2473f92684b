"""Pipeline calls for items: each with the noise of its own seed, smaller calls where memory runs out."""

from __future__ import annotations

import gc
import inspect
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from dita.asking import asking, can_be_asked
from dita.caching.attachment import attachment_of, disable, enable, restore
from dita.caching.broken import BrokenNumbersError, watching
from dita.caching.broken import Made as Seen
from dita.caching.evaluations import check_one_step
from dita.caching.origin import warn_where_another
from dita.caching.sampled import sampled_as
from dita.call_arguments import Cut, checked_call, cuts, listed, repeated, warn_of_cuts
from dita.generation.alone import samples_alone
from dita.generation.job import Item, items
from dita.generation.prompts import Prompt, from_texts
from dita.methods import FewerSteps, Method, MethodLike, Plain, saved_method
from dita.stores import Store
from dita.values import integer

ENGINE_FREE = (Plain, FewerSteps)  # run with nothing attached to the pipeline
Frames = NDArray[np.uint8]

_LOG = logging.getLogger(__name__)


class OutOfMemory(MemoryError):
    """Not even one item at a time fits into memory."""


@dataclass(frozen=True)
class Made:
    """What a pipeline call made of one item: a `picture`, or the `frames` of a video as uint8 (T, H, W, 3).

    `seconds` is the item's share of the call's wall-clock time.
    """

    item: Item
    seconds: float
    picture: Image.Image | None = None
    frames: Frames | None = None

    @property
    def id(self) -> str:
        """Of the prompt."""
        return self.item.id

    @property
    def seed(self) -> int:
        """The seed index."""
        return self.item.seed


def generate(
    pipe: Any,
    prompts: Iterable[str | Prompt],
    *,
    method: MethodLike | None = None,
    steps: int | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 1,
    exact: bool = True,
    store: Store | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool | None = None,
    **call: Any,
) -> Iterator[Made]:
    """Makes a picture or video of every prompt and seed index, one after another, as the iterator is asked for them.

    Args:
        pipe: a diffusers pipeline; between results it is as it was.
        prompts: texts, whose ids are their numbers (`00000` and on), or `Prompt`s with ids of their own.
        method: what accelerates it, as of `dita.enable`; None leaves the pipeline as it is, with whatever is enabled.
        steps: denoising steps of the plain pipeline, None for the pipeline's own default.
        seeds: indices; the noise of an item comes from its prompt's id and the index, and from nothing else.
        batch_size: items of one pipeline call, halved when memory runs out. Videos are made one at a time.
        exact: compute each sample as if it were alone, so that its bits do not depend on the batch.
        store: how the method keeps features.
        say: told, in words, what a user should know; the logger `dita` is in any case.
        progress: whether a bar shows how far it is, in a notebook too; None where the pipeline's own bar of steps is
            not switched off (`pipe.set_progress_bar_config(disable=True)`).
        call: more arguments of the pipeline call, such as `height`.

    Raises `ValueError` for bad arguments before anything is made, `OutOfMemory` where one item does not fit, and
    `BrokenNumbersError` where a picture would be made of NaN or infinity; not where `method` is None and
    `on_nan="warn"` is enabled on `pipe`.
    Warns with `dita.call_arguments.PromptsCutWarning` where a tokenizer cuts prompts.
    """
    own = _prompts(prompts)
    indices = _seeds(seeds)
    batch_size = integer("batch_size", batch_size)
    sampler = Sampler(pipe, method, steps=steps, call=call, batch_size=batch_size, exact=exact, store=store, say=say)
    asking(pipe, [prompt.text for prompt in own])  # refuses what is the name of no class
    warn_of_cuts(sampler.cuts((prompt.id, prompt.text) for prompt in own))
    todo = items(own, indices)
    made = (made for start in range(0, len(todo), batch_size) for made in sampler(todo[start : start + batch_size]))
    return _with_bar(pipe, made, len(todo), progress)


def _with_bar(pipe: Any, made: Iterator[Made], count: int, progress: bool | None) -> Iterator[Made]:
    """`made`, under a bar that begins with the first item and ends with the last, or where it is broken off."""
    own = dict(getattr(pipe, "_progress_bar_config", {}))
    off = bool(own.get("disable")) if progress is None else not progress
    settings = {"desc": "generating", "unit": "item", **own, "disable": off, "total": count}
    with tqdm(**settings) as bar:
        for one in made:
            bar.update()
            yield one


def _prompts(given: Iterable[str | Prompt]) -> list[Prompt]:
    """Prompts with ids. Raises `ValueError` for what is no list of texts or of `Prompt`s."""
    prompts = listed("prompts", given)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    own = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
    if len(texts) + len(own) != len(prompts) or (texts and own):
        raise ValueError("prompts must be all texts, or all dita.Prompt objects with ids")
    own = own or from_texts(texts, "prompts")
    if len({prompt.id for prompt in own}) < len(own):
        raise ValueError("ids of prompts must differ")
    return own


def _seeds(given: Sequence[int]) -> list[int]:
    """Seed indices as ints: of a tensor or an array they would draw other noise. Raises `ValueError`."""
    seeds = [integer("a seed", seed, 0) for seed in listed("seeds", given)]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one, got {seeds}")
    return seeds


class Sampler:
    """Makes items, any number at a time; `size` is how many go into one pipeline call.

    `size` is halved when memory runs out, for good. Between calls the pipeline is as it was, unless `held`.
    """

    def __init__(
        self,
        pipe: Any,
        method: MethodLike | None = None,
        *,
        steps: int | None = None,
        call: dict[str, Any] | None = None,
        batch_size: int = 1,
        exact: bool = True,
        store: Store | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        batch_size = integer("batch_size", batch_size)
        steps = None if steps is None else integer("steps", steps)
        if not callable(pipe) or not can_be_asked(pipe):
            raise ValueError(f"{type(pipe).__name__} takes neither prompts nor names of classes")
        self.pipe = pipe
        saved = None if method is None else saved_method(method)
        self.method = None if saved is None else saved.method
        self.store = store
        plain = steps
        if isinstance(self.method, FewerSteps):
            if steps is None:
                raise ValueError("the method 'steps' needs the number of steps that it takes a share of")
            steps = self.method.grid_steps(steps)
        self.arguments = checked_call(pipe, call or {}, steps)
        if saved is not None:
            asked = self.arguments if plain is None else {**self.arguments, "num_inference_steps": plain}
            warn_where_another(saved, pipe, asked, stacklevel=3)
        if steps is not None:
            check_one_step(pipe, steps, self.method.label() if isinstance(self.method, FewerSteps) else "")
            self.arguments["num_inference_steps"] = steps
        self.video = is_video(pipe)
        self.size = 1 if self.video else batch_size
        self.exact = exact and not self.video  # a video is alone anyway
        self._say = say or _silent
        self._held = False

    def __call__(self, some: Sequence[Item]) -> Iterator[Made]:
        """Makes `some`, in their order. Raises whatever the pipeline raises, `OutOfMemory`, and
        `BrokenNumbersError` where a picture would be made of NaN or infinity."""
        for made in self.calls(some):
            yield from made

    def calls(self, some: Sequence[Item]) -> Iterator[list[Made]]:
        """As a call, with what each pipeline call made together."""
        start = 0
        while start < len(some):
            part = some[start : start + self.size]
            try:
                made = self._call(part)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise OutOfMemory(
                        f"one item at a time does not fit into memory: {' '.join(str(error).split())}"
                    ) from error
                self.size = len(part) // 2
                remark = f"out of memory with {len(part)} items in a call: going on with {self.size}"
                _LOG.warning(remark)
                self._say(remark)
                made = None
            if made is None:  # outside of the handler, whose traceback keeps the failed call's tensors alive
                _free_memory()
                continue
            yield made
            start += len(part)

    def _call(self, part: Sequence[Item]) -> list[Made]:
        generators = [torch.Generator("cpu").manual_seed(item.noise_seed) for item in part]
        started = time.perf_counter()
        with nullcontext() if self._held else self._prepared(), _told_already(self.pipe), watching(self.pipe) as seen:
            output = self.pipe(
                **asking(self.pipe, [item.prompt for item in part]),
                generator=generators,
                output_type="np" if self.video else "pil",
                **{name: repeated(name, value, len(part)) for name, value in self.arguments.items()},
            )
        seconds = (time.perf_counter() - started) / len(part)  # pictures are on the CPU: nothing is outstanding
        self._check(part, seen, output)
        if self.video:
            return [Made(item, seconds, frames=_as_uint8(clip)) for item, clip in zip(part, output.frames, strict=True)]
        return [Made(item, seconds, picture=image) for item, image in zip(part, output.images, strict=True)]

    def cuts(self, prompts: Iterable[tuple[str, str]]) -> list[Cut]:
        """Of prompts, given as (id, text), those that the pipeline's tokenizers cut."""
        return cuts(self.pipe, prompts, self.arguments)

    def _check(self, part: Sequence[Item], seen: Seen, output: Any) -> None:
        """Raises `BrokenNumbersError` for what would be black pictures, unless the pipeline was told to go on."""
        attachment = None if self.method is not None else attachment_of(self.pipe)
        if attachment is not None and attachment.checks.on_nan == "warn":
            return
        flags = seen.broken(len(part))
        if self.video:
            flags = [one or not np.isfinite(clip).all() for one, clip in zip(flags, output.frames, strict=True)]
        broken = [item.id for item, one in zip(part, flags, strict=True) if one]
        if broken:
            names = ", ".join(map(repr, broken))
            raise BrokenNumbersError(f"the latents or the decoded picture of {names} hold NaN or infinity")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it the pipeline stays prepared between calls, which saves the work of preparing it for each."""
        with self._prepared():
            self._held = True
            try:
                yield
            finally:
                self._held = False

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(silenced(self.pipe))
            stack.enter_context(_enabled(self.pipe, self.method, self.store))
            if self.exact:
                stack.enter_context(samples_alone(self.pipe))
            yield


def is_video(pipe: Any) -> bool:
    """Whether a pipeline makes videos."""
    return "num_frames" in inspect.signature(pipe.__call__).parameters


@contextmanager
def _enabled(pipe: Any, method: Method | None, store: Store | None) -> Iterator[None]:
    """`pipe` under `method`, and as it was afterwards; None changes nothing."""
    earlier = attachment_of(pipe)
    if method is None:
        yield
        return
    if isinstance(method, ENGINE_FREE):
        disable(pipe)
    else:
        enable(pipe, method, store=store)
    try:
        with sampled_as(pipe, method):
            yield
    finally:
        restore(pipe, earlier)


@contextmanager
def silenced(pipe: Any) -> Iterator[None]:
    """Without the pipeline's own bar of steps."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)


@contextmanager
def _told_already(pipe: Any) -> Iterator[None]:
    """Without Open-Sora's own warning for each prompt that is cut: all have been told of at once."""
    if not hasattr(pipe, "token_counts"):
        yield
        return
    from dita.pipelines.opensora import PromptTruncatedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        yield


def _silent(remark: str) -> None:
    pass


def _as_uint8(clip: Any) -> Frames:
    return (np.asarray(clip) * 255).round().clip(0, 255).astype(np.uint8)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
