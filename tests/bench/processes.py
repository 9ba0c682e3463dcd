"""What a process uses: processor and memory, as the kernel counts them."""

from __future__ import annotations

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

QUIET_SHARE = 0.1
"""Of a processor: below that, a second is a quiet one."""


def used(pid: int) -> float:
    """Seconds of processor, with those of children that have ended; to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def memory(pid: int) -> dict[str, int]:
    """Bytes by the names of /proc/PID/smaps_rollup: Rss, Pss (what is shared counts by shares), Private_Dirty …"""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}


def shares(pids: list[int], seconds: float) -> list[float]:
    """How many processors each uses for the next seconds."""
    before, started = [used(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    return [(used(pid) - earlier) / passed for pid, earlier in zip(pids, before, strict=True)]


def settle(pid: int, patience: float) -> None:
    """Wait until it has had nothing to do for a second; raises TimeoutError."""
    deadline = time.monotonic() + patience
    while shares([pid], 1.0)[0] > QUIET_SHARE:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not come to rest within {patience:.0f} s")
