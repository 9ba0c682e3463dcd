"""Nodes: approve, remove, set their own options, take in what they claim and what their neighbours see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from django.db import transaction

from kubespan.core.endpoint import Endpoint, IPAddress, IPNetwork, parse_address, parse_network
from kubespan.core.messages import Claim, ClaimRefused, Member, Removed, TryAgain
from nodes import fanout
from nodes.access import needs
from nodes.counters import count
from nodes.models import Candidate, Change, Cluster, Node, Tombstone
from nodes.services import after, audit, claims, endpoints, revisions, rotation
from nodes.services.enrolment import believe, check_name, join, refused_claims
from nodes.services.refused import Refused

ENTRIES_LIMIT = 64
"""Extra endpoints or networks that an operator may give one node."""

SITE_LENGTH = 63

CLAIM_FIELDS = ("addresses", "claimed_networks", "ruled_networks", "refused_claims")


def _lock(node_pk: int) -> tuple[Cluster, Node]:
    """Take the cluster of a node, and read the node as it is under that lock."""
    try:
        cluster_pk = Node.objects.values_list("cluster_id", flat=True).get(pk=node_pk)
        cluster = revisions.lock(cluster_pk)
        node = Node.objects.present().get(pk=node_pk)
    except Node.DoesNotExist:
        raise Refused("node-unknown", "This node is no longer there: it was removed.", 409) from None
    return cluster, node


def _describe(cluster: Cluster, node: Node) -> Member | None:
    """What others must know of the node now; nothing while it is pending."""
    if node.status != Node.Status.APPROVED:
        return None
    listed = node.candidates.order_by("order", "pk").values_list("endpoint", flat=True)
    return revisions.member(node, listed, cluster.kubespan.exclude_advertised_networks)


def _settle(cluster: Cluster, node: Node, before: Member | None, now: datetime) -> bool:
    """Bring the endpoints up to date after a change of the node, and take a revision if others must hear of it."""
    endpoints.refresh([node], cluster.kubespan, now)
    present = _describe(cluster, node)
    if present is None or present == before:
        return False
    revisions.append(cluster, Change.Kind.MEMBER, node, now=now)
    return True


@needs("approve_node")
def approve_node(actor: audit.Actor, node: Node, now: datetime) -> Node:
    """Let a pending node in: everybody else hears of it, and it gets secret and members over its connection."""
    with transaction.atomic():
        cluster, node = _lock(node.pk)
        if node.status == Node.Status.APPROVED:
            raise Refused("node-approved", f"{node} was approved already.", 409)
        # What it claimed was judged beside the members of then.
        believe(node, cluster, *claims.node_claims(node))
        join(cluster, node, now)
        audit.write(actor, "node.approved", node, now)
        after.settle(node)
        after.announce(cluster.pk, "node.approved", node=node.pk)
    return node


@needs("remove_node")
def remove_node(actor: audit.Actor, node: Node, typed_name: str, now: datetime) -> Tombstone:
    """Cut a node off: every connected machine drops it, its connection closes, its keys are refused from now on."""
    if typed_name != node.name:
        raise Refused("name-mismatch", f"Type the node's name, {node.name}, to remove it.")
    with transaction.atomic():
        cluster, node = _lock(node.pk)
        was_member = node.status == Node.Status.APPROVED
        node.status = Node.Status.REMOVED
        node.removed_at = now
        node.session = ""
        node.save(update_fields=["status", "removed_at", "session"])
        node.candidates.all().delete()
        if was_member:
            revisions.append(cluster, Change.Kind.GONE, node, now=now)
        tombstone = Tombstone.objects.create(
            cluster=cluster,
            removed_node=node,
            node_id=node.node_id,
            public_key=node.public_key,
            verify_key=node.verify_key,
            address=node.address,
            at=now,
            # A pending node was nobody's peer: nobody has to drop it.
            epoch=cluster.epoch if was_member else 0,
            number=cluster.revision if was_member else 0,
            secret_generation=cluster.secret_generation,
        )
        audit.write(actor, "node.removed", node, now, member=was_member)
        if was_member:
            rotation.renew(cluster, node, now)
        after.publish(node, Removed(reason=farewell(node)))
        after.announce(cluster.pk, "node.removed", node=node.pk)
    return tombstone


def farewell(node: Node) -> str:
    """What a removed machine is told; one that never was a member does not hear of which cluster."""
    if node.approved_at is None:
        return f"{node} was not let in by an operator"
    return f"{node} was removed from the cluster {node.cluster}"


@needs("change_node")
def set_node_options(
    actor: audit.Actor,
    node: Node,
    *,
    extra_endpoints: Sequence[str],
    advertised_networks: Sequence[str],
    excluded_networks: Sequence[str],
    site: str | None = None,
    now: datetime,
) -> Node:
    """Set what an operator decides for one node: endpoints besides its own, networks behind it, networks left out.

    `site` is where it stands, for lists and the map; no machine hears of it. None leaves it as it is.
    """
    extra = _parse_list("endpoint", extra_endpoints, _parse_endpoint)
    advertised = _parse_list("network", advertised_networks, parse_network)
    excluded = _parse_list("network", excluded_networks, parse_network)
    with transaction.atomic():
        cluster, node = _lock(node.pk)
        wanted = {
            "extra_endpoints": list(map(str, extra)),
            "networks": list(map(str, advertised)),
            "excluded_networks": list(map(str, excluded)),
            "site": node.site if site is None else parse_site(site),
        }
        changes = {name: [getattr(node, name), value] for name, value in wanted.items() if getattr(node, name) != value}
        if not changes:
            return node
        _check_networks(cluster, node, [network for network in advertised if str(network) not in node.networks])
        before = _describe(cluster, node)
        for name, value in wanted.items():
            setattr(node, name, value)
        _take_off(node)
        node.save(update_fields=[*wanted, "claimed_networks", "ruled_networks"])
        _settle(cluster, node, before, now)
        audit.write(actor, "node.options-set", node, now, changes=changes)
        after.announce(cluster.pk, "node.changed", node=node.pk)
    return node


def parse_site(text: str) -> str:
    """A site's name as it is kept: printable, without spaces around it or twice in it. Raises Refused."""
    site = " ".join(claims.printable(text, len(text)).split())
    if len(site) > SITE_LENGTH:
        raise Refused("site", f"A site's name has at most {SITE_LENGTH} characters, this one has {len(site)}.")
    return site


