"""A world of captioned drawings, made by the program itself: the training and evaluation data of the miniature models.

A `Scene` is plain data. `sample_scene` draws one at random, `caption` says it in words, `draw` paints it at any size
with signed distances (anti-aliased edges), `attributes` tells what is true of it. Shapes, glyphs, colours, relations,
backgrounds and motions are tables: a new kind is a new entry. Lengths are fractions of the picture's side; x grows to
the right and y downwards. A tenth of the combinations is held out from training (`is_held_out`).
"""

from __future__ import annotations

from dita.miniature.world.backgrounds import BACKGROUNDS
from dita.miniature.world.drawing import draw, draw_all
from dita.miniature.world.glyphs import GLYPHS
from dita.miniature.world.motion import MOTIONS, Clip, clip_scenes, draw_clip, is_held_out_clip, sample_clip
from dita.miniature.world.reading import parse
from dita.miniature.world.sampling import sample_kind, sample_scene
from dita.miniature.world.scene import Background, Scene, Sign, Thing, attributes
from dita.miniature.world.sets import clip_prompts, clips, evaluation_scenes, pictures, prompts, scenes
from dita.miniature.world.shapes import PLURALS, SHAPES
from dita.miniature.world.split import SPLITS, is_held_out
from dita.miniature.world.tables import (
    BACKGROUND_COLOURS,
    BACKGROUND_RATES,
    COLOURS,
    COUNTS,
    KINDS,
    MARGIN,
    RELATIONS,
    SIZES,
    Floats,
    Picture,
)
from dita.miniature.world.words import caption, clip_caption, vocabulary

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_COLOURS",
    "BACKGROUND_RATES",
    "COLOURS",
    "COUNTS",
    "GLYPHS",
    "KINDS",
    "MARGIN",
    "MOTIONS",
    "PLURALS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Background",
    "Clip",
    "Floats",
    "Picture",
    "Scene",
    "Sign",
    "Thing",
    "attributes",
    "caption",
    "clip_caption",
    "clip_prompts",
    "clip_scenes",
    "clips",
    "draw",
    "draw_all",
    "draw_clip",
    "evaluation_scenes",
    "is_held_out",
    "is_held_out_clip",
    "parse",
    "pictures",
    "prompts",
    "sample_clip",
    "sample_kind",
    "sample_scene",
    "scenes",
    "vocabulary",
]
