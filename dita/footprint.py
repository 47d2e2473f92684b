"""What the feature store of a plan holds through its steps, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from dita.shapes import FLOAT32_BYTES, STORED, Kind, Site

if TYPE_CHECKING:
    from dita.plan import Block, CallForecast, Plan, Span

INDEX_BYTES = 8
Entries = dict["Site | Span", int]
"""What is stored, and how many factors beyond F_0 it has."""


class Compiled(Enum):
    """What `torch.compile` makes graphs of.

    Nothing is freed inside of a graph: where it is the whole transformer, the attention of all tokens in FLUX's
    single-stream blocks, and the outputs that the factors of a forecast are differences to, stay until the call has
    ended. No graph keeps what no timestep enters.
    """

    NOTHING = "nothing"
    BLOCKS = "blocks"
    WHOLE = "whole"


def peak_bytes(plan: Plan, compiled: Compiled = Compiled.NOTHING) -> int:
    """The most that is held at the end of a transformer call, or between two blocks inside of it."""
    if plan.call_forecast is not None:
        return _latent_bytes(plan, plan.call_forecast)
    whole = compiled is Compiled.WHOLE
    shape, live = plan.shape, plan.method.selects_live(plan.shape)
    sizes: dict[Site | Span, int] = {site: _output(plan, site) + _gate(plan, site) for site in shape.sites()}
    sizes |= dict.fromkeys(plan.spans, _stored(plan, shape.hidden_bytes()))
    factor = {one: _output(plan, one) if isinstance(one, Site) else size for one, size in sizes.items()}
    scores = _score_bytes(plan)
    live_indices = _live_index_bytes(plan) if live else [0] * len(plan.steps)
    order = {(site.stack, site.layer): number for number, site in enumerate(shape.sites())}
    no_entries: Entries = {}
    entries = [no_entries, *_entries(plan)]
    peak, counted = 0, set[tuple[object, ...]]()
    for s, (before, held) in enumerate(pairwise(entries)):
        share = plan.row_share(s)
        steady = _steady_bytes(plan, s, compiled) + _foreseen_bytes(plan, s)
        more = scores[s] + int(_matching_bytes(plan, plan.matchings_kept[s]) * share)
        same = (plan.situation(s), plan.skips.get(s), id(before), id(held), share, steady, more, live_indices[s])
        if (*same, forms := _forms_factors(plan, s)) in counted:
            continue
        counted.add((*same, forms))
        features = sum(sizes[one] + count * factor[one] for one, count in held.items())
        inner, later = _after(plan, s)
        ended = int((features + inner) * share) + steady
        peak = max(peak, ended + more + (live_indices[s] if live else later))
        if whole and forms:  # the one that differs, and the last factor, are there still
            again = (one for one, count in held.items() if one in before and _is_new(plan, s, one))
            features += sum((before[one] + 1 - held[one]) * factor[one] for one in again)
        for inner, indices, block in () if live else _inside(plan, s, whole):
            unstored = [one for one in held if one not in before] if block else []
            to_come = sum(sizes[one] for one in unstored if block and order[_stored_by(one)] >= order[block])
            fullest = int((features - to_come + inner) * share) + steady
            indices = later if shape.branches > 1 else indices  # the first call has selected for all
            peak = max(peak, (fullest + (shape.branches - 1) * ended) // shape.branches + indices)
    return peak


def _latent_bytes(plan: Plan, forecast: CallForecast) -> int:
    """Of the outputs of whole calls that are stored: clean samples and velocities in 32 bits at least."""
    last = max((s for s, kind in enumerate(plan.kinds) if kind is Kind.CALL), default=0)
    one = plan.shape.latent_bytes()
    if forecast.space != "output":
        one = one * max(FLOAT32_BYTES, plan.shape.element_bytes) // plan.shape.element_bytes
    return one * min(forecast.stored, plan.kinds[:last].count(Kind.FULL))


def site_bytes(plan: Plan, site: Site) -> int:
    """What the site takes in the store, at most: its output with the factors of its forecast, and the attention that
    partial steps need beside them."""
    order = plan.forecast.order if plan.forecast is not None else 0
    computed = max((sum(plan.cycle_tokens(s, site)) for s in range(len(plan.steps))), default=0)
    return _output(plan, site) * (1 + order) + _of_tokens(plan, site, computed)


def staged_bytes(plan: Plan) -> int:
    """Bytes on the model's device for features that lie elsewhere: one in use, those on their way, one that leaves."""
    if plan.store.device is None:
        return 0
    return 3 * max((_output(plan, site) for site in plan.shape.sites()), default=0)


