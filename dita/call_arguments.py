"""The arguments of a pipeline call that people give beside prompts: refused where a job sets them itself, where the
pipeline does not take them, and where it would draw something else than they say."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dita.values import nearest, number, shown, switch, whole

PROMPTS = ("--prompt or --prompts", "prompts")
SEEDS = ("--seeds", "seeds")
STEPS = ("--steps", "steps")
SET_BY_JOB: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("prompt", "class_labels", "prompt_embeds", "prompt_attention_mask"), PROMPTS),
    "pooled_prompt_embeds": PROMPTS,
    "num_inference_steps": STEPS,
    **dict.fromkeys(("generator", "latents", "num_images_per_prompt", "num_videos_per_prompt"), SEEDS),
    "output_type": ("--format", ""),
    "return_dict": ("", ""),
}
"""Arguments that a job gives every call itself, and the option, or the parameter in Python, to use in their place."""

SCHEDULES = ("sigmas", "timesteps")
"""Arguments that list the steps of a run."""

SIZES = ("height", "width", "num_frames", "max_sequence_length")
"""Whole numbers, whatever a pipeline's default for them is."""

TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
ENDLESS = 10**6  # tokens: what transformers notes for a tokenizer without a limit is far above


class PromptsCutWarning(UserWarning):
    """Prompts have more tokens than the model reads: what is behind has no effect."""


class ScaledSizeWarning(UserWarning):
    """The pipeline draws at another size than was asked for, and scales the picture."""


@dataclass(frozen=True)
class Cut:
    """A prompt, by its id, of more `tokens` than the `limit` of a tokenizer, which is named in words."""

    tokenizer: str
    limit: int
    id: str | int
    tokens: int


def checked_values(arguments: Mapping[str, Any], *, command: bool = False) -> dict[str, Any]:
    """`arguments`, with scalars of torch and NumPy as numbers. Nothing is asked of a pipeline yet.

    Raises `ValueError` for what a job sets itself, and for NaN and infinity, anywhere in a value; with `command`, where
    values were written on a command line, also for functions, and for None, True and False in Python's spelling.
    """
    for name, value in arguments.items():
        if name in SET_BY_JOB:
            instead = SET_BY_JOB[name][0 if command else 1]
            raise ValueError(
                f"{name} is set for every call by the job itself{f': use {instead}' if instead else ', and is fixed'}"
            )
        if command and name.startswith("callback"):
            raise ValueError(f"{name} takes a function, which a command line cannot give; use dita.generate in Python")
        if command and value in ("None", "True", "False"):
            meant = {"None": "null", "True": "true", "False": "false"}[value]
            raise ValueError(f"{name}={value} is the text {value!r}; values are JSON: write {name}={meant}")
        if not _is_finite(value):
            raise ValueError(f"{name} must be finite, got {shown(value)}")
    return {name: _plain(value) for name, value in arguments.items()}


def checked_call(pipe: Any, arguments: Mapping[str, Any], steps: int | None = None) -> dict[str, Any]:
    """`arguments` of the calls of `pipe`, checked against what it takes; `steps` are those of a call, if they are set.

    Raises `ValueError` as `checked_values` does, for a name that the pipeline does not take, a value of another kind
    than its default, a list of timesteps or sigmas that does not have `steps`, and a size that the model would round.
    Warns with `ScaledSizeWarning`.
    """
    given = checked_values(arguments)
    takes, any_name = _takes(pipe)
    for name, value in given.items():
        if name not in takes:
            if any_name:
                continue
            near = nearest(name, takes)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"{type(pipe).__name__} takes no {name!r}; it takes {', '.join(takes)}{hint}")
        given[name] = _of_kind(name, value, takes[name])
    for name in SCHEDULES:
        listed = given.get(name)
        if listed is not None and steps is not None and len(listed) != steps:
            raise ValueError(f"{name} lists {len(listed)} steps, and the run has {steps}; give as many by --steps")
    _check_size(pipe, given, takes)
    return given


