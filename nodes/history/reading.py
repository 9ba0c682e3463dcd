"""What pages show of history: points in columns, and strips of states. A few queries whatever there is to show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec
from django.db.models import QuerySet

from nodes.history import points, strips
from nodes.history.points import RESOLUTIONS, Point, Resolution
from nodes.history.strips import Change, Stretch
from nodes.live import Seen
from nodes.models import LinkHistory, Node, NodeHistory, Transition

SpanName = Literal["24h", "7d"]
SPANS: tuple[SpanName, ...] = ("24h", "7d")
MOST_CHANGES = 2000
"""Transitions of one link that a strip is made of; more are beyond what anybody can see."""
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


def parse_span(text: str | None) -> SpanName:
    """The span that an address names, or the shorter one."""
    return text if text in SPANS else "24h"


def window(span: SpanName, now: datetime) -> tuple[Resolution, datetime, datetime]:
    """How a span is kept, and its first and last moment."""
    resolution = RESOLUTIONS[span]
    end = resolution.floor(now) + resolution.step
    return resolution, end - resolution.kept, end


def node_chart(node: Node, span: SpanName, now: datetime) -> Chart:
    """What a node was like; one query."""
    resolution, start, end = window(span, now)
    rows = NodeHistory.objects.filter(node=node, period=resolution.period, start__gt=start - resolution.row)
    series = columns(node.name, _points(rows.order_by("start").values_list("start", "points"), resolution, start))
    return Chart(span, int(start.timestamp()), int(end.timestamp()), int(resolution.period), [series])


def link_points(node: Node, peer: Node, span: SpanName, now: datetime) -> dict[int, Point]:
    """What the console noted of a link as `node` sees it, by Unix time; one query."""
    resolution, start, _ = window(span, now)
    rows = LinkHistory.objects.filter(node=node, peer=peer, period=resolution.period, start__gt=start - resolution.row)
    return dict(_points(rows.order_by("start").values_list("start", "points"), resolution, start))


def link_chart(one: Node, other: Node, seen: tuple[Seen | None, Seen | None], span: SpanName, now: datetime) -> Chart:
    """What a link was like, as both ends say; `seen` is how each sees the other now."""
    resolution, start, end = window(span, now)
    series, found = [], []
    for node, peer, sight in ((one, other, seen[0]), (other, one, seen[1])):
        series.append(columns(node.name, sorted(link_points(node, peer, span, now).items())))
        present = sight.state if sight is not None and node.is_here else None
        found.append(link_strip(node, peer, present, span, now))
    return Chart(span, int(start.timestamp()), int(end.timestamp()), int(resolution.period), series, found)


def _points(
    rows: Iterable[tuple[datetime, bytes | memoryview[int]]], resolution: Resolution, start: datetime
) -> Iterable[tuple[int, Point]]:
    for first, packed in rows:
        for place, point in points.unpack(bytes(packed)):
            at = first + place * resolution.step
            if at >= start:
                yield int(at.timestamp()), point


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


def newest_point(node: Node, peer: Node | None, minute: float) -> Point | None:
    """The point that was noted for this minute, if there is one; of a link where a peer is given."""
    at = datetime.fromtimestamp(minute, UTC)
    where = {"node": node, "period": points.MINUTES.period, "start": points.MINUTES.row_start(at)}
    row = LinkHistory.objects.filter(**where, peer=peer) if peer else NodeHistory.objects.filter(**where)
    packed = row.values_list("points", flat=True).first()
    place = points.MINUTES.place(at)
    found = dict(points.unpack(bytes(packed or b""), range(place, place + 1)))
    return found.get(place)


def link_strip(node: Node, peer: Node, present: str | None, span: SpanName, now: datetime) -> Strip:
    """When a link was up, unknown and down as `node` says, who sees it as `present` now; three queries."""
    _, start, _ = window(span, now)
    name = f"{node.name} sees {peer.name}"
    if node.is_talos:
        return Strip(name, [Stretch(start.timestamp(), now.timestamp(), strips.NONE)], cut=False)
    within = Transition.objects.filter(node=node, at__gte=start).order_by("-at", "-pk")
    changes = _changes(within.filter(peer=peer, kind=Transition.Kind.LINK))
    presence = _changes(within.filter(kind=Transition.Kind.NODE))
    capped = Transition.objects.filter(cluster=node.cluster_id, at__gte=start, kind=Transition.Kind.CAPPED)
    begin, end = start.timestamp(), now.timestamp()
    absences = strips.absences(presence, begin, end, away=node.away)
    member = max(filter(None, (node.approved_at, peer.approved_at)), default=None)
    if member is not None and member > start:
        absences.append((begin, member.timestamp()))
    return Strip(name, strips.stretches(changes, present, absences, begin, end), cut=capped.exists())


def _changes(rows: QuerySet[Transition]) -> Sequence[Change]:
    found = rows.values_list("at", "before", "after")[:MOST_CHANGES]
    return [Change(at.timestamp(), before, after) for at, before, after in reversed(found) if before != after]
