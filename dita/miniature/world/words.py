"""Scenes and clips in words, and every word there is."""

from __future__ import annotations

from dita.miniature.world.motion import MOTIONS, Clip
from dita.miniature.world.scene import Scene
from dita.miniature.world.shapes import PLURALS, SHAPES
from dita.miniature.world.tables import BACKGROUND_COLOURS, COLOURS, COUNTS, RELATIONS, SIZES


def caption(scene: Scene) -> str:
    """The scene in words: "a red circle left of a large blue star on a white background"."""
    return f"{_subject(scene)} on {scene.background.words()}"


def clip_caption(clip: Clip) -> str:
    """The clip in words: "a red circle moving left on a white background"."""
    return f"{_subject(clip.scene)} {clip.motion} on {clip.scene.background.words()}"


def _subject(scene: Scene) -> str:
    if scene.sign is not None:
        return scene.sign.words()
    if scene.kind == "group":
        first = scene.things[0]
        number = next(word for word, count in COUNTS.items() if count == len(scene.things))
        return f"{number} {first.noun(PLURALS[first.shape])}"
    phrases = [thing.words() for thing in scene.things]
    return f"{phrases[0]} {scene.relation} {' and '.join(phrases[1:])}" if scene.relation else phrases[0]


def vocabulary() -> list[str]:
    """Every word that a caption of a scene or clip can hold, sorted; neither the texts of signs nor quotation marks."""
    tables = (SHAPES, PLURALS.values(), COLOURS, BACKGROUND_COLOURS, SIZES, RELATIONS, COUNTS, MOTIONS)
    words = {word for table in tables for entry in table for word in entry.split()}
    rest = "a an on to and inside between sign saying gradient striped checkered background"
    return sorted(words | set(rest.split()))
