import pytest

from dita.generation.job import Item, settings_from_json
from tests.generation.stand_in import settings, some_items


def test_the_noise_of_an_item_comes_from_its_id_and_seed_alone():
    one = Item("x", "a cat", 0)
    assert one.noise_seed == Item("x", "a dog", 0).noise_seed
    assert len({Item(id, "a", seed).noise_seed for id in ("x", "y", "x0") for seed in (0, 1, 10)}) == 9
    assert one.noise_seed < 2**53
    assert one.noise_seed == 1505618341179656, "the noise of published pictures must stay"


def test_file_names_are_safe_and_differ():
    ids = ["a", "A", "a/b", "a_b", "../x", "ü", "x" * 300, ".", "con:1", "a b"]
    stems = [Item(id, "p", 0).stem for id in ids]
    assert len({stem.lower() for stem in stems}) == len(ids)
    assert all("/" not in stem and not stem.startswith(".") and len(stem) < 120 for stem in stems)
    assert Item("0007", "p", 3).stem == "0007-s3"


def test_settings_go_to_json_and_back():
    one = settings(call={"height": 8}, fps=24.0)
    assert settings_from_json(one.as_json()) == one


def test_a_difference_is_named():
    assert settings().difference(settings()) is None
    assert settings(steps=3).difference(settings()) == "steps is 2 there and 3 here"
    assert settings(revision="x").difference(settings()) is None
    assert "revision" in str(settings(revision="x").difference(settings(revision="y")))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="unknown format 'gif'; known: png, webp, mp4"):
        settings(format="gif")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        settings(steps=0)


def test_items_are_every_prompt_with_every_seed():
    assert [item.key for item in some_items(2, (0, 5))] == [("p0", 0), ("p0", 5), ("p1", 0), ("p1", 5)]
