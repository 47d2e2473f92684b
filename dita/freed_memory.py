"""What the C library does with memory that is freed, which decides what steps on a CPU cost."""

from __future__ import annotations

import ctypes

_kept = False


def keep_freed_memory() -> bool:
    """Tells glibc to keep what it frees, for this process and for good; False where there is no glibc.

    By default it hands large pieces back to the system and takes them again, page by page, in some steps and not in
    others. Those page faults are a tenth to a third of a run, more of a full step than of a cached one, and have
    nothing to do with what is compared. Servers avoid them in the same way, or with another allocator.
    """
    global _kept
    try:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):  # Windows has no such library
        return False
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_* of malloc.h
    settings = ((trim_threshold, 2**31 - 1), (top_pad, 2**27), (mmap_threshold, 2**30))
    _kept = all(mallopt(parameter, value) for parameter, value in settings)
    return _kept


def keeps_freed_memory() -> bool:
    """Whether `keep_freed_memory` was called, and worked."""
    return _kept
