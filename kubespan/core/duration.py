"""Durations as people read them."""

from __future__ import annotations

MINUTE = 60
HOUR = 3600
DAY = 86400
COARSE = 10
"""Of the larger unit from so many on (days, for hours by ten), the smaller one is left out."""


def age(seconds: float) -> str:
    """A duration in its one or two largest units, as frontend/src/format.ts has it."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} m"
    large, small, unit, part = (
        (whole // HOUR, whole % HOUR // MINUTE, "h", "m")
        if whole < DAY
        else (whole // DAY, whole % DAY // HOUR, "d", "h")
    )
    return (
        f"{large} {unit} {small} {part}" if small and large < COARSE * (24 if unit == "h" else 1) else f"{large} {unit}"
    )
