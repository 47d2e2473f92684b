"""What a store may be, and what it makes of bytes."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dita.stores import DTYPES, Store, parse_bytes


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("bf16", "bfloat16"),
        ("fp16", "float16"),
        ("half", "float16"),
        ("fp8", "float8_e4m3fn"),
        ("float8", "float8_e4m3fn"),
        (torch.bfloat16, "bfloat16"),
        (torch.float8_e4m3fn, "float8_e4m3fn"),
    ],
)
def test_a_dtype_has_a_name_a_short_name_and_torch_s_own(given: object, name: str) -> None:
    assert Store(dtype=given).dtype == name


@pytest.mark.parametrize("dtype", ["float32", "int8", "fp4", torch.float64])
def test_an_unknown_dtype_is_named_beside_the_known_ones(dtype: object) -> None:
    with pytest.raises(ValueError, match=rf"unknown store dtype '{re.escape(str(dtype))}'; known: bfloat16,.*fp8"):
        Store(dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:7", "disk", "mps"])
def test_an_unknown_device_is_named_beside_the_known_one(device: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown store device '{device}'.*'cpu'"):
        Store(device=device)


@pytest.mark.parametrize("limit", [-1, 0.5, float("nan"), True])
def test_a_bound_is_a_whole_number_of_bytes(limit: object) -> None:
    with pytest.raises(ValueError, match="max_cache_bytes must be a whole number of bytes, at least 0, got"):
        Store(max_cache_bytes=limit)


def test_a_bound_may_be_written_as_a_power() -> None:
    assert Store(max_cache_bytes=2e9) == Store(max_cache_bytes=2_000_000_000)
    assert isinstance(Store(max_cache_bytes=2e9).max_cache_bytes, int)


def test_the_default_says_so() -> None:
    assert str(Store()) == "as computed"
    assert str(Store("fp8", "cpu")) == "float8_e4m3fn, on the cpu"


def test_bytes_by_hand() -> None:
    """10 tokens of 8 numbers in 4 bytes."""
    assert Store().bytes_of(320, 8, 4) == 320
    assert Store("bf16").bytes_of(320, 8, 4) == Store("fp16").bytes_of(320, 8, 4) == 160
    assert Store("fp8").bytes_of(320, 8, 4) == 80 + 10 * 4


@given(st.integers(0, 500), st.integers(8, 4000), st.sampled_from([2, 4]), st.sampled_from([None, *DTYPES]))
def test_a_store_takes_no_more_than_the_model(tokens: int, width: int, element_bytes: int, dtype: str | None) -> None:
    size = tokens * width * element_bytes
    assert 0 <= Store(dtype).bytes_of(size, width, element_bytes) <= size


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("3.2GB", 3_200_000_000), ("512 MiB", 2**29), ("1kb", 1000), ("0", 0)]
)
def test_sizes_in_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", "3.2 apples", "GB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"a size in bytes is a number such as 3\.2GB"):
        parse_bytes(text)
