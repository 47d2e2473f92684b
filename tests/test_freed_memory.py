"""The allocator's setting that timed commands make, in a process of its own: it lasts."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, json, resource
from dita import freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    for _ in range(8):
        piece = library.malloc(ctypes.c_size_t(2**26))
        ctypes.memset(piece, 1, 2**26)
        library.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = freed_memory.keeps_freed_memory(), faults()
works = freed_memory.keep_freed_memory()
print(json.dumps([before, works, freed_memory.keeps_freed_memory(), faults()]))
"""


def test_kept_memory_is_not_asked_for_again() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("no glibc")
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    (kept_before, faults_before), works, kept, faults = json.loads(done.stdout)
    assert not kept_before and works and kept
    assert 8 * faults < 3 * faults_before, "eight times the same pages, or once"


@pytest.mark.parametrize("library", [object(), OSError("no library"), TypeError("nor a name for it")])
def test_without_glibc_nothing_is_kept(library: object) -> None:
    program = f"""
import ctypes
from dita import freed_memory

def absent(name):
    {"raise " + repr(library) if isinstance(library, Exception) else "return object()"}

ctypes.CDLL = absent
assert not freed_memory.keep_freed_memory() and not freed_memory.keeps_freed_memory()
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
