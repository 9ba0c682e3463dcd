"""What needs an operator, worst first, each as a sentence: computed from rows and last reports, no IO here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from nodes.live import Seen, Summary
from nodes.models import Cluster, Node
from nodes.words import age, count

SHOWN = 12
"""More sentences than these are counted, not shown."""
SKEW_SECONDS = 60.0
"""A clock off by more than this is worth a sentence; WireGuard refuses handshakes that seem to lie in the past."""


class Attention(NamedTuple):
    """One thing that somebody should look at."""

    rank: int
    icon: str
    tone: str
    subject: Node | Cluster
    text: str
    since: datetime | None = None


def collect(
    nodes: Iterable[Node],
    clusters: Mapping[int, Cluster],
    summaries: Mapping[int, Summary],
    worst: Mapping[int, Seen],
) -> list[Attention]:
    """All that needs somebody, worst first; `worst` are nodes' worst links, as far as they were looked up."""
    nodes = list(nodes)
    names = {(node.cluster_id, node.index): node.name for node in nodes if node.index is not None}
    found = [entry for node in nodes for entry in _of_node(node, clusters[node.cluster_id], summaries, names, worst)]
    return sorted(found, key=lambda entry: (entry.rank, entry.subject.name))


def _of_node(
    node: Node,
    cluster: Cluster,
    summaries: Mapping[int, Summary],
    names: Mapping[tuple[int, int], str],
    worst: Mapping[int, Seen],
) -> Iterable[Attention]:
    if node.status == Node.Status.PENDING:
        yield Attention(3, "user-check", "warn", node, f"waits for approval in {cluster.name}", node.enrolled)
        return
    summary = summaries.get(node.pk)
    if summary and summary.down:
        yield Attention(1, "link-off", "bad", node, _cannot_reach(node, summary, names, worst.get(node.pk)))
    if node.fault:
        yield Attention(0, "alert-triangle", "bad", node, f"could not apply its settings: {node.fault}")
    elif node.session and (behind := node.behind(cluster)):
        yield Attention(4, "refresh", "warn", node, f"is behind by {count(behind, 'revision')}")
    if not node.session:
        text = "is away; its mesh goes on, but changes do not reach it" if node.last_seen else "has never connected"
        yield Attention(2, "plug-connected", "warn", node, text, node.last_seen or node.enrolled)
    if waiting := set(node.claimed_networks) - set(node.networks):
        text = f"asks to advertise {', '.join(sorted(waiting))}; nobody has said yes"
        yield Attention(5, "route", "warn", node, text)
    if node.clock_skew is not None and abs(node.clock_skew) > SKEW_SECONDS:
        way = "ahead" if node.clock_skew > 0 else "behind"
        yield Attention(6, "clock", "warn", node, f"has a clock that is {abs(node.clock_skew):.0f} s {way}")


def _cannot_reach(node: Node, summary: Summary, names: Mapping[tuple[int, int], str], link: Seen | None) -> str:
    name = names.get((node.cluster_id, summary.worst)) if summary.worst is not None else None
    if name is None:
        return f"cannot reach {count(summary.down, 'peer')}"
    others = f" and {count(summary.down - 1, 'other')}" if summary.down > 1 else ""
    return f"cannot reach {name}{others}{_silence(link)}"


def _silence(link: Seen | None) -> str:
    if link is None:
        return ""
    if link.handshake is None:
        return ": no handshake so far"
    return f": no handshake for {age(link.at - link.handshake)}"
