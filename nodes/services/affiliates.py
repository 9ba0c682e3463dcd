"""Discovery and console are one membership: Talos machines become nodes, and our nodes become affiliates.

For clusters whose secret this console holds. Discovery is not authenticated (docs/security.md): whoever knows a cluster
id can write there, and replay what was written. So what comes from it is opened, checked as any claim is, and waits for
an operator where it was never seen before; what goes there is written by this console alone.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_interface

from django.db import transaction

from kubespan.core.affiliate import Affiliate, is_observable
from kubespan.core.endpoint import Endpoint
from kubespan.discovery.limits import TTL_SECONDS
from kubespan.discovery.sealing import (
    NONCE_BYTES,
    Damaged,
    NotAuthentic,
    dump_affiliate,
    endpoint_opener,
    open_affiliate,
    seal_affiliate,
    seal_endpoint,
)
from kubespan.discovery.state import Deletion, SealedAffiliate, Update
from nodes import live
from nodes.access import needs
from nodes.counters import count
from nodes.models import Candidate, Change, Cluster, Node, Tombstone, Transition
from nodes.secrets import Unreadable
from nodes.services import after, audit, claims, discovery, endpoints, revisions, transitions
from nodes.services.enrolment import believe
from nodes.services.nodes import approve_node
from nodes.services.strangers import Company

LEFT_KEPT = timedelta(minutes=5)
"""How long a machine that discovery no longer lists stays a member; longer while a peer still hears of it."""
DISCOVERED_AT_ONCE = 20
"""New nodes of one transaction: it has the cluster's lock, and all of SQLite's."""

RENEW_BEFORE = TTL_SECONDS / 2
"""Seconds before its expiry from which on an affiliate is renewed (spec/discovery-protocol.md §6.2)."""
SIGHT_AGAIN = timedelta(minutes=1)
"""A sight of a machine is told on, and noted, when it is so much newer than what is known of it."""

Source = Candidate.Source


@dataclass(slots=True)
class Opened:
    """What discovery lists for a cluster, as far as its secret opens it; by the id inside."""

    affiliates: dict[str, Affiliate] = field(default_factory=dict)
    expiries: dict[str, dict[Endpoint, float]] = field(default_factory=dict)
    """Until when each endpoint of theirs is listed, in discovery time."""
    strange: set[str] = field(default_factory=set)
    """Published under these ids: sealed with another secret, or changed."""
    damaged: set[str] = field(default_factory=set)
    """Likewise: what cannot be."""

    @property
    def wrong_secret(self) -> bool:
        """Whether the console's secret is not the cluster's."""
        return bool(self.strange) and not self.affiliates


def open_all(sealed: Iterable[SealedAffiliate], secret: bytes) -> Opened:
    """Open what is listed; a blob under another id than its own is a replay and counts as damaged."""
    opened = Opened()
    open_endpoint = endpoint_opener(secret)
    for one in sealed:
        if not one.data:
            continue
        try:
            affiliate = open_affiliate(one.data, secret)
        except NotAuthentic:
            opened.strange.add(one.id)
            continue
        except Damaged:
            opened.damaged.add(one.id)
            continue
        if affiliate.node_id != one.id:
            opened.damaged.add(one.id)
            continue
        opened.expiries[one.id] = _open_endpoints(one, open_endpoint, opened.damaged)
        opened.affiliates[one.id] = replace(affiliate, endpoints=tuple(opened.expiries[one.id]))
    return opened


def _open_endpoints(
    sealed: SealedAffiliate, open_endpoint: Callable[[bytes], Endpoint], damaged: set[str]
) -> dict[Endpoint, float]:
    found: dict[Endpoint, float] = {}
    for endpoint in sealed.endpoints:
        try:
            opened = open_endpoint(endpoint.data)
        except Damaged:
            damaged.add(sealed.id)
            continue
        # One may be listed in several sealings: whoever knows the cluster's id can append to the bytes.
        found[opened] = max(endpoint.expires, found.get(opened, endpoint.expires))
    return found


# From discovery to the console.


def follow(cluster_pk: int, now: datetime) -> Opened | None:
    """Bring the Talos machines of a cluster up to date with what discovery lists; none where there is nothing to read.

    Where the cluster is not to be served, nothing is listed. Never more than a handful of queries besides those for
    machines that changed.
    """
    cluster = Cluster.objects.get(pk=cluster_pk)
    opened = open_listed(cluster) if cluster.kubespan.discovery else Opened()
    if opened is None:
        return None
    unknown: list[Affiliate] = []
    with transaction.atomic():
        cluster = revisions.lock(cluster_pk)
        harvest, downtime = cluster.kubespan.harvest_extra_endpoints, discovery.downtime()
        present = cluster.nodes.present()
        nodes = {node.node_id: node for node in (present.prefetch_related("candidates") if harvest else present)}
        for node_id, affiliate in opened.affiliates.items():
            node = nodes.get(node_id)
            if node is None:
                unknown.append(affiliate)
            elif node.kind == Node.Kind.TALOS:
                _take(cluster, node, _without_echo(node, affiliate) if harvest else affiliate, now)
            elif harvest and node.status == Node.Status.APPROVED:
                _take_seen(cluster, node, _said(opened.expiries[node_id], downtime), now)
        for node in nodes.values():
            if node.kind == Node.Kind.TALOS and node.node_id not in opened.affiliates and node.left_at is None:
                _note_left(cluster, node, now)
    _discover_all(cluster, unknown, now)
    return opened


def open_listed(cluster: Cluster) -> Opened | None:
    """Open what is listed for a cluster; none where nobody asked for it yet, or its secret cannot be read."""
    row = discovery.asked_for(cluster)
    return None if row is None else open_with(cluster, discovery.read(row).affiliates.values())


def open_with(cluster: Cluster, sealed: Iterable[SealedAffiliate]) -> Opened | None:
    """Open these with the cluster's secret; none where that cannot be read."""
    secret = _secret(cluster)
    return None if secret is None else open_all(sealed, secret)


