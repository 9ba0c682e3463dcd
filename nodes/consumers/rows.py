"""Rows of nodes and links as pages have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from nodes import live
from nodes.models import Cluster, Node
from nodes.pages import Link, LinkCounts, NodeRow, Sight

_TOLD = len(Sight.__struct_fields__)
"""Of what is known of a link, what pages are told; since when it is so, the server writes."""


def node_rows(cluster: Cluster, summaries: dict[int, live.Summary], nodes: Iterable[Node]) -> dict[int, NodeRow]:
    """Rows by primary key; `summaries` are of those that report."""
    return {node.pk: _node_row(cluster, node, summaries.get(node.pk)) for node in nodes}


def _node_row(cluster: Cluster, node: Node, summary: live.Summary | None) -> NodeRow:
    approved = node.status == Node.Status.APPROVED
    last = node.left_at or node.last_seen
    seen = last.timestamp() if last else None
    return NodeRow(
        pk=node.pk,
        index=node.index,
        name=node.name,
        status=node.status,  # type: ignore[arg-type] # its choices are the same words
        address=node.address,
        connected=node.is_here if node.is_talos else summary is not None,
        talos=node.is_talos,
        last_seen=max(filter(None, (seen, summary.at)), default=None) if summary else seen,
        applied=node.applied_number,
        behind=node.behind(cluster) if approved else 0,
        fault=node.fault,
        links=counts(summary),
        found=node.obstacles_at.timestamp() if node.obstacles_at else None,
    )


def reported(row: NodeRow, summary: live.Summary) -> NodeRow:
    """A row with what its node just reported."""
    last_seen = max(filter(None, (row.last_seen, summary.at)), default=None)
    return msgspec.structs.replace(with_links(row, summary), connected=True, last_seen=last_seen)


def with_links(row: NodeRow, summary: live.Summary) -> NodeRow:
    """A row with other counts of its links."""
    return msgspec.structs.replace(row, links=counts(summary))


def counts(summary: live.Summary | None) -> LinkCounts:
    """A summary's counts; of a node that said nothing, none."""
    return LinkCounts(summary.up, summary.unknown, summary.down) if summary else LinkCounts()


def link(node: int, peer: int, seen: live.Seen) -> Link:
    """How a node sees a peer."""
    return Link(node, peer, *msgspec.structs.astuple(seen)[:_TOLD])


def sight(seen: live.Seen | None) -> Sight | None:
    """How one end sees the other, if it does."""
    return None if seen is None else Sight(*msgspec.structs.astuple(seen)[:_TOLD])


def on_page(queryset: Any) -> Any:
    """Only the columns that pages show; claims and endpoints stay where they are."""
    return queryset.only(
        "pk", "cluster", "index", "name", "status", "address", "applied_epoch", "applied_number", "fault", "last_seen",
        "obstacles_at", "kind", "left_at",
    )  # fmt: skip
