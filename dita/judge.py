"""The job behind `dita judge`: does a bundled model, with or without acceleration, draw what its prompts say?"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import dita
from dita import miniature
from dita.asking import asking, check_pipeline
from dita.caching.origin import warn_where_another
from dita.caching.sampled import sampled_as
from dita.call_arguments import for_json
from dita.generation.sampling import silenced
from dita.interrupted import Kept
from dita.methods import FewerSteps, MethodLike, Plain, saved_method
from dita.metrics import Share
from dita.metrics.images import read
from dita.metrics.picture_sets import MANIFEST_LINES, open_pictures
from dita.miniature import classes, world
from dita.miniature.judge import ATTRIBUTES, Verdict
from dita.miniature.judge.tally import Tally, tally
from dita.values import LARGEST_SEED, shown, whole
from dita.version import __version__

VERDICTS = "verdicts"
MANIFEST, COMPARISON = "manifest.json", "results.json"

LEGEND = "Shares in %, with Wilson's 95 % intervals; – where no prompt speaks of the attribute."
"""Explains the numbers of both tables."""


@dataclass(frozen=True)
class Judgement:
    """The verdicts on the pictures of one method, with what they were made of.

    `groups` names, for each picture, the row of the table that it counts in: its kind of scene, or a clip's motion.
    """

    model: str
    label: str
    steps: int | None
    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def all(self) -> Tally:
        """The shares over all pictures."""
        return tally(self.verdicts)

    @property
    def by_group(self) -> dict[str, Tally]:
        """The shares in each group."""
        names = sorted(set(self.groups), key=_order)
        pairs = list(zip(self.groups, self.verdicts, strict=True))
        return {name: tally([one for group, one in pairs if group == name]) for name in names}

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data: the shares, and each picture's prompt and verdict."""
        pictures = [
            {"prompt": prompt, "group": group, "correct": one.correct, **one.as_dict()}
            for prompt, group, one in zip(self.prompts, self.groups, self.verdicts, strict=True)
        ]
        return {
            "model": self.model,
            "method": self.label,
            "steps": self.steps,
            "all": asdict(self.all),
            "groups": {name: asdict(one) for name, one in self.by_group.items()},
            "pictures": pictures,
        }


