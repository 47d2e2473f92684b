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


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden vectors, which lie beside the repository and are no part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("no golden vectors: the folder ../shared/golden beside the repository is absent")
    return folder
