"""Browsers' sockets: a snapshot, then numbered deltas, at most four a second and only of what changed.

A consumer keeps what the page was last sent and what it should show. Announcements say that rows changed, and have them
read again; what agents report comes as it is flushed. Both only say when to look: the difference is found by comparing,
and every RENEW_SECONDS everything is read anew, so a lost announcement costs seconds. The shapes are `nodes.pages`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any, Generic, TypeVar

import msgspec
import redis
import structlog
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import Error as DatabaseError
from django.utils import timezone

from nodes import live, pairs
from nodes.announce import group
from nodes.fanout import Watch, publish_watch
from nodes.models import Cluster, Node, Rollout, RolloutStep, Token, Tombstone
from nodes.pages import (
    FULL_LINKS,
    ClusterDelta,
    ClusterSnapshot,
    Enrolled,
    EnrolmentDelta,
    EnrolmentSnapshot,
    Flushed,
    Link,
    LinkCounts,
    NodeDelta,
    NodeRow,
    NodeSnapshot,
    OverviewDelta,
    OverviewSnapshot,
    PeerRow,
    Sight,
)

DELTA_SECONDS = 0.25
"""No page is told more often than this."""

OVERVIEW_SECONDS = 1.0
"""Nor one that fetches itself anew each time."""

PAIR_SECONDS = 2.0
"""Nor the page of one link, whose figures change with each report."""

RENEW_SECONDS = 10.0
"""How often a page's rows are read anew whatever was announced, and its watch on agents renewed."""

PACE_SECONDS = 1.0
"""How often nodes report while a page shows them."""

LEASE_SECONDS = 60.0
"""How long they do after the page was last heard of: several renewals may be lost."""

NOT_UP_LIMIT = 2000
"""Links that are not up which a large cluster's page gets; beyond, the counts say it."""

IN_VIEW_LIMIT = 50
"""Nodes of a large cluster that a page may ask to see at full pace."""

CLOSE_SIGNED_OUT = 4401
CLOSE_FORBIDDEN = 4403
CLOSE_GONE = 4404

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_flushed = msgspec.msgpack.Decoder(Flushed)


class Sent(Generic[K, V]):
    """Keyed values: as the page has them, and as it should."""

    def __init__(self) -> None:
        self.now: dict[K, V] = {}
        self._before: dict[K, V] = {}

    def news(self) -> tuple[list[V], list[K]]:
        """Values that changed and keys that went since the last call."""
        if self.now == self._before:
            return [], []
        changed = [value for key, value in self.now.items() if self._before.get(key) != value]
        gone = [key for key in self._before if key not in self.now]
        self._before = dict(self.now)
        return changed, gone


