"""A plan as a map: steps by layers, a panel for each module, colours by action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dita.plan import Action, Plan
from dita.plots.theme import Theme, ThemeName, checked_width, dress, new_figure, theme_of
from dita.shapes import Kind, Site
from dita.values import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0
ROW, LEAST_PANEL, MOST_PANELS = 0.09, 0.42, 9.0
"""Inches: of a layer where there are few, of a panel at least, of all panels together at most."""
STRIP = 0.55
"""Inches of the strip that shows the FLOPs of each step."""
LEGEND_COLUMNS = 4
HATCH = "////"
"""Of what a step passes by."""


def plot_plan(
    plan: Plan,
    *,
    title: str | None = None,
    theme: ThemeName = "light",
    width: float = WIDTH,
    tallest: float = MOST_PANELS,
) -> Figure:
    """The plan as a map: steps to the right, layers downwards, a panel for each module of each stack.

    Colours are actions; a partial one is the stronger the more of the tokens it computes. The strip on top has the
    FLOPs of each step, in per cent of a step in full.

    Args:
        plan: of any method and model. `method.plan(shape, steps)` makes one without weights; that of a run is
            `dita.summary(pipe).plan`.
        title: method, model and number of steps by default.
        theme: `light` or `dark`.
        width: inches. The height follows from the number of layers.
        tallest: inches of all panels together, at most, where they are not too many for it.

    Returns a matplotlib figure that belongs to no window: show it in a notebook, or `savefig` it.

    Raises:
        ValueError: an unknown theme, a width or height that is none, what is no plan, or a plan without steps.
    """
    colours = theme_of(theme)
    if not isinstance(plan, Plan):
        raise ValueError(
            f"plot_plan takes a plan: method.plan(shape, steps), or dita.summary(pipe).plan of a run; got {shown(plan)}"
        )
    width, tallest = checked_width(width), checked_width(tallest, "tallest")
    if not plan.steps:
        raise ValueError("this plan has no steps to plot")
    panels = _panels(plan)
    rows = [max(LEAST_PANEL, ROW * len(panel.sites)) for panel in panels]
    scale = min(1.0, tallest / sum(rows))
    heights = [STRIP, *(max(0.3, row * scale) for row in rows)]
    figure = new_figure(colours, width, sum(heights) + 0.09 * len(panels) + 1.35)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    figure.set_layout_engine("constrained", hspace=0.0, h_pad=0.03)
    figure.suptitle(
        title if title is not None else _title(plan), color=colours.ink, fontsize=11, x=0.01, ha="left", wrap=True
    )
    _draw_costs(axes[0], plan, colours)
    shares = _partial_shares(plan)
    for one, panel in zip(axes[1:], panels, strict=True):
        _draw_panel(one, plan, panel, colours, shares)
    last = axes[-1]
    last.tick_params(labelbottom=True, bottom=True)
    last.set_xlabel("step", color=colours.soft, fontsize=9)
    last.set_xticks(_ticks(len(plan.steps), 15))
    _mark_end_of_guidance(axes, plan, colours)
    _add_legend(figure, plan, colours, shares)
    return figure


@dataclass(frozen=True)
class _Panel:
    """The sites of one module in all layers of a stack."""

    label: str
    sites: tuple[Site, ...]


def _panels(plan: Plan) -> list[_Panel]:
    by_module: dict[tuple[str, str], list[Site]] = {}
    for site in plan.shape.sites():
        by_module.setdefault((site.stack, site.module), []).append(site)
    one_stack = len(plan.shape.stacks) == 1
    order = {stack: number for number, stack in enumerate(plan.shape.stacks)}
    panels = []
    for stack, module in sorted(by_module, key=lambda one: order[one[0]]):
        label = module if one_stack or stack == module else f"{stack}\n{module}"
        panels.append(_Panel(label, tuple(by_module[stack, module])))
    return panels


def _title(plan: Plan) -> str:
    steps = f"{len(plan.steps)} steps"
    if len(plan.steps) != plan.requested_steps:
        steps += f" in place of {plan.requested_steps}"
    ratio = f"{plan.flops_ratio():.2f} times fewer FLOPs" if plan.flops_ratio() > 1 else "as many FLOPs as plain"
    return f"{plan.whole_method.label()} on {plan.shape.name}: {steps}, {ratio}"


def _share(plan: Plan, site: Site, action: Action) -> float:
    return action.tokens / plan.shape.tokens(site.module)


def _partial_shares(plan: Plan) -> tuple[float, float]:
    """The least and the most of the tokens that a partial action of the plan computes."""
    shares = [
        _share(plan, site, action)
        for step in plan.steps
        for site, action in step.items()
        if action.kind is Kind.PARTIAL
    ]
    return (min(shares), max(shares)) if shares else (0.0, 1.0)


def _draw_panel(axes: Axes, plan: Plan, panel: _Panel, theme: Theme, shares: tuple[float, float]) -> None:
    import numpy as np
    from matplotlib.colors import to_rgb

    cells = np.empty((len(panel.sites), len(plan.steps), 3))
    for s, step in enumerate(plan.steps):
        for row, site in enumerate(panel.sites):
            cells[row, s] = to_rgb(_colour(step[site], _share(plan, site, step[site]), theme, shares))
    extent = (-0.5, len(plan.steps) - 0.5, len(panel.sites) - 0.5, -0.5)
    axes.imshow(cells, aspect="auto", interpolation="nearest", extent=extent)
    dress(axes, theme)
    axes.tick_params(labelbottom=False, bottom=False)
    axes.set_yticks(_ticks(len(panel.sites), 3))
    axes.set_ylabel(panel.label, rotation=0, ha="right", va="center", color=theme.ink, fontsize=9, labelpad=10)
    _draw_lattice(axes, len(plan.steps), len(panel.sites), theme)
    _hatch_skipped(axes, plan, panel, theme)


def _draw_lattice(axes: Axes, steps: int, layers: int, theme: Theme) -> None:
    """Lines between cells, as thin as many of them ask for."""
    width = 0.8 if steps <= 30 and layers <= 12 else 0.35 if steps <= 100 else 0.0
    if width:
        axes.vlines([s - 0.5 for s in range(1, steps)], -0.5, layers - 0.5, colors=theme.page, linewidth=width)
        if layers <= 30:
            axes.hlines([i - 0.5 for i in range(1, layers)], -0.5, steps - 0.5, colors=theme.page, linewidth=width)


def _hatch_skipped(axes: Axes, plan: Plan, panel: _Panel, theme: Theme) -> None:
    """Hatches what steps pass by: without, it would look as if something were missing from the map."""
    from matplotlib.patches import Rectangle

    for s, step in enumerate(plan.steps):
        skipped = [row for row, site in enumerate(panel.sites) if step[site].kind in (Kind.SKIP, Kind.CALL)]
        starts = [row for row in skipped if row - 1 not in skipped]
        ends = [row for row in skipped if row + 1 not in skipped]
        for start, end in zip(starts, ends, strict=True):
            corner, height = (s - 0.5, start - 0.5), end - start + 1
            axes.add_patch(Rectangle(corner, 1, height, fill=False, linewidth=0, hatch=HATCH, edgecolor=theme.line))


def _colour(action: Action, share: float, theme: Theme, shares: tuple[float, float]) -> Any:
    if action.merged:
        return theme.merged
    if action.kind is Kind.PARTIAL:
        return _partial_colour(share, theme, shares)
    return {
        Kind.FULL: theme.full,
        Kind.FORECAST: theme.forecast,
        Kind.REUSE: theme.reuse,
        Kind.SKIP: theme.skip,
        Kind.CALL: theme.skip,
    }[action.kind]


def _partial_colour(share: float, theme: Theme, shares: tuple[float, float]) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    low, high = shares
    place = (share - low) / (high - low) if high > low else 0.5
    few, many = map(to_rgb, theme.partial)
    return tuple(a + place * (b - a) for a, b in zip(few, many, strict=True))


def _draw_costs(axes: Axes, plan: Plan, theme: Theme) -> None:
    """Bars: the FLOPs of each step, scores left out, in per cent of a step in full."""
    whole = plan.plain_flops / plan.requested_steps
    costs = [100 * plan.step_flops(step) * plan.row_share(s) / whole for s, step in enumerate(plan.steps)]
    axes.bar(range(len(costs)), costs, width=0.8, color=theme.soft)
    dress(axes, theme)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelbottom=False, bottom=False)
    axes.set_xlim(-0.5, len(costs) - 0.5)
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 100], ["0", "100 %"])
    axes.set_ylabel("FLOPs", rotation=0, ha="right", va="center", color=theme.ink, fontsize=9, labelpad=10)


def _mark_end_of_guidance(axes: Any, plan: Plan, theme: Theme) -> None:
    if plan.joined is None:
        return
    for one in axes:
        one.axvline(plan.joined - 0.5, color=theme.page, linewidth=2.4)
        one.axvline(plan.joined - 0.5, color=theme.ink, linewidth=1.2, linestyle=(0, (4, 2)))
    axes[0].annotate(
        "guidance ends: half a batch",
        (plan.joined - 0.5, 105),
        (4, -1),
        textcoords="offset points",
        va="top",
        color=theme.ink,
        fontsize=8,
    )


def _add_legend(figure: Figure, plan: Plan, theme: Theme, shares: tuple[float, float]) -> None:
    """The actions that the plan holds, below the map."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    actions = [action for step in plan.steps for action in step.values()]
    kinds = {action.kind for action in actions if not action.merged}
    low, high = shares

    def patch(colour: Any, hatch: str | None = None) -> Patch:
        return Patch(facecolor=colour, edgecolor=theme.line, linewidth=0.6, hatch=hatch)

    entries: list[tuple[Any, str]] = []
    if Kind.FULL in kinds:
        entries.append((patch(theme.full), "full"))
    if any(action.merged for action in actions):
        entries.append((patch(theme.merged), f"full, {100 * plan.merged_share:.2g} % of the image tokens merged"))
    if Kind.PARTIAL in kinds:
        tones = tuple(patch(_partial_colour(low + i * (high - low) / 2, theme, shares)) for i in range(3))
        of = f"{100 * low:.2g} %" if low == high else f"{100 * low:.2g} to {100 * high:.2g} %"
        entries.append((tones if high > low else tones[1], f"partial: {of} of the tokens"))
    if Kind.FORECAST in kinds and plan.forecast is not None:
        entries.append((patch(theme.forecast), f"forecast: {plan.forecast.basis}, order {plan.forecast.order}"))
    if Kind.REUSE in kinds:
        entries.append((patch(theme.reuse), "reuse"))
    if Kind.SKIP in kinds:
        entries.append((patch(theme.skip, HATCH), "skipped span"))
    if Kind.CALL in kinds and plan.call_forecast is not None:
        forecast = plan.call_forecast
        entries.append((patch(theme.skip, HATCH), f"no call: {forecast.predictor}, order {forecast.order}"))
    figure.legend(
        [handle for handle, _ in entries],
        [label for _, label in entries],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside lower left",
        ncols=min(len(entries), LEGEND_COLUMNS),
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        handlelength=2.0,
        columnspacing=1.6,
    )


def _ticks(count: int, most: int) -> list[int]:
    """Numbers from 0 at a round distance, at most about `most`."""
    distance = next(d for d in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, count) if count / d <= most)
    return list(range(0, count, distance))
