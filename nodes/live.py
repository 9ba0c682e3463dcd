"""The last reports of all nodes: merged per connection, flushed to Redis many at a time, read by pages.

Redis holds four values a node, each with a time to live: its **record**, its **states**, its **ages** and its
**summary**. A record is a header and one row of fixed width per member index, so that merging writes in place, storing
is a copy, and what thousand peers see of one node is read by ranges instead of whole records. Its states are one byte
of each row and its ages four, so that all links of a large cluster can be looked at together: a thousand records are
54 MB, their states one, their ages four. A summary is the counts by state, all that lists need; it exists for as long
as the node is connected, and so tells presence. Everything here may be lost and is refilled by reports.

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
from typing import Literal

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
# State, IP version, port, address, handshake as unix time in ms, received, sent, round trip in µs, loss per mille,
# unix time in s since when it is up, or is not.
_ROW = struct.Struct("<BBH16sqqqihI")
_FORMAT = b"KSR3"
ABSENT = 255
"""In the place of a state: nothing was said of this member."""
_NEVER = -1
_NOT_MEASURED = -1
_MOST = 2**63 - 1  # a node may claim that of each link, and no encoding takes their sum
_NO_ROW = _ROW.pack(ABSENT, 0, 0, bytes(16), _NEVER, 0, 0, _NOT_MEASURED, _NOT_MEASURED, 0)

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
    "received": _only(5),
    "sent": _only(6),
    "rtt": _only(7),
    "loss": _only(8),
    "since": _only(9),
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
def _pack_endpoint(text: str) -> tuple[int, int, bytes]:
    if not text:
        return 0, 0, bytes(16)
    endpoint = Endpoint.parse(text)
    return endpoint.ip.version, endpoint.port, endpoint.ip.packed.ljust(16, b"\0")


@lru_cache(maxsize=1 << 16)
def _endpoint_text(version: int, port: int, address: bytes) -> str:
    if version == 0:
        return ""
    return str(Endpoint(IPv4Address(address[:4]) if version == 4 else IPv6Address(address), port))  # noqa: PLR2004


class _Totals:
    """Sums over a table's links, kept as rows come and go: to add them up at every flush would be a million looks."""

    __slots__ = ("loss", "losses", "received", "rtt", "rtts", "sent")

    def __init__(self) -> None:
        self.received = self.sent = self.rtt = self.rtts = self.loss = self.losses = 0

    def count(self, received: int, sent: int, rtt: int, loss: int, sign: int) -> None:
        """Take a link's figures in, or, with a `sign` of -1, out."""
        self.received += sign * received
        self.sent += sign * sent
        if rtt != _NOT_MEASURED:
            self.rtt += sign * rtt
            self.rtts += sign
        if loss != _NOT_MEASURED:
            self.loss += sign * loss
            self.losses += sign


