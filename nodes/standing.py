"""How clusters stand: machines connected, links by state, who lags. Computed from rows and last reports, no IO here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodes.live import Summary
from nodes.models import Cluster, Node
from nodes.words import LinkCounts

COLUMNS = (
    "pk", "cluster_id", "index", "name", "status", "kind", "left_at", "session", "last_seen", "enrolled", "fault",
    "applied_epoch", "applied_number", "claimed_networks", "networks", "clock_skew",
)  # fmt: skip
"""Of a node, all that is read here and in what needs attention: a page about all nodes loads no more."""


@dataclass(slots=True)
class Standing:
    """Figures of a set of members; `pending` are no members yet."""

    size: int = 0
    connected: int = 0
    pending: int = 0
    drift: int = 0
    """Members that have not applied the newest revision, or could not."""
    links: LinkCounts = field(default_factory=LinkCounts)

    def add(self, node: Node, cluster: Cluster, summary: Summary | None) -> None:
        """Count one node in."""
        if node.status == Node.Status.PENDING:
            self.pending += 1
        if node.status != Node.Status.APPROVED:
            return
        self.size += 1
        self.connected += node.is_here
        self.drift += bool(node.fault or node.behind(cluster))
        self.links = self.links.plus(link_counts(summary))

    def plus(self, other: Standing) -> Standing:
        """Both together."""
        return Standing(
            self.size + other.size,
            self.connected + other.connected,
            self.pending + other.pending,
            self.drift + other.drift,
            self.links.plus(other.links),
        )


def link_counts(summary: Summary | None) -> LinkCounts:
    """A summary's counts; of a node that said nothing, none."""
    return LinkCounts(summary.up, summary.unknown, summary.down) if summary else LinkCounts()


def tally(
    nodes: Iterable[Node], clusters: Mapping[int, Cluster], summaries: Mapping[int, Summary]
) -> dict[int, Standing]:
    """How each of these clusters stands, by its primary key, in one go over all nodes."""
    found = {pk: Standing() for pk in clusters}
    for node in nodes:
        found[node.cluster_id].add(node, clusters[node.cluster_id], summaries.get(node.pk))
    return found


def total(standings: Iterable[Standing]) -> Standing:
    """All of them together."""
    found = Standing()
    for standing in standings:
        found = found.plus(standing)
    return found