class MeshConsumer(AsyncWebsocketConsumer):
    """What all pages' sockets share; a subclass reads its rows, takes reports, and says what changed."""

    pause = DELTA_SECONDS

    async def connect(self) -> None:
        """Let a signed-in member of staff in, subscribe first, and read after."""
        await self.accept()
        self._tasks: list[asyncio.Task[None]] = []
        self._clusters: set[int | None] = set()
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            await self.close(CLOSE_SIGNED_OUT)
            return
        if not (user.is_active and user.is_staff):
            await self.close(CLOSE_FORBIDDEN)
            return
        try:
            clusters = await database_sync_to_async(self.find)()
        except Gone:
            await self.close(CLOSE_GONE)
            return
        self.number = 0
        self._watch: Watch | None = None
        self._reading: list[Flushed] | None = None
        self._stale = asyncio.Event()
        self._changed = asyncio.Event()
        await self._hear(clusters)
        self._tasks = [asyncio.create_task(self._serve()), asyncio.create_task(self._renew())]

    async def disconnect(self, code: int) -> None:
        """Let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hear(set())

    async def _hear(self, clusters: set[int | None]) -> None:
        """Hear of these clusters, and of no others any more; none stands for what concerns all of them."""
        for pk in clusters - self._clusters:
            await self.channel_layer.group_add(group(pk), self.channel_name)
        for pk in self._clusters - clusters:
            await self.channel_layer.group_discard(group(pk), self.channel_name)
        self._clusters = clusters

    async def _serve(self) -> None:
        try:
            await self._read()
            await self._say(self.snapshot())
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._stale.is_set():
                    self._stale.clear()
                    await self._read()
                self.number += 1
                delta = self.delta()
                if delta is None:
                    self.number -= 1
                else:
                    await self._say(delta)
                await asyncio.sleep(self.pause)
        except Gone:
            await self.close(CLOSE_GONE)
        except (DatabaseError, redis.RedisError) as error:
            # The page connects again, and says meanwhile since when it is stale.
            log.warning("a page is not served", page=self.scope["path"], error=str(error))
            await self.close(1013)

    async def _read(self) -> None:
        """Read anew; what agents report meanwhile may be newer than what was read, and is taken after it."""
        self._reading = []
        await database_sync_to_async(self.read)()
        reading, self._reading = self._reading, None
        for flushed in reading:
            self.take(flushed)
        if self.watch() != self._watch:
            await self._publish_watch()

    async def _publish_watch(self) -> None:
        watch = self._watch = self.watch()
        for pk in self._clusters:
            if pk is not None:
                await asyncio.to_thread(publish_watch, pk, watch)

    async def _say(self, message: msgspec.Struct) -> None:
        await self.send(text_data=msgspec.json.encode(message).decode())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not await database_sync_to_async(self._still_in)():
                await self.close(CLOSE_SIGNED_OUT)
                return
            await self._publish_watch()
            self.look_again()

    def _still_in(self) -> bool:
        """Whether who opened the page is still signed in, and may still see it."""
        session = self.scope.get("session")
        if session is not None and session.session_key and not session.exists(session.session_key):
            return False
        user = self.scope["user"]
        return type(user)._default_manager.filter(pk=user.pk, is_active=True, is_staff=True).exists()

    def look_again(self) -> None:
        """Rows changed: read them before the next delta."""
        self._stale.set()
        self._changed.set()

    # What a page is about.

    def find(self) -> set[int | None]:
        """The clusters that the page is about, as `_hear` takes them; raises Gone where there is nothing to show."""
        raise NotImplementedError

    def read(self) -> None:
        """Read rows and last reports anew."""
        raise NotImplementedError

    def snapshot(self) -> msgspec.Struct:
        """Everything."""
        raise NotImplementedError

    def delta(self) -> msgspec.Struct | None:
        """What changed since it was last asked, if anything."""
        raise NotImplementedError

    def take(self, flushed: Flushed) -> bool:
        """Take what agents reported; whether it concerns the page."""
        raise NotImplementedError

    def watch(self) -> Watch:
        """Whose links the page shows."""
        raise NotImplementedError

    # What is announced (nodes.announce), and what agents' processes tell.

    async def live_flushed(self, event: dict[str, Any]) -> None:
        """Agents reported."""
        flushed = _flushed.decode(event["data"])
        if self._reading is not None:
            self._reading.append(flushed)
        elif self.take(flushed):
            self._changed.set()

    async def node_connected(self, event: dict[str, Any]) -> None:
        """Nodes came, perhaps to a process that had none of this cluster and so never heard what is watched."""
        self._watch = None
        self.look_again()

    async def cluster_changed(self, event: dict[str, Any]) -> None:
        """Options, secret or name changed."""
        self.look_again()

    async def cluster_deleted(self, event: dict[str, Any]) -> None:
        """There is nothing left to show."""
        await self.close(CLOSE_GONE)

    node_enrolled = node_approved = node_changed = node_removed = node_away = node_applied = cluster_changed
    cluster_created = token_changed = rollout_changed = cluster_changed


class Gone(Exception):
    """What the page shows does not exist any more."""


def _one(pks: Iterable[int]) -> set[int | None]:
    found: set[int | None] = set(pks)
    if not found:
        raise Gone
    return found


def _node_rows(cluster: Cluster, summaries: dict[int, live.Summary], nodes: Iterable[Node]) -> dict[int, NodeRow]:
    return {node.pk: _node_row(cluster, node, summaries.get(node.pk)) for node in nodes}


def _node_row(cluster: Cluster, node: Node, summary: live.Summary | None) -> NodeRow:
    approved = node.status == Node.Status.APPROVED
    seen = node.last_seen.timestamp() if node.last_seen else None
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
        links=LinkCounts(summary.up, summary.unknown, summary.down) if summary else LinkCounts(),
        found=node.obstacles_at.timestamp() if node.obstacles_at else None,
    )


def _report(row: NodeRow, summary: live.Summary) -> NodeRow:
    """A row with what its node just reported."""
    return msgspec.structs.replace(
        row,
        connected=True,
        last_seen=max(filter(None, (row.last_seen, summary.at)), default=None),
        links=LinkCounts(summary.up, summary.unknown, summary.down),
    )


def _link(node: int, peer: int, seen: live.Seen) -> Link:
    return Link(node, peer, seen.state, seen.endpoint, seen.handshake, seen.received, seen.sent, seen.at)  # type: ignore[arg-type]


def _sight(seen: live.Seen | None) -> Sight | None:
    return None if seen is None else Sight(*msgspec.structs.astuple(seen))


def _on_page(queryset: Any) -> Any:
    """Only the columns that pages show; claims and endpoints stay where they are."""
    return queryset.only(
        "pk", "cluster", "index", "name", "status", "address", "applied_epoch", "applied_number", "fault", "last_seen",
        "obstacles_at", "kind", "left_at",
    )  # fmt: skip


class ClusterConsumer(MeshConsumer):
    """A cluster's page: its nodes, and its links or those that are not up."""

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._nodes: Sent[int, NodeRow] = Sent()
        self._links: Sent[tuple[int, int], Link] = Sent()
        self._told_revision = self._revision = 0
        self._view: tuple[int, ...] = ()
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        return _one(Cluster.objects.filter(uuid=self._uuid).values_list("pk", flat=True))

    def read(self) -> None:
        """Two queries and two calls to Redis; of a large cluster only the records of nodes with links not up."""
        cluster = Cluster.objects.filter(uuid=self._uuid).first()
        if cluster is None:
            raise Gone
        nodes = list(_on_page(Node.objects.present().filter(cluster=cluster)))
        summaries = live.read_summaries_of(node.pk for node in nodes)
        self._revision = cluster.revision
        self._nodes.now = _node_rows(cluster, summaries, nodes)
        indexes = {node.index: node.pk for node in nodes if node.status == Node.Status.APPROVED}
        self._partial = len(indexes) > FULL_LINKS
        self._links.now = self._read_links(indexes, summaries)

    def _read_links(
        self, indexes: dict[int | None, int], summaries: dict[int, live.Summary]
    ) -> dict[tuple[int, int], Link]:
        pks = set(indexes.values())
        states: tuple[int, ...] = ()
        if self._partial:
            pks = {pk for pk in pks if (summary := summaries.get(pk)) and (summary.unknown or summary.down)}
            states = (live.UNKNOWN, live.DOWN)
        links = {}
        for pk, table in live.read_matrix(sorted(pks)):
            for index, seen in table.links(*states):
                peer = indexes.get(index)
                if peer is not None and peer != pk:
                    links[pk, peer] = _link(pk, peer, seen)
            if self._partial and len(links) >= NOT_UP_LIMIT:
                break
        return links

    def take(self, flushed: Flushed) -> bool:
        """Merge what is reported of nodes that the page has."""
        for pk, summary in flushed.nodes:
            row = self._nodes.now.get(pk)
            if row is not None:
                self._nodes.now[pk] = _report(row, summary)
        for pk, peer, seen in flushed.links:
            known = pk in self._nodes.now and peer in self._nodes.now
            if seen is None or not known or (self._partial and seen.state == "up"):
                self._links.now.pop((pk, peer), None)
            elif (pk, peer) in self._links.now or len(self._links.now) < NOT_UP_LIMIT or not self._partial:
                self._links.now[pk, peer] = _link(pk, peer, seen)
        return True

    def snapshot(self) -> ClusterSnapshot:
        """All of it."""
        nodes, _ = self._nodes.news()
        links, _ = self._links.news()
        self._told_revision = self._revision
        return ClusterSnapshot(self.number, time.time(), self._revision, self._partial, nodes, links)

    def delta(self) -> ClusterDelta | None:
        """What changed."""
        nodes, nodes_gone = self._nodes.news()
        links, links_gone = self._links.news()
        revision = None if self._revision == self._told_revision else self._revision
        self._told_revision = self._revision
        if not (nodes or nodes_gone or links or links_gone or revision):
            return None
        return ClusterDelta(self.number, time.time(), revision, nodes, nodes_gone, links, links_gone)

    def watch(self) -> Watch:
        """All nodes of a small cluster; of a large one those that the page says it has in view."""
        pks = self._view if len(self._nodes.now) > FULL_LINKS else tuple(self._nodes.now)
        return Watch(pks, PACE_SECONDS, LEASE_SECONDS)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """The page says which nodes it has in view: `{"type": "view", "nodes": [pk, …]}`."""
        if not self._clusters:
            return  # it was refused
        try:
            view = msgspec.json.decode(text_data or bytes_data or b"", type=View)
        except msgspec.DecodeError:
            await self.close(1008)
            return
        self._view = tuple(view.nodes[:IN_VIEW_LIMIT])
        await self._publish_watch()


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="view"):
    """What a page has in view."""

    nodes: list[int]