class Table:
    """What one node last said of all its links: the record, in memory."""

    def __init__(self, record: bytes | None = None) -> None:
        self.known = record is not None and record[:4] == _FORMAT
        """Whether it continues an earlier connection's; if not, its first complete report is no news but a start."""
        self._rows = bytearray()
        self.counts = [0, 0, 0]
        self._totals = _Totals()
        self.number, self.at, self.began = 0, 0, 0
        if record is not None and self.known:
            _, self.number, self.at, self.began = _HEADER.unpack_from(record)
            self._rows += record[_HEADER.size :]
            states = self.states()
            self.counts = [states.count(state) for state in range(3)]
            for state, *_, received, sent, rtt, loss, _ in _ROW.iter_unpack(self._rows):
                if state != ABSENT:
                    self._totals.count(received, sent, rtt, loss, 1)

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
        moved: list[Moved] = []
        if report.complete:
            kept = set(report.members)
            changed += [index for index in self.indexes() if index not in kept]
            self.drop(changed)
        unmeasured = (_NOT_MEASURED,) * len(report.members)
        figures = zip(report.received, report.sent, report.rtts or unmeasured, report.losses or unmeasured, strict=True)
        columns = zip(report.members, report.states, endpoints, report.handshakes, figures, strict=True)
        for index, state, endpoint, age, counted in columns:
            if index == own or index not in members:
                continue
            handshake = _NEVER if age < 0 else max(0, now_ms - age)  # an age may be any number
            news = self._put(index, state, endpoint, handshake, counted, int(now))
            changed.append(index)
            if news is not None and not quiet:
                moved.append(news)
        # What a first report leaves out is not heard of before the complete one, which is asked for.
        self.number, self.at, self.known = report.number, now_ms, self.known or report.complete
        return changed, moved

    def _put(
        self,
        index: int,
        state: int,
        endpoint: tuple[int, int, bytes],
        handshake: int,
        figures: tuple[int, int, int, int],
        now: int,
    ) -> Moved | None:
        offset = index * _ROW.size
        if offset >= len(self._rows):
            self._rows += _NO_ROW * (index + 1 - len(self._rows) // _ROW.size)
        before, *endpoint_before, _, received, sent, rtt, loss, since = _ROW.unpack_from(self._rows, offset)
        self._totals.count(received, sent, rtt, loss, -1)  # of an absent link they are 0 and not measured
        self._totals.count(*figures, 1)
        if before != state:
            if before != ABSENT:
                self.counts[before] -= 1
            self.counts[state] += 1
        if before == ABSENT or (before == UP) != (state == UP):
            since = now
        _ROW.pack_into(self._rows, offset, state, *endpoint, handshake, *figures, since)
        before = UNKNOWN if before == ABSENT else before
        elsewhere = endpoint_before[0] and endpoint[0] and tuple(endpoint_before) != endpoint
        if before == state and not elsewhere:
            return None
        return Moved(index, STATES[before], STATES[state], _endpoint_text(*endpoint_before), _endpoint_text(*endpoint))

    def drop(self, indexes: Iterable[int]) -> None:
        """Forget links, as of members that are gone."""
        for index in list(indexes):
            offset = index * _ROW.size
            state = self._rows[offset]
            if state != ABSENT:
                self.counts[state] -= 1
                *_, received, sent, rtt, loss, _ = _ROW.unpack_from(self._rows, offset)
                self._totals.count(received, sent, rtt, loss, -1)
                self._rows[offset : offset + _ROW.size] = _NO_ROW

    def indexes(self, *states: int) -> list[int]:
        """Members of whom it says something; with `states`, in one of these."""
        found = self._rows[:: _ROW.size]
        wanted = states or (UNKNOWN, UP, DOWN)
        return [index for index, state in enumerate(found) if state in wanted]

    def states(self) -> bytes:
        """The state of each link by member index; ABSENT where it says nothing."""
        return bytes(self._rows[:: _ROW.size])

    def ages(self) -> bytes:
        """Since when each link is up, or is not, by member index: as `read_ages` has it."""
        return _little(array("I", (since for _, since in _FIGURES["since"].iter_unpack(self._rows)))).tobytes()

    def seen(self, index: int) -> Seen | None:
        """One link."""
        offset = index * _ROW.size
        return _seen(bytes(self._rows[offset : offset + _ROW.size]), self.at, self.began)

    def links(self, *states: int) -> Iterator[tuple[int, Seen]]:
        """All links, or those in one of the states, by member index."""
        for index in self.indexes(*states):
            if (seen := self.seen(index)) is not None:
                yield index, seen

    def worst(self) -> int | None:
        """The link worst off, if any is not up."""
        for state in (DOWN, UNKNOWN):
            if self.counts[state]:
                return min(self.indexes(state), key=self._handshake)
        return None

    def _handshake(self, index: int) -> int:
        return int(_ROW.unpack_from(self._rows, index * _ROW.size)[4])

    def dump(self) -> bytes:
        """The record."""
        return _HEADER.pack(_FORMAT, self.number & 0xFFFFFFFF, self.at, self.began) + self._rows

    def summary(self, session: str) -> bytes:
        """The summary, encoded."""
        return _encode(self.summarise(session))

    def summarise(self, session: str) -> Summary:
        """The summary."""
        unknown, up, down = self.counts
        totals = self._totals
        return Summary(
            session,
            self.at / 1000 or None,
            self.number,
            up,
            unknown,
            down,
            self.worst(),
            received=min(totals.received, _MOST),
            sent=min(totals.sent, _MOST),
            rtt=totals.rtt / totals.rtts / 1_000_000 if totals.rtts else None,
            loss=totals.loss / totals.losses / 1000 if totals.losses else None,
            began=self.began,
        )


def _little(numbers: array[int]) -> array[int]:
    """To or from the order of bytes that is kept."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _seen(row: bytes, at_ms: int, began: int) -> Seen | None:
    if len(row) < _ROW.size or row[0] == ABSENT:
        return None
    state, version, port, address, handshake, received, sent, rtt, loss, since = _ROW.unpack(row)
    return Seen(
        STATES[state],
        _endpoint_text(version, port, address),
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
        _seen(row, *_HEADER.unpack(header)[2:]) if index is not None and header[:4] == _FORMAT else None
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