def for_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of `arguments`: data for JSON, in which arrays, tensors and pictures are a checksum."""
    return {name: _for_json(value) for name, value in arguments.items()}


def _for_json(value: Any) -> Any:
    value = _plain(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _for_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(inner) for inner in value]
    import numpy as np

    kind = type(value).__name__
    if callable(getattr(value, "detach", None)):  # a tensor, of any type of numbers
        value = value.detach().cpu().double()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return kind
    if array.dtype == object:
        return kind
    return f"{kind} {'x'.join(map(str, array.shape))}, sha256 {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def repeated(name: str, value: Any, count: int) -> Any:
    """The value for a call of `count` prompts: a text that belongs to a prompt (`prompt_2`) goes with each of them.

    Some pipelines do not repeat it themselves.
    """
    return [value] * count if name.startswith("prompt_") and isinstance(value, str) else value


def _takes(pipe: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments that calls of `pipe` take by name, and whether they take any other name, too.

    Of diffusers' pipelines none does: what stands behind `**kwargs` there is old, and another name is forgotten.
    """
    parameters = inspect.signature(pipe.__call__).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    variable = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    forgets = any(cls.__module__.startswith("diffusers.") for cls in type(pipe).__mro__) and not variable <= kinds
    named = {name: parameter for name, parameter in parameters.items() if parameter.kind not in variable}
    return named, inspect.Parameter.VAR_KEYWORD in kinds and not forgets


def check_sides(
    name: str, kind: str, transformer: Mapping[str, Any], vae: Mapping[str, Any], arguments: Mapping[str, Any]
) -> None:
    """Raises `ValueError` for a height or width that the model `name` would round, with the nearest ones.

    `kind` is the class of its transformer, `transformer` and `vae` are the configurations. Models whose sizes are not
    known here are left to their pipelines.
    """
    side = _token_pixels(kind, transformer, vae)
    for key in ("height", "width"):
        value = arguments.get(key)
        if value is None or side is None:
            continue
        pixels = whole(key, value)
        if pixels < 1 or pixels % side:
            below = max(pixels // side, 0) * side
            near = " and ".join(str(one) for one in (below, below + side) if one > 0)
            raise ValueError(f"{key} of {name} must be a multiple of {side} pixels, got {pixels}; near it: {near}")


def listed(name: str, given: Any) -> list[Any]:
    """What is listed, such as prompts. Raises `ValueError` for a single text, whose characters would be taken."""
    if isinstance(given, (str, bytes)):
        raise ValueError(f"{name} must be a list, got the one text {shown(given)}; put it into brackets")
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"{name} must be a list, got {shown(given)}")
    return list(given)


def cuts(pipe: Any, prompts: Iterable[tuple[str | int, str]], arguments: Mapping[str, Any]) -> list[Cut]:
    """The prompts, given as (id, text), that the tokenizers of `pipe` cut."""
    ids, texts = zip(*prompts, strict=True)
    found: list[Cut] = []
    for name, limit, counts in _token_counts(pipe, list(texts), arguments):
        found += [Cut(name, limit, id, count) for id, count in zip(ids, counts, strict=True) if count > limit]
    return found


def cuts_in_words(found: Sequence[Cut]) -> str | None:
    """How many prompts are cut and which is the longest, for each tokenizer; None where none is."""
    parts = []
    for name, limit in dict.fromkeys((cut.tokenizer, cut.limit) for cut in found):
        mine = {cut.id: cut for cut in found if cut.tokenizer == name}
        longest = max(mine.values(), key=lambda cut: cut.tokens)
        more = "prompt is" if len(mine) == 1 else "prompts are"
        parts.append(
            f"{name} reads {limit} tokens: {len(mine)} {more} cut, the longest, {longest.id!r}, of {longest.tokens}"
        )
    return "; ".join(parts) or None


def warn_of_cuts(found: Sequence[Cut]) -> None:
    """Warns once, with `PromptsCutWarning`, of all prompts that tokenizers cut."""
    words = cuts_in_words(found)
    if words is not None:
        warnings.warn(f"{words}; what is behind has no effect there", PromptsCutWarning, stacklevel=3)


def _token_counts(
    pipe: Any, texts: list[str], arguments: Mapping[str, Any]
) -> Iterator[tuple[str, int, Sequence[int]]]:
    """For each tokenizer of `pipe` its name, how many tokens are read, and how many each text has."""
    if hasattr(pipe, "token_counts"):  # Open-Sora, which adds scores to a text first
        takes = inspect.signature(pipe.token_counts).parameters
        own = {name: value for name, value in arguments.items() if name in takes}
        yield type(pipe.tokenizer).__name__, pipe.transformer.config.caption_max_length, pipe.token_counts(texts, **own)
        return
    parameters = inspect.signature(pipe.__call__).parameters
    if hasattr(pipe, "_text_preprocessing"):  # PixArt
        texts = pipe._text_preprocessing(texts, clean_caption=_value("clean_caption", arguments, parameters))
    for name in TOKENIZERS:
        tokenizer = getattr(pipe, name, None)
        if tokenizer is None:
            continue
        kind = type(tokenizer).__name__
        limit = _value("max_sequence_length", arguments, parameters)
        if limit is None or kind.startswith("CLIP"):
            limit = getattr(tokenizer, "model_max_length", ENDLESS)
        if limit < ENDLESS:
            yield kind, limit, [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False).input_ids]


