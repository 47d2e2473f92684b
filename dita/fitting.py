"""Plans whose store is bounded: what is cached, and what is computed in full because there is no room for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from dita.footprint import Compiled, peak_bytes, site_bytes
from dita.plan import Action, Plan, Step
from dita.shapes import STORED, Kind, Site
from dita.stores import Store

Unit = tuple[Site, ...]
"""Sites that are cached together or not at all."""


def with_store(plan: Plan, store: Store, share: float = 1.0, compiled: Compiled = Compiled.NOTHING) -> Plan:
    """`plan` with features kept as `store` says, in `share` of its `max_cache_bytes`. compiled: as of `peak_bytes`.

    Sites are computed in full, those first that save the fewest FLOPs for their bytes, until the rest fits. What is
    stored of skipped spans of blocks, or of whole calls, goes last, and with it the skipping. Raises `ValueError` where
    even that holds too much: matchings of merged tokens, and cross-attention behind the end of guidance, are not given
    up.
    """
    plan = replace(plan, store=store)
    if store.max_cache_bytes is None:
        return plan
    limit = int(store.max_cache_bytes * share)
    if peak_bytes(plan, compiled) <= limit:
        return plan
    units = sorted(_units(plan), key=lambda unit: _usefulness(plan, unit))

    def without(count: int) -> Plan:
        return _without(plan, units[:count])

    count = bisect_left(range(len(units) + 1), True, key=lambda n: peak_bytes(without(n), compiled) <= limit)
    if count > len(units):
        fitted = _without_spans(without(len(units)))
        least = peak_bytes(fitted, compiled)
        if least > limit:
            raise ValueError(
                f"max_cache_bytes is {store.max_cache_bytes}, and {plan.whole_method.label()} on {plan.shape.name}"
                f" needs {ceil(least / (share or 1))} at least"
            )
        return fitted
    return without(count)


def _units(plan: Plan) -> list[Unit]:
    """What can be given up: blocks, or sites where these are cached apart."""
    units: dict[tuple[object, ...], list[Site]] = {}
    for site in plan.shape.sites():
        stored = any(step[site].kind in STORED for step in plan.steps)
        if stored and not (plan.joined is not None and site.module == "cross_attn"):  # half of its text is gone
            units.setdefault(site[:2] if plan.shape.whole_blocks else site, []).append(site)
    return [tuple(unit) for unit in units.values()]


def _usefulness(plan: Plan, unit: Unit) -> float:
    """FLOPs that caching saves in a run for each byte that it holds."""
    saved = 0.0
    for s, step in enumerate(plan.steps):
        for site in unit:
            if step[site].kind in STORED:
                whole = plan.shape.flops(site, Kind.FULL, plan.shape.tokens(site.module))
                saved += (whole - plan.shape.flops(site, *step[site][:2])) * plan.row_share(s)
    return saved / max(1, sum(site_bytes(plan, site) for site in unit))


def _without(plan: Plan, units: Sequence[Unit]) -> Plan:
    dropped = frozenset(site for unit in units for site in unit)
    steps = tuple(
        {
            site: Action(Kind.FULL, plan.shape.tokens(site.module))
            if site in dropped and action.kind in STORED
            else action
            for site, action in step.items()
        }
        for step in plan.steps
    )
    return _with_steps(plan, steps, dropped)


def _without_spans(plan: Plan) -> Plan:
    passed = (Kind.SKIP, Kind.CALL)
    skipped = {site for step in plan.steps for site, action in step.items() if action.kind in passed}
    steps = tuple(
        {
            site: Action(Kind.FULL, plan.shape.tokens(site.module)) if action.kind in passed else action
            for site, action in step.items()
        }
        for step in plan.steps
    )
    return replace(_with_steps(plan, steps, plan.dropped | skipped), skips={}, call_forecast=None)


def _with_steps(plan: Plan, steps: tuple[Step, ...], dropped: frozenset[Site]) -> Plan:
    changed = replace(plan, steps=steps, dropped=dropped)
    return replace(changed, foresees=plan.foresees and changed.modulation_chunks > 0)