class NodeConsumer(MeshConsumer):
    """A node's page: how it sees its peers, and they it."""

    def find(self) -> set[int | None]:
        """The cluster of the node of the address."""
        self._pk = self.scope["url_route"]["kwargs"]["node"]
        self._rows: Sent[int, NodeRow] = Sent()
        self._peers: Sent[int, PeerRow] = Sent()
        self._told_revision = self._revision = 0
        return _one(Node.objects.filter(pk=self._pk).values_list("cluster_id", flat=True))

    def read(self) -> None:
        """Two queries and three calls to Redis, whatever the number of peers."""
        node = _on_page(Node.objects.select_related("cluster")).defer(None).filter(pk=self._pk).first()
        if node is None:
            raise Gone
        peers = list(Node.objects.approved().filter(cluster=node.cluster_id).exclude(pk=node.pk).only("index", "name"))
        self._revision = node.cluster.revision
        self._rows.now = _node_rows(node.cluster, live.read_summaries_of([node.pk]), [node])
        ours, theirs = live.read_links(node), live.read_links_to(node, [peer.pk for peer in peers])
        self._peers.now = {
            peer.pk: PeerRow(peer.pk, peer.name, _sight(ours.get(peer.index or 0)), _sight(theirs.get(peer.pk)))
            for peer in peers
        }
        self._count_from_peers()

    def _count_from_peers(self) -> None:
        """A Talos machine reports nothing here: its links are as its peers see them."""
        row = self._rows.now.get(self._pk)
        if row is not None and row.talos:
            seen = Counter(peer.theirs.state for peer in self._peers.now.values() if peer.theirs)
            links = LinkCounts(seen["up"], seen["unknown"], seen["down"])
            self._rows.now[self._pk] = msgspec.structs.replace(row, links=links)

    def take(self, flushed: Flushed) -> bool:
        """Take what the node says of its peers, and they of it."""
        concerned = False
        for pk, summary in flushed.nodes:
            if pk == self._pk and pk in self._rows.now:
                self._rows.now[pk] = _report(self._rows.now[pk], summary)
                concerned = True
        for pk, peer, seen in flushed.links:
            other, change = (peer, "ours") if pk == self._pk else (pk, "theirs")
            row = self._peers.now.get(other)
            if row is not None and self._pk in (pk, peer):
                self._peers.now[other] = msgspec.structs.replace(row, **{change: _sight(seen)})
                concerned = True
        self._count_from_peers()
        return concerned

    def snapshot(self) -> NodeSnapshot:
        """All of it."""
        (node,), _ = self._rows.news()
        peers, _ = self._peers.news()
        self._told_revision = self._revision
        return NodeSnapshot(self.number, time.time(), self._revision, node, peers)

    def delta(self) -> NodeDelta | None:
        """What changed."""
        rows, _ = self._rows.news()
        peers, gone = self._peers.news()
        revision = None if self._revision == self._told_revision else self._revision
        self._told_revision = self._revision
        if not (rows or peers or gone or revision):
            return None
        return NodeDelta(self.number, time.time(), revision, rows[0] if rows else None, peers, gone)

    def watch(self) -> Watch:
        """The node, and its peers where they are few: both ends of every link on the page are then as new."""
        return Watch((self._pk, *list(self._peers.now)[:FULL_LINKS]), PACE_SECONDS, LEASE_SECONDS)


