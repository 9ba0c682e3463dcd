"""All agents' sockets of a process: frames reach them through one Redis subscription a cluster (`nodes.fanout`).

Nothing depends on a message arriving (level-triggered): a socket subscribes first and reads the change log after; a
lost connection to Redis ends in reading the log again; every two seconds a glance at the clusters' newest revisions
finds sockets that missed one, so that neither workers nor Redis are needed for a change to arrive; and every socket
is compared with the rows, whole, now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Protocol

import msgspec
import redis
import structlog
from redis.asyncio.client import PubSub

from kubespan.core.messages import Revision
from nodes.agents.sockets import Note, Socket
from nodes.connections import TIMEOUT, async_redis, subscriber_redis
from nodes.fanout import (
    CLOSE_REPLACED,
    CLOSE_RESTART,
    Ask,
    Frame,
    HandOut,
    News,
    Parcel,
    Personal,
    Replaced,
    Settle,
    Watch,
    channel_name,
    dump_parcel,
    parse_parcel,
)

SILENCE_SECONDS = 15.0
"""After so much silence the subscription is probed, and given up after as much again."""

CHECK_SECONDS = 60.0
"""How often every socket is compared with the rows, whatever was or wasn't heard."""

GLANCE_SECONDS = 2.0
"""How often the newest revisions are read. A push takes less: who lacks what was there at the last look missed it."""

JOIN_SECONDS = 2.0
"""How long a new socket waits for its subscription; without one it is served all the same, and checked later."""

BACKOFF_SECONDS = (0.1, 1.0)
"""Least and most that is waited before Redis is tried again."""

CONFIRMED_TOGETHER = 256
"""Nodes whose standing is read once more by one query."""

KEPT_FRAMES = 16
"""Frames read from the log and kept for the next sockets that need the same: a thousand agents return at once."""

PROCESS_CHANNEL = "kubespan:hub"
"""Keeps the subscription in being while no cluster has sockets here."""

log = structlog.get_logger(__name__)


class Standing(msgspec.Struct, frozen=True):
    """How a node stands by its row."""

    status: str
    session: str


class Rows(Protocol):
    """What a hub asks of the database, off the event loop."""

    async def read_frame(self, cluster_pk: int, since: Revision | None) -> Frame:
        """What leads from `since` to the present."""

    async def read_current(self, cluster_pk: int) -> Revision:
        """The newest revision."""

    async def read_newest(self, cluster_pks: Iterable[int]) -> dict[int, Revision]:
        """The newest revision of each of these clusters."""

    async def read_standings(self, cluster_pk: int) -> dict[int, Standing]:
        """Each node of the cluster by its primary key."""

    async def read_standings_of(self, node_pks: Collection[int]) -> dict[int, Standing]:
        """Each of these nodes by its primary key."""


class Listener(Protocol):
    """Who else hears what arrives."""

    def settle(self, socket: Socket) -> None:
        """The node's standing changed, or it was taken for gone: open its session anew."""

    def moved(self, cluster_pk: int) -> None:
        """A cluster's members or options changed."""

    def hand_out(self, cluster_pk: int) -> None:
        """Nodes of the cluster may lack a secret."""

    def watched(self, cluster_pk: int, watch: Watch) -> None:
        """A page looks."""

    def asked(self, socket: Socket, ask: Ask) -> None:
        """Somebody wants to know something of the node."""

    def resubscribed(self) -> None:
        """There is a connection to Redis again; it may have been emptied."""


class _Cluster:
    """The sockets of one cluster in this process, and frames read for them."""

    def __init__(self) -> None:
        self.sockets: dict[int, Socket] = {}
        self.subscribed = asyncio.Event()
        self.frames: OrderedDict[Revision | None, asyncio.Task[Note]] = OrderedDict()


