"""The KubeSpan resources of a node or a cluster, as `get` lists them on a machine, from the console's rows and reports.

Nothing here is secret: identities have public keys alone. What only the machine itself knows is left out: the versions
of its records, which endpoint it tried last, and when.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_network
from math import inf
from typing import Any, Generic, NamedTuple, TypeVar

from kubespan.core.affiliate import from_members
from kubespan.core.documents import dump_documents
from kubespan.core.endpoint import AddressFilter, Endpoint
from kubespan.core.messages import Member
from kubespan.core.peer_spec import peer_specs
from kubespan.core.peer_status import PeerState
from kubespan.core.ranges import FAMILIES, Range, network_range, unite
from kubespan.core.resources import (
    AFFILIATES,
    ENDPOINTS,
    IDENTITIES,
    MEMBERS,
    PEER_SPECS,
    PEER_STATUSES,
    Definition,
    Record,
    affiliate_records,
    endpoint_records,
    identity_record,
    member_records,
    peer_spec_records,
    reported_status_record,
)
from nodes import live
from nodes.models import Candidate, Cluster, Node
from nodes.services import revisions

OF_NODE = (PEER_STATUSES, PEER_SPECS, IDENTITIES, ENDPOINTS, MEMBERS, AFFILIATES)
OF_CLUSTER = (MEMBERS, AFFILIATES, ENDPOINTS, IDENTITIES)
"""Which resources there are, the first for an address that names none."""

UP = str(PeerState.UP)
IPV6 = 6


class Listed(NamedTuple):
    """A record, and the node whose answer it is; empty where it is everybody's."""

    node: str
    record: Record

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def cells(self) -> list[tuple[str, list[str]]]:
        """What a table shows of it: headings and values."""
        return [(heading, _texts(self.record.spec.get(key))) for heading, key in self.record.definition.columns]  # type: ignore[union-attr] # nothing here is written ahead

    def document(self) -> dict[str, Any]:
        """What YAML shows of it."""
        kind = self.record.definition
        metadata = {"namespace": kind.namespace, "type": kind.type, "id": self.record.id, "owner": kind.owner}
        whose = {"node": self.node} if self.node else {}
        return {**whose, "metadata": metadata, "spec": self.record.spec}


def _texts(value: object) -> list[str]:
    if isinstance(value, list):
        return list(map(str, value))
    return [] if value in (None, "") else [str(value)]


Item = TypeVar("Item")


class Listing(Generic[Item]):
    """Records that are made when they are looked at: of a thousand, a page."""

    def __init__(
        self, items: Iterable[Item], make: Callable[[Sequence[Item]], list[Listed]], say: Callable[[Item], str]
    ) -> None:
        """`say` gives the text of an item that a search looks into."""
        self._items = list(items)
        self._make = make
        self._say = say

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, which: slice) -> list[Listed]:
        return self._make(self._items[which])

    def search(self, text: str) -> Listing[Item]:
        """Those in which every word of the text occurs."""
        words = text.lower().split()

        def matches(item: Item) -> bool:
            said = self._say(item).lower()
            return all(word in said for word in words)

        return Listing(filter(matches, self._items), self._make, self._say)


def choose(name: str, kinds: Sequence[Definition]) -> Definition | None:
    """The kind that an address names, by any of the names that `get` takes; the first where it names none."""
    if not name:
        return kinds[0]
    return next((kind for kind in kinds if name.lower() in kind.names()), None)


def to_yaml(found: Iterable[Listed]) -> str:
    """As `get -o yaml` writes them."""
    return dump_documents(one.document() for one in found)


def _whose(node: str, records: Iterable[Record]) -> list[Listed]:
    return [Listed(node, record) for record in records]


def _ready(found: Iterable[Listed]) -> Listing[Listed]:
    """What is made already."""
    return Listing(found, list, _text)


def _text(one: Listed) -> str:
    return f"{one.node} {one.id} {' '.join(value for _, values in one.cells for value in values)}"


# Of a cluster.


def of_cluster(cluster: Cluster, kind: Definition) -> Listing[Any]:
    """What all members would list alike, or with an entry each."""
    return _CLUSTER_READERS[kind](cluster)


def _read_members(cluster: Cluster) -> Sequence[Member]:
    """Members as each machine is told them; the newest telling is kept encoded."""
    return revisions.read_snapshot(cluster.pk).members


def _said_of(one: Member) -> str:
    return " ".join((one.name, one.hostname, one.node_id, one.public_key, *one.addresses, *one.endpoints))


def _affiliates(cluster: Cluster) -> Listing[Member]:
    members = sorted(_read_members(cluster), key=lambda one: one.node_id)
    return Listing(members, lambda chosen: _whose("", affiliate_records(from_members(chosen)[0])), _said_of)


def _members(cluster: Cluster) -> Listing[Member]:
    members = sorted(_read_members(cluster), key=lambda one: one.name)
    return Listing(members, lambda chosen: _whose("", member_records(from_members(chosen)[0])), _said_of)


