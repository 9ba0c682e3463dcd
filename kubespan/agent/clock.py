"""The machine's two clocks."""

from __future__ import annotations

import time


class Clock:
    """One clock for durations, which no setting disturbs and which counts through a suspend; one for people."""

    def now(self) -> float:
        """Seconds on the timeline of everything that this agent measures."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Unix time."""
        return time.time()
