"""What needs an operator, worst first, each as a sentence: computed from rows and last reports, no IO here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from kubespan.core.duration import age
from nodes.live import Seen, Summary
from nodes.models import Cluster, Node
from nodes.words import SKEW_SECONDS, clock, count

SHOWN = 12
"""More sentences than these are counted, not shown."""


class Attention(NamedTuple):
    """One thing that somebody should look at."""

    rank: int
    icon: str
    tone: str
    subject: Node | Cluster
    text: str
    since: datetime | None = None
    peer: Node | None = None
    """Of a link: its other end, for the page that says why."""


def collect(
    nodes: Iterable[Node],
    clusters: Mapping[int, Cluster],
    summaries: Mapping[int, Summary],
    worst: Mapping[int, Seen],
) -> list[Attention]:
    """All that needs somebody, worst first; `worst` are nodes' worst links, as far as they were looked up."""
    nodes = list(nodes)
    members = {(node.cluster_id, node.index): node for node in nodes if node.index is not None}
    found = [entry for node in nodes for entry in _of_node(node, clusters[node.cluster_id], summaries, members, worst)]
    return sorted(found, key=lambda entry: (entry.rank, entry.subject.name))


def _of_node(
    node: Node,
    cluster: Cluster,
    summaries: Mapping[int, Summary],
    members: Mapping[tuple[int, int], Node],
    worst: Mapping[int, Seen],
) -> Iterable[Attention]:
    if node.status == Node.Status.PENDING:
        yield Attention(3, "user-check", "warn", node, f"waits for approval in {cluster.name}", node.enrolled)
        return
    summary = summaries.get(node.pk)
    if summary and summary.down:
        peer = members.get((node.cluster_id, summary.worst)) if summary.worst is not None else None
        text = _cannot_reach(node, summary, peer, worst.get(node.pk))
        yield Attention(1, "link-off", "bad", node, text, peer=peer)
    if node.fault:
        yield Attention(0, "alert-triangle", "bad", node, f"could not apply its settings: {node.fault}")
    elif node.session and (behind := node.behind(cluster)):
        yield Attention(4, "refresh", "warn", node, f"is behind by {count(behind, 'revision')}")
    yield from _of_presence(node)
    if waiting := set(node.claimed_networks) - set(node.networks):
        text = f"asks to advertise {', '.join(sorted(waiting))}; nobody has said yes"
        yield Attention(5, "route", "warn", node, text)
    if obstacles := list(node.obstacles.all()):
        worst_one = obstacles[0]
        others = f" (and {count(len(obstacles) - 1, 'more finding')})" if len(obstacles) > 1 else ""
        rank, tone = (1, "bad") if worst_one.stops else (6, "warn")
        yield Attention(
            rank,
            "alert-triangle",
            tone,
            node,
            f"preflight: {worst_one.text.removesuffix('.')}{others}",
            worst_one.since,
        )
    if odd := clock(node.clock_skew):
        yield Attention(6, "clock", "warn", node, f"has a clock that is {odd}")


def _of_presence(node: Node) -> Iterable[Attention]:
    if node.is_here:
        return
    if node.is_talos:
        text, since = "left discovery; its peers keep it while they hear it", node.left_at
    elif node.last_seen:
        text, since = "is away; its mesh goes on, but changes do not reach it", node.last_seen
    else:
        text, since = "has never connected", node.enrolled
    yield Attention(2, "plug-connected", "warn", node, text, since)


def _cannot_reach(node: Node, summary: Summary, peer: Node | None, link: Seen | None) -> str:
    if peer is None:
        return f"cannot reach {count(summary.down, 'peer')}"
    others = f" and {count(summary.down - 1, 'other')}" if summary.down > 1 else ""
    return f"cannot reach {peer.name}{others}{_silence(link)}{_set_back(node, peer)}"


def _set_back(*ends: Node) -> str:
    """The reason that a wrong clock would be: one end that is behind is not answered by the other."""
    late = next((end for end in ends if end.clock_skew is not None and end.clock_skew < -SKEW_SECONDS), None)
    return f"; the clock of {late.name} is {clock(late.clock_skew)}" if late else ""


def _silence(link: Seen | None) -> str:
    if link is None:
        return ""
    if link.handshake is None:
        return ": no handshake so far"
    return f": no handshake for {age(link.at - link.handshake)}"
