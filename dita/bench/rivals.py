"""The caches of diffusers and of cache-dit, each set to compute as many full steps as a method of dita does.

Where one does not work on a family, trying it raises `Refused` with its own reason: nothing here knows families.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks import HookRegistry
from torch import nn

from dita.bench.contenders import Claim, Contender, Refused, Role, blocks_of, full_claim
from dita.bench.counting import StepCount
from dita.values import unknown

ALWAYS = 1e9
"""A threshold that is never reached."""

BISECTIONS = 12


@dataclass(frozen=True)
class Setting:
    """What the rivals are to match: the full steps of a run of `steps`, and the order of forecasts."""

    steps: int
    full_steps: tuple[int, ...]
    order: int = 1

    @property
    def leading(self) -> int:
        """Full steps at the start."""
        return next((s for s in range(self.steps) if s not in self.full_steps), self.steps)

    def nearest(self, full_steps: Callable[[int], Sequence[int]]) -> int:
        """The interval whose full steps are as many as those to match, or as near to it as can be."""
        wanted = len(self.full_steps)
        return min(range(2, self.steps + 1), key=lambda n: abs(len(full_steps(n)) - wanted))


class Rival(Contender):
    """A cache of another library. Subclasses say how it is switched on, and what its cached steps execute.

    `tuning_runs`: how many runs it takes at most to set it.
    """

    role: Role = "rival"
    fullgraph = False
    library = ""
    name = ""
    tuning_runs = 0

    def __init__(self, module: nn.Module, setting: Setting) -> None:
        super().__init__(f"{self.library}:{self.name} @{len(setting.full_steps)}", module, setting.steps)
        self.setting = setting
        self.step = 0

    @property
    def timestep(self) -> float:
        """Of the coming step, from 1000 down."""
        return 1000 * (1 - self.step / self.steps)

    def before_step(self, step: int) -> None:
        self.step = step

    def full_steps(self) -> Sequence[int]:
        """The steps that it is set to compute in full."""
        raise NotImplementedError

    def cached_rows(self, plain: StepCount) -> dict[str, int]:
        """What its other steps execute."""
        return {}

    def claims(self, plain: StepCount, counted: Sequence[StepCount]) -> list[Claim]:
        full = set(self.full_steps())
        cached = Claim("cached", self.cached_rows(plain))
        return [full_claim(plain) if step in full else cached for step in range(self.steps)]


class _Diffusers(Rival):
    """A cache of diffusers, switched on by its function, which works on models that lack the mixin too."""

    library = "diffusers"

    def __init__(self, module: nn.Module, setting: Setting) -> None:
        super().__init__(module, setting)
        try:
            self.apply()
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        registries = [getattr(m, "_diffusers_hook", None) for m in module.modules()]
        if not any(registry is not None and registry.hooks for registry in registries):
            raise Refused("it finds no module of this model to hook")

    def apply(self) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        HookRegistry.check_if_exists_or_initialize(self.module).reset_stateful_hooks(recurse=True)

    def context(self) -> AbstractContextManager[Any]:
        named = getattr(self.module, "cache_context", None)
        return named("cond") if named is not None else nullcontext()


class FirstBlockCache(_Diffusers):
    """Runs the first block in every step, and the others where its residual has moved by more than a threshold.

    The threshold is bisected until as many steps are full as can be: see `tune`.
    """

    name = "first-block"
    tuning_runs = BISECTIONS

    def apply(self) -> None:
        from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

        apply_first_block_cache(self.module, FirstBlockCacheConfig(threshold=ALWAYS))

    def tune(self, run: Callable[[], int]) -> None:
        """Sets the threshold. `run` runs once, and returns how many steps executed every block."""
        heads = [h for m in self.module.modules() for h in _hooks(m) if hasattr(h, "threshold")]
        wanted, low, high = len(self.setting.full_steps), 0.0, 4.0
        best, miss = high, float("inf")
        for _ in range(BISECTIONS):
            threshold = (low + high) / 2
            for head in heads:
                head.threshold = threshold
            full = run()
            if abs(full - wanted) < miss:
                best, miss = threshold, abs(full - wanted)
            if miss == 0:
                break
            low, high = (threshold, high) if full > wanted else (low, threshold)
        for head in heads:
            head.threshold = best

    def claims(self, plain: StepCount, counted: Sequence[StepCount]) -> list[Claim]:
        """How many steps are full was seen, not set; each step is full or runs the first block only."""
        full, cached = full_claim(plain), Claim("cached", dict(plain.blocks[0]))
        found = [full if count.rows == plain.rows else cached for count in counted]
        if found.count(full) in (0, self.steps):
            raise Refused(f"no threshold computes {len(self.setting.full_steps)} of {self.steps} steps in full")
        return found


class MagCache(_Diffusers):
    """Skips all blocks, at most so many steps in a row; with ratios of 1 it always skips as many."""

    name = "magcache"

    def __init__(self, module: nn.Module, setting: Setting) -> None:
        self.interval = setting.nearest(lambda n: _every(setting, n, setting.leading))
        super().__init__(module, setting)

    def apply(self) -> None:
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        config = MagCacheConfig(
            threshold=ALWAYS,
            max_skip_steps=self.interval - 1,
            retention_ratio=self.setting.leading / self.steps,
            num_inference_steps=self.steps,
            mag_ratios=[1.0] * self.steps,
        )
        apply_mag_cache(self.module, config)

    def full_steps(self) -> Sequence[int]:
        return _every(self.setting, self.interval, self.setting.leading)


class TaylorSeer(_Diffusers):
    """Forecasts the outputs of attention modules: the patterns that diffusers has by default."""

    name = "taylorseer"
    patterns: dict[str, Any] = {}  # noqa: RUF012 (of the configuration; subclasses have others)

    def __init__(self, module: nn.Module, setting: Setting) -> None:
        self.interval = setting.nearest(lambda n: self._computed(setting, n))
        super().__init__(module, setting)

    @staticmethod
    def _computed(setting: Setting, interval: int) -> list[int]:
        first = setting.leading
        return [s for s in range(setting.steps) if s < first or (s - first - 1) % interval == 0]

    def apply(self) -> None:
        from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

        config = TaylorSeerCacheConfig(
            cache_interval=self.interval,
            disable_cache_before_step=self.setting.leading,
            max_order=self.setting.order,
            taylor_factors_dtype=next(self.module.parameters()).dtype,
            **self.patterns,
        )
        apply_taylorseer_cache(self.module, config)

    def full_steps(self) -> Sequence[int]:
        return self._computed(self.setting, self.interval)

    def cached_rows(self, plain: StepCount) -> dict[str, int]:
        return {"mlp": plain.rows["mlp"]}


class TaylorSeerModules(TaylorSeer):
    """Forecasts what dita's TaylorSeer does: attention and both MLPs, and the output of FLUX's single-stream blocks."""

    name = "taylorseer-modules"
    patterns = {  # noqa: RUF012
        "cache_identifiers": [
            r"transformer_blocks\.\d+\.(attn\d?|ff|ff_context)",
            r"single_transformer_blocks\.\d+\.proj_out",
        ],
        "skip_predict_identifiers": [r"single_transformer_blocks\.\d+\.(attn|proj_mlp|act_mlp)"],
    }

    def cached_rows(self, plain: StepCount) -> dict[str, int]:
        return {}


class TaylorSeerLite(TaylorSeer):
    """Forecasts the transformer's last projection, and runs no block."""

    name = "taylorseer-lite"
    patterns = {"use_lite_mode": True}  # noqa: RUF012

    def cached_rows(self, plain: StepCount) -> dict[str, int]:
        return {}


