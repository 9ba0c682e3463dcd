"""What others took of this machine's processors while something was measured.

A limit in seconds is for a machine that has nothing else to do. Where it also compiles or tests something else, what
that took is no fault of the console's: it is left out, and printed beside.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
IDLE = (3, 4)
"""Columns of /proc/stat that are nobody's work: idle, waiting for a disk."""
GUEST = 8
"""From this column on, what is in others already."""


@dataclass(frozen=True)
class Look:
    """Processor seconds since some beginning, by all and by us."""

    at: float
    all: float
    ours: float


def look(strays: Iterable[int]) -> Look:
    """Look at the processors; `strays` are processes of ours that have left us for a session of their own."""
    columns = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]][:GUEST]
    busy = sum(ticks for number, ticks in enumerate(columns) if number not in IDLE) / TICK
    return Look(time.monotonic(), busy, _ended() + _living({*_descendants(), *strays}))


def others_share(before: Look, after: Look) -> float:
    """Which part of the machine others had between two looks, from 0 to 1."""
    capacity = (after.at - before.at) * (os.cpu_count() or 1)
    others = (after.all - before.all) - (after.ours - before.ours)
    return min(1.0, max(0.0, others / capacity)) if capacity else 0.0


def _ended() -> float:
    """Of this process, and of those children that were waited for."""
    mine = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in mine)


def _descendants() -> set[int]:
    parents = {pid: int(fields[1]) for pid, fields in _read_all()}
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def _living(pids: set[int]) -> float:
    """Of processes and of those of their children that they waited for."""
    return sum(sum(map(int, fields[11:15])) for pid, fields in _read_all() if pid in pids) / TICK


def _read_all() -> Iterable[tuple[int, list[str]]]:
    """Each process with its fields of /proc/PID/stat from the third on."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
