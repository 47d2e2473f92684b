"""The published tables of ToCa and its successors, beside FLOPs recomputed from this project's plans.

Only FLOPs can be recomputed without the models: latency and quality are the publications', as printed. A row whose
numbers disagree with each other, or with what its method is defined to do, is marked with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dita.methods import (
    FORA,
    PAB,
    DeltaDiT,
    DuCa,
    FewerSteps,
    LoweredOrderWarning,
    Method,
    Plain,
    TaylorSeer,
    TGate,
    ToCa,
)
from dita.shapes import Accounting, named_shape

TOLERANCE = 0.01
"""Relative difference of FLOPs above which a row is marked."""


@dataclass(frozen=True)
class Row:
    """One row as printed, with the method that it is a run of.

    Attributes:
        label: as printed.
        method: what dita makes of it; `as_defined` where that has other FLOPs than the printed ones.
        latency: seconds; None where none is printed.
        tflops, speed: 10^12 FLOPs, and the printed ratio to the first row's.
        quality: one value a column of the table's, None where none is printed.
        reason: what is wrong with the row, or must be known to reproduce it.
    """

    label: str
    method: Method
    latency: float | None
    tflops: float
    speed: float | None
    quality: tuple[float | None, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Table:
    """A published table: `source` says where it is printed; `accounting` is how it counts FLOPs."""

    name: str
    title: str
    source: str
    shape: str
    steps: int
    quality: tuple[str, ...]
    rows: tuple[Row, ...]
    accounting: Accounting = "post-projection"


@dataclass(frozen=True)
class Recomputed:
    """A row with this project's FLOPs.

    Attributes:
        tflops: of the plan. difference: relative to the printed ones. speed: to this project's plain run.
        marks: everything that does not fit, the row's own reason first.
    """

    row: Row
    tflops: float
    difference: float
    speed: float
    marks: tuple[str, ...] = field(default=())


def recompute(table: Table) -> list[Recomputed]:
    """Every row of a table with the FLOPs of this project's plan for it."""
    shape = named_shape(table.shape)
    first = table.rows[0]
    rows = []
    for row in table.rows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LoweredOrderWarning)
            plan = row.method.plan(shape, table.steps)
        tflops = plan.flops(table.accounting) / 1e12
        difference = tflops / row.tflops - 1
        marks = [row.reason] if row.reason else []
        if abs(difference) > TOLERANCE and not row.reason:
            marks.append(f"its definition takes {tflops:.5g} TFLOPs, not {row.tflops:.5g}")
        ratio = first.tflops / row.tflops
        if row.speed is not None and abs(row.speed / ratio - 1) > TOLERANCE and not row.reason:
            marks.append(f"the printed FLOPs make {ratio:.2f}, not {row.speed:.2f}")
        rows.append(Recomputed(row, tflops, difference, plan.flops_ratio(table.accounting), tuple(marks)))
    return rows


def as_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """The tables with the recomputed FLOPs, for programs."""
    return [
        {
            "name": table.name,
            "title": table.title,
            "source": table.source,
            "model": table.shape,
            "steps": table.steps,
            "accounting": table.accounting,
            "rows": [
                {
                    "label": one.row.label,
                    "method": one.row.method.as_json(),
                    "latency_s": one.row.latency,
                    "tflops": one.row.tflops,
                    "speed": one.row.speed,
                    "quality": dict(zip(table.quality, one.row.quality, strict=True)),
                    "tflops_here": one.tflops,
                    "difference": one.difference,
                    "speed_here": one.speed,
                    "marks": list(one.marks),
                }
                for one in recompute(table)
            ],
        }
        for table in tables
    ]


def _steps(fraction: float) -> FewerSteps:
    return FewerSteps(fraction)


