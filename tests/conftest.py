import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("TQDM_DISABLE", "1")  # the progress bars of diffusers; read when tqdm is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads that wait for each other only cost

# A busy machine must not fail a test by being slow.
settings.register_profile("dita", settings(), deadline=None)
settings.load_profile("dita")


@pytest.fixture(autouse=True)
def _leave_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps freed memory is for the whole process, and lasts: not for one of many tests."""
    monkeypatch.setattr("dita.freed_memory.keep_freed_memory", lambda: False)


SHIPPED = Path(__file__).resolve().parent / "golden"
WHOLE = Path(__file__).resolve().parents[2] / "shared" / "golden"


class Golden(type(Path())):  # type: ignore[misc]
    """A place among the golden vectors: those that ship with the tests, else the whole set beside the repository.

    A test that asks for what is in neither is skipped.
    """

    def __truediv__(self, name: str) -> "Golden":
        place = super().__truediv__(name)
        if place.exists():
            return place
        root = SHIPPED if place.is_relative_to(SHIPPED) else WHOLE
        elsewhere = Golden(WHOLE, place.relative_to(root))
        if WHOLE.is_dir():
            return elsewhere
        pytest.skip(f"no golden vectors {place.relative_to(root)}: tests/golden/README.md says what ships")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden vectors: `golden / "pixart" / "model"`, for example (tests/golden/README.md)."""
    return Golden(SHIPPED)
