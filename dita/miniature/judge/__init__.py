"""The ground-truth judge of the shapes world: what a picture shows, and whether that is what its caption says."""

from dita.miniature.judge.judge import Judge
from dita.miniature.judge.reading import Reading
from dita.miniature.judge.verdict import ATTRIBUTES, Verdict

__all__ = ["ATTRIBUTES", "Judge", "Reading", "Verdict"]
