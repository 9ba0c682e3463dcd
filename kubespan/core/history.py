"""What an agent keeps of each link's past, and how it travels: bounded, in rings of a fixed size.

A ring holds points of one width, each over as many seconds, and forgets the oldest for the newest; a point takes eight
bytes. With `RINGS` that is 8,256 bytes a link, 8.3 MB for a thousand. They lie on a shelf: a file, for which an agent's
memory has no room. A row of the shelf is one moment of all links, so that a minute is written in one go; a link has a
column. Numbers are kept by their logarithm, exact to 0.07 %.

Times are seconds on the machine's own timeline; a ring travels with the age of its end, for two clocks differ.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from kubespan.core.messages import Track
from kubespan.core.peer_status import PeerState


class Width(NamedTuple):
    """How long a ring's points are, in seconds, and how many there are."""

    seconds: int
    points: int


MINUTE, QUARTER = Width(60, 360), Width(900, 672)
RINGS = (MINUTE, QUARTER)
"""Six hours by the minute, and a week by the quarter of an hour."""
PER_QUARTER = QUARTER.seconds // MINUTE.seconds
COLUMNS_AT_ONCE = 16
"""Links that the shelf is made longer for, each time that it must be."""
MOST_POINTS = 10_000
"""Of a ring that somebody else sends."""

LONGEST_LOOK = 150.0
"""Seconds between two looks at the peers; where there are more, nobody knows what was in between."""

_POINT = struct.Struct("<BBHHH")  # state and share of time up, loss, round trip in µs, received, sent
_NOTHING = bytes(_POINT.size)
_SHARE = 63
_LOSS = 250
_STEPS = 1024
_MOST = 2**16 - 1
_BADNESS = (PeerState.UP, PeerState.UNKNOWN, PeerState.DOWN)


class Point(NamedTuple):
    """A link during one of a ring's widths."""

    state: PeerState
    """The worst that it was in."""
    up: float
    """Share of the time that it was up, 0 to 1."""
    rtt: float | None
    """Seconds, mean of what was measured; none where nothing was."""
    loss: float | None
    """Share of the probes that were not answered, 0 to 1; none where none was sent."""
    received: float
    """Bytes during this width, as WireGuard counts them."""
    sent: float


def pack(point: Point | None) -> bytes:
    """Eight bytes; none, for a time of which nothing is known, is all zeros."""
    if point is None:
        return _NOTHING
    return _POINT.pack(
        (point.state + 1) << 6 | round(point.up * _SHARE),
        0 if point.loss is None else 1 + round(point.loss * _LOSS),
        0 if point.rtt is None else max(1, _shrink(point.rtt * 1_000_000)),
        _shrink(point.received),
        _shrink(point.sent),
    )


def unpack(packed: bytes | bytearray | memoryview) -> Iterator[Point | None]:
    """Read points, one after the other; raises ValueError for what no points are."""
    if len(packed) % _POINT.size:
        raise ValueError(f"points have {_POINT.size} bytes each, but these are {len(packed)}")
    for state, loss, rtt, received, sent in _POINT.iter_unpack(packed):
        if state >> 6 == 0:
            yield None
            continue
        yield Point(
            state=PeerState((state >> 6) - 1),
            up=(state & _SHARE) / _SHARE,
            rtt=_grow(rtt) / 1_000_000 if rtt else None,
            loss=min(1.0, (loss - 1) / _LOSS) if loss else None,
            received=_grow(received),
            sent=_grow(sent),
        )


def _shrink(number: float) -> int:
    return min(_MOST, round(math.log2(1 + number) * _STEPS))


def _grow(shrunk: int) -> float:
    return float(2 ** (shrunk / _STEPS) - 1)


def worse(one: PeerState, other: PeerState) -> PeerState:
    """Give the worse of two states: down before unknown."""
    return max(one, other, key=_BADNESS.index)


def fold(points: Iterable[Point | None]) -> Point | None:
    """Make one point of those of a longer time; none of none."""
    known = [point for point in points if point is not None]
    if not known:
        return None
    state = known[0].state
    for point in known:
        state = worse(state, point.state)
    return Point(
        state=state,
        up=sum(point.up for point in known) / len(known),
        rtt=mean(point.rtt for point in known),
        loss=mean(point.loss for point in known),
        received=sum(point.received for point in known),
        sent=sum(point.sent for point in known),
    )


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that were measured; none where none was."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def read_track(track: Track, now: float) -> list[tuple[float, Point | None]]:
    """Give each point of a ring with the time that it began, `now` being the reader's clock; raises ValueError."""
    if not 0 < track.seconds <= QUARTER.seconds * QUARTER.points:
        raise ValueError(f"no points are {track.seconds} s long")
    try:
        points = list(unpack(base64.b64decode(track.points, validate=True)))
    except binascii.Error:
        raise ValueError("the points are not standard base64") from None
    if len(points) > MOST_POINTS:
        raise ValueError(f"{len(points)} points are more than anybody keeps")
    first = now - track.age / 1000 - len(points) * track.seconds
    return [(first + number * track.seconds, point) for number, point in enumerate(points)]


