"""What nodes and links were like, noted each minute and rolled up each quarter of an hour; what is too old goes.

A minute that nobody noted is a gap. Noting it again changes nothing: a cluster's mark says how far it was taken, and is
the lock of whoever takes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import models, transaction

from nodes import live
from nodes.history import looks, points
from nodes.history.points import MINUTES, QUARTERS, Point, Resolution
from nodes.models import FollowedLink, HistoryMark, LinkHistory, Node, NodeHistory
from nodes.services import after, followed

BATCH = 500
Key = tuple[int, ...]
"""What a row is of: a node, or a node and its peer."""


def note_minute(cluster_pk: int, now: datetime) -> bool:
    """Note what a cluster's nodes and followed links are like; false when this minute has been noted already.

    Reads all summaries in one call, the followed links in another, and the records of a few nodes with links that are
    not up. Raises redis.RedisError.
    """
    minute = MINUTES.floor(now)
    seen, _ = HistoryMark.objects.get_or_create(cluster_id=cluster_pk)
    if seen.minute is not None and seen.minute >= minute:
        return False
    members = Node.objects.approved().filter(cluster=cluster_pk).order_by()
    ours = list(members.filter(kind=Node.Kind.LINUX).values_list("pk", flat=True))
    summaries = live.read_summaries_of(ours)
    choice = followed.choose(cluster_pk, dict(members.values_list("index", "pk")), summaries, now)
    before = looks.read_counters(cluster_pk)
    nodes = looks.node_points(ours, summaries, before)
    links = looks.link_points(choice.keys, choice.sights, summaries, before)
    with transaction.atomic():
        mark = HistoryMark.objects.select_for_update().filter(cluster_id=cluster_pk).first()
        if mark is None or (mark.minute is not None and mark.minute >= minute):
            return False  # the cluster was deleted meanwhile, or another worker was first
        place, start = MINUTES.place(minute), MINUTES.row_start(minute)
        followed.keep(choice, now)
        _store(NodeHistory, cluster_pk, MINUTES, start, {(pk,): {place: point} for pk, point in nodes.items()})
        _store(LinkHistory, cluster_pk, MINUTES, start, {key: {place: point} for key, point in links.items()})
        mark.minute, mark.left_out = minute, choice.left_out
        mark.save(update_fields=["minute", "left_out"])
        after.announce(cluster_pk, "history.noted", minute=minute.timestamp())
    looks.write_counters(cluster_pk, looks.count(summaries, choice.sights))
    return True


def roll_up(cluster_pk: int, now: datetime) -> int:
    """Make the minutes of each quarter that is over one point, an hour at a time; how many quarters it was.

    It goes on where it ended, so that a worker that was away catches up for as long as there are minutes.
    """
    until, rolled = QUARTERS.floor(now), 0
    while quarters := _roll_up_hour(cluster_pk, until):
        rolled += quarters
    return rolled


def _roll_up_hour(cluster_pk: int, until: datetime) -> int:
    with transaction.atomic():
        mark = HistoryMark.objects.select_for_update().filter(cluster_id=cluster_pk).first()
        if mark is None:
            return 0
        first = max(mark.quarter or until - MINUTES.row, until - MINUTES.kept)
        hour = MINUTES.row_start(first)
        last = min(until, hour + MINUTES.row)
        quarters = list(_steps(first, last, QUARTERS.step))
        if not quarters:
            return 0
        for model in (NodeHistory, LinkHistory):
            _store(model, cluster_pk, QUARTERS, QUARTERS.row_start(first), _merged(model, cluster_pk, hour, quarters))
        mark.quarter = last
        mark.save(update_fields=["quarter"])
    return len(quarters)


def _steps(start: datetime, stop: datetime, step: timedelta) -> Iterator[datetime]:
    while start < stop:
        yield start
        start += step


def _merged(
    model: type[models.Model], cluster_pk: int, hour: datetime, quarters: list[datetime]
) -> dict[Key, dict[int, Point]]:
    """Each quarter's point by its place, from the minutes of an hour."""
    looks_each = QUARTERS.step // MINUTES.step
    found: dict[Key, dict[int, Point]] = {}
    for key, row in _rows(model, cluster_pk, MINUTES, hour).items():
        for quarter in quarters:
            start = MINUTES.place(quarter)
            point = points.merge(point for _, point in points.unpack(row, range(start, start + looks_each)))
            if point.looks:
                found.setdefault(key, {})[QUARTERS.place(quarter)] = point
    return found


def _columns(model: type[models.Model]) -> tuple[str, ...]:
    return ("node_id",) if model is NodeHistory else ("node_id", "peer_id")


def _rows(model: type[models.Model], cluster_pk: int, resolution: Resolution, start: datetime) -> dict[Key, bytes]:
    rows = model._default_manager.filter(node__cluster=cluster_pk, period=resolution.period, start=start).order_by()
    columns = _columns(model)
    # PostgreSQL's driver gives a memoryview.
    return {tuple(key): bytes(packed) for *key, packed in rows.values_list(*columns, "points")}


def _store(
    model: type[models.Model],
    cluster_pk: int,
    resolution: Resolution,
    start: datetime,
    added: Mapping[Key, Mapping[int, Point]],
) -> None:
    """Put points into the rows that begin at `start`, in two queries and some more for a thousand nodes."""
    if not added:
        return
    held = _rows(model, cluster_pk, resolution, start)
    columns = _columns(model)
    rows: list[Any] = []
    for key, places in added.items():
        packed = held.get(key, b"")
        for place, point in places.items():
            packed = points.put(packed, place, point)
        given = dict(zip(columns, key, strict=True))
        rows.append(model(**given, period=resolution.period, start=start, points=packed))
    model._default_manager.bulk_create(
        rows,
        batch_size=BATCH,
        update_conflicts=True,
        unique_fields=(*(name.removesuffix("_id") for name in columns), "period", "start"),
        update_fields=("points",),
    )


def prune(now: datetime) -> int:
    """Forget points that are older than we promise to keep them, and links that nobody follows; how many rows."""
    gone = 0
    for resolution in (MINUTES, QUARTERS):
        oldest = now - resolution.kept - resolution.row
        for model in (NodeHistory, LinkHistory):
            gone += model._default_manager.filter(period=resolution.period, start__lt=oldest).delete()[0]
    over = models.Q(looked_until=None) | models.Q(looked_until__lt=now)
    over &= models.Q(unwell_until=None) | models.Q(unwell_until__lt=now)
    return gone + FollowedLink.objects.filter(over, pinned=False).delete()[0]
