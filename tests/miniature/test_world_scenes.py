"""Kinds of scene: how often they come, what their captions say, and what training never sees."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dita.miniature import world
from dita.miniature.world.backgrounds import BACKGROUNDS
from dita.miniature.world.shapes import REACH
from dita.miniature.world.split import looks, texts
from dita.miniature.world.tables import TEXTURE

PLAIN_WHITE = world.Background("plain", ("white",))
SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(list(world.KINDS))

THING = rf"an? (?:(?:small|large) )?(?:{'|'.join(world.COLOURS)}) (?:{'|'.join(world.SHAPES)})"
GROUP = rf"(?:two|three|four) (?:(?:small|large) )?(?:{'|'.join(world.COLOURS)}) (?:{'|'.join(world.PLURALS.values())})"
SIGN = rf'an? (?:{"|".join(world.COLOURS)}) sign saying "[{world.GLYPHS}]{{2,3}}"'
SUBJECTS = {
    "one": THING,
    "two": rf"{THING} (?:{'|'.join(world.RELATIONS)}) {THING}",
    "group": GROUP,
    "inside": rf"{THING} inside a large (?:{'|'.join(world.COLOURS)}) (?:circle|square)",
    "between": rf"{THING} between {THING} and {THING}",
    "sign": SIGN,
}
NAME = rf"(?:{'|'.join(world.BACKGROUND_COLOURS)})"
BEHIND = rf"an? {NAME}(?: to {NAME} gradient| and {NAME} striped| and {NAME} checkered)? background"


ALONE_HELD_OUT = (
    ("circle", "purple"),
    ("square", "pink"),
    ("triangle", "blue"),
    ("star", "orange"),
    ("cross", "cyan"),
    ("cross", "purple"),
)
TEXTS_HELD_OUT = ("AU", "CH", "CP", "C9", "EA")


def sample(kind: str, seed: int, split: str = "train") -> world.Scene:
    return world.sample_kind(np.random.default_rng(seed), kind, split)


def tokens(caption: str) -> list[str]:
    """Words, and each glyph and quotation mark by itself."""
    return re.findall(r'[a-z]+|["A-Z0-9]', caption)


def test_kinds_and_backgrounds_come_as_often_as_their_tables_say() -> None:
    scenes = world.scenes(6000, seed=3)
    kinds = Counter(scene.kind for scene in scenes)
    behind = Counter(scene.background.kind for scene in scenes)
    assert math.isclose(sum(world.KINDS.values()), 1)
    assert math.isclose(sum(world.BACKGROUND_RATES.values()), 1)
    assert all(abs(kinds[kind] / 6000 - rate) < 0.025 for kind, rate in world.KINDS.items())
    assert all(abs(behind[kind] / 6000 - rate) < 0.025 for kind, rate in world.BACKGROUND_RATES.items())


@given(KINDS, SEEDS)
def test_a_caption_has_the_grammar_of_its_kind(kind: str, seed: int) -> None:
    scene = sample(kind, seed)
    assert scene.kind == kind
    caption = world.caption(scene)
    assert re.fullmatch(f"{SUBJECTS[kind]} on {BEHIND}", caption)
    assert len(tokens(caption)) <= 30
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption)


@given(KINDS, SEEDS)
@settings(max_examples=50)
def test_a_scene_depends_on_its_seed_alone(kind: str, seed: int) -> None:
    assert sample(kind, seed) == sample(kind, seed)


def test_captions_of_each_kind_read_as_documented() -> None:
    red = world.Thing("circle", "red", "small", 0.5, 0.5, 0.12)
    blue = world.Thing("square", "blue", "large", 0.5, 0.5, 0.3, says_size=True)
    star = world.Thing("star", "green", "small", 0.8, 0.5, 0.1)
    striped = world.Background("stripes", ("white", "grey"))
    checkered = world.Background("checker", ("black", "beige"))
    said = world.Thing("cross", "red", "small", 0.5, 0.5, 0.12, says_size=True)
    sign = world.Sign("A7K", "orange", 0.5, 0.5, 0.8, 0.4, 0.28)
    inside = world.Scene((red, blue), striped, "inside")
    between = world.Scene((red, star, said), checkered, "between")
    group = world.Scene((said,) * 3, PLAIN_WHITE)
    assert [world.caption(scene) for scene in (inside, between, group, world.Scene((), PLAIN_WHITE, sign=sign))] == [
        "a red circle inside a large blue square on a white and grey striped background",
        "a red circle between a green star and a small red cross on a black and beige checkered background",
        "three small red crosses on a white background",
        'an orange sign saying "A7K" on a white background',
    ]


@given(KINDS, SEEDS)
def test_objects_stay_inside_and_apart(kind: str, seed: int) -> None:
    scene = sample(kind, seed)
    for thing in scene.things:
        assert thing.radius >= 0.075
        assert all(thing.radius <= at <= 1 - thing.radius for at in (thing.x, thing.y))
    for i, thing in enumerate(scene.things):
        for other in scene.things[:i]:
            dx, dy = abs(thing.x - other.x), abs(thing.y - other.y)
            apart = math.hypot(dx, dy) > REACH * (thing.radius + other.radius)
            assert apart or max(dx, dy) > thing.radius + other.radius or kind == "inside"


def test_alike_objects_do_not_touch_in_the_drawing() -> None:
    """As many separate patches of the objects' colour as the caption says, counted by flooding."""
    for seed in range(40):
        scene = sample("group", seed)
        plain = world.Scene(scene.things, PLAIN_WHITE)
        left = {(int(r), int(c)) for r, c in np.argwhere((world.draw(plain) != 250).any(-1))}
        patches = 0
        while left:
            patches += 1
            edge = [left.pop()]
            while edge:
                row, column = edge.pop()
                near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
                left -= near
                edge += near
        assert patches == len(scene.things)


