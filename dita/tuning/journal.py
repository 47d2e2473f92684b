"""Trials as they come, in a file, for a tuning that is interrupted to go on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dita.methods import Method, from_json
from dita.output_files import write_file
from dita.tuning.trials import Trial

SETTINGS, TRIALS = "tuning.json", "trials.jsonl"


class Journal:
    """The trials of a tuning with these settings in a folder.

    Attributes:
        known: those that were there.

    Raises `FileExistsError` where the folder holds a tuning with other settings, or other files and no tuning, unless
    `overwrite` is set; then it starts over.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        self._file = folder / TRIALS
        self.known: dict[Method, Trial] = {}
        there = folder / SETTINGS
        wanted = json.loads(json.dumps(settings))
        if there.is_file():
            found = json.loads(there.read_text())
            if found == wanted:
                self.known = dict(_read(self._file))
                return
            other = next(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
            if not overwrite:
                raise FileExistsError(
                    f"folder {str(folder)!r} holds a tuning with another {other}: give another folder, or --overwrite"
                )
        elif folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise FileExistsError(
                f"folder {str(folder)!r} holds other files and no tuning; give another folder, or --overwrite to write"
                " there all the same"
            )
        self._file.unlink(missing_ok=True)
        write_file(there, (json.dumps(wanted, indent=1) + "\n").encode())

    def add(self, trial: Trial) -> None:
        """Notes a trial."""
        line = {"method": trial.method.as_json(), "seconds": trial.seconds, "call": trial.call, "errors": trial.errors}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _read(path: Path) -> list[tuple[Method, Trial]]:
    """The whole lines of a file of trials; one that was cut by an interruption is left out."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            data = json.loads(line)
            method = from_json(data["method"])
            errors = {name: tuple(map(_number, values)) for name, values in data["errors"].items()}
            call = data.get("call")
            found.append((method, Trial(method, float(data["seconds"]), errors, None if call is None else float(call))))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _number(value: Any) -> float:
    return math.inf if value is None else float(value)