def _stored(plan: Plan, size: int) -> int:
    return plan.store.bytes_of(size, plan.shape.width, plan.shape.element_bytes)


def _output(plan: Plan, site: Site) -> int:
    return _stored(plan, plan.shape.feature_bytes(site, frozenset({Kind.REUSE})))


def _gate(plan: Plan, site: Site) -> int:
    """Gates are stored as they are."""
    return plan.shape.gate_bytes(site) if plan.method.keeps_gates(plan.shape) else 0


def _inner(plan: Plan, site: Site) -> int:
    """The attention that partial steps need beside the output, of all tokens."""
    whole = plan.shape.feature_bytes(site, frozenset({Kind.REUSE, Kind.PARTIAL}))
    return _stored(plan, whole) - _output(plan, site)


def _of_tokens(plan: Plan, site: Site, tokens: int) -> int:
    """The same, of `tokens` of a sample; of all where they are not known before."""
    if not (tokens and plan.shape.shares_projection(site)) or site in plan.attention_alone:
        return 0
    if plan.method.selects_live(plan.shape):
        return _inner(plan, site)
    return _inner(plan, site) // plan.shape.tokens(site.module) * tokens


def _entries(plan: Plan) -> list[Entries]:
    """At the end of each step: what is stored, and how many factors beyond F_0 it has. Equal ones are one object."""
    factors: Entries = {}
    per_step: list[Entries] = []
    following: dict[tuple[object, ...], Entries] = {}
    first: dict[tuple[tuple[Site | Span, int], ...], Entries] = {(): factors}
    for s, step in enumerate(plan.steps):
        spans = tuple(span for span in plan.spans if plan.skips.get(s) == span or plan.holds_span(s, span))
        same = (plan.situation(s), plan.skips.get(s), spans, plan.used_later(s), _forms_factors(plan, s), id(factors))
        if same not in following:
            held: list[Site | Span] = [
                site for site, action in step.items() if action.kind in STORED or plan.holds(s, site)
            ]
            made = {one: _factors(plan, s, one, factors.get(one)) for one in (*held, *spans)}
            following[same] = first.setdefault(tuple(made.items()), made)
        factors = following[same]
        per_step.append(factors)
    return per_step


def _is_new(plan: Plan, step: int, one: Site | Span) -> bool:
    """Whether what is held of a site or span at the end of a step was computed there."""
    return plan.steps[step][one].kind is Kind.FULL if isinstance(one, Site) else plan.skips.get(step) != one


def _forms_factors(plan: Plan, step: int) -> bool:
    return plan.forecast is not None and plan.forecast.order > 0 and step >= plan.forecast.since


def _factors(plan: Plan, step: int, one: Site | Span, before: int | None) -> int:
    """Factors beyond F_0 after a step, where there were `before`, or nothing."""
    if not _is_new(plan, step, one):
        return before or 0
    if plan.forecast is None or before is None or not _forms_factors(plan, step):
        return 0
    return min(plan.forecast.order, before + 1)


def _after(plan: Plan, step: int) -> tuple[int, int]:
    """At the end of a step: attention of the tokens that it and later steps compute, and the latters' numbers."""
    inner = indices = 0
    for site, action in plan.steps[step].items():
        coming = sum(plan.cycle_tokens(step, site))
        inner += _of_tokens(plan, site, coming + (action.tokens if action.kind is Kind.PARTIAL else 0))
        indices += INDEX_BYTES * coming * plan.shape.rows
    return inner, indices


def _stored_by(one: Site | Span) -> Block:
    """The block that stores the output of a site, or what is stored of a span."""
    return (one.stack, one.layer) if isinstance(one, Site) else one.source or one.last


