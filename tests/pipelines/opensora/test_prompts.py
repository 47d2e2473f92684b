"""Prompts: the official scores and cleaning, and one text for each loop."""

from __future__ import annotations

import json

import pytest

from dita.pipelines.opensora import prompts
from dita.pipelines.opensora.prompts import append_scores, at_loop, clean, finished, split_loops


def test_cleaning_and_scores_are_the_official_ones(golden) -> None:
    for case in json.loads((golden / "opensora" / "prompts.json").read_text())["cases"]:
        prompt = case["prompt"]
        scored, described = append_scores(prompt), append_scores(prompt, 6.5, 4.0, "pan left")
        assert clean(prompt) == case["cleaned"]
        assert scored == case["with_scores"]
        assert described == case["with_scores_all"]
        assert clean(scored) == case["final_default"]
        assert clean(described) == case["final_all"]


def test_scores_can_be_left_out() -> None:
    assert append_scores("a dog", None) == "a dog"


def test_a_plain_prompt_holds_for_all_loops() -> None:
    assert split_loops("a dog | a cat") == {0: "a dog | a cat"}


def test_a_prompt_can_change_between_loops() -> None:
    texts = split_loops("|0|a dog|2| a cat ")
    assert texts == {0: "a dog", 2: "a cat"}
    assert [at_loop(texts, loop) for loop in range(4)] == ["a dog", "a dog", "a cat", "a cat"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("|1|a", "must begin with 0 and rise, got 1 at character 1"),
        ("|0|a|0|b", "must begin with 0 and rise, got 0 at character 5"),
        ("|0|a|x|b", "expected '|loop|text' at character 5"),
        ("|a", "expected '|loop|text' at character 1"),
        ("|0|a|2", "expected '|loop|text' at character 5"),
    ],
)
def test_loops_that_do_not_parse_are_named(prompt, message) -> None:
    with pytest.raises(ValueError) as error:
        split_loops(prompt)
    assert message in str(error.value)


def test_finished_prompts_of_all_loops() -> None:
    assert finished(["|0|A dog|1|A cat", "a bird"], 2) == [
        ["a dog aesthetic score: 6.5.", "a bird aesthetic score: 6.5."],
        ["a cat aesthetic score: 6.5.", "a bird aesthetic score: 6.5."],
    ]
    assert finished(["A <b>dog</b>"], aesthetic=None, cleaned=False) == [["a <b>dog</b>"]]


@pytest.mark.parametrize("prompt", ["", "  ", "|0|a|1|"])
def test_an_empty_prompt_is_refused(prompt) -> None:
    with pytest.raises(ValueError, match="is empty"):
        finished([prompt], 2)


def test_a_prompt_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left of the prompt '你好'"):
        finished(["你好"])


def test_an_unknown_motion_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown camera_motion 'spin'; known: pan right"):
        finished(["a dog"], camera_motion="spin")


def test_absent_libraries_are_named_where_cleaning_needs_them(monkeypatch) -> None:
    monkeypatch.setattr(prompts, "is_ftfy_available", lambda: False)
    with pytest.raises(ImportError, match=r"needs ftfy: pip install 'dita\[opensora\]', or pass clean_caption=False"):
        clean("a dog")
    assert finished(["a dog"], aesthetic=None, cleaned=False) == [["a dog"]]
