"""One look at what agents last reported: what it makes of nodes and links, with the counters of the look before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from nodes.connections import sync_redis
from nodes.history.points import Point, Total, rates
from nodes.live import Seen, Summary

COUNTERS_SECONDS = 600
"""How long counters are kept; without them, one point has no rates."""

LinkKey = tuple[int, int]
"""Primary keys of the node and of the peer that it sees."""


class Counters(msgspec.Struct, frozen=True):
    """Every counter of a cluster at its last look."""

    nodes: dict[int, Total] = {}
    links: list[tuple[int, int, Total]] = []


_decoder = msgspec.msgpack.Decoder(Counters)


def counters_key(cluster_pk: int) -> str:
    """Where the counters of a cluster's last look are."""
    return f"kubespan:counted:{cluster_pk}"


def read_counters(cluster_pk: int) -> Counters:
    """The counters of the last look; raises redis.RedisError."""
    value = sync_redis().get(counters_key(cluster_pk))
    return Counters() if value is None else _decoder.decode(value)


def write_counters(cluster_pk: int, counters: Counters) -> None:
    """Keep the counters for the next look; raises redis.RedisError."""
    sync_redis().set(counters_key(cluster_pk), msgspec.msgpack.encode(counters), ex=COUNTERS_SECONDS)


def count(summaries: Mapping[int, Summary], sights: Mapping[LinkKey, Seen]) -> Counters:
    """The counters of what was reported."""
    nodes = {pk: Total(one.at, one.received, one.sent) for pk, one in summaries.items() if one.at is not None}
    return Counters(nodes, [(*key, Total(seen.at, seen.received, seen.sent)) for key, seen in sights.items()])


def node_points(pks: Iterable[int], summaries: Mapping[int, Summary], before: Counters) -> dict[int, Point]:
    """A point of each of these nodes."""
    return {pk: node_point(summaries.get(pk), before.nodes.get(pk)) for pk in pks}


def node_point(summary: Summary | None, before: Total | None) -> Point:
    """What a node is like; without a summary it is not connected."""
    if summary is None:
        return Point(looks=1)
    received, sent = None, None
    if summary.at is not None:
        received, sent = rates(before, Total(summary.at, summary.received, summary.sent))
    return Point(1, 1, summary.up, summary.unknown, summary.down, summary.rtt, summary.loss, received, sent)


def link_points(
    keys: Iterable[LinkKey], sights: Mapping[LinkKey, Seen], connected: Mapping[int, Summary], before: Counters
) -> dict[LinkKey, Point]:
    """A point of each of these links; what a node that is away last said is not what the link is like now."""
    totals = {(node, peer): total for node, peer, total in before.links}
    return {key: link_point(sights.get(key) if key[0] in connected else None, totals.get(key)) for key in keys}


def link_point(seen: Seen | None, before: Total | None) -> Point:
    """What a link is like; unless its node says so, nothing is known but that somebody looked."""
    if seen is None:
        return Point(looks=1)
    received, sent = rates(before, Total(seen.at, seen.received, seen.sent))
    up, unknown, down = (int(seen.state == state) for state in ("up", "unknown", "down"))
    return Point(1, 1, up, unknown, down, seen.rtt, seen.loss, received, sent)
