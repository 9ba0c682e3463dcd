"""An agent's connection: who it is, what it must be told, and what it says of what it applied."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, Field, Value, When
from msgspec.structs import replace

from kubespan.core.endpoint import IPAddress
from kubespan.core.identity import decode_node_id, verify
from kubespan.core.messages import (
    NONCE_BYTES,
    VERSIONS,
    Challenge,
    ClusterSecret,
    Hello,
    Notice,
    Revision,
    VersionError,
    Welcome,
    challenge_text,
    frame_limit,
    negotiate,
)
from nodes import live
from nodes.models import Console, Node, Transition
from nodes.services import after, claims, nodes, revisions, rotation, transitions
from nodes.services.enrolment import SILENT_VERSION
from nodes.services.refused import Refused

FAULT_LIMIT = 1000
SILENT_AFTER = timedelta(seconds=live.TIME_TO_LIVE)
"""A node that was not heard of for so long is away, and Activity says so."""
CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """One connection of one node, and what to answer its hello with."""

    id: str
    node_pk: int
    cluster_pk: int
    index: int | None
    status: str
    welcome: Welcome
    secrets: tuple[ClusterSecret, ...]
    """Sealed to the node, in the order to send them; none where it has what it needs, or is pending."""
    moved: IPAddress | None = None
    """Where it comes from, where that is another address than before."""
    was_away: bool = False


def challenge() -> Challenge:
    """A new challenge; its nonce serves one connection."""
    return Challenge(nonce=base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode(), versions=VERSIONS)


@dataclass(frozen=True, slots=True)
class Greeting:
    """A hello, and what came with it."""

    hello: Hello
    nonce: str
    """What it was to sign."""
    peer: IPAddress | None
    """Where it comes from, if that is known."""
    session: str = ""
    """Of a connection that is open already."""


def open_sessions(greetings: Sequence[Greeting], now: datetime) -> list[Session | Exception]:
    """Open the session of each; what is wrong with one is in its place, as an exception. `note_return` is to follow.

    A newer connection takes the place of an older one: a machine that lost its network comes back before we notice.
    A connection that is open already keeps its `session`, for the word that it is the node's present one may still be
    on its way; one whose place was taken is refused.
    """
    found = _find_nodes(greeting.hello for greeting in greetings)
    opened: list[_Arrival | Exception] = []
    for greeting in greetings:
        try:
            opened.append(_check(greeting, found, now))
        except Exception as error:  # noqa: BLE001 - whatever it was, it is no other machine's
            opened.append(error)
    _store([one for one in opened if isinstance(one, _Arrival)], now)
    return [one.session if isinstance(one, _Arrival) else one for one in opened]


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A node whose hello is good, as it was before."""

    greeting: Greeting
    node: Node
    holding: rotation.Holding
    session: Session


def _check(greeting: Greeting, found: Mapping[tuple[UUID, str], Node], now: datetime) -> _Arrival:
    hello = greeting.hello
    try:
        negotiate([hello.version])
    except VersionError as error:
        raise Refused("version", f"{error}.") from None
    node = found.get(_name(hello))
    if node is None:
        raise _unknown()
    console_key: str = node.console_key  # type: ignore[attr-defined] # annotated
    text = challenge_text(console_key, hello.cluster, hello.node_id, greeting.nonce)
    if not verify(node.verify_key, hello.signature, text):
        raise Refused("signature", "The hello is not signed with the key that this node enrolled with.", 403)
    if node.status == Node.Status.REMOVED:
        raise Refused("removed", f"{nodes.farewell(node)}; enrol it again.", 403)
    if greeting.session and node.session not in {"", greeting.session}:
        raise Refused("replaced", "A newer connection of this node has taken this one's place.", 409)
    holding = _holding(hello, node)
    session = _describe(node, greeting, holding, now)
    return _Arrival(greeting, node, holding, session)


def note_return(session: Session, now: datetime) -> None:
    """Write down what few connections bring: another address than before, or that the node had been away.

    Under its cluster's lock, so not for many together: one whose cluster is busy would keep others waiting.
    """
    if session.moved is not None:
        nodes.record_peer(session.node_pk, session.moved, now)
    if session.was_away:
        with transaction.atomic(), suppress(Refused):  # its cluster is gone
            revisions.lock(session.cluster_pk)
            returned = Node.objects.present().filter(pk=session.node_pk, away=True)
            if returned.update(away=False):  # of two at once, one
                _note_presence(session.cluster_pk, [session.node_pk], "away", "connected", now)


