"""The steps of a scheduler, told to the run that they are of; and that a scheduler is of one run at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from dita.caching.caller import Caller, Whose, whose_call
from dita.caching.stand_in import stand_in, stock_class
from dita.caching.whole_call import step_arguments, with_output


class Follower(Protocol):
    """What is told of the steps of a scheduler."""

    def output(self, output: Tensor, sample: Tensor) -> Tensor:
        """What the scheduler shall take a step with, for the model's `output` at its `sample`."""
        ...

    def advance(self, out: Any) -> None:
        """The scheduler took a step, which returned `out`."""
        ...


SetTimesteps = Callable[..., Any]
"""Takes the scheduler's own `set_timesteps`, and the arguments that it is called with."""

_CLASSES: dict[type[Any], type[Any]] = {}
_FOLLOWED: dict[int, tuple[Caller, Follower, SetTimesteps | None]] = {}


@contextmanager
def followed(
    scheduler: Any, caller: Caller, follower: Follower, set_timesteps: SetTimesteps | None = None
) -> Iterator[None]:
    """While inside, `follower` is asked before, and told after, each step of `scheduler` that `caller` takes, and
    `set_timesteps` is called where it sets the timesteps.

    Another pipeline that shares the scheduler and would set or step it meanwhile spoils both pictures: that raises
    `RuntimeError`, before anything is changed, and so does following it twice.
    """
    if id(scheduler) in _FOLLOWED:
        raise _in_use(scheduler)
    _FOLLOWED[id(scheduler)] = (caller, follower, set_timesteps)
    own_step = scheduler.__dict__.get("step")  # somebody else watches the steps
    scheduler.__class__ = _followed_class(type(scheduler))
    if own_step is not None:
        scheduler.__dict__["step"] = functools.wraps(own_step)(functools.partial(_step, scheduler, own_step))
    try:
        yield
    finally:
        del _FOLLOWED[id(scheduler)]
        scheduler.__class__ = stock_class(type(scheduler))
        if own_step is not None:
            scheduler.__dict__["step"] = own_step


def _in_use(scheduler: Any) -> RuntimeError:
    return RuntimeError(
        f"this {type(scheduler).__name__} is in the middle of an accelerated run, and another pipeline would change it:"
        " give each pipeline a scheduler of its own, pipe.scheduler = copy.deepcopy(pipe.scheduler)"
    )


def _step(scheduler: Any, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    caller, follower, _ = _FOLLOWED.get(id(scheduler), (None, None, None))
    whose = None if caller is None else whose_call(caller)
    if whose is Whose.FOREIGN:
        raise _in_use(scheduler)
    if whose is not Whose.OWN or follower is None:
        return step(*args, **kwargs)
    output, sample = step_arguments(args, kwargs)
    taken = follower.output(output, sample)
    if taken is not output:
        args, kwargs = with_output(args, kwargs, taken)
    out = step(*args, **kwargs)
    follower.advance(out)
    return out


def _followed_class(base: type[Any]) -> type[Any]:
    if base not in _CLASSES:

        @functools.wraps(base.step)
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _step(self, functools.partial(base.step, self), *args, **kwargs)

        @functools.wraps(base.set_timesteps)
        def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
            caller, _, noted = _FOLLOWED.get(id(self), (None, None, None))
            whose = None if caller is None else whose_call(caller)
            if whose is Whose.FOREIGN:
                raise _in_use(self)
            stock = functools.partial(base.set_timesteps, self)
            return stock(*args, **kwargs) if noted is None or whose is not Whose.OWN else noted(stock, *args, **kwargs)

        _CLASSES[base] = stand_in(base, {"step": step, "set_timesteps": set_timesteps}, transparent=True)
    return _CLASSES[base]
