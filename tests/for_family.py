"""Methods for the model families that they run on."""

from __future__ import annotations

import pytest

from dita.methods import Method, parse


def method_for(family: str, text: str) -> Method:
    """The method of a short form; skips the test where it is not for `family`."""
    method = parse(text)
    try:
        method.check_family(family)
    except ValueError as refused:
        pytest.skip(str(refused))
    return method
