"""Steps without a transformer call: their output is forecast from the whole calls before (`plan.CallForecast`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dita.caching.forecast import AS_COMPUTED
from dita.caching.keeping import Keeper, Kept, parts, tensor_of
from dita.caching.noise_levels import OUTPUT, Linear, coordinate, noise_levels, prediction, space_map
from dita.plan import CallForecast, Plan
from dita.samplers import why_stochastic


class StochasticSamplerError(ValueError):
    """The sampler draws noise in its steps, so that outputs of whole calls can't be forecast."""


class WholeCalls:
    """The stored outputs of one run's whole calls, and their forecasts.

    What the scheduler gets in a step is the model's output after guidance, whatever calls it is made of, so it is
    stored and forecast there: one latent for each stored step.

    Args:
        forecast: how outputs are continued.
        scheduler: of the run, its timesteps set; None for a bare transformer, of which only `output` can be forecast,
            along the step number.
        begin: the run's first step among the scheduler's.
        plan: of the run.
        keeper: the form in which outputs are stored.

    Raises `StochasticSamplerError`, and `ValueError` for a space or coordinate that the scheduler does not tell.
    """

    def __init__(
        self, forecast: CallForecast, scheduler: Any, begin: int, plan: Plan, keeper: Keeper = AS_COMPUTED
    ) -> None:
        self.forecast = forecast
        self.keeper = keeper
        self._stored: list[tuple[int, Kept]] = []
        self._number = {step: number for number, step in enumerate(plan.cached_steps)}
        steps = len(plan.steps)
        if scheduler is None:
            if forecast.space not in ("auto", "output") or forecast.along not in ("auto", "step"):
                raise ValueError(
                    f"space={forecast.space!r} along {forecast.along!r} needs a pipeline's scheduler; a bare"
                    " transformer can forecast space='output' along='step'"
                )
            self.space, self.along = "output", "step"
            self._maps: list[Linear] = [OUTPUT] * steps
            self._at: tuple[float, ...] = tuple(map(float, range(steps)))
            return
        why = why_stochastic(scheduler)
        if why is not None:
            raise StochasticSamplerError(
                f"{why}, so that the output of a whole call can't be forecast from the ones before; take a method that"
                " keeps the call, such as fora:3 or toca:4:0.9, or a sampler without noise"
            )
        self.space, self.along = forecast.space, forecast.along
        if self.space == "auto":
            self.space = "velocity"
        if forecast.predictor == "hermite":
            self.along = "step"
        levels = noise_levels(scheduler)[begin : begin + steps]
        apart = len({level.time for level in levels}) == len(levels)
        if self.along == "auto":
            self.along = "noise" if apart else "step"
        elif self.along != "step" and not apart:
            raise ValueError(
                f"{type(scheduler).__name__} evaluates the model more than once at a noise level: along={self.along!r}"
                " can't tell its steps apart; use along='step'"
            )
        predicted = prediction(scheduler)
        self._maps = [space_map(self.space, predicted, level) for level in levels]
        self._at = coordinate(self.along, levels)

    def put(self, step: int, output: Tensor, sample: Tensor) -> None:
        """Stores the output of a full step."""
        z = self._maps[step].forward(sample, output)
        if z is output:
            z = output.clone()  # the pipeline may write into what it handed over
        if len(self._stored) == self.forecast.stored:
            self._stored.pop(0)
        self._stored.append((step, self.keeper.keep(z)))

    def output(self, step: int, sample: Tensor, dtype: torch.dtype) -> Tensor:
        """What stands for the output of a step that makes no call."""
        return self._maps[step].back(sample, self._forecast(step), dtype)

    def compared(self, step: int) -> tuple[Tensor, Tensor]:
        """What is forecast for a step, and its value in the last full one."""
        return self._forecast(step), tensor_of(self._stored[-1][1])

    def _forecast(self, step: int) -> Tensor:
        nodes = tuple(self._at[number] for number, _ in self._stored)
        span = (self._at[0], self._at[-1])
        weights = self.forecast.weights_at(nodes, self._at[step], span, self._number[step])
        total: Tensor | None = None
        for weight, (_, kept) in zip(weights, self._stored, strict=True):
            if weight != 0:
                total = tensor_of(kept) * weight if total is None else total.add_(tensor_of(kept), alpha=weight)
        return torch.zeros_like(tensor_of(self._stored[-1][1])) if total is None else total

    def tensors(self) -> Iterator[Tensor]:
        """Everything that is held in memory."""
        for _, kept in self._stored:
            yield from parts(kept)

    def forget(self) -> None:
        """Frees everything."""
        self._stored.clear()


def form_of(output: Any) -> Any:
    """The form of a transformer's output, for `blank`: holds no numbers."""
    if isinstance(output, Mapping):  # diffusers' outputs are
        return type(output)(**{name: form_of(value) for name, value in output.items()})
    if isinstance(output, tuple):
        return tuple(form_of(value) for value in output)
    if isinstance(output, Tensor):
        return torch.zeros((), dtype=output.dtype, device=output.device).expand(output.shape)
    return output


def blank(form: Any) -> Any:
    """Zeros in the form of a transformer's output. The pipeline computes its guidance with them, for nothing."""
    if isinstance(form, Mapping):
        return type(form)(**{name: blank(value) for name, value in form.items()})
    if isinstance(form, tuple):
        return tuple(blank(value) for value in form)
    return form.contiguous() if isinstance(form, Tensor) else form


def first_tensor(output: Any) -> Tensor:
    """The sample in a transformer's output: the tensor itself, or the first in it."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


def filled(form: Any, sample: Tensor) -> Any:
    """A transformer's output of this form, with `sample` in the place of its sample."""
    if isinstance(form, Mapping):
        first = next(iter(form))
        return type(form)(**{name: sample if name == first else blank(value) for name, value in form.items()})
    return (sample, *blank(form[1:])) if isinstance(form, tuple) else sample


def step_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The model's output and the sample among the arguments of a scheduler's `step`."""
    output = args[0] if args else kwargs["model_output"]
    sample = args[2] if len(args) > 2 else kwargs["sample"]
    return output, sample


def with_output(
    args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a scheduler's `step` with another output of the model."""
    return ((output, *args[1:]), kwargs) if args else (args, {**kwargs, "model_output": output})
