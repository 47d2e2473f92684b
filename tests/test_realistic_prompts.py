"""The prompts for models that were not trained on the bundled world."""

import re
from collections import Counter

import pytest

from dita import realistic_prompts
from dita.generation import prompts as prompt_files
from dita.realistic_prompts import FILE, KINDS, class_prompts, texts

ALL = realistic_prompts.realistic_prompts()
CLIP_TOKENS = 77 - 2  # without the tokens of start and end


def test_there_are_a_hundred_and_no_two_are_alike():
    assert len(ALL) == 100
    assert len({prompt.id for prompt in ALL}) == 100
    assert len({re.sub(r"\W+", " ", prompt.text).strip().lower() for prompt in ALL}) == 100


def test_every_kind_is_there_and_the_first_14_hold_two_of_each():
    found = Counter(prompt.kind for prompt in ALL)
    assert set(found) == set(KINDS) and min(found.values()) >= 14
    assert Counter(prompt.kind for prompt in ALL[:14]) == dict.fromkeys(KINDS, 2)


@pytest.mark.parametrize("prompt", ALL, ids=lambda prompt: prompt.id)
def test_clips_text_encoder_reads_the_whole_prompt(prompt):
    pieces = re.findall(r"[A-Za-zÀ-ÿ]+|\d|[^\w\s]+", prompt.text)  # a rare word takes more than one token
    most = sum(max(1, -(-len(piece) // 4)) for piece in pieces)
    assert most <= CLIP_TOKENS
    assert len(prompt.text.split()) >= 5 and prompt.text == prompt.text.strip()


def test_what_should_be_counted_is_named_and_what_should_be_written_is_quoted():
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "single", "pair"]
    for prompt in ALL:
        if prompt.kind == "counting":
            assert any(word in prompt.text.lower().split() for word in numbers), prompt.text
        if prompt.kind == "text":
            assert re.search(r'"[^"]+"|\d\d:\d\d|Q, W, E', prompt.text), prompt.text


def test_a_count_takes_the_first_ones():
    assert texts(3) == [prompt.text for prompt in ALL[:3]]
    with pytest.raises(ValueError, match="there are 100 realistic prompts, got 101; give a file for more"):
        texts(101)


def test_class_names_are_spread_over_all_of_them():
    names = [f"class {number}" for number in range(10)]
    assert class_prompts(names, 4) == ["class 0", "class 2", "class 5", "class 7"]
    assert class_prompts([*names, "class 0"], 10) == names
    with pytest.raises(ValueError, match="the model knows 10 names of classes, got 11"):
        class_prompts(names, 11)


def test_generate_reads_the_file_itself():
    assert [prompt.text for prompt in prompt_files.read(FILE)] == texts(100)
