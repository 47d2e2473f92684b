"""One run looked into: its plan, where its seconds went, and which tokens it computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from dita.caching.token_record import TokenRecord
from dita.demo.request import Request
from dita.demo.sampling import Made, Seen
from dita.demo.studio import Studio, Waiting
from dita.methods import Method
from dita.plan import Plan
from dita.shapes import Kind


@dataclass(frozen=True)
class Spent:
    """Seconds of one kind of work: how often, of one, and of all."""

    what: str
    times: int
    each: float
    total: float


@dataclass(frozen=True)
class Recorded:
    """A run whose tokens were recorded."""

    request: Request
    method: Method
    made: Made
    plan: Plan
    tokens: TokenRecord

    @property
    def spent(self) -> list[Spent]:
        """Where the seconds went: transformer calls by the kind of their step, and all else."""
        assert self.made.summary is not None
        found = []
        for kind, seconds in self.made.summary.seconds.items():
            found.append(Spent(f"{WORDS[kind]} step", len(seconds), median(seconds), sum(seconds)))
        rest = max(self.made.seconds - sum(one.total for one in found), 0.0)
        return [*found, Spent("prompt, sampler, decoding", 1, rest, rest)]


WORDS: dict[Kind, str] = {
    Kind.FULL: "full",
    Kind.PARTIAL: "partial",
    Kind.REUSE: "reused",
    Kind.FORECAST: "forecast",
    Kind.SKIP: "skipped",
    Kind.CALL: "no call",
}


def record(studio: Studio, request: Request, method: Method, session: str = "") -> Iterator[Waiting | Seen | Recorded]:
    """Makes the picture of `request` once more, and keeps what every step computed. Raises as `Studio.compare` does."""
    with studio.visit(session) as visit:
        for event in studio.sampled(visit, request, method, record=True):
            if not isinstance(event, Made):
                yield event
                continue
            summary = event.summary
            assert summary is not None and summary.plan is not None and summary.tokens is not None
            yield Recorded(request, method, event, summary.plan, summary.tokens)
