"""Plans as runs on this machine have them."""

from __future__ import annotations

from dataclasses import replace

from dita.plan import Plan


def on_a_cpu(plan: Plan) -> Plan:
    """In a pipeline on a CPU, FLUX holds the modulations of all cached steps."""
    return replace(plan, foresees=plan.modulation_chunks > 0)
