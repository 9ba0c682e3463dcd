"""What the C library does with memory that the agent has done with."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
from kubespan.agent.allocation import spare_memory

class Statistics(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usm fsm uord ford keep".split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
libc.mallinfo2.restype = Statistics
{first}
before = libc.mallinfo2().hblks
for _ in range(3):
    libc.free(libc.malloc(1 << 20))
block = libc.malloc(1 << 20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
@pytest.mark.parametrize(("first", "mapped"), [("spare_memory()", 1), ("", 0)], ids=["as set", "as it comes"])
def test_large_blocks_are_apart_and_go_back(first, mapped):
    """Without the setting, a large block that was freed makes the next one part of the heap, which only grows."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == mapped
