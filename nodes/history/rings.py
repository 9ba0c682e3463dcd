"""What agents keep of their links' past, where the console kept none: points of their rings on the console's grid."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from asgiref.sync import async_to_sync

from kubespan.core import history
from kubespan.core.peer_status import PeerState
from nodes.agents.history import Ring, fetch_history
from nodes.history.points import MINUTES, Point, Resolution
from nodes.models import Node
from nodes.services.refused import Refused


class Asked(NamedTuple):
    """What agents answered."""

    rings: dict[int, list[Ring]]
    """By the primary key of the node that sees the link."""
    refusals: list[str]
    """Why others did not, as sentences."""


def ask(ways: Sequence[tuple[Node, Node]]) -> Asked:
    """Ask each node's agent for the past of its link to the peer; all at once, a few seconds at most."""
    answers = async_to_sync(_ask)(ways)
    rings, refusals = {}, []
    for (node, _), answered in zip(ways, answers, strict=True):
        if isinstance(answered, Refused):
            refusals.append(answered.reason)
        elif answered:
            rings[node.pk] = answered
    return Asked(rings, refusals)


async def _ask(ways: Iterable[tuple[Node, Node]]) -> list[list[Ring] | Refused]:
    return await asyncio.gather(*(_fetch(node, peer) for node, peer in ways))


async def _fetch(node: Node, peer: Node) -> list[Ring] | Refused:
    try:
        return await fetch_history(node, peer)
    except Refused as refusal:
        return refusal


def fill(known: Mapping[int, Point], rings: Iterable[Ring], resolution: Resolution, start: int) -> dict[int, Point]:
    """The console's own points, and an agent's where there is none; the rings' finest first, by Unix time.

    A point over a longer time than the grid's stands in each of its places: it is the mean of all of them.
    """
    step = int(resolution.period)
    filled = dict(known)
    for ring in rings:
        if ring.seconds < step:
            continue
        for begin, point in ring.points:
            if point is None:
                continue
            first = round(begin / step) * step
            looks = max(1, step // int(MINUTES.period))
            for at in range(first, first + ring.seconds, step):
                if at >= start:
                    filled.setdefault(at, noted(point, ring.seconds, looks))
    return dict(sorted(filled.items()))


def noted(point: history.Point, seconds: int, looks: int) -> Point:
    """An agent's point as so many looks of the console would have it; where it was not all up, one look says so."""
    up = round(point.up * looks)
    if point.state is not PeerState.UP:
        up = min(up, looks - 1)
    rest = looks - up
    unknown, down = (rest, 0) if point.state is PeerState.UNKNOWN else (0, rest)
    if point.state is PeerState.UP:
        up, unknown, down = looks, 0, 0
    return Point(looks, looks, up, unknown, down, point.rtt, point.loss, point.received / seconds, point.sent / seconds)