class Row(Protocol):
    """What a look says of one peer."""

    @property
    def state(self) -> int: ...

    @property
    def received(self) -> int: ...

    @property
    def sent(self) -> int: ...


class Shelf(Protocol):
    """Where rings lie. What was never written is zeros, which is nothing known."""

    def read(self, offset: int, size: int) -> bytes:
        """Give so many bytes."""

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there."""


class MemoryShelf:
    """A shelf of a test's, or of an agent that can have no file."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, offset: int, size: int) -> bytes:
        """Give so many bytes."""
        return bytes(self._bytes[offset : offset + size]).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there."""
        if len(self._bytes) < offset:
            self._bytes += bytes(offset - len(self._bytes))
        self._bytes[offset : offset + len(data)] = data


class _Rings:
    """All rings of all links: rows by time, minutes before quarters, and columns by link."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._columns = 0

    def reserve(self, columns: int) -> None:
        """Have room for so many links; what is there moves from its end on, so that nothing is written over unread."""
        if columns <= self._columns:
            return
        before, self._columns = self._columns, -(-columns // COLUMNS_AT_ONCE) * COLUMNS_AT_ONCE
        for row in range(MINUTE.points + QUARTER.points - 1, -1, -1):
            held = self._shelf.read(row * before * _POINT.size, before * _POINT.size)
            self._shelf.write(row * self._row_size, held.ljust(self._row_size, b"\0"))

    @property
    def _row_size(self) -> int:
        return self._columns * _POINT.size

    @staticmethod
    def _row(width: Width, slot: int) -> int:
        return slot % width.points + (0 if width is MINUTE else MINUTE.points)

    def write(self, width: Width, slot: int, points: Mapping[int, bytes]) -> None:
        """Write one moment: packed points by column, and nothing known in the other ones."""
        row = bytearray(self._row_size)
        for column, packed in points.items():
            row[column * _POINT.size : (column + 1) * _POINT.size] = packed
        self._shelf.write(self._row(width, slot) * self._row_size, bytes(row))

    def clear(self, first: int, last: int) -> None:
        """Know nothing of these minutes of one quarter of an hour: they lie together, for a ring holds whole ones."""
        self._shelf.write(self._row(MINUTE, first) * self._row_size, bytes((last - first) * self._row_size))

    def forget(self, columns: Iterable[int]) -> None:
        """Know nothing of these links."""
        places = [column * _POINT.size for column in columns]
        for row in range(MINUTE.points + QUARTER.points if places else 0):
            held = bytearray(self._shelf.read(row * self._row_size, self._row_size))
            for place in places:
                held[place : place + _POINT.size] = _NOTHING
            self._shelf.write(row * self._row_size, bytes(held))

    def fold_quarter(self, quarter: int, columns: Iterable[int]) -> None:
        """Make the point of a quarter of an hour of its minutes, for each link."""
        first = self._row(MINUTE, quarter * PER_QUARTER) * self._row_size
        rows = self._shelf.read(first, PER_QUARTER * self._row_size)
        folded = {}
        for column in columns:
            places = range(column * _POINT.size, len(rows), self._row_size)
            folded[column] = pack(fold(unpack(b"".join(rows[place : place + _POINT.size] for place in places))))
        self.write(QUARTER, quarter, folded)

    def read(self, width: Width, present: int, column: int) -> bytes:
        """Give a link's ring, the oldest point first; the slot that is present is not over, and has the oldest."""
        slots = range(present - width.points, present)
        offset = column * _POINT.size
        return b"".join(
            self._shelf.read(self._row(width, slot) * self._row_size + offset, _POINT.size) for slot in slots
        )


@dataclass(slots=True)
class _Link:
    """One link: where its rings are, and what the minute has that is not over."""

    column: int
    state: PeerState
    counted_received: int
    counted_sent: int
    worst: PeerState = PeerState.UP
    up: float = 0.0
    known: float = 0.0
    received: float = 0.0
    sent: float = 0.0
    rtt: float = 0.0
    answered: int = 0
    probed: int = 0

    def take(self) -> Point | None:
        """Give the minute that is over, and begin another one."""
        point = None
        if self.known > 0:
            point = Point(
                state=self.worst,
                up=min(1.0, self.up / self.known),
                rtt=self.rtt / self.answered if self.answered else None,
                loss=1 - self.answered / self.probed if self.probed else None,
                received=self.received,
                sent=self.sent,
            )
        self.worst = PeerState.UP
        self.up = self.known = self.received = self.sent = self.rtt = 0.0
        self.answered = self.probed = 0
        return point


class Histories:
    """The past of all links of one machine, by member index, which is never another machine's."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self._rings = _Rings(shelf or MemoryShelf())
        self._links: dict[int, _Link] = {}
        self._free: list[int] = []
        """Columns of links that are forgotten."""
        self._used = 0
        self._at: float | None = None

    def note(self, rows: Mapping[int, Row], members: Container[int], now: float) -> None:
        """Take a look in; links to who is no member any more are forgotten."""
        gone = [self._links.pop(index).column for index in list(self._links) if index not in members]
        self._rings.forget(gone)
        self._free += gone
        if self._at is not None and now > self._at:
            self._pass(rows, self._at, now)
        new = sum(index not in self._links for index in rows)
        self._rings.reserve(self._used + max(0, new - len(self._free)))
        for index, row in rows.items():
            self._see(index, row)
        self._at = now

    def _take_column(self) -> int:
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1

    def probed(self, member: int, rtt: float | None) -> None:
        """Take the outcome of one probe in: its round trip in seconds, or none where no answer came."""
        link = self._links.get(member)
        if link is None:
            return
        link.probed += 1
        if rtt is not None:
            link.answered += 1
            link.rtt += rtt

    def tracks(self, member: int, now: float) -> tuple[Track, ...]:
        """All that is known of a link's past; nothing of one that never was."""
        link = self._links.get(member)
        if link is None or self._at is None:
            return ()
        minute = int(self._at // MINUTE.seconds)
        presents = ((MINUTE, minute), (QUARTER, minute // PER_QUARTER))
        return tuple(_track(width, self._rings.read(width, slot, link.column), slot, now) for width, slot in presents)

    def _see(self, index: int, row: Row) -> None:
        state = PeerState(row.state)
        link = self._links.get(index)
        if link is None:
            self._links[index] = _Link(self._take_column(), state, row.received, row.sent)
            return
        link.state = state
        link.counted_received, link.counted_sent = row.received, row.sent

    def _pass(self, rows: Mapping[int, Row], since: float, now: float) -> None:
        """Count what was between two looks to the minutes that it was in."""
        first, last = int(since // MINUTE.seconds), int(now // MINUTE.seconds)
        if now - since > LONGEST_LOOK:
            self._close(first)
            self._skip(first + 1, last)
            return
        cuts = [since, *(minute * MINUTE.seconds for minute in range(first + 1, last + 1)), now]
        for minute, (begin, end) in enumerate(pairwise(cuts), start=first):
            self._count(rows, end - begin, (end - begin) / (now - since))
            if minute < last:
                self._close(minute)

    def _count(self, rows: Mapping[int, Row], seconds: float, share: float) -> None:
        for index, row in rows.items():
            link = self._links.get(index)
            if link is None or not seconds:
                continue
            link.worst = worse(link.worst, link.state)
            link.known += seconds
            if link.state is PeerState.UP:
                link.up += seconds
            # WireGuard counts from zero where the peer was made anew.
            link.received += share * max(0, row.received - link.counted_received)
            link.sent += share * max(0, row.sent - link.counted_sent)

    def _close(self, minute: int) -> None:
        self._rings.write(MINUTE, minute, {link.column: pack(link.take()) for link in self._links.values()})
        if (minute + 1) % PER_QUARTER == 0:
            self._close_quarter(minute // PER_QUARTER)

    def _close_quarter(self, quarter: int) -> None:
        self._rings.fold_quarter(quarter, [link.column for link in self._links.values()])

    def _skip(self, first: int, last: int) -> None:
        """Know nothing of these minutes, the last one left out."""
        first = max(first, last - (QUARTER.points + 1) * PER_QUARTER)
        while first < last:
            quarter = first // PER_QUARTER
            until = min(last, (quarter + 1) * PER_QUARTER)
            self._rings.clear(first, until)
            if until % PER_QUARTER == 0:
                self._close_quarter(quarter)
            first = until


def _track(width: Width, packed: bytes, slot: int, now: float) -> Track:
    """Write a ring; `slot` is the present one, which is not in it yet."""
    start = next((place for place, byte in enumerate(packed) if byte), len(packed)) // _POINT.size * _POINT.size
    return Track(
        seconds=width.seconds,
        age=max(0, round((now - slot * width.seconds) * 1000)),
        points=base64.b64encode(packed[start:]).decode(),
    )
