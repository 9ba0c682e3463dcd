"""Medians, spreads and ratios of what was measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from operator import truediv

ROUNDS = 15

UNITS = {
    "ms": (1e3, 3),
    "seconds": (1.0, 4),
    "kib": (1 / 1024, 2),
    "mib": (1 / 1024**2, 2),
    "mbit_s": (1e-6, 1),
    "share": (1.0, 5),
    "a_second": (1.0, 1),
    "times": (1.0, 1),
}
"""What a second, a byte, a bit a second, a processor or a number counts in it, and to how many digits."""


def quarters(values: Iterable[float]) -> tuple[float, float, float]:
    """The lower quarter, the middle and the upper quarter."""
    found = list(values)
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return low, middle, high


def spread(values: Sequence[float], unit: str = "ms") -> dict[str, float]:
    """The median, named as its unit, and the middle half; without another unit, of seconds in milliseconds."""
    factor, digits = UNITS[unit]
    low, middle, high = (round(value * factor, digits) for value in quarters(values))
    return {unit: middle, "from": low, "to": high}


def ratio(ours: dict[str, float], reference: dict[str, float]) -> float | None:
    """How many times the reference ours is, by the medians; None where the reference is too little to be measured."""
    unit = next(iter(reference))
    return round(ours[unit] / reference[unit], 3) if reference[unit] else None


def ratios(ours: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The quarters of the ratios of turns that stood beside one another: a change of load troubles both alike."""
    return [round(one, 3) for one in quarters(map(truediv, ours, reference))]


def in_turns(*sides: Callable[[], object], rounds: int = ROUNDS) -> list[dict[str, float]]:
    """Time each side so many times, alternating."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, column in zip(sides, times, strict=True):
            started = time.perf_counter()
            side()
            column.append(time.perf_counter() - started)
    return [spread(column) for column in times]
