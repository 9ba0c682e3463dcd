"""What pages show of history: points in columns, and strips of states. A few queries whatever there is to show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from django.db.models import QuerySet

from nodes.history import points, rings, strips
from nodes.history.points import RESOLUTIONS, Point, Resolution
from nodes.history.series import Chart, SpanName, Strip, columns
from nodes.history.strips import Change, Stretch
from nodes.live import Seen
from nodes.models import LinkHistory, Node, NodeHistory, Transition

SPANS: tuple[SpanName, ...] = ("24h", "7d")
MOST_CHANGES = 2000
"""Transitions of one link that a strip is made of; more are beyond what anybody can see."""
SPARE = 2
"""Points that a link may lack, the present one among them, before its agents are asked."""
LATELY = 4
"""Minutes whose bytes are compared at both ends of a link."""


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
    """What a link was like, as both ends say; `seen` is how each sees the other now.

    Where the console noted too little, connected agents are asked for what they keep, which takes seconds at most.
    """
    resolution, start, end = window(span, now)
    first, step = int(start.timestamp()), int(resolution.period)
    ways = ((one, other), (other, one))
    known = {node.pk: link_points(node, peer, span, now) for node, peer in ways}
    enough = (int(now.timestamp()) - first) // step - SPARE
    lacking = [(node, peer) for node, peer in ways if len(known[node.pk]) < enough and not node.is_talos]
    asked = rings.ask(lacking)
    series, found = [], []
    for (node, peer), sight in zip(ways, seen, strict=True):
        filled = rings.fill(known[node.pk], asked.rings.get(node.pk, ()), resolution, first)
        series.append(columns(node.name, filled.items()))
        present = sight.state if sight is not None and node.is_here else None
        found.append(link_strip(node, peer, present, span, now))
    # Where most of it is there, nobody misses what an agent that is away keeps.
    missed = asked.refusals if any(len(known[node.pk]) < enough / 2 for node, _ in lacking) else []
    note = _note(missed, [node.name for node, _ in ways if node.pk in asked.rings], span, cut=any(s.cut for s in found))
    return Chart(span, first, int(end.timestamp()), step, series, found, note)


def _note(missed: Sequence[str], told: Sequence[str], span: SpanName, *, cut: bool) -> str:
    """Where points come from, and what is missing, in sentences."""
    notes = list(missed)
    if told:
        grain = "" if span == "7d" else ": minutes of the last six hours, quarters of an hour before"
        whom = " and ".join(told)
        notes.append(
            f"Where the console kept no points, those of the agent{'s' * (len(told) > 1)} of {whom} are shown{grain}."
        )
    if cut:
        notes.append("More happened in the cluster in this time than is kept: changes may be missing from the strips.")
    return " ".join(notes)


def _points(
    rows: Iterable[tuple[datetime, bytes | memoryview[int]]], resolution: Resolution, start: datetime
) -> Iterable[tuple[int, Point]]:
    for first, packed in rows:
        for place, point in points.unpack(bytes(packed)):
            at = first + place * resolution.step
            if at >= start:
                yield int(at.timestamp()), point


def peer_trails(node: Node, now: datetime) -> dict[int, list[float | None]]:
    """The round trip of the last hour's minutes to each peer whose link is followed, the oldest first; one query."""
    end = points.MINUTES.floor(now)
    begin = end - points.MINUTES.row + points.MINUTES.step
    starts = {points.MINUTES.row_start(at) for at in (begin, end)}
    rows = LinkHistory.objects.filter(node=node, period=points.MINUTES.period, start__in=starts)
    trails: dict[int, list[float | None]] = {}
    places = points.MINUTES.row // points.MINUTES.step
    for peer, start, packed in rows.order_by().values_list("peer_id", "start", "points"):
        trail = trails.setdefault(peer, [None] * places)
        for place, point in points.unpack(bytes(packed)):
            at = start + place * points.MINUTES.step
            if begin <= at <= end:
                trail[(at - begin) // points.MINUTES.step] = point.rtt
    return trails


def newest_point(node: Node, peer: Node | None, minute: float) -> Point | None:
    """The point that was noted for this minute, if there is one; of a link where a peer is given."""
    at = datetime.fromtimestamp(minute, UTC)
    where = {"node": node, "period": points.MINUTES.period, "start": points.MINUTES.row_start(at)}
    row = LinkHistory.objects.filter(**where, peer=peer) if peer else NodeHistory.objects.filter(**where)
    packed = row.values_list("points", flat=True).first()
    place = points.MINUTES.place(at)
    found = dict(points.unpack(bytes(packed or b""), range(place, place + 1)))
    return found.get(place)


class Lately(NamedTuple):
    """What the counters of a link came to in the last minutes, as one end sees it; none where nobody kept them."""

    hears: bool | None = None
    """Whether anything came from the other."""
    arrived: float | None = None
    """Of what it sent, the share that the other counts as received."""


UNCOUNTED = Lately()
"""Of a link whose counters nobody keeps."""


def lately(one: Node, other: Node, now: datetime) -> tuple[Lately, Lately]:
    """How each of two nodes fared with the other, by the minutes of their link; one query."""
    step, newest = points.MINUTES.step, points.MINUTES.floor(now)
    oldest = points.MINUTES.row_start(newest - step * (LATELY + 2))
    rows = LinkHistory.objects.filter(
        node__in=(one, other), peer__in=(one, other), period=points.MINUTES.period, start__gte=oldest
    )
    found: dict[tuple[int, datetime], Point] = {}
    for node, start, packed in rows.order_by().values_list("node_id", "start", "points"):
        found |= {(node, start + place * step): point for place, point in points.unpack(bytes(packed))}
    noted = any((node.pk, newest) in found for node in (one, other))
    end = newest if noted else newest - step  # the present minute is noted in the course of it
    minutes = [end - step * ago for ago in range(LATELY + 1, -1, -1)]
    ours, theirs = ([found.get((node.pk, at), points.GAP) for at in minutes] for node in (one, other))
    seconds = step.total_seconds()
    return (
        Lately(_hears(ours), points.arrived(ours, theirs, seconds)),
        Lately(_hears(theirs), points.arrived(theirs, ours, seconds)),
    )


def _hears(way: Sequence[Point]) -> bool | None:
    """By the last two minutes, in which whoever tries has begun many times; none where these differ."""
    first, second = (point.received for point in way[-2:])
    if first is None or second is None or (first > 0) != (second > 0):
        return None
    return first > 0


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
