"""The world of drawings: what is drawn is what the caption says, the same for the same seed."""

import dataclasses
import re

import numpy as np
import pytest

from dita.miniature import world

PLAIN_WHITE = world.Background("plain", ("white",))


def thing(
    shape: str = "circle", colour: str = "red", size: str = "large", x: float = 0.5, y: float = 0.5
) -> world.Thing:
    return world.Thing(shape, colour, size, x, y, radius=float(np.mean(world.SIZES[size])))


def centre_of(picture: np.ndarray, colour: str) -> tuple[float, float]:
    """Centre (x, y) of the pixels of a colour, as fractions of the side."""
    near = np.abs(picture.astype(int) - np.array(world.COLOURS[colour])).sum(-1) < 12
    rows, columns = np.nonzero(near)
    return float((columns.mean() + 0.5) / len(picture)), float((rows.mean() + 0.5) / len(picture))


def words_of(caption: str) -> list[str]:
    """The words of a caption without the text of a sign."""
    return re.sub(r'"[A-Z0-9]+"', "", caption).split()


def test_the_same_seed_makes_the_same_pictures() -> None:
    first, said = world.pictures(8, seed=3, size=32)
    again, said_again = world.pictures(8, seed=3, size=32)
    other, _ = world.pictures(8, seed=4, size=32)
    assert first.dtype == np.uint8
    assert first.shape == (8, 32, 32, 3)
    assert np.array_equal(first, again)
    assert said == said_again
    assert not np.array_equal(first, other)


def test_a_scene_draws_alone_as_it_draws_in_a_batch() -> None:
    scenes = world.scenes(20, seed=1)
    together = world.draw_all(scenes, size=48)
    assert all(
        np.array_equal(world.draw(scene, size=48), picture) for scene, picture in zip(scenes, together, strict=True)
    )


def test_a_scene_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        thing().x = 0.1  # type: ignore[misc]


def test_a_caption_says_shapes_colours_relation_and_background() -> None:
    first = dataclasses.replace(thing("circle", "orange", x=0.25), says_size=True)
    scene = world.Scene((first, thing("star", "blue", x=0.75)), PLAIN_WHITE, "left of")
    assert world.caption(scene) == "a large orange circle left of a blue star on a white background"
    alone = world.Scene((thing("cross", "orange"),), world.Background("gradient", ("grey", "black")))
    assert world.caption(alone) == "an orange cross on a grey to black gradient background"


def test_every_caption_is_made_of_the_vocabulary() -> None:
    known = set(world.vocabulary())
    assert all(known.issuperset(words_of(world.caption(scene))) for scene in world.scenes(500, seed=0))


def test_every_word_of_the_vocabulary_is_said() -> None:
    rng = np.random.default_rng(0)
    captions = [world.caption(scene) for scene in world.scenes(2000, seed=0)]
    captions += [world.clip_caption(world.sample_clip(rng)) for _ in range(100)]
    assert {word for caption in captions for word in words_of(caption)} == set(world.vocabulary())


@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_shape_lies_where_the_scene_says_and_within_its_radius(shape: str) -> None:
    placed = thing(shape, "green", x=0.3, y=0.6)
    picture = world.draw(world.Scene((placed,), PLAIN_WHITE), size=128)
    x, y = centre_of(picture, "green")
    assert abs(x - 0.3) < 0.03
    assert abs(y - 0.6) < 0.05
    rows, columns = np.nonzero((picture != world.BACKGROUND_COLOURS["white"]).any(-1))
    reach = np.hypot((columns + 0.5) / 128 - 0.3, (rows + 0.5) / 128 - 0.6).max()
    assert 0.85 * placed.radius < reach < 1.45 * placed.radius


def test_shapes_differ_from_each_other() -> None:
    pictures = [world.draw(world.Scene((thing(shape),), PLAIN_WHITE)).astype(int) for shape in world.SHAPES]
    for i, picture in enumerate(pictures):
        for other in pictures[:i]:
            assert (np.abs(picture - other).sum(-1) > 60).mean() > 0.01


def test_relations_hold_in_the_drawing() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    while len(seen) < 4:
        scene = world.sample_scene(rng, things=2)
        first, second = scene.things
        assert scene.relation is not None
        seen.add(scene.relation)
        dx, dy = world.RELATIONS[scene.relation]
        along = (first.x - second.x) * dx + (first.y - second.y) * dy
        across = abs((first.x - second.x) * dy) + abs((first.y - second.y) * dx)
        assert along > first.radius + second.radius
        assert along > 1.2 * across
        if first.colour != second.colour:
            drawn = world.draw(scene, size=96)
            (x1, y1), (x2, y2) = centre_of(drawn, first.colour), centre_of(drawn, second.colour)
            assert (x1 - x2) * dx + (y1 - y2) * dy > 0.15


def test_objects_stay_inside_the_picture() -> None:
    for scene in world.scenes(500, seed=5):
        for placed in scene.things:
            for at in (placed.x, placed.y):
                assert placed.radius <= at <= 1 - placed.radius


def test_edges_are_anti_aliased() -> None:
    picture = world.draw(world.Scene((thing("circle", "blue"),), PLAIN_WHITE))
    between = (picture != world.COLOURS["blue"]).any(-1) & (picture != world.BACKGROUND_COLOURS["white"]).any(-1)
    assert 0.005 < between.mean() < 0.06


def test_a_large_drawing_reduced_is_the_small_drawing() -> None:
    scenes = world.scenes(16, seed=2)
    small = world.draw_all(scenes, 64).astype(float)
    reduced = world.draw_all(scenes, 256).reshape(16, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - reduced).mean() < 0.5


def test_a_gradient_runs_from_top_to_bottom() -> None:
    scene = world.Scene((), world.Background("gradient", ("white", "black")))
    column = world.draw(scene)[:, 0, 0].astype(int)
    assert column[0] > 240
    assert column[-1] < 25
    assert (np.diff(column) < 0).all()


def test_prompts_are_fixed_different_and_of_both_kinds() -> None:
    chosen = world.prompts(40)
    assert chosen == world.prompts(40)
    assert world.prompts(8) == chosen[:8]
    assert len(set(chosen)) == 40
    related = [any(f" {relation} " in prompt for relation in world.RELATIONS) for prompt in chosen]
    assert sum(related) == 20


@pytest.mark.parametrize("things", [0, 3])
def test_an_impossible_count_of_objects_is_refused(things: int) -> None:
    with pytest.raises(ValueError, match=f"things={things}"):
        world.sample_scene(np.random.default_rng(0), things=things)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="size=0"):
        world.draw(world.Scene((), PLAIN_WHITE), size=0)
