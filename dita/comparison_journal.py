"""What a comparison has drawn and timed so far, in `unfinished/` of its folder, so that an interrupted one goes on.

Pictures are written as they are drawn. A round, one batch in the hands of all methods, is noted when it is whole:
speed-ups are ratios of seconds within a round, and hold only where nothing came between. What was drawn of a broken
round is drawn and timed again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dita.clips import film_strip, is_clip
from dita.generation.folder import LOCK, locked
from dita.output_files import writing
from dita.report import IMAGES, UNFINISHED, image_paths
from dita.timed_calls import Call, Counted, Timing
from dita.whole_files import PARTIAL, remove_partial, write_whole

JOB, WARM_UPS = "job.json", "warm-ups.json"
FORMAT = "dita-comparison-1"
SHOWN = 60  # characters of a setting in a message

Round = tuple[int, int]
"""Repeat and batch."""


class OtherComparisonError(ValueError):
    """The folder holds an interrupted comparison with other settings."""


class Journal:
    """An interrupted comparison, or one that begins. `rounds` and `warm_ups` hold what was there, by method's label.

    `run` counts the runs from 0 on, and `started` says when each began. What a `keep` was given is on the disk when it
    returns. All raise `CannotWriteError` where there is no room; what was kept until then stays.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], started: Sequence[str]) -> None:
        self.folder = folder
        self.settings = settings
        self.started = tuple(started)
        self.rounds: dict[Round, dict[str, Call]] = {}
        self.warm_ups: dict[str, list[Call]] = {}
        self.run = len(started)
        self._written: dict[str, list[dict[str, Any]]] = {}

    @property
    def images(self) -> Path:
        """The folder of the pictures, laid out as in the results."""
        return self.folder / IMAGES

    def holds(self, *, pictures: bool) -> bool:
        """Whether there is a whole round; or, with `pictures`, at least one picture."""
        drawn = pictures and any(path.is_file() for path in self.images.rglob("*"))
        return drawn or any(self.folder.glob("round-*.json"))

    def begin(self) -> None:
        """Notes that a run begins to draw."""
        self.started = (*self.started, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        self._write(JOB, {"format": FORMAT, "settings": self.settings, "started": self.started})

    def keep_warm_ups(self, calls: Mapping[str, Sequence[Call]]) -> None:
        """Notes what was counted in the calls that warm up."""
        data = {label: [_as_json(call, []) for call in some] for label, some in calls.items()}
        self._write(WARM_UPS, data)

    def keep_pictures(self, label: str, first: int, pictures: Sequence[np.ndarray]) -> None:
        """Writes pictures of a method, number `first` of the comparison and on."""
        for path, picture in zip(image_paths(label, first + len(pictures))[first:], pictures, strict=True):
            content = _png(picture)
            with writing(self.folder / path):
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.folder / path, content)
            frames = len(picture) if is_clip(picture) else 0
            fact = {"file": path, "sha256": hashlib.sha256(content).hexdigest(), "frames": frames}
            self._written.setdefault(label, []).append(fact)

    def keep_round(self, round: Round, calls: Mapping[str, Call]) -> None:
        """Notes a round that all methods have made, with the pictures that were kept of it."""
        data = {label: _as_json(call, self._written.pop(label, [])) for label, call in calls.items()}
        self._write(f"round-{round[0]}-{round[1]:05d}.json", data)

    def finish(self) -> None:
        """Removes the journal: the results are written."""
        (self.folder / JOB).unlink(missing_ok=True)  # first: what a kill leaves behind is then no comparison
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, data: Any) -> None:
        with writing(self.folder / name):
            write_whole(self.folder / name, (json.dumps(data, ensure_ascii=False) + "\n").encode())


@contextmanager
def opened(out: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Journal]:
    """The journal of the comparison in folder `out`, which is made where it is missing, for this process alone.

    settings: all that pictures and timings come from, as data for JSON. With `overwrite`, an interrupted comparison of
    other settings is dropped. Nothing stays where nothing was drawn, or where the very first round fails by itself,
    neither interrupted nor for lack of room.

    Raises `OtherComparisonError` for other settings and for a folder that another process works in, `ValueError` where
    `unfinished` in it is something else, `CannotWriteError` where nothing can be written.
    """
    folder = out / UNFINISHED
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        _check_is_ours(folder)
        with locked(folder):
            journal = _read(folder, json.loads(json.dumps(settings)), overwrite)
            failed = False
            try:
                yield journal
            except Exception as error:
                failed = not isinstance(error, OSError)
                raise
            finally:
                if not ((folder / JOB).is_file() and journal.holds(pictures=not failed)):
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        for one in missing:
            with suppress(OSError):  # it holds something
                one.rmdir()