def test_objects_of_a_group_are_alike_and_of_a_relation_are_not() -> None:
    for seed in range(200):
        group = sample("group", seed)
        assert 2 <= len(group.things) <= 4
        assert len({(t.shape, t.colour, t.size, t.radius) for t in group.things}) == 1
        for kind in ("two", "inside", "between"):
            things = sample(kind, seed).things
            assert len({(t.shape, t.colour) for t in things}) == len(things) == (3 if kind == "between" else 2)


def test_the_inner_object_is_drawn_whole_over_its_container() -> None:
    for seed in range(60):
        scene = sample("inside", seed)
        inner, outer = scene.things
        assert inner.colour != outer.colour
        both, inner_only, outer_only = world.draw_all(
            [world.Scene(things, PLAIN_WHITE) for things in ((inner, outer), (inner,), (outer,))], 96
        )
        covered = (inner_only != 250).any(-1)
        core = (inner_only == world.COLOURS[inner.colour]).all(-1)
        assert (outer_only[covered] == world.COLOURS[outer.colour]).all()
        assert (
            np.abs(both[core].astype(int) - world.COLOURS[inner.colour]).max() <= 3
        )  # rounding hides 1/200 of an edge
        assert np.abs(both[~covered].astype(int) - outer_only[~covered]).max() <= 3


def test_the_object_between_two_others_is_in_the_middle_of_their_line() -> None:
    lines = set()
    for seed in range(200):
        first, second, third = sample("between", seed).things
        wide, high = abs(second.x - third.x), abs(second.y - third.y)
        along = "x" if wide > high else "y"
        lines.add(along)
        low, high = sorted((getattr(second, along), getattr(third, along)))
        assert low + first.radius < getattr(first, along) < high - first.radius
        across = [thing.y if along == "x" else thing.x for thing in (first, second, third)]
        assert max(across) - min(across) < 0.07
    assert lines == {"x", "y"}


@pytest.mark.parametrize("size", [32, 64, 100, 128])
def test_textures_have_their_period_and_smooth_edges(size: int) -> None:
    stripes, checker = world.draw_all(
        [world.Scene((), world.Background(kind, ("white", "black"))) for kind in ("stripes", "checker")], size
    )
    assert (stripes == stripes[:1]).all()
    cell = round(size * TEXTURE)
    middles = ((np.arange(8) + 0.5) * TEXTURE * size).astype(int)
    assert (stripes[0, middles, 0] == [250, 15] * 4).all()
    assert (checker[np.ix_(middles, middles)][..., 0] == np.where(np.add.outer(range(8), range(8)) % 2, 15, 250)).all()
    between = set(np.unique(stripes)) - {15, 250}
    assert bool(between) == (cell / TEXTURE != size)
    assert abs(stripes.mean() - 132.5) < 1
    assert abs(checker.mean() - 132.5) < 1