def _secret(cluster: Cluster) -> bytes | None:
    try:
        return base64.b64decode(cluster.secret.reveal())
    except Unreadable:
        return None


def _discover_all(cluster: Cluster, unknown: Sequence[Affiliate], now: datetime) -> None:
    """Machines that were never seen: each waits for an operator, unless it cannot be, or was removed."""
    if not unknown:
        return
    welcome, faults = Company.read(cluster, unknown).choose(unknown)
    for reason, times in Counter(faults).items():
        count(f"discovery.{reason}", times)
    for start in range(0, len(welcome), DISCOVERED_AT_ONCE):
        some = welcome[start : start + DISCOVERED_AT_ONCE]
        with transaction.atomic():
            cluster = revisions.lock(cluster.pk)
            company = Company.read(cluster, some)  # as it is now that nobody else can change it
            for affiliate in some:
                if not company.fault(affiliate):
                    name = company.name(affiliate)
                    company.admit(affiliate, name)
                    _discover(cluster, affiliate, name, now)


@needs("approve_node")
def admit_listed(actor: audit.Actor, cluster: Cluster, now: datetime) -> int:
    """Let in whom our own discovery lists with a cluster's secret at this moment, as it is imported; how many.

    Whoever sealed that has the secret, and no node of the cluster is known yet to tell the one from the other by. What
    is listed later waits for a yes, and no other service is asked (docs/decisions/0013).
    """
    row = discovery.asked_for(cluster) if cluster.kubespan.discovery else None
    if row is None:
        return 0
    moment = discovery.discovery_time(now.timestamp())
    opened = open_with(cluster, (one for one in discovery.read(row).affiliates.values() if one.expires > moment))
    listed = list(opened.affiliates.values()) if opened else []
    admitted = 0
    for start in range(0, len(listed), DISCOVERED_AT_ONCE):
        some = listed[start : start + DISCOVERED_AT_ONCE]
        with transaction.atomic():
            for node in _find_waiting(cluster, some, now):
                approve_node(actor, node, now)
                admitted += 1
    return admitted


def _find_waiting(cluster: Cluster, listed: Collection[Affiliate], now: datetime) -> list[Node]:
    """The nodes of these machines, as far as they may be such and are no members."""
    keys = {affiliate.node_id: affiliate.public_key for affiliate in listed}
    # The import is committed: a worker may have found some of them meanwhile.
    known = set(cluster.nodes.filter(node_id__in=keys).values_list("node_id", flat=True))
    _discover_all(cluster, [affiliate for affiliate in listed if affiliate.node_id not in known], now)
    waiting = cluster.nodes.pending().filter(kind=Node.Kind.TALOS, node_id__in=keys)
    return [node for node in waiting if node.public_key == keys[node.node_id]]