class PyramidAttentionBroadcast(_Diffusers):
    """Computes self- and cross-attention every so many steps, and the MLPs in every one."""

    name = "pab"

    def __init__(self, module: nn.Module, setting: Setting) -> None:
        self.interval = setting.nearest(lambda n: _multiples(setting, n))
        super().__init__(module, setting)

    def apply(self) -> None:
        from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

        within = (-1, _timestep_after(self.setting))
        config = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=self.interval,
            cross_attention_block_skip_range=self.interval,
            spatial_attention_timestep_skip_range=within,
            cross_attention_timestep_skip_range=within,
            current_timestep_callback=lambda: self.timestep,
        )
        apply_pyramid_attention_broadcast(self.module, config)

    def full_steps(self) -> Sequence[int]:
        return _multiples(self.setting, self.interval)

    def cached_rows(self, plain: StepCount) -> dict[str, int]:
        return {"mlp": plain.rows["mlp"]}


class FasterCache(_Diffusers):
    """Extrapolates self-attention, and where a call holds the halves of guidance, the one without the prompt."""

    name = "fastercache"

    def __init__(self, module: nn.Module, setting: Setting) -> None:
        self.interval = setting.nearest(lambda n: _multiples(setting, n))
        self.distilled = "guidance_embeds" in getattr(module, "config", {})
        super().__init__(module, setting)

    def apply(self) -> None:
        from diffusers.hooks import FasterCacheConfig, apply_faster_cache

        within = (-1, _timestep_after(self.setting))
        config = FasterCacheConfig(
            spatial_attention_block_skip_range=self.interval,
            spatial_attention_timestep_skip_range=within,
            unconditional_batch_skip_range=self.interval,
            unconditional_batch_timestep_skip_range=within,
            current_timestep_callback=lambda: self.timestep,
            attention_weight_callback=lambda _: 0.5,
            is_guidance_distilled=self.distilled,
            tensor_format="BCFHW" if hasattr(self.module, "temporal_blocks") else "BCHW",
        )
        apply_faster_cache(self.module, config)
        self.attention = any(_hooks(module) for block in blocks_of(self.module) for module in block.modules())

    def full_steps(self) -> Sequence[int]:
        return _multiples(self.setting, self.interval)

    def cached_rows(self, plain: StepCount) -> dict[str, int]:
        share = 1 if self.distilled else 2
        rows = {kind: count // share for kind, count in plain.rows.items()}
        return {kind: count for kind, count in rows.items() if kind != "attn" or not self.attention}


class DBCache(Rival):
    """cache-dit's: the first block runs in every step, all others in the very steps that are to match."""

    library = "cache-dit"
    name = "dbcache"

    def __init__(self, module: nn.Module, setting: Setting) -> None:
        super().__init__(module, setting)
        self._cache_dit = _cache_dit()
        config = self._cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            max_warmup_steps=setting.leading,
            residual_diff_threshold=ALWAYS,
            enable_separate_cfg=False,
            num_inference_steps=setting.steps,
            steps_computation_mask=[int(step in setting.full_steps) for step in range(setting.steps)],
            steps_computation_policy="static",
        )
        try:
            self._cache_dit.enable_cache(module, cache_config=config, calibrator_config=self.calibrator())
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}") from error

    def calibrator(self) -> Any:
        """What continues the residuals; None leaves them as they are."""
        return None

    def reset(self) -> None:
        # It begins a new run one call too late by itself, and would reuse the last run's residual in the first step.
        self._cache_dit.refresh_context(self.module, num_inference_steps=self.steps)

    def full_steps(self) -> Sequence[int]:
        return self.setting.full_steps

    def cached_rows(self, plain: StepCount) -> dict[str, int]:
        return dict(plain.blocks[0])