def _inside(plan: Plan, step: int, whole: bool) -> Iterator[tuple[int, int, Block | None]]:
    """The same inside of a step, each time before attention is cut down to the tokens that it is stored for: and the
    block in front of which this is, None at the end. `whole`: it is cut down at the end only."""
    settled: frozenset[Block] = frozenset() if whole else plan.settled(step)
    inner = indices = 0
    opened: list[Site] = []
    for site, action in plan.steps[step].items():
        coming = sum(plan.cycle_tokens(step, site))
        if action.kind is not Kind.FULL:
            inner += _of_tokens(plan, site, coming + (action.tokens if action.kind is Kind.PARTIAL else 0))
            indices += INDEX_BYTES * coming * plan.shape.rows
    for site in plan.opened(step):
        if (site.stack, site.layer) in settled:
            yield inner, indices, (site.stack, site.layer)
            for one in opened:
                coming = sum(plan.cycle_tokens(step, one))
                inner += _of_tokens(plan, one, coming) - _inner(plan, one)
                indices += INDEX_BYTES * coming * plan.shape.rows
            opened = []
        inner += _inner(plan, site)
        opened.append(site)
    yield inner, indices, None


def _steady_bytes(plan: Plan, step: int, compiled: Compiled) -> int:
    """At the end of a step: what no timestep enters, such as the text's keys and values. Compiled blocks compute it
    anew."""
    if compiled is not Compiled.NOTHING or not plan.keeps_steady(step):
        return 0
    return plan.shape.steady_bytes(len(plan.text_blocks))


def _foreseen_bytes(plan: Plan, step: int) -> int:
    """At the end of a step: the modulations of all cached steps, and what they are made of."""
    if not plan.foresees or not plan.cached_steps[0] <= step < plan.cached_steps[-1]:
        return 0
    one = plan.shape.gate_bytes(plan.shape.sites()[0])  # as wide as a gate
    return one * len(plan.cached_steps) * (1 + plan.modulation_chunks)


def _matching_bytes(plan: Plan, groups: frozenset[Block]) -> int:
    """Bytes of the matchings of `groups`: token numbers in 8 bytes, sizes in 4."""
    if plan.merging is None:
        return 0
    total = 0
    for stack, _ in groups:
        cells = plan.shape.cells(stack, plan.merging.stride)
        merged = cells.tokens - cells.removed(plan.merging.ratio)
        total += (2 * INDEX_BYTES * cells.tokens + 4 * merged) * cells.sequences
    return total * plan.shape.rows * plan.shape.branches


def _score_bytes(plan: Plan) -> list[int]:
    """After each step: one number a token in the blocks whose scores are kept for later selections."""
    shape, score = plan.shape, str(getattr(plan.method, "score", ""))
    if not plan.method.keeps_scores(shape):
        return [0] * len(plan.steps)
    sources = {
        (stack, layer): Site(stack, layer, shape.score_source(stack, score))
        for stack in shape.stacks
        for layer in range(shape.depth(stack))
    }
    scored: dict[Block, bool] = {}
    held = []
    found: dict[tuple[object, ...], dict[Block, bool]] = {}
    for s, step in enumerate(plan.steps):
        situation = plan.situation(s)
        if situation not in found:
            full = (block for block, source in sources.items() if step[source].kind is Kind.FULL)
            found[situation] = {block: plan.scores_at(s, *block, score) for block in full}
        scored |= found[situation]
        numbers = sum(shape.tokens(sources[block].module) for block, holds in scored.items() if holds)
        held.append(4 * numbers * shape.rows)
    return held


def _live_index_bytes(plan: Plan) -> list[int]:
    """In each step: its own token numbers, and the ages of all tokens."""
    choosing = plan.shape.batch if plan.method.shares_halves(plan.shape) else plan.shape.rows
    aged: set[Site] = set()
    held = []
    for step in plan.steps:
        partial = {
            site: action.tokens
            for site, action in step.items()
            if action.kind is Kind.PARTIAL and site not in plan.attention_alone
        }
        aged = {site for site in aged if step[site].kind is not Kind.FULL} | set(partial)
        ages = sum(4 * plan.shape.tokens(site.module) for site in aged) * choosing
        held.append(INDEX_BYTES * sum(partial.values()) * plan.shape.rows + ages)
    return held
