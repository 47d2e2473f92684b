"""The two tokenizers of a miniature FLUX, made from the words of the world: each word is one token."""

from __future__ import annotations

import string
from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer, T5Tokenizer

from dita.miniature import world

CLIP_LENGTH = 77
"""Tokens of a caption for CLIP, as in FLUX."""

T5_LENGTH = 512
"""Most tokens of a caption for T5, as in FLUX.1-dev."""

LETTERS = string.ascii_lowercase + string.digits + '"'
END = "</w>"


def clip_tokenizer(words: list[str] | None = None) -> CLIPTokenizer:
    """A byte-pair tokenizer that makes each of `words` (the world's by default) one token; others are spelt out."""
    merges = _merges(words or world.vocabulary())
    symbols = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(letter + END for letter in LETTERS)]
    symbols += [first + second for first, second in merges]
    vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first and ties by spelling, until each word is one symbol.

    The trainer of the tokenizers library breaks ties at random: every process would number the words differently.
    """
    spelt = [[*word[:-1], word[-1] + END] for word in words]
    merges = []
    while pairs := Counter(pair for word in spelt for pair in pairwise(word)):
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((first, second))
        for word in spelt:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == (first, second):
                    word[at : at + 2] = [first + second]
                at += 1
    return merges


def t5_tokenizer(words: list[str] | None = None) -> T5Tokenizer:
    """A unigram tokenizer with one token for each of `words` (the world's by default); others are spelt out."""
    words = words or world.vocabulary()
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    vocab += [(f"▁{word}", -4.0) for word in [*words, '"']]
    vocab += [(letter, -8.0) for letter in dict.fromkeys(LETTERS + world.GLYPHS)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=T5_LENGTH)
