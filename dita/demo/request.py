"""What a visitor asks for, checked once: everything that reaches the pipeline has passed here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

from dita.asking import asking
from dita.comparison import numbered_label
from dita.demo.loaded import Loaded
from dita.methods import Method, MethodLike, as_method

LARGEST_SEED = 2**32 - 1


class Refused(ValueError):  # it is read as a sentence: a request refused
    """A request that is not served; its message is for the visitor."""


@dataclass(frozen=True)
class Limits:
    """How much one request may ask of the server.

    Attributes:
        steps: denoising steps of one picture.
        side: pixels of a picture's longer side.
        prompt: characters.
        guidance: the largest guidance scale.
        methods: beside the plain pipeline, in one comparison.
        waiting: requests in line, of all visitors.
        sessions: requests of one visitor in line.
        points, prompts: methods and prompts of one exploration.
    """

    steps: int = 100
    side: int = 1024
    prompt: int = 500
    guidance: float = 20.0
    methods: int = 2
    waiting: int = 16
    sessions: int = 2
    points: int = 30
    prompts: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "side", "prompt", "methods", "waiting", "sessions", "points", "prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"the limit of {name} must be at least 1, got {getattr(self, name)}")


def limits_of(loaded: Loaded, steps: int | None = None) -> Limits:
    """Limits that suit a model: twice its own size, at least; `steps` by the server's owner."""
    side = 2 * max(loaded.side)
    return Limits(steps=max(Limits.steps, loaded.steps) if steps is None else steps, side=side)


@dataclass(frozen=True)
class Request:
    """One picture, or video, to be made with several methods; checked by `checked`."""

    prompt: str
    seed: int
    steps: int
    guidance: float
    height: int
    width: int

    def call(self, loaded: Loaded) -> dict[str, Any]:
        """The arguments of a pipeline call, but the number of steps and the generator."""
        arguments = {**loaded.call, **asking(loaded.pipe, [self.prompt]), "guidance_scale": self.guidance}
        arguments.pop("num_inference_steps", None)
        if not loaded.fixed_size:
            arguments |= {"height": self.height, "width": self.width}
        return arguments


def checked(
    loaded: Loaded,
    limits: Limits,
    prompt: object,
    seed: object = 0,
    steps: object = None,
    guidance: object = None,
    height: object = None,
    width: object = None,
) -> Request:
    """The request that these values make; None is the model's own.

    Raises `Refused` that names the value and what is allowed.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise Refused("The prompt is empty: say what to draw.")
    text = " ".join(prompt.split())
    if len(text) > limits.prompt:
        raise Refused(f"The prompt has {len(text)} characters; at most {limits.prompt} are allowed.")
    own_height, own_width = loaded.side
    if loaded.fixed_size:
        height, width = own_height, own_width
    request = Request(
        prompt=text,
        seed=_whole("The seed", 0 if seed is None else seed, 0, LARGEST_SEED),
        steps=_whole("The number of steps", loaded.steps if steps is None else steps, loaded.least_steps, limits.steps),
        guidance=_number("Guidance", loaded.guidance if guidance is None else guidance, 0.0, limits.guidance),
        height=_side("The height", own_height if height is None else height, loaded, limits),
        width=_side("The width", own_width if width is None else width, loaded, limits),
    )
    try:
        asking(loaded.pipe, [text])
    except ValueError as error:
        raise Refused(_sentence(error)) from None
    return request


def checked_methods(loaded: Loaded, limits: Limits, given: list[MethodLike]) -> list[Method]:
    """The methods of a comparison beside the plain pipeline, as they run on this device.

    Raises `Refused` for none, too many, one twice, one that does not exist, and one that is not for the model.
    """
    if len(given) > limits.methods:
        raise Refused(f"At most {limits.methods} methods can be compared at once, got {len(given)}.")
    methods = [checked_method(loaded, one) for one in given]
    if not methods:
        raise Refused("Choose at least one method.")
    if len(set(methods)) < len(methods):
        raise Refused(f"Both methods are {numbered_label(methods[0])}: choose two that differ, or one.")
    return methods


def checked_method(loaded: Loaded, given: MethodLike) -> Method:
    """One method. Raises `Refused` for one that does not exist, or is not for the model.

    A visitor's text is never taken for a path: no file of the server is read for it.
    """
    try:
        if isinstance(given, str) and not given.strip():
            raise ValueError("the method is empty: write one such as toca:4:0.9")
        method = as_method(given, files=False)
        method.check_family(loaded.family)
    except (ValueError, TypeError) as error:
        raise Refused(_sentence(error)) from None
    return method


def as_it_came(value: Any) -> Any:
    """The `preprocess` of a number's component: `checked` refuses what is wrong in words, and nothing is rounded."""
    return value


def _side(name: str, value: object, loaded: Loaded, limits: Limits) -> int:
    if loaded.fixed_size:
        return int(value)  # type: ignore[call-overload]  # the model's own
    unit = loaded.token_pixels
    side = _whole(name, value, unit, limits.side)
    if side % unit:
        raise Refused(f"{name} must be a multiple of {unit} pixels, got {side}.")
    return side


def _whole(name: str, value: object, least: int, most: int) -> int:
    if not _is_number(value) or value != int(value):
        raise Refused(f"{name} must be a whole number, got {_short(value)}.")
    if not least <= value <= most:
        raise Refused(f"{name} must be between {least} and {most}, got {int(value)}.")
    return int(value)


def _number(name: str, value: object, least: float, most: float) -> float:
    if not _is_number(value):
        raise Refused(f"{name} must be a number, got {_short(value)}.")
    if not least <= value <= most:
        raise Refused(f"{name} must be between {least:g} and {most:g}, got {value:g}.")
    return float(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _sentence(error: Exception) -> str:
    """An error's message as a sentence of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= 400 else text[:397] + "..."
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