def judge_model(
    pipe: Any,
    method: MethodLike,
    *,
    prompts: int = 256,
    steps: int = 28,
    seed: int = 0,
    batch: int = 16,
    call: dict[str, Any] | None = None,
    name: str = "",
    console: Console | None = None,
    keep_beside: str | os.PathLike[str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Judgement:
    """Makes a picture of each of `prompts` held-out captions with `method`, and judges it.

    The captions are of the kinds of scene in turn (for a video pipeline, clips of all motions; for a class-conditional
    one, the names of its classes, none of which is held out); picture i starts from noise of `seed` + i. The pipeline
    is plain afterwards.

    keep_beside: a file that the verdicts are for. Those of finished calls are kept beside it, with `.unfinished` behind
    its name, and a second run with the same settings goes on from them; the caller removes them
    (`dita.interrupted.remove`) when its file is written. `tell` is told of this in lines.

    Raises `ValueError` for counts below 1, and for a pipeline that takes no prompts.
    """
    check_pipeline(pipe)
    saved = saved_method(method)
    method = saved.method
    prompts, steps, batch = whole("prompts", prompts), whole("steps", steps), whole("batch", batch)
    for what, value in (("prompts", prompts), ("steps", steps), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1, got {value}")
    seed = whole("seed", seed, 0, LARGEST_SEED - prompts)
    texts, groups = _prompts(pipe, prompts, seed)
    judge = miniature.load_judge()
    verdicts: list[Verdict] = []
    arguments = {key: value for key, value in (call or {}).items() if key != "num_inference_steps"}
    warn_where_another(saved, pipe, {**arguments, "num_inference_steps": steps})
    run_steps = method.grid_steps(steps) if isinstance(method, FewerSteps) else steps
    kept = None
    if keep_beside is not None:
        settings = {"method": method.as_json(), "prompts": prompts, "steps": steps, "seed": seed, "batch": batch}
        settings |= {"model": name, "call": for_json(arguments), "dtype": str(getattr(pipe, "dtype", "")), **_here()}
        kept = Kept(Path(keep_beside), settings, tell)
        verdicts = _read_verdicts(kept, texts, batch)
        if verdicts:
            tell(f"{kept.folder}: going on after {len(verdicts)} of {prompts} pictures")
    if not isinstance(method, (Plain, FewerSteps)):
        dita.enable(pipe, method, on_nan="warn")  # such a picture is judged, and wrong
    try:
        with sampled_as(pipe, method), silenced(pipe), _progress(console) as progress:
            bar = progress.add_task(f"{name} {method.label()}", total=prompts, completed=len(verdicts))
            for start in range(len(verdicts), prompts, batch):
                part = texts[start : start + batch]
                generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
                made = pipe(
                    **asking(pipe, part),
                    num_inference_steps=run_steps,
                    generator=generators,
                    output_type="pil",
                    **arguments,
                )
                frames = getattr(made, "frames", None)
                verdicts += judge(made.images, part) if frames is None else judge.clips(frames, part)
                if kept is not None:
                    kept.keep(VERDICTS, {"verdicts": [one.as_dict() for one in verdicts]})
                progress.advance(bar, len(part))
    finally:
        dita.disable(pipe)
    return Judgement(name, method.label(), steps, tuple(texts), tuple(groups), tuple(verdicts))


def _read_verdicts(kept: Kept, texts: Sequence[str], batch: int) -> list[Verdict]:
    """The verdicts of whole calls that an interrupted run came to."""
    found = kept.read(VERDICTS)
    if found is None:
        return []
    verdicts = [Verdict(**one) for one in found[0]["verdicts"]]
    whole_calls = len(verdicts) == len(texts) or len(verdicts) % batch == 0
    return verdicts if whole_calls and len(verdicts) <= len(texts) else []


def _here() -> dict[str, str]:
    """What verdicts depend on beside the arguments."""
    return {"dita": __version__, "torch": str(torch.__version__)}


def _prompts(pipe: Any, count: int, seed: int) -> tuple[list[str], list[str]]:
    takes = inspect.signature(pipe.__call__).parameters
    if "num_frames" in takes:
        return clip_prompts(count, seed)
    if "prompt" in takes:
        return picture_prompts(count, seed)
    if not getattr(pipe, "labels", None):
        raise ValueError(f"{type(pipe).__name__} takes no prompts: the judge needs captions to judge by")
    names = classes.prompts(count, seed)
    return names, ["one"] * count


def picture_prompts(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Held-out captions, of the kinds of scene in turn, and their kinds."""
    scenes = world.evaluation_scenes(count, seed, tuple(world.KINDS))
    return [world.caption(scene) for scene in scenes], [scene.kind for scene in scenes]


def clip_prompts(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Held-out captions of clips, and their motions."""
    rng = np.random.default_rng(seed)
    clips = [world.sample_clip(rng, "held-out") for _ in range(count)]
    return [world.clip_caption(clip) for clip in clips], [clip.motion for clip in clips]


def judge_images(folder: str | os.PathLike[str]) -> list[Judgement]:
    """The verdicts on pictures that are already there, a Judgement for each method.

    The folder is one that `dita compare` (results.json) or `dita generate` wrote (manifest.jsonl), or has a
    manifest.json whose `pictures` name a `file` and a `prompt` each.

    Raises `FileNotFoundError` where there is none of these, or a picture is missing; `ValueError` for a file
    that is not of that form, and for prompts that are not captions of the world.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ValueError(f"the pictures to judge are in a folder, got {shown(folder)}")
    folder = Path(folder)
    judge = miniature.load_judge()
    if (folder / COMPARISON).is_file():
        data = _read(folder / COMPARISON, "results")
        prompts = _texts(data, "prompts", folder / COMPARISON)
        listed = [(_text(one, "label", folder / COMPARISON), one) for one in data["results"]]
        return [
            _judged(judge, str(data.get("model", "")), label, prompts, _files(folder, one)) for label, one in listed
        ]
    if (folder / MANIFEST_LINES).is_file():
        entries = open_pictures(folder).entries
        prompts = [entry.prompt or "" for entry in entries]
        return [_judged(judge, "", folder.name, prompts, [Path(entry.name) for entry in entries])]
    if (folder / MANIFEST).is_file():
        data = _read(folder / MANIFEST, "pictures")
        files = [folder / _text(one, "file", folder / MANIFEST) for one in data["pictures"]]
        prompts = [_text(one, "prompt", folder / MANIFEST) for one in data["pictures"]]
        label = str(data.get("method", folder.name))
        return [_judged(judge, str(data.get("model", "")), label, prompts, files)]
    raise FileNotFoundError(f"folder {str(folder)!r} holds neither {COMPARISON} nor {MANIFEST} nor {MANIFEST_LINES}")


def _read(path: Path, needed: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get(needed), list):
        raise ValueError(f"{str(path)!r} holds no list {needed!r}: it is not a file that dita wrote")
    if not data[needed]:
        raise ValueError(f"{str(path)!r} lists no {needed}: there is nothing to judge")
    return data


def _text(item: object, key: str, path: Path) -> str:
    found = item.get(key) if isinstance(item, dict) else None
    if not isinstance(found, str):
        raise ValueError(f"{str(path)!r}: each entry needs a text {key!r}, got {shown(item)}")
    return found


def _texts(item: dict[str, Any], key: str, path: Path) -> list[str]:
    found = item.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{str(path)!r} must hold a list of texts {key!r}, got {shown(found)}")
    return found


def _files(folder: Path, result: dict[str, Any]) -> list[Path]:
    """The pictures of one method, as `results.json` lists them."""
    return [folder / name for name in _texts(result, "images", folder / COMPARISON)]


def _judged(
    judge: Callable[[Sequence[Image.Image], Sequence[str]], list[Verdict]],
    model: str,
    label: str,
    prompts: Sequence[str],
    files: Sequence[Path],
) -> Judgement:
    if len(prompts) != len(files):
        raise ValueError(f"{label or 'the folder'} has {len(files)} pictures for {len(prompts)} prompts")
    groups = [str(world.parse(prompt)["kind"]) for prompt in prompts]
    pictures = [Image.fromarray(read(file)) for file in files]
    return Judgement(model, label, None, tuple(prompts), tuple(groups), tuple(judge(pictures, prompts)))


def table(judgement: Judgement) -> Table:
    """A line for each group and one for all, with 95 % intervals where all attributes must be right."""
    made = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left")
    spoken = [name for name in ATTRIBUTES if name in judgement.all.attributes]
    made.add_column("prompts")
    for head in ("n", "all right", "95 %", *(_short(name) for name in spoken)):
        made.add_column(head, justify="right", no_wrap=True)
    for name, one in {**judgement.by_group, "all": judgement.all}.items():
        cells = [_percent(one.attributes.get(attribute)) for attribute in spoken]
        made.add_row(name, str(one.correct.count), _percent(one.correct), _interval(one.correct), *cells)
    return made


def attribute_table(judgement: Judgement) -> Table:
    """A line for each attribute: how many prompts speak of it, and how often it is right, with 95 % intervals."""
    made = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False, caption_justify="left")
    made.add_column("attribute")
    for head in ("n", "right", "95 %"):
        made.add_column(head, justify="right")
    for name, one in judgement.all.attributes.items():
        made.add_row(name, str(one.count), _percent(one), _interval(one))
    return made


def title(judgement: Judgement) -> str:
    """What was judged, in a line."""
    steps = f", {judgement.steps} steps" if judgement.steps else ""
    return f"{judgement.model or 'pictures'}, {judgement.label}{steps}: {len(judgement.prompts)} prompts"


def _order(group: str) -> tuple[int, str]:
    known = [*world.KINDS, *world.MOTIONS]
    return (known.index(group) if group in known else len(known)), group


def _short(attribute: str) -> str:
    return {"relation": "relat.", "background": "backgr."}.get(attribute, attribute)


def _percent(one: Share | None) -> str:
    return "–" if one is None or one.share is None else f"{100 * one.share:.0f}"


def _interval(one: Share) -> str:
    return "–" if one.low is None or one.high is None else f"{100 * one.low:.0f}–{100 * one.high:.0f}"


def _progress(console: Console | None) -> Progress:
    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    description = TextColumn("{task.description}")
    return Progress(description, BarColumn(), *columns, console=console or Console(stderr=True))