class EnrolmentConsumer(MeshConsumer):
    """The enrolment dialog: who came by this token, and how far each is."""

    def find(self) -> set[int | None]:
        """The cluster of the token of the address."""
        self._uuid = self.scope["url_route"]["kwargs"]["token"]
        self._enrolled: Sent[int, Enrolled] = Sent()
        self._use: Sent[str, tuple[int, str | None]] = Sent()
        return _one(Token.objects.filter(uuid=self._uuid).values_list("cluster_id", flat=True))

    def read(self) -> None:
        """Three queries, and two calls to Redis."""
        token = Token.objects.filter(uuid=self._uuid).first()
        if token is None:
            raise Gone
        self._uses = token.uses
        self._use.now = {"use": (token.used, token.worthless(timezone.now()))}
        nodes = list(token.nodes.order_by("pk"))
        summaries = live.read_summaries_of(node.pk for node in nodes)
        tables = dict(live.read_matrix(summaries))
        peers = Node.objects.approved().filter(cluster=token.cluster_id).count()
        self._enrolled.now = {
            node.pk: _enrolled(node, summaries.get(node.pk), tables.get(node.pk), peers) for node in nodes
        }

    def take(self, flushed: Flushed) -> bool:
        """A report of one that is not up yet may say that it is."""
        waiting = {pk for pk, enrolled in self._enrolled.now.items() if enrolled.stage != "up"}
        if any(pk in waiting for pk, _ in flushed.nodes):
            self.look_again()
        return False

    def snapshot(self) -> EnrolmentSnapshot:
        """All of it."""
        nodes, _ = self._enrolled.news()
        self._use.news()
        used, worthless = self._use.now["use"]
        return EnrolmentSnapshot(self.number, time.time(), nodes, used, self._uses, worthless)  # type: ignore[arg-type]

    def delta(self) -> EnrolmentDelta | None:
        """What changed."""
        nodes, _ = self._enrolled.news()
        use, _ = self._use.news()
        if not (nodes or use):
            return None
        used, worthless = self._use.now["use"]
        return EnrolmentDelta(self.number, time.time(), nodes, used if use else None, (worthless or "") if use else "")

    def watch(self) -> Watch:
        """Whoever comes reports fast, so that the first handshake is seen when it happens."""
        return Watch(tuple(self._enrolled.now), PACE_SECONDS, LEASE_SECONDS)


