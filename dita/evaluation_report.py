"""An evaluation as a person reads it: a table, and in words what to distrust."""

from __future__ import annotations

from dita.evaluate import Evaluation
from dita.measurement import Result
from dita.metrics.bootstrap import Average
from dita.metrics.catalogue import METRICS
from dita.terminal import Column, FittingTable

NAMED_PROBLEMS = 20  # further ones are counted, and named in the JSON


def table(evaluation: Evaluation) -> FittingTable:
    """A line a metric: value with its 95 % interval, the plain pipeline's, and the paired difference to it."""
    beside = any(result.plain or result.difference for result in evaluation.results)
    heads = [Column("value"), Column("95 % interval")]
    heads += [Column("plain", 1), Column("paired difference", 1)] if beside else []
    made = FittingTable("metric", [*heads, Column("pictures", 2), Column("better", 2, left=True)])
    for result in evaluation.results:
        cells = [number(result, result.value), interval(result, result.value)]
        if beside:
            change = (number(result, result.difference, "+"), interval(result, result.difference))
            cells += [number(result, result.plain), " ".join(filter(None, change))]
        made.add(_title(result), [*cells, _counts(result), result.better])
    return made


def remarks(evaluation: Evaluation) -> list[str]:
    """Everything else that a reader must know, a line each: biases, identical pairs, cut prompts, unusable pictures."""
    lines = []
    for result in evaluation.results:
        lines += [f"{result.metric}: {warning}" for warning in result.warnings]
        if result.truncated:
            lines.append(f"{result.metric}: {result.truncated} of {result.count} prompts were too long, and cut")
        if result.value.infinite:
            lines.append(f"{result.metric}: {result.value.infinite} identical pairs are counted apart")
        if result.unbiased is not None:
            lines.append(f"{result.metric}: unbiased estimate {result.unbiased:{METRICS[result.metric].form}}")
        if result.identity:
            by = result.identity
            lines.append(f"{result.metric}: by {by.network}, weights {by.weights[:12]}, resize {by.resize}")
    lines += [f"note: {note}" for note in evaluation.notes]
    if evaluation.problems:
        lines.append(f"{len(evaluation.problems)} pictures were not used, or not for everything:")
        lines += [f"  {problem.name}: {problem.reason}" for problem in evaluation.problems[:NAMED_PROBLEMS]]
        if len(evaluation.problems) > NAMED_PROBLEMS:
            lines.append(f"  and {len(evaluation.problems) - NAMED_PROBLEMS} more (all are in the file of --json)")
    return lines


def number(result: Result, average: Average | None, sign: str = "") -> str:
    """A mean as text; "identical" where all pairs are, empty where there is none."""
    if average is None:
        return ""
    if average.mean is None:
        return "identical" if average.infinite else "–"
    return f"{average.mean:{sign}{METRICS[result.metric].form}}"


def interval(result: Result, average: Average | None) -> str:
    """An interval as text, empty where there is none."""
    if average is None or average.low is None or average.high is None:
        return ""
    form = METRICS[result.metric].form
    return f"[{average.low:{form}}, {average.high:{form}}]"


def _title(result: Result) -> str:
    unit = METRICS[result.metric].unit
    return f"{result.title}, {unit}" if unit else result.title


def _counts(result: Result) -> str:
    return f"{result.count} / {result.reference_count}" if result.reference_count else str(result.count)
