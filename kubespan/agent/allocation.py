"""How the C library keeps memory for the agent: little of it, for it runs for months and works for milliseconds."""

from __future__ import annotations

import contextlib
import ctypes

ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1
"""M_* of glibc's malloc.h."""
LARGE = 128 * 1024
"""Bytes: frames, listings and files of a large mesh are above it, and what is freed of them goes back at once."""


def spare_memory() -> None:
    """Let all threads share one arena, and return large blocks, whose size would else become the new threshold."""
    # Only glibc has mallopt(3); elsewhere things stay as they are.
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for setting, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, LARGE)):
            mallopt(setting, value)