def _discover(cluster: Cluster, affiliate: Affiliate, name: str, now: datetime) -> None:
    node = Node(
        cluster=cluster,
        kind=Node.Kind.TALOS,
        node_id=affiliate.node_id,
        name=name,
        public_key=affiliate.public_key,
        address=str(affiliate.address),
        enrolled=now,
        last_seen=now,
        away=False,
    )
    _describe(cluster, node, affiliate)
    node.save()
    endpoints.refresh([node], cluster.kubespan, now)
    audit.write("discovery", "node.discovered", node, now)
    after.announce(cluster.pk, "node.enrolled", node=node.pk)


def _describe(cluster: Cluster, node: Node, affiliate: Affiliate) -> None:
    """Set the columns that a Talos machine speaks for, as far as it is believed."""
    node.announced_digest = digest(affiliate)
    node.hostname = claims.printable(affiliate.hostname, 253)
    node.operating_system = claims.printable(affiliate.operating_system, 128)
    node.machine_type = affiliate.machine_type
    node.announced_endpoints = [
        str(endpoint) for endpoint in affiliate.endpoints if endpoint.port and is_observable(endpoint.ip)
    ][: endpoints.HARVEST_LIMIT]
    node.excluded_networks = [str(network) for network in affiliate.exclude_advertised_networks]
    believe(node, cluster, map(str, affiliate.addresses), map(str, affiliate.additional_addresses))


def digest(affiliate: Affiliate) -> str:
    """Names all that a machine announced, to see that it says the same again."""
    told = (dump_affiliate(affiliate), *(str(endpoint).encode() for endpoint in affiliate.endpoints))
    return hashlib.sha256(b"\0".join(told)).hexdigest()


_COLUMNS = (
    "announced_digest", "hostname", "operating_system", "machine_type", "announced_endpoints", "excluded_networks",
    "addresses", "claimed_networks", "ruled_networks", "refused_claims",
)  # fmt: skip


def _take(cluster: Cluster, node: Node, affiliate: Affiliate, now: datetime) -> None:
    """A machine that is known: what it says now, but never another key or address."""
    if affiliate.public_key != node.public_key or affiliate.address != IPv6Address(node.address):
        transaction.on_commit(partial(count, "discovery.another-key"), robust=True)
        return
    if digest(affiliate) == node.announced_digest and node.left_at is None and not node.refused_claims:
        return
    before = {name: getattr(node, name) for name in _COLUMNS}
    was_member, returned = _as_member(cluster, node), node.left_at is not None
    _describe(cluster, node, affiliate)
    if not returned and before == {name: getattr(node, name) for name in _COLUMNS}:
        return
    node.left_at, node.last_seen = None, now
    if node.status == Node.Status.LEFT:
        node.status = Node.Status.APPROVED
    node.save()
    if returned:
        _note_presence(node, "left discovery", "is back in discovery", now)
    endpoints.refresh([node], cluster.kubespan, now)
    if (member := _as_member(cluster, node)) is not None and member != was_member:
        revisions.append(cluster, Change.Kind.MEMBER, node, now=now)
    after.announce(cluster.pk, "node.changed", node=node.pk)


def _as_member(cluster: Cluster, node: Node) -> object:
    """What others must know of it; none while it is no member."""
    if node.status != Node.Status.APPROVED:
        return None
    listed = node.candidates.order_by("order", "pk").values_list("endpoint", flat=True)
    return revisions.member(node, listed, cluster.kubespan.exclude_advertised_networks)


def _without_echo(node: Node, affiliate: Affiliate) -> Affiliate:
    """What a Talos machine or its like said of it: where our agents saw it, we published ourselves."""
    ours = {row.endpoint for row in node.candidates.all() if row.source == Source.HARVESTED}
    return replace(affiliate, endpoints=tuple(one for one in affiliate.endpoints if str(one) not in ours))


def _said(expiries: Mapping[Endpoint, float], downtime: float) -> dict[Endpoint, datetime]:
    """When each was last said, by the wall's time: discovery keeps it for so long after that."""
    since = downtime - TTL_SECONDS
    return {endpoint: datetime.fromtimestamp(expires + since, UTC) for endpoint, expires in expiries.items()}