def _identities(cluster: Cluster) -> Listing[Member]:
    def make(chosen: Sequence[Member]) -> list[Listed]:
        return [Listed(one.name, identity_record(IPv6Address(one.address), one.public_key)) for one in chosen]

    return Listing(sorted(_read_members(cluster), key=lambda one: one.name), make, _said_of)


def _endpoints(cluster: Cluster) -> Listing[Listed]:
    """Where neighbours saw a member, which it did not say itself."""
    rows = Candidate.objects.filter(
        node__cluster=cluster, node__status=Node.Status.APPROVED, source=Candidate.Source.HARVESTED
    ).order_by("node__name", "order", "pk")
    columns = rows.values_list("node__public_key", "node__node_id", "endpoint")
    found = [endpoint_records({key: (node_id, Endpoint.parse(text))}) for key, node_id, text in columns]
    return _ready(Listed("", record) for records in found for record in records)


_CLUSTER_READERS: dict[Definition, Callable[[Cluster], Listing[Any]]] = {
    MEMBERS: _members,
    AFFILIATES: _affiliates,
    ENDPOINTS: _endpoints,
    IDENTITIES: _identities,
}


# Of a node.


def of_node(node: Node, kind: Definition) -> Listing[Any]:
    """What a node would list; raises redis.RedisError where that is told by its last report.

    A machine that is not let in knows nothing but its own identity; a removed one is none of the cluster's.
    """
    if kind is IDENTITIES:
        return _ready([Listed(node.name, identity_record(IPv6Address(node.address), node.public_key))])
    if node.status != Node.Status.APPROVED:
        return _ready([])
    if kind in (AFFILIATES, MEMBERS):
        return of_cluster(node.cluster, kind)
    if kind is PEER_SPECS:
        return _peer_specs(node)
    return _ready(_whose(node.name, _peer_statuses(node) if kind is PEER_STATUSES else _seen_endpoints(node)))


def _peer_specs(node: Node) -> Listing[Member]:
    options = node.cluster.kubespan
    filters = [AddressFilter.parse(text) for text in options.peer_endpoint_filters]
    members = _read_members(node.cluster) if options.enabled else []

    def make(chosen: Sequence[Member]) -> list[Listed]:
        wanted = {one.public_key for one in chosen}
        found = peer_specs(from_members(_rivals(chosen, members))[0], node.node_id, filters).specs
        return _whose(node.name, peer_spec_records({key: spec for key, spec in found.items() if key in wanted}))

    others = [one for one in members if one.public_key != node.public_key]
    return Listing(sorted(others, key=lambda one: one.public_key), make, _said_of)


def _rivals(chosen: Sequence[Member], members: Iterable[Member]) -> list[Member]:
    """These members, and those that claim an address of theirs: who has it decides what the others are left with."""
    wanted = {family: unite(found for one in chosen for found in _ranges(one, family)) for family in FAMILIES}
    starts = {family: [first for first, _ in found] for family, found in wanted.items()}

    def overlaps(one: Member) -> bool:
        for family in FAMILIES:
            for first, last in _ranges(one, family):
                at = bisect_right(starts[family], last) - 1
                if at >= 0 and wanted[family][at][1] >= first:
                    return True
        return False

    return [one for one in members if overlaps(one)]


def _ranges(one: Member, family: int) -> list[Range]:
    texts = [
        text for text in (one.address, *one.addresses, *one.networks) if text and (":" in text) == (family == IPV6)
    ]
    return [network_range(ip_network(text, strict=False)) for text in texts]


def _peers(node: Node) -> dict[int, tuple[str, str, str]]:
    """Name, public key and node id of the other members, by index."""
    rows = Node.objects.approved().filter(cluster=node.cluster_id).exclude(pk=node.pk)
    columns = rows.values_list("index", "name", "public_key", "node_id")
    return {index: (name, key, node_id) for index, name, key, node_id in columns if index is not None}


def _peer_statuses(node: Node) -> list[Record]:
    peers = _peers(node)
    found = [
        reported_status_record(
            peers[index][1],
            label=peers[index][0],
            state=seen.state,
            endpoint=seen.endpoint,
            received=seen.received,
            sent=seen.sent,
            handshake=-inf if seen.handshake is None else seen.handshake,
        )
        for index, seen in live.read_links(node).items()
        if index in peers
    ]
    return sorted(found, key=lambda record: record.id)


def _seen_endpoints(node: Node) -> list[Record]:
    """Where it sees peers that are up, if the cluster has such endpoints told to others."""
    if not node.cluster.kubespan.harvest_extra_endpoints:
        return []
    peers = _peers(node)
    up = {
        peers[index][1]: (peers[index][2], Endpoint.parse(seen.endpoint))
        for index, seen in live.read_links(node).items()
        if index in peers and seen.state == UP and seen.endpoint
    }
    return endpoint_records(dict(sorted(up.items())))
