"""Enrolment: a machine with a token becomes a node, once, however often its request arrives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from django.db import IntegrityError, models, transaction
from django.db.models import F

from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import IPAddress, parse_address
from kubespan.core.identity import MAX_NODE_ID_BYTES, decode_node_id, is_public_key, node_address
from kubespan.core.messages import EnrolReply, EnrolRequest, MessageError, RefusedClaim, negotiate, parse_key
from nodes.counters import count
from nodes.models import Change, Cluster, Node, Token, Tombstone
from nodes.services import after, audit, claims, endpoints, revisions
from nodes.services.refused import Refused
from nodes.services.tokens import digest_token

NAME_FORM = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
INTERFACE_ID_FORM = re.compile(r"[0-9a-fA-F]{16}")

SILENT_VERSION = 2
"""From this protocol version on a machine can wait for approval without knowing its cluster."""

_WORTHLESS = {
    "revoked": "This token was revoked; ask for a new one.",
    "expired": "This token has expired; ask for a new one.",
    "used-up": "This token has enrolled as many machines as it may; ask for a new one.",
}


@dataclass(frozen=True, slots=True)
class Applicant:
    """A machine that asks to join, as far as its request can be checked by itself."""

    request: EnrolRequest
    version: int
    interface_id: bytes

    def address(self, cluster: Cluster) -> str:
        """The KubeSpan address that is the machine's in this cluster."""
        return str(node_address(ula_prefix(cluster.cluster_id), self.interface_id))


def enrol(request: EnrolRequest, *, peer: IPAddress | None, now: datetime) -> EnrolReply:
    """Take a machine in, approved or pending as its token says; raises Refused.

    The same machine asking again gets the same reply, and no use of the token is counted for it.
    """
    applicant = check_request(request)
    cluster_pk = _find_cluster(request.token)
    try:
        with transaction.atomic():
            cluster = revisions.lock(cluster_pk)
            token = _find_token(request.token)  # once more, as it is under the lock
            alike = _find_alike(applicant, cluster)
            node = _known(request, cluster, token, alike, now)
            node = node or _take_in(applicant, cluster, token, alike, peer, now)
            reply = _reply(applicant, cluster, node)
    except IntegrityError:  # the key went to another cluster's node while we looked
        raise Refused("duplicate-key", _TAKEN["public_key"].format("another machine"), 409) from None
    return reply


def check_request(request: EnrolRequest) -> Applicant:
    """Read a request's own fields; raises Refused for the first that is wrong."""
    try:
        version = negotiate(request.versions)
    except MessageError as error:
        raise Refused("version", f"{error}.") from None
    _check_node_id(request.node_id)
    check_name(request.name)
    _check_keys(request)
    if not INTERFACE_ID_FORM.fullmatch(request.interface_id):
        raise Refused("interface-id", "The interface id must be 16 hexadecimal digits.")
    if not int(request.interface_id, 16):
        raise Refused("interface-id", "The interface id must not be all zero: that address means any machine.")
    return Applicant(request, version, bytes.fromhex(request.interface_id))


def check_name(name: str) -> None:
    """Refuse what cannot be a node's name."""
    if not NAME_FORM.fullmatch(name):
        raise Refused(
            "name",
            "A node's name has 1 to 253 letters, digits, dots, hyphens or underscores, "
            "and begins and ends with a letter or digit.",
        )


def _check_node_id(node_id: str) -> None:
    try:
        size = len(decode_node_id(node_id))
    except ValueError as error:
        raise Refused("node-id", f"{error}.") from None
    if not size or len(node_id) > MAX_NODE_ID_BYTES:
        raise Refused("node-id", f"A node id has 1 to {MAX_NODE_ID_BYTES} characters.")


def _check_keys(request: EnrolRequest) -> None:
    for text, what in ((request.public_key, "the WireGuard public key"), (request.verify_key, "the signing key")):
        try:
            parse_key(text, what)
        except MessageError as error:
            raise Refused("key", f"{error}.") from None
        if not is_public_key(text):
            raise Refused("key", f"{what} is not written as WireGuard would write it.")
    try:
        public = X25519PublicKey.from_public_bytes(parse_key(request.public_key, "the WireGuard public key"))
        X25519PrivateKey.generate().exchange(public)
    except ValueError:  # a point of low order: everybody would share the same secret with it
        raise Refused("key", "the WireGuard public key is not one: no private key belongs to it.") from None


