"""Verdicts on readings that are written down here: what is right and what is wrong."""

from dataclasses import replace

import pytest

from dita.miniature import world
from dita.miniature.judge.marks import Mark
from dita.miniature.judge.reading import Reading
from dita.miniature.judge.tally import from_json, tally
from dita.miniature.judge.verdict import Verdict, holds, verdict


def mark(kind, colour, x=0.5, y=0.5, radius=0.12):
    return Mark("large" if radius > 0.245 else "object", kind, colour, x, y, radius)


def judged(caption, *objects, signs=(), stray=0, background=("plain", "white")):
    return verdict(world.parse(caption), Reading(tuple(objects), tuple(signs), stray, background))


ONE = "a small red circle on a white background"
TWO = "a red circle left of a blue star on a white background"
LEFT, RIGHT = mark("circle", "red", x=0.2), mark("star", "blue", x=0.8)


def test_a_right_picture_is_right_in_all_that_the_caption_speaks_of_and_in_nothing_else():
    assert judged(TWO, RIGHT, LEFT) == Verdict(shape=True, colour=True, count=True, relation=True, background=True)
    assert judged(ONE, mark("circle", "red")).size is True
    assert judged(TWO, RIGHT, LEFT).correct


@pytest.mark.parametrize(
    ("caption", "objects", "wrong"),
    [
        (ONE, [mark("square", "red")], {"shape"}),
        (ONE, [mark("circle", "blue")], {"colour"}),
        (ONE, [mark("circle", "red", radius=0.2)], {"size"}),
        (ONE, [mark("circle", "red", 0.2), mark("other", "red", 0.8)], {"count"}),
        (ONE, [], {"shape", "colour", "count", "size"}),
        (TWO, [mark("circle", "red", 0.8), mark("star", "blue", 0.2)], {"relation"}),
        (TWO, [mark("circle", "red", 0.5, 0.2), mark("star", "blue", 0.5, 0.8)], {"relation"}),
        (TWO, [mark("circle", "blue", 0.2), mark("star", "red", 0.8)], {"colour"}),
        (TWO, [mark("circle", "red", 0.2)], {"shape", "colour", "count", "relation"}),
        (TWO, [LEFT, RIGHT, mark("heart", "pink", 0.5)], {"count"}),
    ],
)
def test_each_fault_is_found_and_no_other(caption, objects, wrong):
    found = judged(caption, *objects)
    assert {name for name, value in found.as_dict().items() if value is False} == wrong
    assert not found.correct


def test_a_background_needs_its_kind_and_colours_in_order():
    caption = "a red circle on a grey to black gradient background"
    seen = mark("circle", "red")
    assert judged(caption, seen, background=("gradient", "grey", "black")).correct
    for other in (("gradient", "black", "grey"), ("stripes", "grey", "black"), ("plain", "grey"), ("other",)):
        assert judged(caption, seen, background=other).background is False


@pytest.mark.parametrize("seen", [1, 2, 4, 5])
def test_a_group_of_another_count_is_wrong_in_the_count_only(seen):
    found = judged("three red hearts on a white background", *[mark("heart", "red", i / 6) for i in range(seen)])
    assert (found.shape, found.colour, found.count) == (True, True, False)


def test_one_odd_object_spoils_a_group():
    hearts = [mark("heart", "red", 0.2), mark("heart", "red", 0.5)]
    found = judged("three red hearts on a white background", *hearts, mark("other", "red", 0.8))
    assert (found.shape, found.colour, found.count) == (False, True, True)


SIGN = 'a cyan sign saying "7KA" on a white background'
PANEL = Mark("large", "sign", "cyan", 0.5, 0.5, 0.4)


def test_a_sign_is_right_by_its_whole_text():
    assert judged(SIGN, signs=[(PANEL, "7KA")]).correct
    for text in ("7K", "7KAA", "7?A", "K7A", ""):
        found = judged(SIGN, signs=[(PANEL, text)])
        assert (found.sign, found.colour, found.count) == (False, True, True)


def test_a_sign_stands_alone():
    assert judged(SIGN, signs=[(PANEL, "7KA"), (PANEL, "7KA")]).sign is False
    assert judged(SIGN, LEFT, signs=[(PANEL, "7KA")]).count is False
    assert judged(SIGN, LEFT).as_dict() | {"background": None} == Verdict(
        colour=False, count=False, sign=False
    ).as_dict() | {"background": None}
    assert judged(ONE, mark("circle", "red"), signs=[(PANEL, "")]).count is False
    assert judged(ONE, mark("circle", "red"), stray=1).count is False


@pytest.mark.parametrize(
    ("relation", "x", "y", "true"),
    [
        ("left of", 0.2, 0.55, True),
        ("left of", 0.45, 0.8, False),
        ("right of", 0.8, 0.5, True),
        ("above", 0.5, 0.2, True),
        ("above", 0.5, 0.8, False),
        ("below", 0.55, 0.8, True),
    ],
)
def test_sides_are_seen_from_the_second_object(relation, x, y, true):
    assert holds(relation, [mark("star", "red", x, y), mark("star", "blue")]) is true


def test_inside_needs_room_on_all_sides():
    outer = mark("circle", "blue", radius=0.3)
    assert holds("inside", [mark("star", "red", 0.55, 0.5), outer])
    assert not holds("inside", [mark("star", "red", 0.75, 0.5), outer])
    assert not holds("inside", [outer, mark("star", "red", 0.55, 0.5)])


def test_between_needs_the_middle_part_of_the_line():
    ends = [mark("star", "blue", 0.1), mark("heart", "red", 0.9)]
    assert holds("between", [mark("ring", "pink", 0.4, 0.55), *ends])
    assert not holds("between", [mark("ring", "pink", 0.5, 0.9), *ends])
    assert not holds("between", [ends[0], mark("ring", "pink", 0.5), ends[1]])


def test_an_unknown_relation_is_named():
    with pytest.raises(ValueError, match="relation='beside'"):
        holds("beside", [LEFT, RIGHT])


def test_a_tally_counts_each_attribute_among_those_that_speak_of_it():
    right = judged(TWO, LEFT, RIGHT)
    found = tally([right, replace(right, relation=False), judged(SIGN, signs=[(PANEL, "7KA")])])
    assert (found.correct.right, found.correct.count) == (2, 3)
    assert (found.attributes["relation"].right, found.attributes["relation"].count) == (1, 2)
    assert found.attributes["sign"].count == 1 and "size" not in found.attributes
    assert from_json(found.as_json()) == found