class DBCacheTaylorSeer(DBCache):
    """The same, its residuals forecast."""

    name = "dbcache-taylorseer"

    def calibrator(self) -> Any:
        return self._cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=self.setting.order)


RIVALS: tuple[type[Rival], ...] = (
    FirstBlockCache,
    TaylorSeer,
    TaylorSeerModules,
    TaylorSeerLite,
    MagCache,
    PyramidAttentionBroadcast,
    FasterCache,
    DBCache,
    DBCacheTaylorSeer,
)
LIBRARIES = tuple(dict.fromkeys(rival.library for rival in RIVALS))


def chosen(text: str) -> list[type[Rival]]:
    """The rivals that a list names: libraries, or single ones (`diffusers:magcache`), with commas between; or `none`.

    Raises `ValueError` for an unknown one, and for cache-dit where it is not installed.
    """
    if text.strip().lower() in ("", "none"):
        return []
    found: list[type[Rival]] = []
    for name in (part.strip().lower() for part in text.split(",")):
        matching = [rival for rival in RIVALS if name in (rival.library, f"{rival.library}:{rival.name}")]
        if not matching:
            known = (*LIBRARIES, *(f"{rival.library}:{rival.name}" for rival in RIVALS))
            raise unknown("rival", name, ("none", *known))
        found += [rival for rival in matching if rival not in found]
    if any(rival.library == "cache-dit" for rival in found):
        _cache_dit()
    return found


def _cache_dit() -> Any:
    try:
        cache_dit: Any = importlib.import_module("cache_dit")
    except ImportError as error:
        raise ValueError(
            "the rival cache-dit is not installed; `pip install cache-dit` (dita[rivals]) adds it, or leave it out of"
            f" --rivals ({error})"
        ) from error
    for name in logging.root.manager.loggerDict:
        if name.upper().startswith("CACHE_DIT"):
            logging.getLogger(name).setLevel(logging.ERROR)
    return cache_dit


def _every(setting: Setting, interval: int, first: int) -> list[int]:
    """The steps before `first`, and after `interval` - 1 others again and again."""
    return [s for s in range(setting.steps) if s < first or (s - first) % interval == interval - 1]


def _multiples(setting: Setting, interval: int) -> list[int]:
    """The steps before the first that is cached, and the multiples of `interval`."""
    return [s for s in range(setting.steps) if s < setting.leading or s % interval == 0]


def _timestep_after(setting: Setting) -> float:
    """Of the last full step at the start: skipping begins below it."""
    return 1000 * (1 - (max(setting.leading, 1) - 1) / setting.steps)


def _hooks(module: nn.Module) -> Iterable[Any]:
    registry = getattr(module, "_diffusers_hook", None)
    return registry.hooks.values() if registry is not None else ()


def versions() -> dict[str, str]:
    """Of torch and of the rivals' libraries that are there."""
    found = {"torch": str(torch.__version__)}
    for package in ("diffusers", "cache-dit"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