def _store(arrivals: Sequence[_Arrival], now: datetime) -> None:
    if not arrivals:
        return
    # Of a node that came twice the later one, and one that is new rather than one that is open already.
    ranked = sorted(arrivals, key=lambda arrival: not arrival.greeting.session)
    rows = {arrival.node.pk: _row(arrival, now) for arrival in ranked}
    names = next(iter(rows.values()))
    columns = {name: _column(name, {pk: row[name] for pk, row in rows.items()}) for name in names}
    # Not one that was removed since we looked: it has no connection any more.
    Node.objects.present().filter(pk__in=rows).update_in_order(**columns)


def _row(arrival: _Arrival, now: datetime) -> dict[str, object]:
    hello, node = arrival.greeting.hello, arrival.node
    return {
        "session": arrival.session.id,
        "connected_at": now,
        "last_seen": now,
        "clock_skew": hello.agent_time - now.timestamp() if hello.agent_time else None,
        "agent_version": claims.printable(hello.agent_version, 64) or node.agent_version,
        "protocol": hello.version,
        # A hello that was said long ago knows nothing of what was stored since.
        "secret_kept": F("secret_kept") if arrival.greeting.session else arrival.holding.generation,
    }


def _column(name: str, values: Mapping[int, object]) -> object:
    """The values of a column by primary key, as an UPDATE takes them: one where all are the same, as most are."""
    first, *others = values.values()
    if all(value == first for value in others):
        return first
    field = cast("Field[Any, Any]", Node._meta.get_field(name))
    values = {pk: value if isinstance(value, F) else Value(value, output_field=field) for pk, value in values.items()}
    return Case(*(When(pk=pk, then=value) for pk, value in values.items()), output_field=field)


def _name(hello: Hello) -> tuple[UUID, str]:
    """Cluster and node id; raises Refused for what is neither."""
    try:
        cluster = UUID(hello.cluster)
    except ValueError:
        raise Refused("cluster", "The cluster's name here must be a UUID, as the enrolment's reply gave it.") from None
    try:
        decode_node_id(hello.node_id)  # what is none, not every database takes
    except ValueError:
        raise _unknown() from None
    return cluster, hello.node_id


def _find_nodes(hellos: Iterable[Hello]) -> dict[tuple[UUID, str], Node]:
    """The newest row of each: a removed machine that was enrolled again has one after its old one."""
    names = set()
    for hello in hellos:
        with suppress(Refused):
            names.add(_name(hello))
    rows = Node.objects.select_related("cluster__rotation").annotate(
        console_key=Console.objects.filter(pk=1).values("key")
    )
    clusters, ids = {cluster for cluster, _ in names}, {node_id for _, node_id in names}
    rows = rows.filter(cluster__uuid__in=clusters, node_id__in=ids).order_by("pk")
    return {(node.cluster.uuid, node.node_id): node for node in rows}


def _unknown() -> Refused:
    return Refused("node-unknown", "This console knows no such node in such a cluster; enrol it.", 403)


def _holding(hello: Hello, node: Node) -> rotation.Holding:
    """Which secret it holds; of another epoch none: a generation may be another secret since a backup was restored."""
    another_epoch = hello.held is not None and hello.held.epoch != node.cluster.epoch
    return rotation.Holding(0 if another_epoch else hello.secret_generation, hello.version)


def _describe(node: Node, greeting: Greeting, holding: rotation.Holding, now: datetime) -> Session:
    version = holding.version
    approved = node.status == Node.Status.APPROVED
    cluster = node.cluster
    welcome = Welcome(version=version, status="pending", console_time=now.timestamp())
    if approved:
        # No index is given twice, so there are never more members. To count them takes a look at every version of
        # their rows that a database has yet to clear away, at each hello.
        limit = frame_limit(cluster.next_index)
        welcome = replace(welcome, status="approved", index=node.index, frame_limit=limit)
    if approved and version >= SILENT_VERSION:  # what a machine was not told while it waited
        welcome = replace(welcome, cluster_id=cluster.cluster_id, cluster_name=cluster.name, address=node.address)
        welcome = replace(welcome, discovery=settings.DISCOVERY_URL if cluster.kubespan.discovery else "")
    peer = greeting.peer
    return Session(
        id=greeting.session or secrets.token_hex(16),
        node_pk=node.pk,
        cluster_pk=node.cluster_id,
        index=node.index,
        status=node.status,
        welcome=welcome,
        secrets=rotation.seal_for(node, cluster, getattr(cluster, "rotation", None), holding) if approved else (),
        moved=peer if peer is not None and str(peer) != node.peer_address else None,
        was_away=node.away,
    )


