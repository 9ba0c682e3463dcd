"""Medians, spreads and ratios of what was measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

ROUNDS = 15


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the middle half, in milliseconds."""
    low, middle, high = statistics.quantiles([1000 * one for one in seconds], n=4)
    return {"ms": round(middle, 3), "from": round(low, 3), "to": round(high, 3)}


def ratio(ours: dict[str, float], reference: dict[str, float]) -> float:
    """How many times the reference ours takes, by the medians."""
    return round(ours["ms"] / reference["ms"], 3)


def in_turns(*sides: Callable[[], object], rounds: int = ROUNDS) -> list[dict[str, float]]:
    """Time each side so many times, alternating."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, column in zip(sides, times, strict=True):
            started = time.perf_counter()
            side()
            column.append(time.perf_counter() - started)
    return [spread(column) for column in times]
