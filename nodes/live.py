"""The last reports of all nodes: merged per connection, flushed to Redis many at a time, read by pages.

Redis holds four values a node, each with a time to live: its **record**, its **states**, its **ages** and its
**summary**. A record is a header and one row of fixed width per member index, so that what thousand peers see of one
node is read by ranges instead of whole records; in memory it is kept by columns, which reports come in. Its states are
one byte of each row and its ages four, so that all links of a large cluster can be looked at together: a thousand
records are 54 MB, their states one, their ages four. A summary is the counts by state, all that lists need; it exists
for as long as the node is connected, and so tells presence. Everything here may be lost and is refilled by reports.

How old a link's state is, is by the console's clock: agents report what is, not since when. It is the time since the
link came up, or ceased to be: one that is not up turns from unknown to down and back with each endpoint that is tried,
and its age is for how long it has been lost. What was so when the record began may be older: then the age is a least.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

import msgspec

from kubespan.core.endpoint import Endpoint
from kubespan.core.messages import REPORT_SECONDS, MessageError, Report
from nodes.connections import sync_redis
from nodes.models import Cluster, Node

TIME_TO_LIVE = 2.5 * REPORT_SECONDS
"""Seconds that a value lives: one report may be late, another lost."""

STATES = ("unknown", "up", "down")
UNKNOWN, UP, DOWN = range(3)

# Format, report number, unix time of the report in ms, unix time in s at which the record began.
_HEADER = struct.Struct("<4sIqI")
# State, endpoint, handshake as unix time in ms, received, sent, round trip in µs, loss per mille, unix time in s since
# when it is up, or is not.
_ROW = struct.Struct("<B19sqqqihI")
# IP version, port, address.
_ENDPOINT = struct.Struct("<BH16s")
_FORMAT = b"KSR3"
ABSENT = 255
"""In the place of a state: nothing was said of this member."""
_NEVER = -1
_NOT_MEASURED = -1
_ALL_LOST = 1000  # per mille
_MOST = 2**63 - 1  # a node may claim that of each link, and no encoding takes their sum
_NOWHERE = bytes(_ENDPOINT.size)
_NO_ROW = (ABSENT, _NOWHERE, _NEVER, 0, 0, _NOT_MEASURED, _NOT_MEASURED, 0)
_EMPTY: tuple[tuple[Any, ...], ...] = ((),) * len(_NO_ROW)

Figure = Literal["received", "sent", "rtt", "loss", "since"]


def _only(place: int) -> struct.Struct:
    """Of a row its state and one more of its columns."""
    columns = re.findall(r"\d+s|\w", _ROW.format)
    before, after = (
        struct.calcsize("<" + "".join(columns[1:place])),
        struct.calcsize("<" + "".join(columns[place + 1 :])),
    )
    return struct.Struct(f"<B{before}x{columns[place]}{after}x")


_FIGURES: dict[Figure, struct.Struct] = {
    "received": _only(3),
    "sent": _only(4),
    "rtt": _only(5),
    "loss": _only(6),
    "since": _only(7),
}


def record_key(node_pk: int) -> str:
    """Where a node's record is."""
    return f"kubespan:report:{node_pk}"


def states_key(node_pk: int) -> str:
    """Where the states of a node's links are."""
    return f"kubespan:states:{node_pk}"


def ages_key(node_pk: int) -> str:
    """Where it is since when each of a node's links is up, or is not."""
    return f"kubespan:ages:{node_pk}"


def summary_key(node_pk: int) -> str:
    """Where a node's summary is."""
    return f"kubespan:summary:{node_pk}"


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A link as its node last reported it."""

    state: str
    endpoint: str
    handshake: float | None
    """Unix time of the last handshake."""
    received: int
    sent: int
    at: float
    """Unix time of the node's report."""
    rtt: float | None = None
    """Seconds of a round trip through the tunnel, smoothed; none while not measured."""
    loss: float | None = None
    """Share of the last probes that were not answered, 0 to 1; none while not measured."""
    since: int | None = None
    """Unix time at which it came up, or, of a link that is not, ceased to be."""
    at_least: bool = False
    """Whether it was so before, for all that is known: the console heard of it for the first time then."""


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """What lists show of a connected node's links."""

    session: str
    at: float | None = None
    """Unix time of its last report; none before the first."""
    number: int = 0
    up: int = 0
    unknown: int = 0
    down: int = 0
    worst: int | None = None
    """Member index of the link that is worst off: down before unknown, the longest without a handshake first."""
    received: int = 0
    """Bytes that WireGuard counts, summed over the links; it falls when a link goes or is made anew."""
    sent: int = 0
    rtt: float | None = None
    """Mean in seconds over the links that are measured; none where none is."""
    loss: float | None = None
    """Mean share, likewise."""
    began: int = 0
    """Unix time at which its record began: what is said to be so since then may be so for longer."""
    mute: int = 0
    """Links that are up, and whose last probes were all lost."""
    mute_to: int | None = None
    """Member index of the first of them."""


