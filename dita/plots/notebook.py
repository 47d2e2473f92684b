"""Plans and summaries as notebooks show them: in words, with the plan's map."""

from __future__ import annotations

import base64
import html
import io

from dita.plan import Plan
from dita.plots.plan_map import plot_plan

DOTS = 110
"""An inch."""


def plan_html(plan: Plan) -> str:
    """A plan's line and its map, as a piece of HTML that needs nothing else."""
    return _block(_words(repr(plan).strip("<>")), plan)


def summary_html(text: str, plan: Plan | None) -> str:
    """A run's summary in words, with the map of what was planned, if anything ran."""
    return _block(_words(text), plan)


def _words(text: str) -> str:
    return f'<pre style="margin: 0; white-space: pre-wrap">{html.escape(text)}</pre>'


def _block(words: str, plan: Plan | None) -> str:
    picture = _picture(plan) if plan is not None and plan.steps else ""
    return f"<div>{words}{picture}</div>"


def _picture(plan: Plan) -> str:
    """The map as a PNG on a page of its own colour, so that it is legible on a dark one too."""
    drawn = io.BytesIO()
    plot_plan(plan).savefig(drawn, format="png", dpi=DOTS)
    data = base64.b64encode(drawn.getvalue()).decode()
    alt = html.escape(f"Map of {plan.whole_method.label()}: what each layer does in each step", quote=True)
    return f'<img alt="{alt}" style="max-width: 100%; height: auto" src="data:image/png;base64,{data}">'
