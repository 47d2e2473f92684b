"""Runs the cells of the tutorial one after another in this process, and keeps what they put out, without Jupyter.

python docs/site_tools/notebook.py    runs docs/tutorial.ipynb and writes its outputs into it anew
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[1] / "tutorial.ipynb"

Output = dict[str, Any]


def execute(notebook: dict[str, Any]) -> list[list[Output]]:
    """The outputs of each code cell, in order. What a cell raises is raised."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [_run("".join(cell["source"]), names, f"cell {number}") for number, cell in enumerate(cells)]


def with_outputs(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with what its cells put out now."""
    outputs = iter(execute(notebook))
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        kept = {key: cell[key] for key in ("cell_type", "source")} | {"id": f"cell-{number:02d}", "metadata": {}}
        if cell["cell_type"] == "code":
            kept |= {"execution_count": None, "outputs": next(outputs)}
        cells.append(kept)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _run(source: str, names: dict[str, Any], where: str) -> list[Output]:
    """Runs a cell, whose last expression is its value, as in Jupyter."""
    body = ast.parse(source, where).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(ast.Module(body, []), where, "exec", dont_inherit=True), names)
        value = (
            None if last is None else eval(compile(ast.Expression(last.value), where, "eval", dont_inherit=True), names)
        )
    outputs: list[Output] = []
    if said.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": said.getvalue().splitlines(keepends=True)})
    if value is not None:
        outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": _data(value)})
    return outputs


def _compiled(tree: ast.Module | ast.Expression, where: str, mode: str) -> Any:
    """Without the future imports of this module."""
    return compile(tree, where, mode, dont_inherit=True)


def _data(value: Any) -> dict[str, Any]:
    """A value as a notebook keeps it: pictures as PNG, anything else as text."""
    buffer = io.BytesIO()
    if isinstance(value, Image.Image):
        value.save(buffer, "PNG", optimize=True)
        words = f"picture of {value.width}x{value.height} pixels"
    elif isinstance(value, Figure):
        value.savefig(buffer, format="png", dpi=100)
        words = "figure"
    else:
        return {"text/plain": repr(value).splitlines(keepends=True)}
    return {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": [words]}


if __name__ == "__main__":
    done = with_outputs(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    NOTEBOOK.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