def _value(name: str, arguments: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> Any:
    """What a call has for an argument: the given value, or the pipeline's default; None where it takes none."""
    if name in arguments:
        return arguments[name]
    return parameters[name].default if name in parameters else None


def _of_kind(name: str, value: Any, parameter: inspect.Parameter) -> Any:
    """A value of the kind of the default: a number, or true or false. Other kinds are left to the pipeline."""
    if name.startswith("callback") and not name.endswith("_inputs") and value is not None and not callable(value):
        if name != "callback_steps":
            raise ValueError(f"{name} must be a function, got {shown(value)}")
        return whole(name, value, 1)
    if value is None or isinstance(parameter.default, str):  # "2s" frames
        return value
    if name in SIZES:
        return whole(name, value, 1)
    if isinstance(parameter.default, bool):
        return switch(name, value)
    if isinstance(parameter.default, int) and isinstance(value, (str, bool)):
        return whole(name, value)
    if isinstance(parameter.default, float) and isinstance(value, (str, bool)):
        return number(name, value)
    return value


def _check_size(pipe: Any, given: Mapping[str, Any], takes: Mapping[str, inspect.Parameter]) -> None:
    """Raises `ValueError` for sizes and lengths that `pipe` would round, and warns of those that it scales."""
    transformer = dict(getattr(getattr(pipe, "transformer", None), "config", None) or {})
    vae = dict(getattr(getattr(pipe, "vae", None), "config", None) or {})
    if "resolution" in takes and "aspect_ratio" in takes:  # Open-Sora
        from dita.pipelines.opensora.sizes import VideoFormat

        named = ("resolution", "aspect_ratio", "height", "width", "num_frames", "fps")
        VideoFormat.choose(table=pipe.sizes, **{name: given[name] for name in named if name in given})
        return
    if _value("use_resolution_binning", given, takes):
        _warn_of_scaling(pipe, transformer, given)
        return
    model = getattr(getattr(pipe, "transformer", None), "_orig_mod", getattr(pipe, "transformer", None))
    check_sides(type(pipe).__name__, type(model).__name__, transformer, vae, given)


def _warn_of_scaling(pipe: Any, transformer: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Of PixArt, which draws at a size of its table and scales the picture."""
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha, pipeline_pixart_sigma

    pixels = {32: 256, 64: 512, 128: 1024, 256: 2048}.get(transformer.get("sample_size", 0))
    tables = {**vars(pipeline_pixart_alpha), **vars(pipeline_pixart_sigma)}
    native = transformer.get("sample_size", 0) * pipe.vae_scale_factor
    asked = (given.get("height") or native, given.get("width") or native)
    if pixels is None or asked == (native, native):
        return
    drawn = pipe.image_processor.classify_height_width_bin(*asked, ratios=tables[f"ASPECT_RATIO_{pixels}_BIN"])
    if drawn != asked:
        warnings.warn(
            f"{type(pipe).__name__} draws {drawn[0]}x{drawn[1]} pixels and scales them to {asked[0]}x{asked[1]}, which"
            " is not in its table of sizes; use_resolution_binning=false draws the size itself",
            ScaledSizeWarning,
            stacklevel=2,
        )


def _token_pixels(kind: str, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> int | None:
    """Pixels of a token's side, for models that would cut a size to it; None where that is not known."""
    patch = {"FluxTransformer2DModel": 2, "PixArtTransformer2DModel": transformer.get("patch_size")}.get(kind)
    channels = vae.get("block_out_channels")
    return None if patch is None or channels is None else int(2 ** (len(channels) - 1)) * int(patch)


def _is_finite(value: Any) -> bool:
    """Whether no number in a value is NaN or infinite: in lists and objects too, but not in tensors of many."""
    value = _plain(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_finite, value))


def _plain(value: Any) -> Any:
    """The number in a scalar of torch or NumPy; anything else as it is."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return value.item()
    return value


def from_entries(entries: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from NAME=VALUE, the value as JSON where it is JSON, beside those that `options` of their own give.

    Raises `ValueError` for another form, for an argument that comes twice, and as `checked_values` does.
    """
    arguments: dict[str, Any] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--call takes NAME=VALUE, got {entry!r}")
        if name in arguments:
            raise ValueError(f"--call gives {name} twice: {shown(arguments[name])} and {value}")
        if name in options:
            raise ValueError(f"{name} is given twice: {options[name]} by its own option, and {value} by --call")
        try:
            arguments[name] = json.loads(value)
        except (ValueError, RecursionError):
            arguments[name] = value
    return checked_values({**options, **arguments}, command=True)
