from __future__ import annotations

from collections.abc import Iterator

import pytest

from dita.demo.loaded import Loaded
from dita.demo.studio import Studio
from tests.demo.small import small


@pytest.fixture(params=["flux", "pixart", "dit", "opensora"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return small(request.param)


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio(small("flux"))
    yield made
    made.close()