@given(st.sampled_from(list(world.KINDS)), st.integers(32, 128), SEEDS)
@settings(max_examples=30, deadline=None)
def test_any_size_can_be_drawn_and_shows_the_same(kind: str, size: int, seed: int) -> None:
    scene = sample(kind, seed)
    picture = world.draw(scene, size)
    assert picture.shape == (size, size, 3)
    assert abs(picture.mean() - world.draw(scene, 64).mean()) < 6


@given(KINDS, SEEDS)
@settings(deadline=None)
def test_training_and_held_out_scenes_share_no_combination(kind: str, seed: int) -> None:
    assert not world.is_held_out(sample(kind, seed, "train"))
    assert world.is_held_out(sample(kind, seed, "held-out"))


def test_a_tenth_is_held_out_of_each_relation_and_of_the_texts() -> None:
    rng = np.random.default_rng(0)
    share = np.mean([world.is_held_out(world.sample_scene(rng, split="all")) for _ in range(5000)])
    assert 0.07 < share < 0.14
    for relation in [*world.RELATIONS, "inside", "between", "alone", "group", *world.MOTIONS]:
        held, seen = set(looks(relation, "held-out")), set(looks(relation, "train"))
        assert 3 <= len(held) <= 9
        assert not held & seen
        assert held | seen == set(looks(relation, "all"))
        assert {shape for shape, _ in seen} == set(world.SHAPES)
        assert {colour for _, colour in seen} == set(world.COLOURS)
    for length in (2, 3):
        assert 0.07 < len(texts(length, "held-out")) / len(texts(length, "all")) < 0.13


def test_the_split_never_changes() -> None:
    """What trained models have not seen must stay the same: these are held out for good."""
    assert looks("alone", "held-out") == ALONE_HELD_OUT
    assert texts(2, "held-out")[:5] == TEXTS_HELD_OUT


def test_training_data_is_of_the_training_split() -> None:
    assert not any(map(world.is_held_out, world.scenes(300, seed=0)))
    assert all(map(world.is_held_out, world.scenes(100, seed=0, split="held-out")))
    assert world.pictures(5, seed=2)[1] == [world.caption(scene) for scene in world.scenes(5, seed=2)]


def test_attributes_say_what_the_scene_holds() -> None:
    rng = np.random.default_rng(4)
    for kind in world.KINDS:
        for _ in range(20):
            scene = world.sample_kind(rng, kind)
            known = world.attributes(scene)
            caption = world.caption(scene)
            assert known["kind"] == kind
            assert known["count"] == {"one": 1, "group": len(scene.things), "between": 3, "sign": 1}.get(kind, 2)
            assert ("relation" in known) == (kind in ("two", "inside", "between"))
            assert ("text" in known) == (kind == "sign")
            assert known["background"] == scene.background.kind
            assert all(str(known[key]) in caption for key in known if key[:5] in ("shape", "colou", "relat", "text"))
            assert ("shape_2" in known) == (kind in ("two", "inside", "between"))
            named = [f"background_colour_{i + 1}" for i in range(BACKGROUNDS[scene.background.kind].count)]
            assert [key for key in known if key.startswith("background_colour")] == named


def test_evaluation_scenes_are_held_out_different_and_of_the_kinds_in_turn() -> None:
    kinds = ("one", "sign", "between")
    chosen = world.evaluation_scenes(30, 1, kinds)
    assert chosen == world.evaluation_scenes(30, 1, kinds)
    assert chosen[:9] == world.evaluation_scenes(9, 1, kinds)
    assert [scene.kind for scene in chosen] == list(kinds) * 10
    assert all(map(world.is_held_out, chosen))
    captions = [world.caption(scene) for scene in chosen]
    assert len(set(captions)) == 30
    assert world.prompts(30, 1, split="held-out", kinds=kinds) == captions


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda rng: world.sample_scene(rng, split="test"), "split='test'.*train, held-out, all"),
        (lambda rng: world.sample_kind(rng, "three"), "kind='three'.*one, two, group"),
        (lambda rng: world.sample_kind(rng, "sign", "test"), "split='test'"),
        (lambda rng: world.scenes(1, 0, split=""), "split=''"),
        (lambda rng: world.prompts(2, kinds=["none"]), "kind='none'"),
        (lambda rng: world.prompts(2, kinds=[]), "kinds is empty"),
        (lambda rng: world.evaluation_scenes(0, 0, ("one",), split="none"), "split='none'"),
        (lambda rng: world.evaluation_scenes(5000, 0, ("one",)), "count=5000"),
    ],
)
def test_what_cannot_be_drawn_is_refused(ask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(np.random.default_rng(0))
