"""Rows and machines for tests, made by the services where a service makes them."""

from __future__ import annotations

import base64
import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from django.contrib.auth.models import User
from django.db import connection

from kubespan.core.cluster import make_cluster_id, make_cluster_secret
from kubespan.core.identity import KeyPair, encode_node_id, make_signing_key, sign
from kubespan.core.messages import VERSIONS, EnrolRequest, Hello, challenge_text
from kubespan.core.options import ClusterOptions
from nodes.models import Candidate, Change, Cluster, Grant, Node, Role, Token
from nodes.models.roles import forget_roles
from nodes.services import clusters, enrolment, sessions, tokens

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PEER = ip_address("198.51.100.7")

_numbers = itertools.count(1)


def random_bytes(seed: object, size: int = 32) -> bytes:
    """Bytes that are the same for the same seed."""
    return hashlib.shake_256(repr(seed).encode()).digest(size)


@dataclass
class Machine:
    """A machine's own half: its keys and what it says; each one is another unless told otherwise."""

    name: str = ""
    seed: object = None
    addresses: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    node_id: str = ""
    pair: KeyPair = field(init=False)
    signing_key: str = field(init=False)
    verify_key: str = field(init=False)
    interface_id: str = field(init=False)

    def __post_init__(self):
        number = next(_numbers)
        self.name = self.name or f"edge-{number}"
        seed = (self.name, number) if self.seed is None else self.seed
        self.node_id = self.node_id or encode_node_id(random_bytes(("node id", seed)))
        self.pair = KeyPair.make(random_bytes(("wireguard", seed)))
        self.signing_key, self.verify_key = make_signing_key(random_bytes(("signing", seed)))
        self.interface_id = random_bytes(("interface", seed), 8).hex()

    def request(self, token: str, **changes) -> EnrolRequest:
        """What it sends to enrol."""
        said = {
            "versions": VERSIONS,
            "token": token,
            "node_id": self.node_id,
            "name": self.name,
            "public_key": self.pair.public_key,
            "verify_key": self.verify_key,
            "interface_id": self.interface_id,
            "hostname": self.name,
            "operating_system": "Debian GNU/Linux 12 (bookworm)",
            "agent_version": "0.1.0",
            "addresses": self.addresses,
            "networks": self.networks,
        }
        return EnrolRequest(**(said | changes))

    def hello(self, reply, nonce: str, **changes) -> Hello:
        """What it answers a challenge with."""
        text = challenge_text(reply.console_key, reply.cluster, self.node_id, nonce)
        said = {
            "version": reply.version,
            "cluster": reply.cluster,
            "node_id": self.node_id,
            "signature": sign(self.signing_key, text),
            "agent_version": "0.1.0",
            "agent_time": NOW.timestamp(),
        }
        return Hello(**(said | changes))


def make_user(name: str = "", role: Role | str | None = None, cluster: Cluster | None = None, **columns) -> User:
    """Somebody with a role in one cluster, or with none in the whole console; without a role, they may nothing."""
    whole = role == Role.ADMINISTRATOR and cluster is None  # whom Django's own admin knows too
    columns = {"is_staff": whole, "is_superuser": whole} | columns
    user = User.objects.create_user(name or f"person-{next(_numbers)}", **columns)
    if role is not None:
        give_role(user, role, cluster)
    return user


def give_role(user: User, role: Role | str, cluster: Cluster | None = None) -> None:
    """Another role, or another one in the place of one."""
    Grant.objects.update_or_create(user=user, cluster=cluster, defaults={"role": role, "at": NOW, "given_by": "tests"})
    forget_roles(user)


def make_cluster(name: str = "", *, now: datetime = NOW, **options) -> Cluster:
    """A cluster with options of its own, by the service."""
    name = name or f"cluster {next(_numbers)}"
    cluster, _ = clusters.create_cluster("tests", name=name, options=ClusterOptions(**options), now=now)
    return cluster


def make_token(cluster: Cluster, *, uses: int = 1, now: datetime = NOW, **changes) -> tuple[Token, str]:
    """A token and its text."""
    asked = {"name": "site", "lifetime": timedelta(hours=1), "approval_required": False} | changes
    return tokens.create_token("tests", cluster, uses=uses, now=now, **asked)


def enrol(cluster: Cluster, machine: Machine | None = None, *, peer=PEER, now: datetime = NOW, **token) -> Node:
    """A node of the cluster, enrolled with a token of its own; approved unless told otherwise."""
    machine = machine or Machine()
    _, plain = make_token(cluster, now=now, **token)
    reply = enrolment.enrol(machine.request(plain), peer=peer, now=now)
    return Node.objects.present().get(cluster=cluster, node_id=reply.node_id)


def open_session(greeting: sessions.Greeting, now: datetime) -> sessions.Session:
    """Open the session of one who says hello, and write down what follows of it, as its conversation does."""
    (opened,) = sessions.open_sessions([greeting], now)
    if isinstance(opened, Exception):
        raise opened
    sessions.note_return(opened, now)
    return opened


def fill(cluster: Cluster, count: int) -> list[Node]:
    """That many approved members with two endpoints each, written straight to the tables: for counting queries."""
    cluster.refresh_from_db()
    first = cluster.next_index
    nodes = [
        Node(
            cluster=cluster,
            index=index,
            node_id=encode_node_id(random_bytes((cluster.pk, "id", index))),
            name=f"bulk-{index}",
            public_key=base64.b64encode(random_bytes((cluster.pk, "key", index))).decode(),
            verify_key=base64.b64encode(random_bytes((cluster.pk, "verify", index))).decode(),
            address=str(ip_address(int(ip_address("fd00:0:0:2::")) + index + 1)),
            addresses=[f"10.{index // 250}.{index % 250}.1"],
            status=Node.Status.APPROVED,
            enrolled=NOW,
        )
        for index in range(first, first + count)
    ]
    nodes = Node.objects.bulk_create(nodes)
    Candidate.objects.bulk_create(
        Candidate(node=node, endpoint=f"{ip}:51820", source="local", order=order, seen=NOW)
        for node in nodes
        for order, ip in enumerate((node.addresses[0], f"203.0.{node.index // 250}.{node.index % 250}"))
    )
    Change.objects.bulk_create(
        Change(cluster=cluster, number=cluster.revision + 1 + place, kind="member", index=node.index, at=NOW)
        for place, node in enumerate(nodes)
    )
    cluster.next_index += count
    cluster.revision += count
    cluster.save()
    return nodes


def cluster_identity(seed: object = "imported") -> tuple[str, str]:
    """Id and secret of a cluster that another tool made."""
    return make_cluster_id(random_bytes((seed, 1))), make_cluster_secret(random_bytes((seed, 2)))


def locks(updates=1):
    """Queries besides so many updates of nodes: a database that locks rows is asked to, in their order."""
    return updates * connection.features.has_select_for_update