def _find_cluster(plain: str) -> int:
    found = Token.objects.filter(digest=digest_token(plain)).values_list("cluster_id", flat=True).first()
    if found is None:
        raise _unknown()
    return found


def _find_token(plain: str) -> Token:
    token = Token.objects.filter(digest=digest_token(plain)).first()
    if token is None:
        raise _unknown()
    return token


def _unknown() -> Refused:
    return Refused("token-unknown", "This console knows no such token; check that it was copied whole.", 403)


def _find_alike(applicant: Applicant, cluster: Cluster) -> list[Node]:
    """Nodes that have anything of what is one machine's alone: the machine itself among them, if it is one."""
    request = applicant.request
    here = models.Q(node_id=request.node_id) | models.Q(name=request.name)
    here |= models.Q(address=applicant.address(cluster))
    anywhere = models.Q(public_key=request.public_key) | models.Q(verify_key=request.verify_key)
    return list(Node.objects.present().filter(anywhere | here & models.Q(cluster=cluster)))


def _known(request: EnrolRequest, cluster: Cluster, token: Token, alike: Iterable[Node], now: datetime) -> Node | None:
    """Find the machine where it has been enrolled before by this token, or shows another one that is still good."""
    machine = (cluster.pk, request.node_id, request.public_key, request.verify_key)
    found = (node for node in alike if (node.cluster_id, node.node_id, node.public_key, node.verify_key) == machine)
    node = next(found, None)
    if node is None:
        return None
    worthless = token.worthless(now)
    if worthless is not None and (worthless == "revoked" or node.token_id != token.pk):
        raise _refuse_token(worthless)
    return node


def _refuse_token(worthless: str) -> Refused:
    return Refused(f"token-{worthless}", _WORTHLESS[worthless], 403)


def _take_in(
    applicant: Applicant, cluster: Cluster, token: Token, alike: Iterable[Node], peer: IPAddress | None, now: datetime
) -> Node:
    """Make the node, under the cluster's lock; raises Refused, and then the caller's transaction leaves no trace."""
    address = applicant.address(cluster)
    _use_token(token, now)
    _check_unique(applicant.request, cluster, address, alike, named=not token.approval_required)
    node = _make_node(applicant.request, cluster, token, address, peer, now)
    if refused := len(node.refused_claims):
        transaction.on_commit(partial(count, "claim.refused", refused), robust=True)
    returning = _is_tombstoned(node)
    if token.approval_required or returning:
        node.save()
        endpoints.refresh([node], cluster.kubespan, now)
    else:
        join(cluster, node, now)
    details = {"token": token.name, "status": node.status, "returning": returning, "from": node.peer_address}
    audit.write(f"node {node.name}", "node.enrolled", node, now, **details)
    after.announce(cluster.pk, "node.enrolled", node=node.pk, token=token.pk)
    return node


def _use_token(token: Token, now: datetime) -> None:
    good = Token.objects.filter(pk=token.pk, revoked_at=None, expires__gt=now, used__lt=F("uses"))
    if not good.update(used=F("used") + 1, last_used=now):
        raise _refuse_token(token.worthless(now) or "used-up")


_UNIQUE_ANYWHERE = frozenset({"public_key", "verify_key"})
"""The rest is, within a cluster."""
_TAKEN = {
    "name": "{} has this name already; give this machine another one with --name, "
    "or if this is that machine anew, remove it on the console first.",
    "node_id": "{} has this node id; if this is that machine anew, remove it on the console first.",
    "public_key": "{} has this WireGuard key; each machine needs its own: delete this one's state and enrol again.",
    "verify_key": "{} has this signing key; each machine needs its own: delete this one's state and enrol again.",
    "address": "{} has the KubeSpan address that follows from this interface id; "
    "two machines with one hardware address cannot be in one cluster. "
    "If this is that machine anew, remove it on the console first.",
}