_FROM_PAB = "taken over from PAB's paper"
_OPENSORA_R = "its R counts computed tokens after the module's factor of 1.495"

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            name="flux",
            title="FLUX.1-dev, 1024x1024, 50 steps, DrawBench and GenEval",
            source="ToCa repository, README; both sides with attention spelt out",
            shape="flux-dev",
            steps=50,
            quality=("GenEval", "ImageReward"),
            accounting="pre-projection",
            rows=(
                Row("FLUX.1-dev", Plain(), 33.87, 3719.50, 1.00, (0.6752, 0.9898)),
                Row("60 % steps", _steps(0.6), 20.49, 2231.70, 1.67, (0.6700, 0.9739)),
                Row("50 % steps", _steps(0.5), 17.12, 1859.75, 2.00, (0.6656, 0.9429)),
                Row(
                    "40 % steps",
                    _steps(0.4),
                    13.77,
                    1487.80,
                    2.62,
                    (0.6606, 0.9317),
                    "40 % of the steps are 2.50 times fewer FLOPs, as the printed FLOPs say; 2.62 is a misprint",
                ),
                Row("FORA N=3", FORA(3), 12.98, 1320.07, 2.82, (0.6594, 0.9227)),
                Row("ToCa N=4 R=90 %", ToCa(4, 0.9), 11.91, 1263.22, 2.94, (0.6748, 0.9798)),
                Row("ToCa N=5 R=90 %", ToCa(5, 0.9), 10.80, 1126.76, 3.30, (0.6750, 0.9731)),
                Row("ToCa N=6 R=90 %", ToCa(6, 0.9), 9.48, 990.30, 3.76, (0.6653, 0.9493)),
            ),
        ),
        Table(
            name="flux-successors",
            title="FLUX.1-dev, 1024x1024, 50 steps, DrawBench, A100, fused attention",
            source="LinCa's table, as later papers copy it",
            shape="flux-dev",
            steps=50,
            quality=("ImageReward",),
            rows=(
                Row("FLUX.1-dev", Plain(), 23.10, 3719.5, 1.00, (0.9930,)),
                Row("60 % steps", _steps(0.6), 14.87, 2231.7, 1.67, (0.9693,)),
                Row("Delta-DiT N=2", DeltaDiT(2), 15.96, 2480.0, 1.50, (0.9471,)),
                Row("Delta-DiT N=3", DeltaDiT(3), 11.63, 1686.8, 2.21, (0.8750,)),
                Row(
                    "FORA N=3",
                    FORA(3),
                    9.08,
                    1320.0,
                    2.82,
                    (0.9802,),
                    "copied from ToCa's table, which projects stored attention in each step again; the others do not",
                ),
                Row("FORA N=4", FORA(4), 7.28, 967.9, 3.84, (0.9757,)),
                Row(
                    "FORA N=5",
                    FORA(5),
                    6.94,
                    893.5,
                    4.16,
                    (0.8276,),
                    "12 full steps, those of a start of three as TaylorSeer's; FORA has one, and so 10",
                ),
                Row("ToCa N=6 R=90 %", ToCa(6, 0.9), 11.76, 924.3, 4.02, (0.9830,)),
                Row("ToCa N=8 R=90 %", ToCa(8, 0.9), 10.17, 784.5, 4.74, (0.9479,)),
                Row("DuCa N=5 R=90 %", DuCa(5, 0.9), 7.32, 978.8, 3.80, (0.9982,)),
                Row("DuCa N=7 R=90 %", DuCa(7, 0.9), 6.06, 760.1, 4.89, (0.9785,)),
                Row(
                    "TaylorSeer N=3 O=2",
                    TaylorSeer(3, 2),
                    8.83,
                    1320.0,
                    2.82,
                    (1.0018,),
                    "the FLOPs of FORA's row; 18 full steps are 1339.7",
                ),
                Row(
                    "TaylorSeer N=4 O=2",
                    TaylorSeer(4, 2),
                    8.31,
                    967.9,
                    3.84,
                    (0.9887,),
                    "the FLOPs of FORA's row, with 13 full steps; TaylorSeer has 14, which are 1042.3",
                ),
                Row("TaylorSeer N=5 O=2", TaylorSeer(5, 2), 6.71, 893.5, 4.16, (0.9793,)),
            ),
        ),
        Table(
            name="pixart",
            title="PixArt-alpha, 256x256, 20 steps, MS-COCO 2017 (FID-30k)",
            source="ToCa, ICLR 2025",
            shape="pixart-alpha-256",
            steps=20,
            quality=("FID-30k", "CLIP (COCO)", "CLIP (PartiPrompts)"),
            accounting="pre-projection",
            rows=(
                Row("PixArt-alpha", Plain(), 0.682, 11.18, 1.00, (28.09, 16.32, 16.70)),
                Row("50 % steps", _steps(0.5), 0.391, 5.59, 2.00, (37.46, 15.85, 16.37)),
                Row("FORA N=2", FORA(2), 0.416, 5.66, 1.98, (29.67, 16.40, 17.19)),
                Row("FORA N=3", FORA(3), 0.342, 4.01, 2.79, (29.88, 16.42, 17.15)),
                Row("ToCa N=3 R=60 %", ToCa(3, 0.6, strict=True), 0.410, 6.33, 1.77, (28.02, 16.45, 17.15)),
                Row("ToCa N=3 R=70 %", ToCa(3, 0.7, strict=True), 0.390, 5.78, 1.93, (28.33, 16.44, 17.75)),
                Row("ToCa N=3 R=80 %", ToCa(3, 0.8, strict=True), 0.370, 5.05, 2.21, (28.82, 16.44, 17.83)),
                Row("ToCa N=3 R=90 %", ToCa(3, 0.9, strict=True), 0.347, 4.26, 2.62, (29.73, 16.45, 17.82)),
            ),
        ),
        Table(
            name="opensora",
            title="Open-Sora 1.2, 480p, 2 s, 30 steps, VBench",
            source="ToCa, ICLR 2025",
            shape="opensora-1.2-480p-2s",
            steps=30,
            quality=("VBench %",),
            rows=(
                Row("Open-Sora", Plain(), 81.18, 3283.20, 1.00, (79.13,)),
                Row(
                    "Delta-DiT",
                    DeltaDiT(strict=True),
                    79.14,
                    3166.47,
                    1.04,
                    (78.21,),
                    f"{_FROM_PAB}; its code subtracts what Delta-DiT adds, so its quality is not the method's",
                ),
                Row(
                    "T-GATE",
                    TGate(cross_interval=12, strict=True),
                    67.98,
                    2818.40,
                    1.16,
                    (77.61,),
                    f"{_FROM_PAB}; with cross-attention computed again every 12 steps, in a branch that the released"
                    " code never takes (without: 2804)",
                ),
                Row("PAB1", PAB(1, strict=True), 60.78, 2657.70, 1.24, (78.51,), f"{_FROM_PAB}; MLPs not broadcast"),
                Row("PAB2", PAB(2, strict=True), 59.16, 2615.15, 1.26, (77.64,), f"{_FROM_PAB}; MLPs not broadcast"),
                Row("PAB3", PAB(3, strict=True), 56.64, 2558.25, 1.28, (76.95,), f"{_FROM_PAB}; MLPs not broadcast"),
                Row("50 % steps", _steps(0.5), 42.72, 1641.60, 2.00, (76.78,)),
                Row("FORA N=2", FORA(2), 49.26, 1751.32, 1.87, (76.91,)),
                Row(
                    "ToCa R=80 %",
                    ToCa(3, 0.87),
                    43.52,
                    1439.70,
                    2.28,
                    (78.59,),
                    f"{_OPENSORA_R}: r = 0.13 by its FLOPs",
                ),
                Row("ToCa R=85 %", ToCa(3, 0.9), 43.08, 1394.03, 2.36, (78.34,), f"{_OPENSORA_R}: r = 0.1"),
            ),
        ),
        Table(
            name="dit",
            title="DiT-XL/2, 256x256, DDIM, 50 steps, ImageNet (FID-50k)",
            source="ProCache's re-measurement",
            shape="dit-xl-2-256",
            steps=50,
            quality=("FID-50k", "sFID"),
            rows=(
                Row("DiT-XL/2", Plain(), 4.549, 23.74, 1.00, (2.43, 4.40)),
                Row(
                    "Delta-DiT N=3",
                    DeltaDiT(3, layers=13),
                    2.572,
                    16.46,
                    1.44,
                    (3.75, None),
                    "which blocks were skipped is not printed; its FLOPs are those of 13 of the 28",
                ),
                Row("FORA N=3", FORA(3), 2.191, 8.59, 2.76, (3.88, 6.43)),
                Row("ToCa N=3 R=93 %", ToCa(3, 0.93, strict=True), 2.087, 10.23, 2.32, (3.04, 5.14)),
            ),
        ),
        Table(
            name="dit-ddpm",
            title="DiT-XL/2, 256x256, DDPM, 250 steps, ImageNet",
            source="ToCa, ICLR 2025; FLOPs of its code",
            shape="dit-xl-2-256",
            steps=250,
            quality=(),
            rows=(
                Row("DiT-XL/2", Plain(), None, 118.68, 1.00),
                Row("ToCa N=4 R=93 %", ToCa(4, 0.93, strict=True), None, 43.42, 2.75),
            ),
        ),
    )
}
"""Every table by name."""