def _take_seen(cluster: Cluster, node: Node, said: Mapping[Endpoint, datetime], now: datetime) -> None:
    """Where Talos machines saw one of our nodes, and when they last said so: endpoints for the others to try."""
    known = {row.endpoint: row for row in node.candidates.all()}
    fresh: list[Candidate] = []
    again: list[Candidate] = []
    for endpoint, seen in said.items():
        row = known.get(str(endpoint))
        if row is None:
            if endpoint.port and is_observable(endpoint.ip) and seen > now - endpoints.HARVEST_KEPT:
                order = len(known) + len(fresh)
                fresh.append(
                    Candidate(node=node, endpoint=str(endpoint), source=Source.HARVESTED, order=order, seen=seen)
                )
        elif row.source == Source.HARVESTED and seen > row.seen + SIGHT_AGAIN:
            row.seen = seen
            again.append(row)
    if again:
        Candidate.objects.bulk_update(again, ["seen"])
    if fresh:
        Candidate.objects.bulk_create(fresh[: endpoints.HARVEST_LIMIT])
        revisions.append(cluster, Change.Kind.MEMBER, node, now=now)


def _note_left(cluster: Cluster, node: Node, now: datetime) -> None:
    """Discovery lists it no more: it was deleted there, or has expired. Its peers keep it for now."""
    node.left_at = now
    node.save(update_fields=["left_at"])
    _note_presence(node, "in discovery", "left discovery", now)
    after.announce(cluster.pk, "node.changed", node=node.pk)


def _note_presence(node: Node, before: str, present: str, now: datetime) -> None:
    row = Transition(node_id=node.pk, kind=Transition.Kind.NODE, before=before, after=present, at=now)
    transitions.record_transitions(node.cluster_id, [row], now)


def find_unheard(now: datetime) -> list[Node]:
    """Members that discovery has not listed for a while, and that no agent hears; raises redis.RedisError."""
    left: dict[int, list[Node]] = {}
    for node in Node.objects.approved().filter(kind=Node.Kind.TALOS, left_at__lt=now - LEFT_KEPT):
        left.setdefault(node.cluster_id, []).append(node)
    return [node for cluster_pk, some in left.items() for node in _unheard(cluster_pk, some, now)]


def _unheard(cluster_pk: int, left: Iterable[Node], now: datetime) -> list[Node]:
    """Which of these nobody hears: that an agent says nothing is no sign of it.

    After the console or Redis was away one agent is back before another. So each that is connected must have spoken,
    and one of them for as long as any needs to come back; of those that left just now the last words count too.
    """
    sessions = dict(Node.objects.configured().filter(cluster=cluster_pk).values_list("pk", "session"))
    if not sessions:
        return list(left)  # Talos machines alone: nobody is told by us whom to have as a peer
    states = live.read_states(sessions)
    connected = {pk for pk, session in sessions.items() if session}
    began = [summary.began for summary in live.read_summaries_of(connected & states.keys()).values()]
    if not connected <= states.keys() or not began or min(began) > (now - LEFT_KEPT).timestamp():
        return []
    return [node for node in left if not any(_says_up(said, node) for said in states.values())]


def _says_up(states: bytes, node: Node) -> bool:
    """Whether an agent whose links are in these states hears this member."""
    return node.index is not None and states[node.index : node.index + 1] == bytes([live.UP])


def drop_left(nodes: Iterable[Node], now: datetime) -> int:
    """End the membership of machines that left and that nobody hears; how many they were."""
    dropped = 0
    for node in nodes:
        with transaction.atomic():
            cluster = revisions.lock(node.cluster_id)
            if not Node.objects.approved().filter(pk=node.pk, left_at=node.left_at).update(status=Node.Status.LEFT):
                continue
            revisions.append(cluster, Change.Kind.GONE, node, now=now)
            after.announce(cluster.pk, "node.away", node=node.pk)
        dropped += 1
    return dropped


# From the console to discovery.