def _parse_endpoint(text: str) -> Endpoint:
    endpoint = Endpoint.parse(text)
    if not endpoints.is_observable(endpoint.ip):
        raise ValueError(f"{text!r} is no address at which another machine could reach this one")
    return endpoint


Entry = TypeVar("Entry", Endpoint, IPNetwork)


def _parse_list(what: str, texts: Sequence[str], parse: Callable[[str], Entry]) -> list[Entry]:
    entries = []
    for text in texts:
        try:
            entries.append(parse(text.strip()))
        except ValueError as error:
            raise Refused(what, f"{error}.") from None
    if len(entries) > ENTRIES_LIMIT:
        raise Refused(what, f"At most {ENTRIES_LIMIT} entries, this list has {len(entries)}.")
    return list(dict.fromkeys(entries))


def _check_networks(cluster: Cluster, node: Node, networks: Iterable[IPNetwork]) -> None:
    neighbours = claims.read_neighbours(cluster, node.pk)
    for network in networks:
        try:
            claims.check_network(network, neighbours)
        except ValueError as error:
            raise Refused("network", f"{error}.", 409) from None


def _take_off(node: Node) -> None:
    """Take what an operator has said yes to off the lists of what waits for one, and of what came by a rule."""
    node.claimed_networks = [network for network in node.claimed_networks if network not in node.networks]
    node.ruled_networks = {network: by for network, by in node.ruled_networks.items() if network not in node.networks}


@needs("change_node")
def rename_node(actor: audit.Actor, node: Node, name: str, now: datetime) -> Node:
    """Give a node another name, which every other machine hears of; unique among the cluster's nodes that are left."""
    name = name.strip()
    check_name(name)
    with transaction.atomic():
        cluster, node = _lock(node.pk)
        if node.is_talos:
            raise Refused("name", f"{node} is called what its own Talos configuration says: change it there.", 409)
        if name == node.name:
            return node
        if Node.objects.present().filter(cluster=cluster, name=name).exists():
            raise Refused("duplicate-name", f"There is a node named {name} in {cluster} already: choose another.", 409)
        before, former = _describe(cluster, node), node.name
        node.name = name
        node.save(update_fields=["name"])
        _settle(cluster, node, before, now)
        audit.write(actor, "node.renamed", node, now, changes={"name": [former, name]})
        after.announce(cluster.pk, "node.changed", node=node.pk)
    return node