def _enrolled(node: Node, summary: live.Summary | None, table: live.Table | None, members: int) -> Enrolled:
    handshakes = [seen.handshake for _, seen in table.links(live.UP) if seen.handshake] if table else []
    approved = node.status == Node.Status.APPROVED
    if node.status != Node.Status.APPROVED:
        stage = node.status
    elif summary is None:
        stage = "enrolled"
    else:
        stage = "up" if handshakes else "connected"
    first = max(0.0, min(handshakes) - node.enrolled.timestamp()) if handshakes else None
    return Enrolled(node.pk, node.name, stage, first, max(0, members - 1) if approved else members)  # type: ignore[arg-type]


class FollowingConsumer(MeshConsumer):
    """Pages that the server draws: told that something is different, whereupon they fetch themselves anew."""

    pause = OVERVIEW_SECONDS

    def differs(self) -> bool:
        """Whether anything that the page shows changed since it was last asked."""
        raise NotImplementedError

    def snapshot(self) -> OverviewSnapshot:
        """Begin: the page may be older than this."""
        self.differs()
        return OverviewSnapshot(self.number, time.time())

    def delta(self) -> OverviewDelta | None:
        """Whether anything is different."""
        return OverviewDelta(self.number, time.time()) if self.differs() else None

    def watch(self) -> Watch:
        """Nobody reports faster for it, but what is reported is told."""
        return Watch((), PACE_SECONDS, LEASE_SECONDS)


