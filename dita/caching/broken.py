"""Numbers that are broken, NaN or infinite: found in what a transformer puts out, and in what a pipeline makes of it.

A pipeline goes on with them to the end, and its picture is black: whoever turns it into bytes must know before.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dita.caching.stand_in import stand_in, stock_class
from dita.values import choice, number

OnNan = Literal["raise", "warn"]


class BrokenNumbersError(ArithmeticError):
    """A transformer call, the final latents or the decoded picture holds NaN or infinity; the message says where."""


class BrokenNumbersWarning(RuntimeWarning):
    """The same, where the run was told to go on (`on_nan="warn"`)."""


@dataclass(frozen=True)
class Checks:
    """What a run looks at in the numbers that it makes.

    Attributes:
        on_nan: what is done about NaN and infinity.
        guard: how far a cached step may depart from the last full one, as `dita.caching.guard.Guard` has it; None
            where this is not looked at.
    """

    on_nan: OnNan = "raise"
    guard: float | None = None

    def __post_init__(self) -> None:
        choice("on_nan", self.on_nan, get_args(OnNan))
        if self.guard is not None and number("guard", self.guard) < 0:
            raise ValueError(f"guard must be a finite number, at least 0, or None, got {self.guard}")

    def complain(self, message: str, stacklevel: int = 3) -> None:
        """Raises, or warns with, `message`."""
        if self.on_nan == "raise":
            raise BrokenNumbersError(message)
        warnings.warn(message, BrokenNumbersWarning, stacklevel=stacklevel)


class Outputs:
    """Which calls of a run put out broken numbers.

    On a CPU this is known at once. On CUDA it comes to the host by itself, and is seen in a later call, or by `settle`
    at the end: no call waits for the device.
    """

    def __init__(self) -> None:
        self.broken: list[tuple[int, int]] = []
        self._coming: list[tuple[int, int, Tensor, Any]] = []

    def note(self, step: int, call: int, output: Any) -> list[tuple[int, int]]:
        """Looks at a call's output. Returns the (step, call) that are newly known to be broken."""
        for tensor in tensors_of(output):
            whole = torch.isfinite(tensor.detach()).all()
            if tensor.device.type == "cpu":
                self._coming.append((step, call, whole, None))
            elif tensor.device.type == "cuda":
                there = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(whole, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
                self._coming.append((step, call, there, event))
            else:
                self._coming.append((step, call, whole, _Never))
        return self._taken(lambda event: event is None or event.query())

    def settle(self) -> list[tuple[int, int]]:
        """As `note`, of all calls that were looked at; waits for the device."""
        for *_, event in self._coming:
            if event is not None:
                event.synchronize()
        return self._taken(lambda _: True)

    def _taken(self, there: Any) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while self._coming and there(self._coming[0][3]):
            step, call, whole, _ = self._coming.pop(0)
            if not bool(whole) and (step, call) not in found:
                found.append((step, call))
        self.broken += found
        return found


class _Never:
    """The event of a device that tells none."""

    @staticmethod
    def query() -> bool:
        return False

    @staticmethod
    def synchronize() -> None:
        pass


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors of real numbers in a module's output, or in its arguments."""
    if isinstance(output, Tensor):
        if output.is_floating_point() or output.is_complex():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from tensors_of(value)
    elif hasattr(output, "sample") and isinstance(output.sample, Tensor):
        yield output.sample


def is_broken(output: Any) -> bool:
    """Whether a tensor of `output` holds NaN or infinity; waits for the device."""
    return any(not bool(torch.isfinite(tensor.detach()).all()) for tensor in tensors_of(output))


def first_broken(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """Where a plain call of `model` breaks: the argument, or the name of the first module whose output is broken.

    Runs the call once more, and returns None where it breaks nowhere, or fails.
    """
    for name, value in inputs.items():
        if "mask" not in name and is_broken(value):  # masks may hold minus infinity
            return f"its input {name}"
    found: list[str] = []

    def look(name: str, module: nn.Module, _: Any, output: Any) -> None:
        if not found and is_broken(output):
            found.append(f"{name} ({type(module).__name__})")

    modules = [(name, module) for name, module in model.named_modules() if name]
    handles = [module.register_forward_hook(functools.partial(look, name)) for name, module in modules]
    try:
        with torch.no_grad(), contextlib.suppress(Exception):
            if is_broken(nn.Module.__call__(model, **inputs)) and not found:
                return "its last operation"
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


class Made:
    """What a pipeline call makes, seen while it is numbers: its latents, where a run follows the scheduler's steps, and
    the pictures or clips that are decoded.

    A sample is broken where its latents are after the last step, or what is decoded of them.
    """

    def __init__(self) -> None:
        self._latents: Tensor | None = None
        self._decoded: list[tuple[Tensor, Tensor]] = []  # of each call of the decoder: finite, and of one colour; (B,)

    def stepped(self, out: Any) -> None:
        """Notes what a step of the scheduler returned. What was decoded before it were previews."""
        self._decoded.clear()
        self._latents = next(tensors_of(out[:1] if isinstance(out, tuple) else getattr(out, "prev_sample", None)), None)

    def decoded(self, out: Any) -> None:
        """Notes what the decoder returned."""
        for pictures in tensors_of(out):
            flat = pictures.detach().flatten(1)
            self._decoded.append((torch.isfinite(flat).all(1), flat.amax(1) == flat.amin(1)))

    def check(self, checks: Checks) -> None:
        """Complains of broken latents, or else of broken pictures; waits for the device."""
        if self.broken_latents():
            checks.complain("the latents hold NaN or infinity after the scheduler's last step; on_nan='warn' goes on")
        elif self.broken_pictures():
            checks.complain(
                "the autoencoder (vae) made NaN or infinity of latents that hold none; run it in float32 or bfloat16;"
                " on_nan='warn' goes on"
            )

    def broken_latents(self) -> bool:
        """Whether the latents are broken; waits for the device."""
        return self._latents is not None and is_broken(self._latents)

    def broken_pictures(self) -> bool:
        """Whether anything that was decoded is broken; waits for the device."""
        return any(not bool(finite.all()) for finite, _ in self._decoded)

    def broken(self, count: int) -> list[bool]:
        """Of `count` samples, which are broken; waits for the device."""
        latents = _by_sample((~finite for finite in self._finite_latents()), count)
        decoded = _by_sample((~finite for finite, _ in self._decoded), count)
        return [one or other for one, other in zip(latents, decoded, strict=True)]

    def constant(self, count: int) -> list[bool]:
        """Of `count` samples, of which something was decoded that has one value alone; waits for the device."""
        return _by_sample((same for _, same in self._decoded), count)

    def _finite_latents(self) -> Sequence[Tensor]:
        return [] if self._latents is None else [torch.isfinite(self._latents.detach()).flatten(1).all(1)]


def _by_sample(found: Iterable[Tensor], count: int) -> list[bool]:
    """What was found of rows, for each of `count` samples: their rows follow each other, and begin anew where guidance
    doubles them, or where clip after clip is decoded."""
    flags = [False] * count
    for row, one in enumerate(one for some in found for one in some.tolist()):
        flags[row % count] |= one
    return flags


_LOCK = threading.Lock()
_SEEING: dict[int, list[Callable[[Any], None]]] = {}
_DECODING: dict[type[Any], type[Any]] = {}


@contextmanager
def watching(pipe: Any, own: Callable[[], bool] | None = None) -> Iterator[Made]:
    """Within it, what calls of `pipe` decode is seen. Costs a pass over it, and waits for nothing.

    own: whether a call of the autoencoder, which pipelines may share, is one of this pipeline's; without it, those of
    the present thread are.
    """
    made, thread, vae = Made(), threading.get_ident(), getattr(pipe, "vae", None)

    def see(out: Any) -> None:
        if threading.get_ident() == thread if own is None else own():
            made.decoded(out)

    if not hasattr(vae, "decode"):
        yield made
        return
    with _LOCK:
        if id(vae) not in _SEEING:
            vae.__class__ = _decoding_class(type(vae))
        _SEEING.setdefault(id(vae), []).append(see)
    try:
        yield made
    finally:
        with _LOCK:
            _SEEING[id(vae)].remove(see)
            if not _SEEING[id(vae)]:
                del _SEEING[id(vae)]
                vae.__class__ = stock_class(type(vae))


def _decoding_class(base: type[Any]) -> type[Any]:
    """`base` with a `decode` that shows what it returns; copies of the instance have the stock one."""
    if base not in _DECODING:

        @functools.wraps(base.decode)
        def decode(self: Any, *args: Any, **kwargs: Any) -> Any:
            out = base.decode(self, *args, **kwargs)
            for see in tuple(_SEEING.get(id(self), ())):
                see(out)
            return out

        _DECODING[base] = stand_in(base, {"decode": decode}, transparent=True)
    return _DECODING[base]


def steps_text(steps: Iterable[int]) -> str:
    """Step numbers as ranges: `step 3`, `steps 2, 5-8`."""
    numbers = sorted(set(steps))
    ranges: list[list[int]] = []
    for step in numbers:
        if ranges and step == ranges[-1][1] + 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    joined = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
    return f"step{'' if len(numbers) == 1 else 's'} {joined}"
