"""A point of history, its packed form, and the arithmetic on points; no IO, time is an argument.

A point of a minute is one look. A point of a quarter of an hour is what fifteen looks come to: counts are added,
figures are averaged over the looks that have them. Where nobody looked there is a gap; nothing is ever guessed between
two points.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isnan, nan
from typing import NamedTuple

from kubespan.core.history import mean
from nodes.models.history import Period

_POINT = struct.Struct("<BBHHHIHff")  # looks, connected, up, unknown, down, round trip, loss, received, sent
SIZE = _POINT.size
_NOT_MEASURED_RTT, _NOT_MEASURED_LOSS = 2**32 - 1, 2**16 - 1
MOST_PLACES = 96
"""Points of a row: the quarters of a day."""
MICROSECONDS = 1_000_000
LOSS_PARTS = 10_000
MOST_LINKS = 2**16 - 1
"""Links in one state, added over a quarter of an hour; a thousand peers make 15,000."""
LONGEST_STEP = 180.0
"""Seconds between two readings of a counter beyond which there is no telling when the bytes went."""
LEAST_BYTES = 64 * 1024
"""Sent within minutes, below which what arrived tells nothing: probes and keepalives of a watched link are less."""


class Point(NamedTuple):
    """What a node, or a link as its node sees it, was like at a time."""

    looks: int = 0
    """How often it was looked at; nought is a gap."""
    connected: int = 0
    """At how many of these looks the node was connected."""
    up: int = 0
    unknown: int = 0
    down: int = 0
    """Links by state, added over the looks; of one link, one a look."""
    rtt: float | None = None
    """Mean round trip in seconds; none where it was not measured."""
    loss: float | None = None
    """Mean share of lost probes, 0 to 1."""
    received: float | None = None
    """Bytes per second; none where the counters told none."""
    sent: float | None = None


GAP = Point()


class Total(NamedTuple):
    """A reading of a node's or a link's counters."""

    at: float
    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """How points of a period are kept."""

    period: Period
    row: timedelta
    """What one row of the table holds."""
    kept: timedelta

    @property
    def step(self) -> timedelta:
        """The time from one point to the next."""
        return timedelta(seconds=int(self.period))

    def floor(self, at: datetime) -> datetime:
        """The point that a moment belongs to."""
        return _floor(at, self.step)

    def row_start(self, at: datetime) -> datetime:
        """The row that a moment belongs to."""
        return _floor(at, self.row)

    def place(self, at: datetime) -> int:
        """Which point of its row."""
        return (at - self.row_start(at)) // self.step


MINUTES = Resolution(Period.MINUTE, timedelta(hours=1), timedelta(hours=24))
QUARTERS = Resolution(Period.QUARTER, timedelta(days=1), timedelta(days=7))
RESOLUTIONS = {"24h": MINUTES, "7d": QUARTERS}
"""By what pages call the time that they show."""


def _floor(at: datetime, step: timedelta) -> datetime:
    seconds = int(step.total_seconds())
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)


def pack(point: Point) -> bytes:
    """A point in SIZE bytes."""
    return _POINT.pack(
        point.looks,
        point.connected,
        *(min(count, MOST_LINKS) for count in (point.up, point.unknown, point.down)),
        _scale(point.rtt, MICROSECONDS, _NOT_MEASURED_RTT),
        _scale(point.loss, LOSS_PARTS, _NOT_MEASURED_LOSS),
        nan if point.received is None else point.received,
        nan if point.sent is None else point.sent,
    )


def _scale(value: float | None, by: int, none: int) -> int:
    return none if value is None else min(max(0, round(value * by)), none - 1)


def put(row: bytes, place: int, point: Point) -> bytes:
    """A row with this point in this place; gaps before it where it ended earlier."""
    row = row.ljust(place * SIZE, b"\0")
    return row[: place * SIZE] + pack(point) + row[(place + 1) * SIZE :]


def unpack(row: bytes, places: range = range(MOST_PLACES)) -> Iterator[tuple[int, Point]]:
    """The points of a row that are no gaps, each with its place; `places` are those that are wanted."""
    for place in range(places.start, min(places.stop, len(row) // SIZE)):
        if row[place * SIZE]:  # the looks
            yield place, _unpack(_POINT.unpack_from(row, place * SIZE))


def _unpack(columns: tuple) -> Point:
    looks, connected, up, unknown, down, rtt, loss, received, sent = columns
    return Point(
        looks,
        connected,
        up,
        unknown,
        down,
        None if rtt == _NOT_MEASURED_RTT else rtt / MICROSECONDS,
        None if loss == _NOT_MEASURED_LOSS else loss / LOSS_PARTS,
        None if isnan(received) else received,
        None if isnan(sent) else sent,
    )


def merge(points: Iterable[Point]) -> Point:
    """What several looks come to; a gap where there is none."""
    found = [point for point in points if point.looks]
    if not found:
        return GAP
    sums = [sum(column) for column in zip(*(point[:5] for point in found), strict=True)]
    means = [mean(column) for column in zip(*(point[5:] for point in found), strict=True)]
    return Point(*sums, *means)


def arrived(sent: Sequence[Point], received: Sequence[Point], seconds: float) -> float | None:
    """Share of what one end sent that the other counts as received, from points of the same times, so long apart.

    Two agents report at different moments, so that what one counts in a point the other may count in the one before or
    after. None where little was sent, or some of it was not counted.
    """
    here = [point.sent for point in sent[1:-1]]
    there = [point.received for point in received]
    if None in here or None in there:
        return None
    went, came = (seconds * sum(rate or 0 for rate in counted) for counted in (here, there))
    return None if went < LEAST_BYTES else min(1.0, came / went)


def rates(before: Total | None, now: Total) -> tuple[float | None, float | None]:
    """Bytes per second received and sent since the reading before.

    None where there is no such reading, it is too old, or a counter went backwards: something was counted anew.
    """
    if before is None:
        return None, None
    seconds = now.at - before.at
    received, sent = now.received - before.received, now.sent - before.sent
    if not 0 < seconds <= LONGEST_STEP or received < 0 or sent < 0:
        return None, None
    return received / seconds, sent / seconds