class Moved(msgspec.Struct, frozen=True):
    """A link whose state or endpoint changed."""

    member: int
    before: str
    after: str
    endpoint_before: str
    endpoint: str


_encode = msgspec.msgpack.encode
_summary_decoder = msgspec.msgpack.Decoder(Summary)


@lru_cache(maxsize=1 << 16)  # thousand nodes see a machine at the same few endpoints
def _pack_endpoint(text: str) -> bytes:
    if not text:
        return _NOWHERE
    endpoint = Endpoint.parse(text)
    return _ENDPOINT.pack(endpoint.ip.version, endpoint.port, endpoint.ip.packed)


@lru_cache(maxsize=1 << 16)
def _shared(packed: bytes) -> bytes:
    """The same object for equal ones: of a million links a record each would be 50 MB."""
    return packed


@lru_cache(maxsize=1 << 16)
def _endpoint_text(packed: bytes) -> str:
    version, port, address = _ENDPOINT.unpack(packed)
    if version == 0:
        return ""
    return str(Endpoint(IPv4Address(address[:4]) if version == 4 else IPv6Address(address), port))  # noqa: PLR2004


class Table:
    """What one node last said of all its links: the record, in memory, by columns.

    Most of what a report says is figures that grew, at the same endpoints: a thousand nodes say so of a million links
    every half minute, so that what is done for each of these is four assignments.
    """

    __slots__ = (
        "_endpoints", "_handshakes", "_losses", "_received", "_rtts", "_sent", "_since", "_states",
        "at", "began", "counts", "known", "number",
    )  # fmt: skip

    def __init__(self, record: bytes | None = None) -> None:
        self.known = record is not None and record[:4] == _FORMAT
        """Whether it continues an earlier connection's; if not, its first complete report is no news but a start."""
        self.number, self.at, self.began = 0, 0, 0
        rows: list[tuple[Any, ...]] = []
        if record is not None and self.known:
            _, self.number, self.at, self.began = _HEADER.unpack_from(record)
            rows = list(_ROW.iter_unpack(memoryview(record)[_HEADER.size :]))
        states, endpoints, handshakes, received, sent, rtts, losses, since = zip(*rows, strict=True) if rows else _EMPTY
        self._states = bytearray(states)
        self._endpoints = [_shared(endpoint) for endpoint in endpoints]
        self._handshakes = array("q", handshakes)
        self._received, self._sent = array("q", received), array("q", sent)
        self._rtts, self._losses = array("i", rtts), array("h", losses)
        self._since = array("I", since)
        self.counts = [self._states.count(state) for state in range(3)]

    def merge(self, report: Report, own: int, members: Container[int], now: float) -> tuple[list[int], list[Moved]]:
        """Take a report of the node with index `own` in; gives the indexes that it changed, and what moved.

        Members that the cluster does not know are left out; raises MessageError for an endpoint that is none.
        """
        now_ms = int(now * 1000)
        try:
            endpoints = [_pack_endpoint(text) for text in report.endpoints]
        except ValueError as error:
            raise MessageError(f"report: {error}") from None
        quiet = report.complete and not self.known
        if not self.known:
            self.began = int(now)
        changed: list[int] = []
        if report.complete:
            kept = set(report.members)
            changed += [index for index in self.indexes() if index not in kept]
            self.drop(changed)
        if max(report.members, default=-1) >= len(self._states):  # as far as members go: a node may name any number
            self._reach(max((index for index in report.members if index in members), default=-1))
        moved = self._write(report, endpoints, own, members, now_ms, changed)
        # What a first report leaves out is not heard of before the complete one, which is asked for.
        self.number, self.at, self.known = report.number, now_ms, self.known or report.complete
        return changed, [] if quiet else moved

    def _reach(self, index: int) -> None:
        """Have a row for that member."""
        if (missing := index + 1 - len(self._states)) > 0:
            for column, nothing in zip(self._columns(), _NO_ROW, strict=True):
                column.extend([nothing] * missing)

    def _columns(self) -> tuple[Any, ...]:
        """As a row has them."""
        return (
            self._states, self._endpoints, self._handshakes, self._received, self._sent, self._rtts, self._losses,
            self._since,
        )  # fmt: skip

    def _write(
        self, report: Report, endpoints: list[bytes], own: int, members: Container[int], now_ms: int, changed: list[int]
    ) -> list[Moved]:
        """Take each link of a report in, and its index into `changed`; gives what moved."""
        states_now, endpoints_now, handshakes, received, sent, rtts, losses, _ = self._columns()
        unmeasured = (_NOT_MEASURED,) * len(report.members)
        columns = zip(
            report.members, report.states, endpoints, report.handshakes,
            report.received, report.sent, report.rtts or unmeasured, report.losses or unmeasured,
            strict=True,
        )  # fmt: skip
        moved: list[Moved] = []
        for index, state, endpoint, age, came, went, rtt, loss in columns:
            if index == own or index not in members:
                continue
            if state != states_now[index] or endpoint != endpoints_now[index]:
                news = self._turn(index, state, endpoint, now_ms // 1000)
                if news is not None:
                    moved.append(news)
            handshakes[index] = _NEVER if age < 0 else max(0, now_ms - age)  # an age may be any number
            received[index], sent[index], rtts[index], losses[index] = came, went, rtt, loss
            changed.append(index)
        return moved

    def _turn(self, index: int, state: int, endpoint: bytes, now: int) -> Moved | None:
        """Note a link's state and endpoint; gives what it comes to for others, if anything."""
        before, endpoint_before = self._states[index], self._endpoints[index]
        self._states[index], self._endpoints[index] = state, endpoint
        if before != ABSENT:
            self.counts[before] -= 1
        self.counts[state] += 1
        if before == ABSENT or (before == UP) != (state == UP):
            self._since[index] = now
        before = UNKNOWN if before == ABSENT else before
        elsewhere = _NOWHERE not in (endpoint_before, endpoint) and endpoint_before != endpoint
        if before == state and not elsewhere:
            return None
        return Moved(index, STATES[before], STATES[state], _endpoint_text(endpoint_before), _endpoint_text(endpoint))

    def drop(self, indexes: Iterable[int]) -> None:
        """Forget links, as of members that are gone."""
        for index in list(indexes):
            state = self._states[index]
            if state != ABSENT:
                self.counts[state] -= 1
                for column, nothing in zip(self._columns(), _NO_ROW, strict=True):
                    column[index] = nothing

    def indexes(self, *states: int) -> list[int]:
        """Members of whom it says something; with `states`, in one of these."""
        wanted = states or (UNKNOWN, UP, DOWN)
        return [index for index, state in enumerate(self._states) if state in wanted]

    def states(self) -> bytes:
        """The state of each link by member index; ABSENT where it says nothing."""
        return bytes(self._states)

    def ages(self) -> bytes:
        """Since when each link is up, or is not, by member index: as `read_ages` has it."""
        return _little(array("I", self._since)).tobytes()

    def seen(self, index: int) -> Seen | None:
        """One link."""
        if not 0 <= index < len(self._states):
            return None
        return _seen(tuple(column[index] for column in self._columns()), self.at, self.began)

    def links(self, *states: int) -> Iterator[tuple[int, Seen]]:
        """All links, or those in one of the states, by member index."""
        wanted = states or (UNKNOWN, UP, DOWN)
        for index, row in enumerate(list(zip(*self._columns(), strict=True))):
            if row[0] in wanted and (seen := _seen(row, self.at, self.began)) is not None:
                yield index, seen

    def worst(self) -> int | None:
        """The link worst off, if any is not up."""
        for state in (DOWN, UNKNOWN):
            if self.counts[state]:
                return min(self.indexes(state), key=self._handshakes.__getitem__)
        return None

    def mute(self) -> list[int]:
        """Links that are up by their handshakes, and whose last probes were all lost: as a rule none."""
        if not self._losses.count(_ALL_LOST):  # of a thousand links 15 µs
            return []
        return [index for index in self.indexes(UP) if self._losses[index] == _ALL_LOST]

    def dump(self) -> bytes:
        """The record."""
        header = _HEADER.pack(_FORMAT, self.number & 0xFFFFFFFF, self.at, self.began)
        return header + b"".join(map(_ROW.pack, *self._columns()))

    def summary(self, session: str) -> bytes:
        """The summary, encoded."""
        return _encode(self.summarise(session))

    def summarise(self, session: str) -> Summary:
        """The summary."""
        unknown, up, down = self.counts
        rtt, loss, mute = _mean(self._rtts), _mean(self._losses), self.mute()
        return Summary(
            session,
            self.at / 1000 or None,
            self.number,
            up,
            unknown,
            down,
            self.worst(),
            received=min(sum(self._received), _MOST),
            sent=min(sum(self._sent), _MOST),
            rtt=None if rtt is None else rtt / 1_000_000,
            loss=None if loss is None else loss / 1000,
            began=self.began,
            mute=len(mute),
            mute_to=mute[0] if mute else None,
        )


def _mean(figures: array[int]) -> float | None:
    """Over those that are measured; none where none is."""
    missing = figures.count(_NOT_MEASURED)
    measured = len(figures) - missing
    return (sum(figures) - missing * _NOT_MEASURED) / measured if measured else None


def _little(numbers: array[int]) -> array[int]:
    """To or from the order of bytes that is kept."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _seen(row: tuple[Any, ...], at_ms: int, began: int) -> Seen | None:
    state, endpoint, handshake, received, sent, rtt, loss, since = row
    if state == ABSENT:
        return None
    return Seen(
        STATES[state],
        _endpoint_text(endpoint),
        None if handshake == _NEVER else handshake / 1000,
        received,
        sent,
        at_ms / 1000,
        rtt=None if rtt == _NOT_MEASURED else rtt / 1_000_000,
        loss=None if loss == _NOT_MEASURED else loss / 1000,
        since=since,
        at_least=since <= began,
    )


def summary_start(summary: Summary) -> bytes:
    """The bytes that every summary of the same session begins with."""
    return _encode(summary)[: 1 + len(_encode(summary.session))]


# What pages read. A few calls to Redis whatever the number of nodes; each may raise redis.RedisError.


def read_summaries(cluster: Cluster) -> dict[int, Summary]:
    """Summaries of a cluster's connected nodes, by the node's primary key."""
    return read_summaries_of(Node.objects.present().filter(cluster=cluster).values_list("pk", flat=True))


def read_summaries_of(node_pks: Iterable[int]) -> dict[int, Summary]:
    """Summaries of those of these nodes that are connected, as for a list over all clusters."""
    pks = list(node_pks)
    values = sync_redis().mget([summary_key(pk) for pk in pks]) if pks else []
    return {pk: _summary_decoder.decode(value) for pk, value in zip(pks, values, strict=True) if value is not None}


def read_links(node: Node) -> dict[int, Seen]:
    """A node's links as it sees them, by the peer's member index."""
    return dict(Table(sync_redis().get(record_key(node.pk))).links())


def read_links_to(node: Node, peer_pks: Iterable[int]) -> dict[int, Seen]:
    """A node's links as its peers see them, by the peer's primary key."""
    pks = list(peer_pks)
    sights = read_sights((pk, node.index) for pk in pks)
    return {pk: seen for pk, seen in zip(pks, sights, strict=True) if seen is not None}


def read_sights(wanted: Iterable[tuple[int, int | None]]) -> list[Seen | None]:
    """How nodes (by primary key) see members (by index), in the order asked; none where nothing was said."""
    asked = list(wanted)
    if not asked:
        return []
    with sync_redis().pipeline(transaction=False) as pipeline:
        for pk, index in asked:
            start = _HEADER.size + (index or 0) * _ROW.size
            pipeline.getrange(record_key(pk), 0, _HEADER.size - 1)
            pipeline.getrange(record_key(pk), start, start + _ROW.size - 1)
        values = pipeline.execute()
    return [
        _seen(_ROW.unpack(row), *_HEADER.unpack(header)[2:])
        if index is not None and header[:4] == _FORMAT and len(row) == _ROW.size
        else None
        for (_, index), header, row in zip(asked, values[::2], values[1::2], strict=True)
    ]


def read_states(node_pks: Iterable[int]) -> dict[int, bytes]:
    """The state of each link of these nodes by member index, by the node's primary key; ABSENT where none was said."""
    pks = list(node_pks)
    values = sync_redis().mget([states_key(pk) for pk in pks]) if pks else []
    return {pk: value for pk, value in zip(pks, values, strict=True) if value is not None}


def read_ages(node_pks: Iterable[int]) -> dict[int, array[int]]:
    """Since when each link of these nodes is up, or is not, as Unix time by member index, by the node's primary key.

    It is 0 where nothing was said.
    """
    pks = list(node_pks)
    values = sync_redis().mget([ages_key(pk) for pk in pks]) if pks else []
    return {pk: _little(array("I", value)) for pk, value in zip(pks, values, strict=True) if value is not None}


def read_figures(node_pks: Iterable[int], name: Figure) -> Iterator[tuple[int, list[int]]]:
    """One figure of each link of these nodes by member index, by the node's primary key.

    In the units of a record, and below nought where there is none; of a thousand nodes 54 MB travel.
    """
    pks = list(node_pks)
    values = sync_redis().mget([record_key(pk) for pk in pks]) if pks else []
    for pk, value in zip(pks, values, strict=True):
        if value is not None and value[:4] == _FORMAT:
            rows = _FIGURES[name].iter_unpack(memoryview(value)[_HEADER.size :])
            yield pk, [figure if state != ABSENT else -1 for state, figure in rows]


def read_matrix(node_pks: Iterable[int]) -> Iterator[tuple[int, Table]]:
    """The tables of these nodes, by the node's primary key; of a thousand, 54 MB travel."""
    pks = list(node_pks)
    values = sync_redis().mget([record_key(pk) for pk in pks]) if pks else []
    for pk, value in zip(pks, values, strict=True):
        if value is not None:
            yield pk, Table(value)