def publish(cluster_pk: int, discovery_now: float) -> discovery.Applied | None:
    """Publish the cluster's connected nodes as affiliates, and where its members were seen.

    Only once somebody has asked discovery for the cluster. The same words are sent again in the same bytes, which
    renews them and wakes nobody.
    """
    cluster = Cluster.objects.get(pk=cluster_pk)
    options = cluster.kubespan
    row = discovery.asked_for(cluster) if options.discovery else None
    secret = _secret(cluster)
    if row is None or secret is None:
        return None
    listed = discovery.read(row).affiliates
    opened = open_all(listed.values(), secret).affiliates
    downtime = discovery.downtime()
    operations: list[Update | Deletion] = []
    members = cluster.nodes.approved().prefetch_related("candidates")
    removed = set(Tombstone.objects.filter(cluster=cluster).values_list("node_id", flat=True))
    ours = {node.node_id for node in members if node.kind == Node.Kind.LINUX}
    names = {one.nodename for node_id, one in opened.items() if node_id not in ours | removed}
    for node in members:
        known = listed.get(node.node_id)
        if node.kind == Node.Kind.LINUX and node.session:
            described = describe(node, names, kubespan=options.enabled)
            rows = _endpoints(node, harvested=False) if options.enabled else []
            operations += _words(described, rows, known, opened.get(node.node_id), secret, discovery_now)
        elif node.kind == Node.Kind.LINUX or known is None:
            continue
        if options.enabled and options.harvest_extra_endpoints:
            operations += _sights(node, known, secret, downtime, discovery_now)
    present = {node.node_id for node in members}
    operations += [Deletion(node_id) for node_id in removed if node_id in listed and node_id not in present]
    return discovery.apply(row, operations, discovery_now) if operations else None


def _words(
    described: Affiliate,
    rows: Iterable[Candidate],
    known: SealedAffiliate | None,
    opened: Affiliate | None,
    secret: bytes,
    now: float,
) -> Iterator[Update]:
    """What is said of one of our nodes, where that is news; `known` is what is listed, and `opened` what it says."""
    same = known is not None and opened is not None and replace(opened, endpoints=()) == described
    # The same words go in the same bytes; other ones, and what somebody wrote over, with a new nonce.
    data = known.data if known and same else seal_affiliate(described, secret, os.urandom(NONCE_BYTES))
    endpoints = tuple(_seal(row, secret) for row in rows)
    if _needs_saying(known, data, endpoints, now):
        yield Update(described.node_id, data, endpoints, TTL_SECONDS)


def _sights(node: Node, known: SealedAffiliate | None, secret: bytes, downtime: float, now: float) -> Iterator[Update]:
    """Where a member was seen, each for as long as the sight is good here; `now` is discovery time.

    It comes back to us from discovery, and if it were as new each time, it would never end.
    """
    listed = {endpoint.data: endpoint.expires for endpoint in known.endpoints} if known else {}
    for row in _endpoints(node, harvested=True):
        expires = row.seen.timestamp() - downtime + TTL_SECONDS
        sealed = _seal(row, secret)
        if expires > max(now, listed.get(sealed, now) + SIGHT_AGAIN.total_seconds()):
            yield Update(node.node_id, b"", (sealed,), expires - now)


def _needs_saying(known: SealedAffiliate | None, data: bytes, endpoints: Iterable[bytes], now: float) -> bool:
    """Whether this is news to discovery, or would expire before long."""
    if known is None or known.data != data or known.expires < now + RENEW_BEFORE:
        return True
    kept = {endpoint.data for endpoint in known.endpoints if endpoint.expires >= now + RENEW_BEFORE}
    return not kept.issuperset(endpoints)


def describe(node: Node, taken: Collection[str] = (), *, kubespan: bool = True) -> Affiliate:
    """One of our nodes as a Talos machine reads it: always a worker, by its own name, or where others have that by
    another: of two members of one name Talos knows one.

    Without KubeSpan it has neither key nor address in the mesh: nobody is to wait for a tunnel that is not there.
    """
    affiliate = Affiliate(
        node_id=node.node_id,
        addresses=tuple(map(ip_address, node.addresses)),
        hostname=node.hostname,
        nodename=f"{node.name[:200]}-{node.node_id[:8]}" if node.name in taken else node.name,
        machine_type="worker",
        operating_system=node.operating_system,
    )
    if not kubespan:
        return affiliate
    return replace(
        affiliate,
        public_key=node.public_key,
        address=IPv6Address(node.address),
        additional_addresses=tuple(map(ip_interface, (*node.networks, *node.ruled_networks))),
        exclude_advertised_networks=tuple(map(ip_interface, node.excluded_networks)),
    )


def _endpoints(node: Node, *, harvested: bool) -> list[Candidate]:
    rows = sorted(node.candidates.all(), key=lambda row: (row.order, row.pk))
    return [row for row in rows if (row.source == Source.HARVESTED) == harvested]


def _seal(row: Candidate, secret: bytes) -> bytes:
    return seal_endpoint(Endpoint.parse(row.endpoint), secret)
