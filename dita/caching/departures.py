"""Whether a call ran what its plan says: blocks that ran and outputs that were stored, counted where no graph is."""

from __future__ import annotations

from collections.abc import Sequence

from dita.caching.class_swap import ForeignHookError
from dita.caching.state import BlockState
from dita.footprint import Compiled
from dita.shapes import Kind


class DepartureWarning(UserWarning):
    """A run did not execute what its plan says: something else decides what is computed."""


def begin(states: Sequence[BlockState]) -> None:
    """In front of a call, whose instructions the states have."""
    for state in states:
        state.entered = 0
        for slot in state.slots.values():
            slot.puts = 0


def departures(states: Sequence[BlockState], step: int, compiled: Compiled) -> list[str]:
    """Behind the call: what it did that it was not to, or did not that it was to; usually nothing.

    Raises `ForeignHookError` where what later steps need was never computed.
    """
    due = [slot for state in states for slot in state.slots.values() if slot.keep and slot.kind is Kind.FULL]
    if any(slot.out is None for slot in due):
        raise ForeignHookError(
            f"step {step}: modules that were to be computed and stored were passed by, by another cache or hook that"
            " cannot be seen: take it off first, or go without dita (dita.disable)"
        )
    if compiled is Compiled.WHOLE:  # nothing is counted inside of a graph
        return []
    found = []
    planned = [0 if state.spans is not None and state.spans.skipped else 1 for state in states]
    ran = [state.entered for state in states]
    if ran != planned:
        found.append(f"step {step}: {sum(ran)} calls of blocks, where {sum(planned)} were planned")
    if compiled is Compiled.NOTHING:
        missed = sum(not slot.puts for slot in due)
        if missed:
            found.append(f"step {step}: {missed} of {len(due)} modules did not compute what was to be stored")
    return found