class OverviewConsumer(FollowingConsumer):
    """Pages about all clusters."""

    def find(self) -> set[int | None]:
        """Every cluster; there need not be one."""
        self._clusters_seen: Sent[int, tuple[Any, ...]] = Sent()
        self._nodes: Sent[int, tuple[Any, ...]] = Sent()
        self._links: Sent[int, tuple[int | None, ...]] = Sent()
        return {None, *Cluster.objects.values_list("pk", flat=True)}

    async def _read(self) -> None:
        await super()._read()
        clusters: set[int | None] = {None, *self._clusters_seen.now}
        if clusters != self._clusters:
            await self._hear(clusters)
            await self._publish_watch()

    def read(self) -> None:
        """Two queries and a call to Redis: what the lists and the sentences of the overview are made of."""
        clusters = Cluster.objects.values_list("pk", "name", "epoch", "revision", "options")
        self._clusters_seen.now = {row[0]: row for row in clusters}
        nodes = Node.objects.present().values_list(
            "pk", "name", "status", "session", "fault", "applied_epoch", "applied_number", "claimed_networks",
            "networks", "clock_skew", "agent_version", "obstacles_at",
        )  # fmt: skip
        self._nodes.now = {row[0]: row for row in nodes}
        summaries = live.read_summaries_of(self._nodes.now)
        self._links.now = {pk: _standing(summary) for pk, summary in summaries.items()}

    def take(self, flushed: Flushed) -> bool:
        """Only a link that came up or went down matters here, not how old its handshake is."""
        known = [(pk, summary) for pk, summary in flushed.nodes if pk in self._nodes.now]
        self._links.now.update((pk, _standing(summary)) for pk, summary in known)
        return bool(known)

    def differs(self) -> bool:
        """A cluster, a node's standing, or its links."""
        news = [sent.news() for sent in (self._clusters_seen, self._nodes, self._links)]
        return any(changed or gone for changed, gone in news)

    async def cluster_deleted(self, event: dict[str, Any]) -> None:
        """The others are still there."""
        self.look_again()


class PairConsumer(FollowingConsumer):
    """The page of one link: how both ends see it, and how they stand."""

    pause = PAIR_SECONDS

    def find(self) -> set[int | None]:
        """The cluster that both nodes of the address are of."""
        route = self.scope["url_route"]["kwargs"]
        self._pks = route["here"], route["there"]
        self._ends: Sent[int, tuple[Any, ...]] = Sent()
        self._sights: Sent[tuple[int, int], live.Seen] = Sent()
        return _one(Node.objects.filter(pk__in=self._pks).values_list("cluster_id", flat=True))

    def read(self) -> None:
        """Two queries and two calls to Redis."""
        nodes = list(Node.objects.filter(pk__in=self._pks).select_related("cluster").prefetch_related("candidates"))
        if {node.pk for node in nodes} != set(self._pks):
            raise Gone
        self._ends.now = {
            node.pk: (
                node.name, node.status, node.session, node.left_at, node.fault, node.behind(node.cluster),
                node.clock_skew, node.obstacles_at, node.cluster.revision, list(node.candidates.all()),
            )
            for node in nodes
        }  # fmt: skip
        here, there = nodes
        sights = zip(((here.pk, there.pk), (there.pk, here.pk)), pairs.read_link(here, there), strict=True)
        self._sights.now = {key: seen for key, seen in sights if seen is not None}

    def take(self, flushed: Flushed) -> bool:
        """Only what the two say of each other."""
        mine = [(pk, peer, seen) for pk, peer, seen in flushed.links if {pk, peer} == set(self._pks)]
        for pk, peer, seen in mine:
            if seen is None:
                self._sights.now.pop((pk, peer), None)
            else:
                self._sights.now[pk, peer] = seen
        return bool(mine)

    def differs(self) -> bool:
        """An end's standing, or how either sees the other."""
        news = [one.news() for one in (self._ends, self._sights)]  # each is asked, whatever the other says
        return any(changed or gone for changed, gone in news)

    def watch(self) -> Watch:
        """Both report faster while somebody looks."""
        return Watch(self._pks, PACE_SECONDS, LEASE_SECONDS)