@needs("change_node")
def approve_networks(actor: audit.Actor, node: Node, networks: Sequence[str], now: datetime) -> Node:
    """Say yes to networks that a node asks to advertise: they become everybody's route to it."""
    with transaction.atomic():
        cluster, node = _lock(node.pk)
        if unasked := [network for network in networks if network not in node.claimed_networks]:
            raise Refused("network", f"{node} does not ask to advertise {', '.join(unasked)} any more.", 409)
        _check_networks(cluster, node, map(parse_network, networks))
        before = _describe(cluster, node)
        node.networks = [*node.networks, *networks]
        _take_off(node)
        node.save(update_fields=["networks", "claimed_networks"])
        _settle(cluster, node, before, now)
        audit.write(actor, "node.networks-approved", node, now, networks=list(networks))
        after.announce(cluster.pk, "node.changed", node=node.pk)
    return node


def settle_claims(said: Sequence[tuple[int, Claim, IPAddress | None]]) -> list[int]:
    """Take in the claims of nodes that say what is known of them; gives the others, each one `record_claim`'s.

    What no other machine need hear of is kept here, so that a thousand that have just enrolled, or all come back, cost
    a few queries and no cluster's lock.
    """
    known = Node.objects.present().in_bulk([node_pk for node_pk, _, _ in said])
    groups: dict[tuple[str, str], list[int]] = {}
    left: list[int] = []
    for node_pk, claim, peer in said:
        node = known.get(node_pk)
        if node is None:
            continue
        before = (node.backend, node.agent_version)
        fields = _said(claim, peer)
        own = node.backend, node.agent_version = str(fields["backend"]), str(fields["agent_version"])
        if node.refused_claims or not _is_known(node, claim, peer):
            left.append(node_pk)
        elif own != before:
            groups.setdefault(own, []).append(node_pk)
    for (backend, agent_version), pks in groups.items():
        Node.objects.filter(pk__in=pks).update_in_order(backend=backend, agent_version=agent_version)
    for cluster_pk in {known[node_pk].cluster_id for pks in groups.values() for node_pk in pks}:
        after.announce(cluster_pk, "node.changed")
    return left


def record_claim(node_pk: int, claim: Claim, peer: IPAddress | None, now: datetime) -> bool:
    """Take in what a machine says of itself, after checking; whether anything of it was new.

    A claim that is as the last one was, and was believed whole, costs one query and no lock.
    """
    node = Node.objects.present().filter(pk=node_pk).first()
    if node is None or (_is_known(node, claim, peer) and not node.refused_claims):
        return False
    with transaction.atomic():
        try:
            cluster, node = _lock(node_pk)
        except Refused:  # removed this moment
            return False
        before = _describe(cluster, node)
        fields = _said(claim, peer)
        judged = [getattr(node, name) for name in CLAIM_FIELDS]
        news = any(getattr(node, name) != value for name, value in fields.items())
        for name, value in fields.items():
            setattr(node, name, value)
        believe(node, cluster, claim.addresses, claim.networks)
        if refused := refused_claims(node):
            after.publish(node, ClaimRefused(refused=refused))
        if not news and judged == [getattr(node, name) for name in CLAIM_FIELDS]:
            return False
        known = {refused["claim"] for refused in judged[-1]}
        if refused_now := [refused for refused in node.refused_claims if refused["claim"] not in known]:
            transaction.on_commit(partial(count, "claim.refused", len(refused_now)), robust=True)
        node.save(update_fields=[*fields, *CLAIM_FIELDS])
        _settle(cluster, node, before, now)
        after.announce(cluster.pk, "node.changed", node=node.pk)
    return True


def _said(claim: Claim, peer: IPAddress | None) -> dict[str, object]:
    fields: dict[str, object] = {
        "hostname": claims.printable(claim.hostname, 253),
        "operating_system": claims.printable(claim.operating_system, 128),
        "agent_version": claims.printable(claim.agent_version, 64),
        "backend": claims.printable(claim.backend, 16),
        "listen_port": claim.listen_port,
    }
    return fields | ({"peer_address": str(peer)} if peer is not None else {})


def _is_known(node: Node, claim: Claim, peer: IPAddress | None) -> bool:
    addresses = [address for address in claim.addresses if address != node.address]
    asked = [network for network in claim.networks if network not in node.networks]
    said = _said(claim, peer)
    return (
        addresses == node.addresses
        and [network for network in asked if network not in node.ruled_networks] == node.claimed_networks
        and all(network in asked for network in node.ruled_networks)
        and all(getattr(node, name) == value for name, value in said.items())
        # Believed while the console's own name was not found, or led elsewhere.
        and claims.console_addresses().isdisjoint(map(parse_address, addresses))
    )


def record_peer(node_pk: int, peer: IPAddress, now: datetime) -> bool:
    """Keep where a node's connection comes from: one of its endpoints' addresses; whether others must hear of it."""
    with transaction.atomic():
        try:
            cluster, node = _lock(node_pk)
        except Refused:  # removed this moment
            return False
        before = _describe(cluster, node)
        node.peer_address = str(peer)
        node.save(update_fields=["peer_address"])
        return _settle(cluster, node, before, now)


