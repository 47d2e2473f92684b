"""Imports point down: the order of folders is one list, and what breaks it today is listed too, to shrink alone."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import dita

ROOT = Path(dita.__file__).parent
MODULES = {
    ".".join(("dita", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of dita that a module imports: in functions and for types too, but not the packages around it.

    Of `dita` itself, which hands out names from everywhere when they are first asked for, what it imports at once.
    """
    found = set()
    tree = ast.parse(MODULES[module].read_text())
    for node in tree.body if module == "dita" else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {_target(node.module, one.name) for one in node.names}
    return frozenset(found & MODULES.keys()) - {module}


def _target(package: str, name: str) -> str:
    return f"{package}.{name}" if f"{package}.{name}" in MODULES else package


def circles() -> list[frozenset[str]]:
    """Modules that import each other, directly or round about: the strongly connected components of several."""
    reached = {module: _reached(module) for module in MODULES}
    found = {frozenset(other for other in reached[one] if one in reached[other]) | {one} for one in MODULES}
    return [circle for circle in found if len(circle) > 1]


def _reached(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for other in imported(waiting.pop()) - seen:
            seen.add(other)
            waiting.append(other)
    return seen


ORDER = (
    *(
        "version",
        "values",
        "merges",
        "predictors",
        "freed_memory",
        "whole_files",
        "columns",
        "clips",
        "terminal",
        "plot_frame",
    ),
    *(
        "interrupted",
        "output_files",
        "samplers",
        "stores",
        "shapes",
        "families",
        "model_names",
        "schedules",
        "footprint",
    ),
    *(
        "plan",
        "fitting",
        "methods",
        "studies",
        "tables",
        "merging",
        "metrics",
        "sharing",
        "workers",
        "realistic_prompts",
    ),
    *("caching", "pipelines", "miniature", "call_arguments", "asking", "models", "saved_methods", "plots", "dita"),
    *("networks", "measurement", "generation", "judge", "timed_calls", "comparison", "quality_plot"),
    *(
        "report",
        "comparison_journal",
        "compare",
        "compare_folders",
        "evaluation_checkpoint",
        "evaluate",
        "evaluation_report",
        "bench",
        "tuning",
    ),
    *("demo", "cli", "__main__"),
)
"""Folders and modules of dita/, the lowest first: what a module imports stands in front of it. `dita` is `__init__`."""


def unit(module: str) -> str:
    """The folder or module of dita/ that a module is, or is in."""
    return module.split(".")[1] if "." in module else module


def upward() -> set[str]:
    """The imports that point up, as `module -> module`."""
    place = {name: number for number, name in enumerate(ORDER)}
    return {
        f"{one.removeprefix('dita.')} -> {other.removeprefix('dita.')}"
        for one in MODULES
        for other in imported(one)
        if place[unit(one)] < place[unit(other)]
    }


KNOWN_UPWARD = {
    "caching.summary -> plots.notebook",
    "footprint -> plan",
    "interrupted -> output_files",
    "model_names -> miniature",
    "plan -> methods",
    "plan -> plots.notebook",
    "sharing -> workers.cluster",
    "sharing -> workers.processes",
}
"""Imports that point up still. None is added: a module that needs another stands above it."""

KNOWN_CIRCLES = {"dita.caching.class_swap": 2, "dita.plan": 18}
"""The circles that are left: one module of each, and how many it binds. They may only shrink."""


def test_every_folder_and_module_has_a_place_in_the_order() -> None:
    assert {unit(module) for module in MODULES} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_imports_point_down() -> None:
    assert upward() <= KNOWN_UPWARD, f"these point up: {sorted(upward() - KNOWN_UPWARD)}"
    assert upward() >= KNOWN_UPWARD, f"mended, so no exception any more: {sorted(KNOWN_UPWARD - upward())}"


def test_modules_do_not_import_each_other() -> None:
    found = {next((known for known in KNOWN_CIRCLES if known in one), min(one)): len(one) for one in circles()}
    assert found == KNOWN_CIRCLES, [sorted(circle) for circle in circles()]


@pytest.mark.parametrize("top", ["methods", "plan", "shapes", "families", "schedules", "footprint", "merges", "stores"])
def test_what_plans_are_made_of_imports_no_torch(top: str) -> None:
    for module in (one for one in MODULES if unit(one) == top):
        tree = ast.parse(MODULES[module].read_text())
        named = {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
        named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in named} & {"torch", "diffusers", "transformers"}, module


PUBLIC = """
FORA PAB BrokenNumbersError BrokenNumbersWarning CarriedOverWarning Composition DeltaDiT DuCa FewerSteps
LoweredOrderWarning MadeForAnotherWarning MergingRefusedWarning Method NothingToSkipWarning Plain Plan Prompt Store
Summary TGate TaylorSeer ToCa ToMe TokenRecord Tuning WholeCall __version__ disable enable enabled generate plot_plan
plot_tokens save_method summary tune
"""


def test_the_public_names_are_these() -> None:
    assert sorted(dita.__all__) == sorted(PUBLIC.split())
    assert all(getattr(dita, name) is not None for name in dita.__all__)
