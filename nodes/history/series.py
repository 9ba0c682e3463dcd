"""The shapes of charts as browsers get them; `frontend/src/charts/series.ts` has the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from nodes.history.points import Point
from nodes.history.strips import Stretch

SpanName = Literal["24h", "7d"]
MICRO, TENTH, HUNDREDTH, MYRIAD = 6, 1, 2, 4


class Series(msgspec.Struct, frozen=True):
    """Points in columns of equal length, the oldest first; where nothing was noted there is none.

    `connected` is a share of the looks, links are means over the looks at which the node was connected. Round trips are
    seconds, losses shares, traffic bytes per second; null where it was not measured.
    """

    name: str
    at: list[int] = []
    connected: list[float] = []
    up: list[float] = []
    unknown: list[float] = []
    down: list[float] = []
    rtt: list[float | None] = []
    loss: list[float | None] = []
    received: list[float | None] = []
    sent: list[float | None] = []


class Strip(msgspec.Struct, frozen=True):
    """A link's states, one after another."""

    name: str
    stretches: list[Stretch]
    cut: bool
    """Whether changes are missing: more happened than was kept."""


class Chart(msgspec.Struct, frozen=True):
    """`/nodes/<pk>/history/` and `/links/<pk>/<pk>/history/`: from `start` to `end`, a point each `step` seconds."""

    span: SpanName
    start: int
    end: int
    step: int
    series: list[Series]
    strips: list[Strip] = []
    note: str = ""
    """What is missing, and why."""


def columns(name: str, found: Iterable[tuple[int, Point]]) -> Series:
    """Points as pages have them."""
    series = Series(name, [], [], [], [], [], [], [], [], [])
    for at, point in found:
        looks = point.connected or 1
        series.at.append(at)
        series.connected.append(round(point.connected / point.looks, HUNDREDTH))
        series.up.append(round(point.up / looks, HUNDREDTH))
        series.unknown.append(round(point.unknown / looks, HUNDREDTH))
        series.down.append(round(point.down / looks, HUNDREDTH))
        series.rtt.append(_rounded(point.rtt, MICRO))
        series.loss.append(_rounded(point.loss, MYRIAD))
        series.received.append(_rounded(point.received, TENTH))
        series.sent.append(_rounded(point.sent, TENTH))
    return series


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