class Hub:
    """All agents' sockets of this process."""

    def __init__(self, rows: Rows, listener: Listener) -> None:
        self._rows = rows
        self._listener = listener
        self._clusters: dict[int, _Cluster] = {}
        self._redis = async_redis()
        self._pubsub: PubSub | None = None
        self._lock = asyncio.Lock()
        self._unconfirmed: list[Socket] = []
        self._confirming = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.connected = asyncio.Event()

    def start(self) -> None:
        """Begin to listen and to check."""
        self._spawn(self._listen())
        self._spawn(self._check_always())
        self._spawn(self._glance_always())

    def dismiss(self) -> None:
        """Close all sockets, so that their agents come back to another process."""
        for socket in self.sockets():
            socket.close(CLOSE_RESTART)

    async def stop(self) -> None:
        """Hear nothing any more, and let go of Redis."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def sockets(self) -> list[Socket]:
        """Every socket here."""
        return [socket for cluster in self._clusters.values() for socket in cluster.sockets.values()]

    def serves(self, cluster_pk: int) -> bool:
        """Whether a node of the cluster is here."""
        return cluster_pk in self._clusters

    async def join(self, socket: Socket) -> None:
        """Take a socket in; once this returns, it misses nothing that is published, unless Redis is slow or away.

        An older connection of the same node is closed, here and in every other process.
        """
        cluster = self._clusters.get(socket.cluster)
        if cluster is None:
            cluster = self._clusters[socket.cluster] = _Cluster()
            self._spawn(self._subscribe(socket.cluster))
        # Before anything is awaited: a cluster without sockets is let go of when another one leaves.
        older = cluster.sockets.get(socket.node)
        cluster.sockets[socket.node] = socket
        if older is not None and older is not socket:
            older.close(CLOSE_REPLACED)
        if self.connected.is_set():
            try:
                async with asyncio.timeout(JOIN_SECONDS):
                    await cluster.subscribed.wait()
            except TimeoutError:
                log.warning("subscription not confirmed yet", cluster=socket.cluster)

    def confirm(self, socket: Socket) -> None:
        """Compare with its row what a socket was told of its standing: what was published before it joined, it missed.

        Soon and not at once: those that join while one query is under way share the next one.
        """
        self._unconfirmed.append(socket)
        if not self._confirming:
            self._confirming = True
            self._spawn(self._confirm_all())

    async def _confirm_all(self) -> None:
        try:
            while self._unconfirmed:
                sockets = self._unconfirmed[:CONFIRMED_TOGETHER]
                del self._unconfirmed[:CONFIRMED_TOGETHER]
                await self._confirm(sockets)
        finally:
            self._confirming = False

    async def _confirm(self, sockets: Iterable[Socket]) -> None:
        told = [(socket, socket.session, socket.approved) for socket in sockets]
        try:
            standings = await self._rows.read_standings_of([socket.node for socket, _, _ in told])
        except Exception as error:  # noqa: BLE001 - any driver's error; the check comes later
            log.warning("standings not confirmed", error=str(error))
            return
        for socket, session, approved in told:
            if (socket.session, socket.approved) == (session, approved):  # else it was settled since
                self._compare(socket, standings.get(socket.node))

    async def claim(self, socket: Socket) -> None:
        """Say that this is the node's present connection, so that others close."""
        try:
            parcel = dump_parcel(Replaced(socket.node, socket.session))
            await self._redis.publish(channel_name(socket.cluster), parcel)
        except (redis.RedisError, OSError) as error:
            log.warning("older connections not told", error=str(error))

    async def leave(self, socket: Socket) -> None:
        """Let a socket go."""
        cluster = self._clusters.get(socket.cluster)
        if cluster is None or cluster.sockets.get(socket.node) is not socket:
            return
        del cluster.sockets[socket.node]
        if not cluster.sockets:
            del self._clusters[socket.cluster]
            await self._unsubscribe(socket.cluster)

    async def read(self, cluster_pk: int, since: Revision | None) -> Note:
        """What leads from `since` to the present; many sockets that ask at once are served by one reading.

        A reading is kept until anything is published, for it could then be too old to lead to what follows it.
        """
        cluster = self._clusters.get(cluster_pk)
        if cluster is None:
            return Note.of(await self._rows.read_frame(cluster_pk, since))
        task = cluster.frames.get(since)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._read(cluster_pk, since))
            # All who wait for it may be gone before it fails.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            if cluster.subscribed.is_set():
                cluster.frames[since] = task
                while len(cluster.frames) > KEPT_FRAMES:
                    cluster.frames.popitem(last=False)
        return await asyncio.shield(task)

    async def _read(self, cluster_pk: int, since: Revision | None) -> Note:
        return Note.of(await self._rows.read_frame(cluster_pk, since))

    async def check(self, cluster_pk: int) -> None:
        """Compare a cluster's sockets with the rows: revision held, standing, present session, secrets."""
        cluster = self._clusters.get(cluster_pk)
        if cluster is None:
            return
        sockets = [socket for socket in cluster.sockets.values() if socket.settled]
        before = [(socket, socket.session, socket.approved) for socket in sockets]
        cluster.frames.clear()
        try:
            current = await self._rows.read_current(cluster_pk)
            standings = await self._rows.read_standings(cluster_pk)
        except Exception as error:  # noqa: BLE001 - any driver's error; the next check is sure to come
            log.warning("sockets not checked", cluster=cluster_pk, error=str(error))
            return
        for socket, session, approved in before:
            if (socket.session, socket.approved) == (session, approved):  # else it was settled since
                self._compare(socket, standings.get(socket.node), current)
        self._listener.hand_out(cluster_pk)

    def _compare(self, socket: Socket, standing: Standing | None, current: Revision | None = None) -> None:
        if standing is None or not standing.session or (standing.status == "approved") != socket.approved:
            self._listener.settle(socket)
        elif standing.session != socket.session:
            socket.close(CLOSE_REPLACED)
        elif current is not None and socket.approved and socket.held != current:
            socket.lost_touch()

    async def _check_always(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            for cluster_pk in list(self._clusters):
                await self.check(cluster_pk)

    async def glance(self, before: Mapping[int, Revision]) -> Mapping[int, Revision]:
        """Have sockets that lack what was the newest revision `before` read the log; gives the present newest ones.

        What is newer is still on its way to them. While the database is away, there is nothing to compare with.
        """
        if not self._clusters:
            return {}
        try:
            newest = await self._rows.read_newest(list(self._clusters))
        except Exception as error:  # noqa: BLE001 - any driver's error; the next look is sure to come
            log.warning("newest revisions not read", error=str(error))
            return before
        for cluster_pk, revision in before.items():
            if (cluster := self._clusters.get(cluster_pk)) is not None:
                self._find_late(cluster, revision)
        return newest

    def _find_late(self, cluster: _Cluster, revision: Revision) -> None:
        late = [
            socket
            for socket in cluster.sockets.values()
            if socket.settled and socket.approved and socket.held is not None and socket.held < revision
        ]
        if late:
            cluster.frames.clear()  # they were read before, and lead no further
        for socket in late:
            socket.lost_touch()

    async def _glance_always(self) -> None:
        newest: Mapping[int, Revision] = {}
        while True:
            await asyncio.sleep(GLANCE_SECONDS)
            newest = await self.glance(newest)

    # Redis.

    async def _listen(self) -> None:
        low, high = BACKOFF_SECONDS
        delay = low
        while True:
            try:
                await self._subscribe_all()
                self._listener.resubscribed()
                delay = low
                await self._receive_all()
            except (redis.RedisError, OSError) as error:
                log.warning("subscription lost", error=str(error))
            except Exception:
                # Whatever it was, a process that hears nothing for ever would be worse.
                log.exception("subscription failed")
            finally:
                await self._let_go()
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            delay = min(high, delay * 2)

    async def _subscribe_all(self) -> None:
        client = subscriber_redis()
        pubsub = client.pubsub()
        try:
            # A server that takes connections and says nothing is away, too; new clusters wait for this lock.
            async with self._lock, asyncio.timeout(TIMEOUT):
                await pubsub.subscribe(PROCESS_CHANNEL, *map(channel_name, self._clusters))
                self._pubsub = pubsub
        except BaseException:
            await pubsub.aclose()
            await client.aclose()
            raise
        self._client = client
        self.connected.set()

    async def _let_go(self) -> None:
        self.connected.clear()
        for cluster in self._clusters.values():
            cluster.subscribed.clear()
            cluster.frames.clear()
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            for connection in (pubsub, self._client):
                with contextlib.suppress(redis.RedisError, OSError):
                    await connection.aclose()

    async def _receive_all(self) -> None:
        pubsub = self._pubsub
        assert pubsub is not None  # noqa: S101 - for the type checker: _subscribe_all set it
        probed = False
        while True:
            message = await pubsub.get_message(timeout=SILENCE_SECONDS)
            if message is not None:
                probed = False
                self._receive(message)
            elif probed:
                raise redis.ConnectionError(f"nothing heard for {2 * SILENCE_SECONDS:.0f} s")
            else:
                probed = True
                await pubsub.ping()

    def _receive(self, message: dict[str, object]) -> None:
        name = message["channel"]
        prefix, _, number = (name.decode() if isinstance(name, bytes) else str(name)).rpartition(":")
        if f"{prefix}:" != channel_name(0)[:-1] or (cluster := self._clusters.get(int(number))) is None:
            return
        if message["type"] == "subscribe":
            # From here on nothing is missed; what was before is in the rows.
            cluster.subscribed.set()
            cluster.frames.clear()
            if cluster.sockets:
                self._spawn(self.check(int(number)))
        elif message["type"] == "message":
            try:
                parcel = parse_parcel(message["data"])  # type: ignore[arg-type]
            except msgspec.DecodeError:
                log.exception("parcel not understood", cluster=number)
                return
            self._distribute(int(number), cluster, parcel)

    def _distribute(self, cluster_pk: int, cluster: _Cluster, parcel: Parcel) -> None:
        match parcel:
            case News():
                cluster.frames.clear()
                note = Note(parcel.since, parcel.revision, parcel.frame.decode())
                for socket in cluster.sockets.values():
                    socket.put(note)
                self._listener.moved(cluster_pk)
            case HandOut():
                self._listener.hand_out(cluster_pk)
            case Watch():
                self._listener.watched(cluster_pk, parcel)
            case _ if (addressee := cluster.sockets.get(parcel.node)) is not None:
                self._deliver(addressee, parcel)

    def _deliver(self, socket: Socket, parcel: Personal | Settle | Replaced | Ask) -> None:
        match parcel:
            case Personal(frame=frame, close=0):
                socket.say(frame.decode())
            case Personal(frame=frame, close=code):
                socket.close(code, frame.decode())
            case Settle():
                self._listener.settle(socket)
            case Ask():
                self._listener.asked(socket, parcel)
            case Replaced(session=session) if session != socket.session:
                socket.close(CLOSE_REPLACED)

    async def _subscribe(self, cluster_pk: int) -> None:
        async with self._lock:
            if self._pubsub is not None and cluster_pk in self._clusters:
                await self._command(self._pubsub.subscribe, cluster_pk)

    async def _unsubscribe(self, cluster_pk: int) -> None:
        async with self._lock:
            # Somebody may have joined while we waited for the lock.
            if self._pubsub is not None and cluster_pk not in self._clusters:
                await self._command(self._pubsub.unsubscribe, cluster_pk)

    async def _command(self, command: Callable[[str], Awaitable[object]], cluster_pk: int) -> None:
        try:
            await command(channel_name(cluster_pk))
        except (redis.RedisError, OSError) as error:
            # The listener meets the same error, connects again and subscribes to everything.
            log.warning("subscription not changed", cluster=cluster_pk, error=str(error))

    def _spawn(self, coroutine: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
