"""A past for a cluster without machines: a day of minutes and a week of quarters of nodes, and of single links.

    write_past(cluster, now)                    # of all its Linux members, a second for each hundred
    write_past(cluster, now, links=[(a, b)])    # and of these links, in both directions

    python -m tests.past --data DIRECTORY --cluster NAME

writes that of a cluster of a console that runs, and of the link between its first two members that are connected.

Every node was away for an hour, had links down for another, and has a gap of half an hour in which nobody looked. All
of it follows from the seed.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

if __name__ == "__main__":  # settings must be there before what has models is imported
    from tests.big import prepare

    parser = argparse.ArgumentParser(prog="python -m tests.past")
    parser.add_argument("--data", help="of the console that runs (default: KUBESPAN_DATA)")
    parser.add_argument("--cluster", required=True, help="its name")
    options = parser.parse_args()
    prepare(options.data)

from django.db import transaction

from nodes.history import points
from nodes.history.points import MINUTES, QUARTERS, Point, Resolution
from nodes.models import Cluster, HistoryMark, LinkHistory, Node, NodeHistory

HOUR = timedelta(hours=1)
GAP = (timedelta(hours=7), timedelta(hours=7.5))
AWAY = (timedelta(hours=11), timedelta(hours=12))
DOWN = (timedelta(hours=3), timedelta(hours=4))
DAY = 86400
DOWN_LINKS = 2


def write_past(
    cluster: Cluster, now: datetime, links: Sequence[tuple[Node, Node]] = (), *, seed: object = "past"
) -> None:
    """Write it up to this moment, in the place of what there is."""
    members = list(Node.objects.approved().filter(cluster=cluster, kind="linux"))
    dice = random.Random(repr(seed))
    ways = [*links, *((there, here) for here, there in links)]
    nodes, pairs = [], []
    for resolution in (MINUTES, QUARTERS):
        for node in members:
            past = _rows(resolution, now, dice, len(members) - 1)
            nodes += [NodeHistory(node=node, period=resolution.period, start=start, points=row) for start, row in past]
        for node, peer in ways:
            past = _rows(resolution, now, dice, 1)
            pairs += [
                LinkHistory(node=node, peer=peer, period=resolution.period, start=start, points=row)
                for start, row in past
            ]
    with transaction.atomic():  # a console that runs may be about to note a minute in the same rows
        for model, rows in ((NodeHistory, nodes), (LinkHistory, pairs)):
            model.objects.filter(node__cluster=cluster).delete()
            model.objects.bulk_create(rows, batch_size=200)
        HistoryMark.objects.update_or_create(
            cluster=cluster, defaults={"minute": MINUTES.floor(now), "quarter": QUARTERS.floor(now)}
        )


def _rows(resolution: Resolution, now: datetime, dice: random.Random, links: int) -> Iterator[tuple[datetime, bytes]]:
    newest, usual = resolution.floor(now), dice.uniform(0.004, 0.04)
    start = resolution.row_start(newest - resolution.kept)
    while start <= newest:
        row = b""
        for place in range(resolution.row // resolution.step):
            at = start + place * resolution.step
            if at <= newest and not GAP[0] <= now - at < GAP[1]:
                row = points.put(row, place, _point(at, now - at, dice, links, usual, resolution.step // MINUTES.step))
        yield start, row
        start += resolution.row


def _point(at: datetime, ago: timedelta, dice: random.Random, links: int, usual: float, looks: int) -> Point:
    if AWAY[0] <= ago < AWAY[1]:
        return Point(looks)
    bad = min(links, DOWN_LINKS) if DOWN[0] <= ago < DOWN[1] else 0
    tide = 1.2 + math.sin(2 * math.pi * (at.timestamp() % DAY) / DAY)
    silent = links == 1 and bad
    return Point(
        looks,
        looks,
        (links - bad) * looks,
        0,
        bad * looks,
        None if silent else usual * (1 + dice.random() ** 4 * (4 if dice.random() < 0.03 else 0.4)),
        1.0 if silent else dice.choice((0.0,) * 30 + (0.02, 0.1)) if not bad else 0.1,
        0.0 if silent else tide * dice.lognormvariate(11, 0.4),
        0.0 if silent else tide * dice.lognormvariate(10, 0.5),
    )


if __name__ == "__main__":
    named = Cluster.objects.get(name=options.cluster)
    connected = Node.objects.approved().connected().filter(cluster=named, kind="linux").order_by("index")
    write_past(named, datetime.now(UTC), [tuple(connected[:2])])
