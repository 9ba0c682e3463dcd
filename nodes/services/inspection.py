"""What the discovery service keeps, for people to look at: sizes and times for all, contents where the secret is held.

Whether something opens is told to whoever sees the page; what is in it only by `reveal`, which leaves a row each time.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import Count, QuerySet

from kubespan.core.affiliate import Affiliate
from kubespan.discovery.state import SealedAffiliate
from nodes.access import needs
from nodes.models import Cluster, DiscoveryClock, DiscoveryCluster, Node
from nodes.services import affiliates, audit, discovery
from nodes.services.affiliates import Opened
from nodes.services.strangers import Company


class Seal(enum.StrEnum):
    """What became of the attempt to open an affiliate."""

    OPENS = "opens"
    PARTLY = "partly"
    """Its words open, and an endpoint of it cannot be."""
    STRANGE = "strange"
    """Sealed with another secret, or changed since: one blob alone does not tell which."""
    DAMAGED = "damaged"
    """It cannot be what the protocol seals, or is another affiliate's."""
    EMPTY = "empty"
    """Only others spoke of it: endpoints, no words of its own."""
    CLOSED = "closed"
    """There is no secret here to open it with."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One affiliate as a page shows it."""

    id: str
    size: int
    """Bytes of its sealed data."""
    endpoints: int
    expires: datetime
    address: str
    """Where its own words last came from; empty where the console speaks for it."""
    seal: Seal
    node: Node | None = None
    """Ours with that id; `explain` looks for it."""
    why: str = ""
    """What keeps one that opens from being a node, as `strangers.Company.fault` names it; likewise."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All affiliates of a cluster."""

    rows: tuple[Listed, ...] = ()
    opened: Opened | None = field(default=None, repr=False)
    """None where there is no secret to open them with."""

    @property
    def wrong_secret(self) -> bool:
        """Whether not one of them opens with the console's secret, and some that are whole do not."""
        return self.opened is not None and self.opened.wrong_secret

    def count(self, seal: Seal) -> int:
        """How many of a kind there are."""
        return sum(row.seal is seal for row in self.rows)


@dataclass(frozen=True, slots=True)
class Kept:
    """A cluster at the service, and how much of it there is."""

    row: DiscoveryCluster | None
    """None where nobody has asked for it yet."""
    cluster: Cluster | None
    """None for a stranger's."""
    affiliates: int


def list_sealed(row: DiscoveryCluster) -> Listing:
    """What is kept of a cluster whose secret is not held here."""
    return _listing(discovery.read(row.pk).affiliates.values(), None)


def list_affiliates(cluster: Cluster) -> Listing:
    """What is kept of one of our clusters, and what of it opens."""
    row = discovery.asked_for(cluster)
    if row is None:
        return Listing()
    sealed = discovery.read(row).affiliates.values()
    return _listing(sealed, affiliates.open_with(cluster, sealed))


def explain(cluster: Cluster, listing: Listing, rows: Iterable[Listed]) -> list[Listed]:
    """Some of its rows, each with the node that it is, or if it opens and is none with the reason why."""
    rows = _find_nodes(cluster, rows)
    opened = listing.opened or Opened()
    unknown = {row.id: opened.affiliates[row.id] for row in rows if row.node is None and row.id in opened.affiliates}
    company = Company.read(cluster, list(unknown.values()))
    return [replace(row, why=company.fault(unknown[row.id])) if row.id in unknown else row for row in rows]


@needs("open_discoveryaffiliate")
def reveal(actor: audit.Actor, cluster: Cluster, ids: Collection[str], now: datetime) -> dict[str, Affiliate]:
    """Give what these affiliates say to somebody who asked for it; each look is an audit row."""
    with transaction.atomic():
        opened = affiliates.open_listed(cluster) or Opened()
        found = {one: opened.affiliates[one] for one in ids if one in opened.affiliates}
        audit.write(actor, "cluster.affiliates-shown", cluster, now, affiliates=sorted(found))
    return found


def list_clusters(ours: QuerySet[Cluster], *, strangers: bool) -> list[Kept]:
    """These of our clusters by name, and then strangers', each with how many affiliates there are; three queries."""
    rows = {row.cluster_id: row for row in DiscoveryCluster.objects.annotate(size=Count("affiliates")).order_by("pk")}
    found = [(cluster, rows.get(cluster.cluster_id)) for cluster in ours.order_by("name")]
    known = [Kept(row, cluster, row.size if row else 0) for cluster, row in found]
    if not strangers:
        return known
    held = set(Cluster.objects.values_list("cluster_id", flat=True))
    return known + [Kept(row, None, row.size) for key, row in rows.items() if key not in held]


def is_serving(wall: float) -> bool:
    """Whether a discovery process was alive a moment ago."""
    return DiscoveryClock.objects.filter(seen__gt=wall - discovery.DOWNTIME_AFTER).exists()


def _find_nodes(cluster: Cluster, rows: Iterable[Listed]) -> list[Listed]:
    rows = list(rows)
    present = cluster.nodes.present().filter(node_id__in=[row.id for row in rows])
    nodes = {node.node_id: node for node in present.only("node_id", "name", "status", "kind", "cluster")}
    return [replace(row, node=nodes.get(row.id)) for row in rows]


def _listing(sealed: Iterable[SealedAffiliate], opened: Opened | None) -> Listing:
    downtime = DiscoveryClock.objects.values_list("downtime", flat=True).filter(pk=1).first() or 0.0
    rows = [
        Listed(
            one.id,
            len(one.data),
            len(one.endpoints),
            datetime.fromtimestamp(one.expires + downtime, UTC),
            one.address,
            _seal(one, opened),
        )
        for one in sorted(sealed, key=lambda affiliate: affiliate.id)
    ]
    return Listing(tuple(rows), opened)


def _seal(one: SealedAffiliate, opened: Opened | None) -> Seal:
    if not one.data:
        return Seal.EMPTY
    if opened is None:
        return Seal.CLOSED
    if one.id in opened.strange:
        return Seal.STRANGE
    if one.id in opened.damaged:
        return Seal.PARTLY if one.id in opened.affiliates else Seal.DAMAGED
    return Seal.OPENS