def close_sessions(closed: Mapping[str, int], now: datetime) -> int:
    """Note that connections (session and node) ended; where a newer one has taken its place, that one goes on.

    Gives how many were still the present ones. All are written together: a balancer that dies takes a thousand along.
    """
    present = Node.objects.filter(pk__in=set(closed.values()), session__in=closed)
    return present.update_in_order(session="", last_seen=now)


def record_applied(applied: Sequence[tuple[int, Revision, str]], now: datetime) -> None:
    """Keep which revision each node follows now, or why it cannot follow it and stays with the one before.

    All nodes that say the same are written together, which after a push is nearly all of them.
    """
    newest = {node_pk: (revision, claims.printable(fault, FAULT_LIMIT)) for node_pk, revision, fault in applied}
    groups: dict[tuple[Revision | None, str], list[int]] = {}
    for node_pk, (revision, fault) in newest.items():
        groups.setdefault((None if fault else revision, fault), []).append(node_pk)
    for (followed, fault), pks in groups.items():
        columns: dict[str, object] = {"fault": fault, "last_seen": now}
        if followed is not None:
            columns |= {"applied_epoch": followed.epoch, "applied_number": followed.number}
        Node.objects.filter(pk__in=pks).update_in_order(**columns)


def record_notices(cluster_pk: int, said: Iterable[tuple[int, Notice, datetime]], now: datetime) -> None:
    """Keep what machines want an operator to know: drift that they healed, faults that they met.

    `said` has the primary key of each one's node, and when it was heard.
    """
    rows = [_as_transition(*one) for one in said]
    known = set(Node.objects.filter(pk__in={row.node_id for row in rows}).values_list("pk", flat=True))
    transitions.record_transitions(cluster_pk, [row for row in rows if row.node_id in known], now)


def _as_transition(node_pk: int, notice: Notice, at: datetime) -> Transition:
    kind = Transition.Kind.DRIFT if notice.kind == "drift" else Transition.Kind.FAULT
    return Transition(node_id=node_pk, kind=kind, text=claims.printable(notice.text, transitions.TEXT_LIMIT), at=at)


def mark_silent(heard: Iterable[int], now: datetime) -> list[int]:
    """Note which of the connected nodes have been heard of lately, and which have fallen silent; gives the latter.

    `heard` are primary keys of nodes whose last report is not too old. A node is silent only some time after it was
    last heard of: when Redis has lost what it knew, the next reports come before that.
    """
    pks = list(heard)
    for start in range(0, len(pks), CHUNK):
        Node.objects.filter(pk__in=pks[start : start + CHUNK]).connected().update_in_order(last_seen=now)
    # Whether a Talos machine is there, discovery says.
    agents = Node.objects.present().filter(kind=Node.Kind.LINUX)
    silent = agents.filter(away=False, last_seen__lt=now - SILENT_AFTER)
    by_cluster: dict[int, list[Node]] = {}
    for node in silent:
        by_cluster.setdefault(node.cluster_id, []).append(node)
    for cluster_pk, fallen in by_cluster.items():
        _mark_away(cluster_pk, fallen, now)
    return [node.pk for fallen in by_cluster.values() for node in fallen]


def _mark_away(cluster_pk: int, nodes: Sequence[Node], now: datetime) -> None:
    with transaction.atomic():
        _note_presence(cluster_pk, [node.pk for node in nodes], "connected", "away", now)
        # Not one that has come back between our look and this.
        same = Node.objects.filter(pk__in=[node.pk for node in nodes], last_seen__lt=now - SILENT_AFTER)
        same.update_in_order(session="", away=True)
        for node in nodes:
            after.announce(cluster_pk, "node.away", node=node.pk)


def _note_presence(cluster_pk: int, node_pks: Iterable[int], before: str, present: str, now: datetime) -> None:
    kind = Transition.Kind.NODE
    rows = [Transition(node_id=pk, kind=kind, before=before, after=present, at=now) for pk in node_pks]
    transitions.record_transitions(cluster_pk, rows, now)
