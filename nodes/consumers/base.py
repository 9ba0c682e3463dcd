"""What all pages' sockets share: who is let in, when rows are read, and when a page is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import msgspec
import redis
import structlog
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth.models import User
from django.db import Error as DatabaseError

from nodes.access import Forbidden, require
from nodes.announce import group
from nodes.fanout import CLOSE_LATER, Watch, publish_watch
from nodes.models import Cluster
from nodes.pages import Flushed, OverviewDelta, OverviewSnapshot
from nodes.services import people

DELTA_SECONDS = 0.25
"""No page is told more often than this."""

OVERVIEW_SECONDS = 1.0
"""Nor one that fetches itself anew each time."""

RENEW_SECONDS = 10.0
"""How often a page's rows are read anew whatever was announced, and its watch on agents renewed."""

PACE_SECONDS = 1.0
"""How often nodes report while a page shows them."""

LEASE_SECONDS = 60.0
"""How long they do after the page was last heard of: several renewals may be lost."""

CLOSE_SIGNED_OUT = 4401
CLOSE_FORBIDDEN = 4403
CLOSE_GONE = 4404
CLOSE_POLICY = 1008

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

LAYER_AWAY = (redis.RedisError, OSError, RuntimeError)
"""What the channel layer raises without Redis; RuntimeError, where two of its users connect anew at the same time."""

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
    view_form: type[msgspec.Struct] | None = None
    """What a page says of what it has in view; none where it does not."""
    permission = "manage_console"
    """What the page needs (nodes.access.ACTIONS), in each cluster that it is about, or with all of them at all."""

    _let_in = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Turn away without a fault where the layer is away: it is asked for a channel before anybody is let in."""
        try:
            await super().__call__(scope, receive, send)
        except LAYER_AWAY as error:
            if self._let_in:
                raise
            log.warning("a page is not served", page=scope["path"], error=str(error))
            await send({"type": "websocket.close", "code": CLOSE_LATER})

    async def connect(self) -> None:
        """Let in whoever is signed in and has the role, subscribe first, and read after."""
        self._let_in = True
        await self.accept()
        self._tasks: list[asyncio.Task[None]] = []
        self._clusters: set[int | None] = set()
        user = self.scope.get("user")
        if user is None or not (user.is_authenticated and user.is_active):
            await self.close(CLOSE_SIGNED_OUT)
            return
        await self._guard(self._begin)

    async def _begin(self) -> None:
        clusters = await database_sync_to_async(self._find)()
        self.number = 0
        self._watch: Watch | None = None
        self._reading: list[Flushed] | None = None
        self._stale = asyncio.Event()
        self._changed = asyncio.Event()
        await self._hear(clusters)
        self._tasks = [asyncio.create_task(self._guard(work)) for work in (self._serve, self._renew)]

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part of what the socket is for; where that ends, so does the socket, and no page says Live without it.

        The page connects again, and says meanwhile since when it is stale.
        """
        try:
            await work()
        except Gone:
            await self.close(CLOSE_GONE)
        except Forbidden:
            await self.close(CLOSE_FORBIDDEN)
        except (DatabaseError, redis.RedisError) as error:
            log.warning("a page is not served", page=self.scope["path"], error=str(error))
            await self.close(CLOSE_LATER)
        except Exception:
            log.exception("a page is not served", page=self.scope["path"])
            await self.close(CLOSE_LATER)

    async def disconnect(self, code: int) -> None:
        """Let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(*LAYER_AWAY):  # the layer forgets by itself who is gone
            await self._hear(set())

    async def _hear(self, clusters: set[int | None]) -> None:
        """Hear of these clusters, and of no others any more; none stands for what concerns all of them."""
        for pk in clusters - self._clusters:
            await self.channel_layer.group_add(group(pk), self.channel_name)
        for pk in self._clusters - clusters:
            await self.channel_layer.group_discard(group(pk), self.channel_name)
        self._clusters = clusters

    async def _serve(self) -> None:
        await self._read()
        await self._say(self.snapshot())
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._refresh()
            self.number += 1
            delta = self.delta()
            if delta is None:
                self.number -= 1
            else:
                await self._say(delta)
            await asyncio.sleep(self.pause)

    async def _refresh(self) -> None:
        """Read anew, before the next delta, whatever is known to be old."""
        if self._stale.is_set():
            self._stale.clear()
            await self._read()

    async def _read(self) -> None:
        """Read all of it anew."""
        await self._read_by(self.read)

    async def _read_by(self, read: Callable[[], None]) -> None:
        """Read; what agents report meanwhile may be newer than what was read, and is taken after it."""
        self._reading = []
        await database_sync_to_async(read)()
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
            if code := await database_sync_to_async(self._lost)():
                await self.close(code)
                return
            await self._publish_watch()
            self.look_again()

    def _find(self) -> set[int | None]:
        found = self.find()
        self._check(found)
        return found

    def _check(self, clusters: set[int | None]) -> None:
        """Raises Gone where one of them is not for the page's user to see, Forbidden where the role is too small."""
        if people.lacks_second_factor(self.user):
            raise Forbidden(self.permission, None)
        ours = {pk for pk in clusters if pk is not None}
        if None in clusters:
            require(self.user, self.permission)
            return
        visible = Cluster.objects.visible_to(self.user).in_bulk(ours)
        if len(visible) < len(ours):
            raise Gone
        for cluster in visible.values():
            require(self.user, self.permission, cluster)

    def _lost(self) -> int | None:
        """Why the page may be shown no longer, as the code of a close: signed out, or fewer roles than before."""
        session = self.scope.get("session")
        if session is not None and session.session_key and not session.exists(session.session_key):
            return CLOSE_SIGNED_OUT
        user = User.objects.filter(pk=self.user.pk, is_active=True).first()
        if user is None:
            return CLOSE_SIGNED_OUT
        self.scope["user"] = user  # with the roles that are given now
        try:
            self._check(self._clusters)
        except Gone:
            return CLOSE_GONE
        except Forbidden:
            return CLOSE_FORBIDDEN
        return None

    @property
    def user(self) -> User:
        """Who opened the page."""
        return self.scope["user"]

    def look_again(self) -> None:
        """Rows changed: read them before the next delta."""
        self._stale.set()
        self._changed.set()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take what the page says it has in view; nonsense closes it."""
        if self.view_form is None or not self._clusters:
            return  # none is asked for, or it was refused
        try:
            await self.look_at(msgspec.json.decode(text_data or bytes_data or b"", type=self.view_form))
        except (msgspec.DecodeError, ValueError):
            await self.close(CLOSE_POLICY)

    async def look_at(self, view: Any) -> None:
        """Show that; raises ValueError where there is no such view."""
        raise NotImplementedError

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

    async def history_noted(self, event: dict[str, Any]) -> None:
        """A minute was added to history: of matter where it is shown."""

    node_enrolled = node_approved = node_changed = node_removed = node_away = node_applied = cluster_changed
    cluster_created = token_changed = rollout_changed = alerts_changed = history_followed = cluster_changed


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="view"):
    """The nodes that a page has in view."""

    nodes: list[int]


class Gone(Exception):
    """What the page shows does not exist any more."""


def those(pks: Iterable[int]) -> set[int | None]:
    """The clusters that a page is about; raises Gone where there are none."""
    found: set[int | None] = set(pks)
    if not found:
        raise Gone
    return found


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