def _read(folder: Path, settings: dict[str, Any], overwrite: bool) -> Journal:
    found = _described(folder)
    if found is not None:
        difference = _difference(found["settings"], settings)
        if difference is None:
            journal = Journal(folder, settings, found["started"])
            _read_calls(journal)
            return journal
        if not overwrite:
            raise OtherComparisonError(
                f"folder {str(folder.parent)!r} holds an interrupted comparison with other settings: {difference}; give"
                " those to go on, another folder, or --overwrite to start over"
            )
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    return Journal(folder, settings, ())


def _described(folder: Path) -> dict[str, Any] | None:
    """What the journal says of its comparison; None for one that had not begun."""
    path = folder / JOB
    if not path.is_file():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT or not isinstance(data["settings"], dict):
            raise ValueError
        return {"settings": data["settings"], "started": [str(time) for time in data["started"]]}
    except (ValueError, KeyError, TypeError):
        return {"settings": {"format": "unknown"}, "started": []}


def _check_is_ours(folder: Path) -> None:
    """Raises `ValueError` for files that no journal has."""
    for path in folder.iterdir():
        known = path.name in (JOB, WARM_UPS, IMAGES, LOCK) or path.name.startswith("round-")
        if not known and not path.name.endswith(PARTIAL):
            raise ValueError(
                f"folder {str(folder)!r} holds {path.name!r}: it is not what an interrupted comparison leaves;"
                " give another folder"
            )


def _read_calls(journal: Journal) -> None:
    """Reads what is whole; of anything else the round is drawn again."""
    folder = journal.folder
    remove_partial(folder)
    for images in journal.images.glob("*"):
        remove_partial(images)
    for path in sorted(folder.glob("round-*.json")):
        try:
            repeat, batch = path.stem.split("-")[1:]
            data = json.loads(path.read_text(encoding="utf-8"))
            calls = {label: _from_json(folder, call) for label, call in data.items()}
            journal.rounds[int(repeat), int(batch)] = calls
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            path.unlink()
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        data = json.loads((folder / WARM_UPS).read_text(encoding="utf-8"))
        journal.warm_ups = {label: [_from_json(folder, call) for call in some] for label, some in data.items()}


def _difference(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str | None:
    """The first setting that differs, in words."""
    for name, value in mine.items():
        other = theirs.get(name)
        if value == other:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            inner = _difference(other, {**dict.fromkeys(other), **value})
            return f"{name}: {inner}"
        if isinstance(value, list) and isinstance(other, list):
            if len(value) != len(other):
                return f"there are {len(other)} {name} there and {len(value)} here"
            number = next(i for i, pair in enumerate(zip(value, other, strict=True)) if pair[0] != pair[1])
            return f"number {number + 1} of {name} is {_short(other[number])} there and {_short(value[number])} here"
        return f"{name} is {_short(other)} there and {_short(value)} here"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _as_json(call: Call, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    counted = None if call.counted is None else dataclasses.asdict(call.counted)
    timing = dataclasses.asdict(call.timing)
    return {"timing": timing, "counted": counted, "pictures": pictures, "broken": list(call.broken)}


def _from_json(folder: Path, data: Mapping[str, Any]) -> Call:
    """The call, its pictures read. Raises `ValueError`, `OSError` or `KeyError` where it or a picture is damaged."""
    pictures = []
    for fact in data["pictures"]:
        content = (folder / fact["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != fact["sha256"]:
            raise ValueError(f"{fact['file']} is damaged")
        with Image.open(io.BytesIO(content)) as image:
            picture = np.asarray(image)
        pictures.append(np.stack(np.split(picture, fact["frames"], axis=1)) if fact["frames"] else picture)
    counted = None if data["counted"] is None else Counted.from_json(data["counted"])
    return Call(Timing(**data["timing"]), pictures, counted, tuple(data.get("broken", ())))


def _png(picture: np.ndarray) -> bytes:
    """The file of a picture; of a clip that of its film strip, from which it can be read again."""
    buffer = io.BytesIO()
    Image.fromarray(film_strip(picture) if is_clip(picture) else picture).save(buffer, "PNG")
    return buffer.getvalue()
