"""Many verdicts as shares: of each attribute, and of the pictures of which every attribute is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dita.metrics.proportion import Share, share
from dita.miniature.judge.verdict import ATTRIBUTES, Verdict


@dataclass(frozen=True)
class Tally:
    """correct: pictures of which every attribute is right. attributes: of those that are spoken of, the right ones."""

    correct: Share
    attributes: dict[str, Share]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; `from_json` reads it back."""
        return asdict(self)


def from_json(data: Mapping[str, Any]) -> Tally:
    """The tally that `Tally.as_json` wrote."""
    return Tally(Share(**data["correct"]), {name: Share(**one) for name, one in data["attributes"].items()})


def tally(verdicts: Sequence[Verdict]) -> Tally:
    """The share of right verdicts for each attribute, among those that speak of it; absent where none does."""
    rows = [one.as_dict() for one in verdicts]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in ATTRIBUTES}
    attributes = {name: share(sum(map(bool, values)), len(values)) for name, values in known.items() if values}
    return Tally(share(sum(one.correct for one in verdicts), len(verdicts)), attributes)