class RemovalConsumer(FollowingConsumer):
    """A removed node's page: who has yet to drop it."""

    def find(self) -> set[int | None]:
        """The cluster of the removed node."""
        self._members: Sent[int, tuple[Any, ...]] = Sent()
        tombstone = Tombstone.objects.filter(removed_node=self.scope["url_route"]["kwargs"]["node"]).first()
        if tombstone is None:
            raise Gone
        self._tombstone = tombstone
        return _one([tombstone.cluster_id])

    def read(self) -> None:
        """One query: what the list of those that are not yet cut off shows."""
        rows = Node.objects.not_cut_off(self._tombstone).values_list(
            "pk", "name", "session", "fault", "applied_epoch", "applied_number"
        )
        self._members.now = {row[0]: row for row in rows}

    def take(self, flushed: Flushed) -> bool:
        """What its links are like is not shown."""
        return False

    def differs(self) -> bool:
        """A member that dropped it, came or went."""
        return any(self._members.news())


class AgentsConsumer(FollowingConsumer):
    """The page on a cluster's agents: which versions run, and how far an upgrade is."""

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._steps: Sent[int, tuple[Any, ...]] = Sent()
        self._rollouts: Sent[int, tuple[Any, ...]] = Sent()
        self._agents: Sent[int, tuple[Any, ...]] = Sent()
        found = _one(
            Cluster.objects.filter(uuid=self.scope["url_route"]["kwargs"]["cluster"]).values_list("pk", flat=True)
        )
        (self._cluster,) = found
        return found

    def read(self) -> None:
        """Three queries: what the page shows of members, of the last upgrade, and of its steps."""
        members = Node.objects.approved().filter(cluster=self._cluster).values_list("pk", "agent_version", "session")
        self._agents.now = {row[0]: (row[1], bool(row[2])) for row in members}
        rollouts = Rollout.objects.filter(cluster=self._cluster)[:1].values_list("pk", "state", "reason")
        self._rollouts.now = {row[0]: row for row in rollouts}
        steps = RolloutStep.objects.filter(rollout__in=list(self._rollouts.now)).values_list("pk", "state", "reason")
        self._steps.now = {row[0]: row for row in steps}

    def take(self, flushed: Flushed) -> bool:
        """What links are like is not shown."""
        return False

    def differs(self) -> bool:
        """Whether anything of it is different."""
        # Each is asked, whatever the others say.
        news = [one.news() for one in (self._agents, self._rollouts, self._steps)]
        return any(changed or gone for changed, gone in news)


class RotationConsumer(FollowingConsumer):
    """The page of a cluster's rotation: who has the next secret, and who is away."""

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        self._members: Sent[int, tuple[Any, ...]] = Sent()
        self._secrets: Sent[int, tuple[Any, ...]] = Sent()
        return _one(Cluster.objects.filter(uuid=self._uuid).values_list("pk", flat=True))

    def read(self) -> None:
        """Two queries: what the page is drawn of."""
        clusters = Cluster.objects.filter(uuid=self._uuid).values_list(
            "pk", "epoch", "secret_generation", "rotation__generation", "rotation__automatic"
        )
        self._secrets.now = {row[0]: row for row in clusters}
        if not self._secrets.now:
            raise Gone
        rows = Node.objects.approved().filter(cluster__in=self._secrets.now).order_by()
        members = rows.values_list(
            "pk", "name", "session", "protocol", "secret_kept", "applied_epoch", "applied_number"
        )
        self._members.now = {row[0]: row for row in members}

    def take(self, flushed: Flushed) -> bool:
        """What links are like is not shown."""
        return False

    def differs(self) -> bool:
        """The rotation, or how far a member is."""
        news = [one.news() for one in (self._members, self._secrets)]  # each is asked, whatever the other says
        return any(changed or gone for changed, gone in news)


def _standing(summary: live.Summary) -> tuple[int | None, ...]:
    return summary.up, summary.unknown, summary.down, summary.worst
