"""How clusters stand: machines connected, links by state, who lags. Computed from rows and last reports, no IO here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.db.models import Q

from nodes.live import Summary
from nodes.models import Cluster, Node
from nodes.models.members import NodeQuerySet
from nodes.words import LinkCounts

LATELY = timedelta(hours=1)
"""What an overview counts as a change of late."""


@dataclass(slots=True)
class Row:
    """Of a node, all that is read here and in what needs attention: thousand of these cost a tenth of as many rows."""

    pk: int
    cluster_id: int
    index: int | None
    name: str
    status: str
    kind: str
    session: str
    fault: str
    applied_epoch: int
    applied_number: int
    clock_skew: float | None
    left_at: datetime | None = None
    last_seen: datetime | None = None
    enrolled: datetime | None = None
    claimed_networks: list[str] | None = None
    networks: list[str] | None = None

    # What a node says of itself holds for its row as well: they read nothing else.
    is_talos: ClassVar[Any] = Node.is_talos
    is_here: ClassVar[Any] = Node.is_here
    behind: ClassVar[Any] = Node.behind
    get_absolute_url: ClassVar[Any] = Node.get_absolute_url


AnyNode = Node | Row


TOLD = ("left_at", "last_seen", "enrolled", "claimed_networks", "networks")
"""Columns that say something of a few nodes alone, and are read of these: to make times and lists of what is stored,
and is of no matter for nearly all, would cost more than the rest of a row."""
CLAIMING = ~Q(claimed_networks=[])
MOST_NAMED = 500
"""Of more nodes that say something all are read: a query names only so many."""


def read_rows(nodes: NodeQuerySet) -> list[Row]:
    """Those of a query, in no order, by two queries."""
    columns = [field.name for field in fields(Row) if field.name not in TOLD]
    rows = {values[0]: Row(*values) for values in nodes.order_by().values_list(*columns)}
    telling = [pk for pk, row in rows.items() if not row.session or row.status == Node.Status.PENDING]
    wanted = nodes.filter(CLAIMING | Q(pk__in=telling)) if len(telling) <= MOST_NAMED else nodes
    for pk, *values in wanted.order_by().values_list("pk", *TOLD):
        if row := rows.get(pk):  # it may have come between the two
            row.left_at, row.last_seen, row.enrolled, row.claimed_networks, row.networks = values
    return list(rows.values())


@dataclass(slots=True)
class Standing:
    """Figures of a set of members; `pending` are no members yet."""

    size: int = 0
    connected: int = 0
    pending: int = 0
    drift: int = 0
    """Members that have not applied the newest revision, or could not."""
    silent: int = 0
    """Members whose agent is connected, and of which no report is known: just come, or Redis was emptied."""
    links: LinkCounts | None = field(default_factory=LinkCounts)
    """None while they cannot be read."""

    def add(self, node: AnyNode, cluster: Cluster, summary: Summary | None) -> None:
        """Count one node in; without a summary, it said nothing of its links."""
        if node.status == Node.Status.PENDING:
            self.pending += 1
        if node.status != Node.Status.APPROVED:
            return
        self.size += 1
        self.connected += node.is_here
        self.drift += bool(node.fault or node.behind(cluster))
        if self.links is None:
            return
        self.silent += bool(node.session) and (summary is None or summary.at is None)
        if summary is not None:
            self.links = self.links.plus(summary)

    def plus(self, other: Standing) -> Standing:
        """Both together."""
        return Standing(
            self.size + other.size,
            self.connected + other.connected,
            self.pending + other.pending,
            self.drift + other.drift,
            self.silent + other.silent,
            None if self.links is None or other.links is None else self.links.plus(other.links),
        )


def link_counts(summary: Summary | None) -> LinkCounts:
    """A summary's counts; of a node that said nothing, none."""
    return LinkCounts(summary.up, summary.unknown, summary.down) if summary else LinkCounts()


def tally(
    nodes: Iterable[AnyNode], clusters: Mapping[int, Cluster], summaries: Mapping[int, Summary] | None
) -> dict[int, Standing]:
    """How each of these clusters stands, by its primary key, in one go over all nodes.

    No summaries at all stand for those that cannot be read.
    """
    found = {pk: Standing(links=None if summaries is None else LinkCounts()) for pk in clusters}
    for node in nodes:
        found[node.cluster_id].add(node, clusters[node.cluster_id], (summaries or {}).get(node.pk))
    return found


def total(standings: Iterable[Standing]) -> Standing:
    """All of them together."""
    found = Standing()
    for standing in standings:
        found = found.plus(standing)
    return found