def record_harvest(cluster_pk: int, seen: Iterable[tuple[int, int, Endpoint]], now: datetime) -> int:
    """Take in endpoints that members (observer's index first) see others at; how many were new.

    Only where the cluster's option is on. One that was harvested before lives on for another while.
    """
    by_member: dict[int, dict[str, None]] = {}
    for observer, index, endpoint in seen:
        if observer != index and endpoints.is_observable(endpoint.ip):
            by_member.setdefault(index, {})[str(endpoint)] = None
    if not by_member:
        return 0
    with transaction.atomic():
        try:
            cluster = revisions.lock(cluster_pk)
        except Refused:  # deleted while its nodes still talked
            return 0
        if not cluster.kubespan.harvest_extra_endpoints:
            return 0
        fresh: list[Candidate] = []
        touched: list[tuple[Change.Kind, int | None]] = []
        members = cluster.nodes.approved().filter(index__in=by_member).order_by("index")
        for node in members.prefetch_related("candidates"):
            made, stale = _harvest(node, by_member[node.index or 0], now)
            fresh += made
            if made or stale:
                touched.append((Change.Kind.MEMBER, node.index))
        Candidate.objects.bulk_create(fresh)
        revisions.append_all(cluster, touched, now=now)
    return len(fresh)


def _harvest(node: Node, seen: Iterable[str], now: datetime) -> tuple[list[Candidate], int]:
    """Make the rows for what is new of one node, prolong what is known, and keep to the limit; and how many went."""
    known = {candidate.endpoint: candidate for candidate in node.candidates.all()}
    old = {endpoint: row for endpoint, row in known.items() if row.source == Candidate.Source.HARVESTED}
    again = [old[endpoint].pk for endpoint in seen if endpoint in old]
    Candidate.objects.filter(pk__in=again).update(seen=now)
    fresh = [endpoint for endpoint in seen if endpoint not in known][: endpoints.HARVEST_LIMIT]
    stale = sorted((row for row in old.values() if row.pk not in again), key=lambda row: row.seen)
    surplus = max(0, len(old) + len(fresh) - endpoints.HARVEST_LIMIT)
    fresh = fresh[: len(fresh) - max(0, surplus - len(stale))]
    stale = stale[:surplus]
    if stale:
        Candidate.objects.filter(pk__in=[row.pk for row in stale]).delete()
    last = max((candidate.order for candidate in known.values()), default=-1)
    made = [
        Candidate(node=node, endpoint=endpoint, source=Candidate.Source.HARVESTED, order=order, seen=now)
        for order, endpoint in enumerate(fresh, last + 1)
    ]
    return made, len(stale)


def expire_candidates(now: datetime) -> int:
    """Forget harvested endpoints that no neighbour has reported for a while; how many."""
    old = Candidate.objects.filter(source=Candidate.Source.HARVESTED, seen__lt=now - endpoints.HARVEST_KEPT)
    forgotten = 0
    for cluster_pk in sorted(set(old.order_by().values_list("node__cluster_id", flat=True))):
        with transaction.atomic():
            cluster = revisions.lock(cluster_pk)
            stale = list(old.filter(node__cluster=cluster).select_related("node"))
            Candidate.objects.filter(pk__in=[row.pk for row in stale]).delete()
            members = {row.node.index for row in stale if row.node.status == Node.Status.APPROVED}
            revisions.append_all(cluster, [(Change.Kind.MEMBER, index) for index in members], now=now)
            forgotten += len(stale)
    return forgotten


@needs("try_again")
def try_again(actor: audit.Actor, node: Node, peer: Node | None, now: datetime) -> None:
    """Have a node take the next endpoint of one peer, or of all its peers, whatever their state."""
    with transaction.atomic():
        if peer is not None:
            members: tuple[int | None, ...] = (peer.index,)
        else:
            others = Node.objects.approved().filter(cluster=node.cluster_id).exclude(pk=node.pk)
            members = tuple(others.order_by("index").values_list("index", flat=True))
        if node.status != Node.Status.APPROVED or None in members:
            raise Refused("node-pending", "Only members of the cluster have links to try again.", 409)
        audit.write(actor, "node.told-to-try-again", node, now, peer=str(peer or "all peers"))
        indexes = tuple(index for index in members if index is not None)
        transaction.on_commit(
            lambda: fanout.publish_to_node(node.pk, node.cluster_id, TryAgain(members=indexes)), robust=True
        )