def _check_unique(request: EnrolRequest, cluster: Cluster, address: str, alike: Iterable[Node], *, named: bool) -> None:
    """Refuse what another node has; it is not `named` to a machine that must wait, which learns nothing of members."""
    wanted = {
        "public_key": request.public_key,
        "verify_key": request.verify_key,
        "node_id": request.node_id,
        "address": address,
        "name": request.name,
    }
    for field, value in wanted.items():
        for holder in alike:
            here = holder.cluster_id == cluster.pk
            if getattr(holder, field) == value and (here or field in _UNIQUE_ANYWHERE):
                # Another cluster's names are not this cluster's business.
                name = (f"The node {holder.name}" if named else "Another node") if here else "A node of another cluster"
                code = {"public_key": "key", "verify_key": "key", "node_id": "id"}.get(field, field)
                raise Refused(f"duplicate-{code}", _TAKEN[field].format(name), 409)


def _make_node(
    request: EnrolRequest, cluster: Cluster, token: Token, address: str, peer: IPAddress | None, now: datetime
) -> Node:
    node = Node(
        cluster=cluster,
        node_id=request.node_id,
        name=request.name,
        public_key=request.public_key,
        verify_key=request.verify_key,
        address=address,
        token=token,
        enrolled=now,
        hostname=claims.printable(request.hostname, 253),
        operating_system=claims.printable(request.operating_system, 128),
        agent_version=claims.printable(request.agent_version, 64),
        listen_port=request.listen_port,
        peer_address=str(peer) if peer is not None else None,
        last_seen=now,
    )
    believe(node, cluster, request.addresses, request.networks)
    return node


def believe(node: Node, cluster: Cluster, addresses: Iterable[str], networks: Iterable[str]) -> None:
    """Judge a node's claims beside what the members have, and set its columns; nothing is saved."""
    verdict = claims.judge(
        addresses,
        networks,
        own=node.address,
        peer=parse_address(node.peer_address) if node.peer_address else None,
        read=partial(claims.read_neighbours, cluster, node.pk),
    )
    node.addresses = verdict.addresses
    asked = [network for network in verdict.networks if network not in node.networks]
    node.ruled_networks = claims.rule(asked, cluster.kubespan.approved_networks)
    node.claimed_networks = [network for network in asked if network not in node.ruled_networks]
    node.refused_claims = verdict.refused


def _is_tombstoned(node: Node) -> bool:
    """Whether a removed node had this id, one of these keys or this address: it returns by an operator's yes only."""
    same = (
        models.Q(node_id=node.node_id)
        | models.Q(public_key=node.public_key)
        | models.Q(verify_key=node.verify_key) & ~models.Q(verify_key="")
        | models.Q(address=node.address)
    )
    return Tombstone.objects.filter(same, cluster=node.cluster_id).exists()


def join(cluster: Cluster, node: Node, now: datetime) -> None:
    """Make a node a member, under the cluster's lock: it gets its index, and everybody hears of it."""
    node.status = Node.Status.APPROVED
    node.approved_at = now
    node.index = cluster.next_index
    cluster.next_index += 1  # saved with the revision
    node.save()
    endpoints.refresh([node], cluster.kubespan, now)
    revisions.append(cluster, Change.Kind.MEMBER, node, now=now)


def _reply(applicant: Applicant, cluster: Cluster, node: Node) -> EnrolReply:
    """What a machine keeps; one that waits learns nothing of the cluster but our own name of it, in no version."""
    member = node.status == Node.Status.APPROVED
    if not member and applicant.version < SILENT_VERSION:
        raise Refused(
            "agent-too-old",
            "This machine needs an operator's yes, and its agent is too old to wait for one: "
            "upgrade kubespan-agent here, and enrol again with the same token.",
            403,
        )
    return EnrolReply(
        version=applicant.version,
        status="approved" if member else "pending",
        cluster=str(cluster.uuid),
        cluster_id=cluster.cluster_id if member else "",
        cluster_name=cluster.name if member else "",
        console_key=revisions.console_settings()[1],
        node_id=node.node_id,
        address=node.address if member else "",
        refused=refused_claims(node),
    )


def refused_claims(node: Node) -> tuple[RefusedClaim, ...]:
    """What a node claimed and is not believed, for the node itself; nothing for one that is not a member yet."""
    if node.status != Node.Status.APPROVED:
        return ()
    return tuple(RefusedClaim(claim=one["claim"], reason=one["reason"]) for one in node.refused_claims)
