"""Frames from whoever commits a change to every socket of its cluster, through one Redis subscription a process.

What travels on a cluster's channel is one of five small things, msgpack:

- `News`: a frame for all approved nodes, already encoded, with the revisions that it leads from and to;
- `Personal`: a frame for one node;
- `Settle`: a node's standing changed (approved), and it is welcomed anew;
- `Replaced`: a node has a newer connection: older ones close;
- `Watch`: somebody looks at these nodes' links: they report faster for a while.

Nothing depends on a message arriving (level-triggered): a socket subscribes first and reads the change log after; it
knows the revision that it holds, so a gap, an overflow or a lost connection to Redis ends in reading the log again; and
every socket is compared with the rows now and then. Each socket has its own bounded queue and writer, so one that
stands still stops nobody.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import redis
import structlog
from redis.asyncio.client import PubSub

from kubespan.core.messages import FromConsole, Removed, Revision, dump
from nodes.connections import async_redis, subscriber_redis, sync_redis

QUEUE_LIMIT = 64
"""Frames that wait for one socket; with more it has lost touch and gets the difference from the change log."""

SEND_SECONDS = 20.0
"""A socket that takes nothing for so long is closed."""

SILENCE_SECONDS = 15.0
"""After so much silence the subscription is probed, and given up after as much again."""

CHECK_SECONDS = 60.0
"""How often every socket is compared with the rows, whatever was or wasn't heard."""

JOIN_SECONDS = 2.0
"""How long a new socket waits for its subscription; without one it is served all the same, and checked later."""

BACKOFF_SECONDS = (0.1, 5.0)
"""Least and most that is waited before Redis is tried again."""

RETRY_SECONDS = (2.0, 30.0)
"""Least and most that a socket waits before it reads the change log again, after that could not be read."""

KEPT_FRAMES = 16
"""Frames read from the log and kept for the next sockets that need the same: a thousand agents return at once."""

PROCESS_CHANNEL = "kubespan:hub"
"""Keeps the subscription in being while no cluster has sockets here."""

CLOSE_POLICY = 1008
CLOSE_TOO_BIG = 1009
CLOSE_RESTART = 1012
CLOSE_LATER = 1013
CLOSE_REMOVED = 4403
CLOSE_REPLACED = 4409

log = structlog.get_logger(__name__)


class News(msgspec.Struct, frozen=True, array_like=True, tag="news"):
    """A frame for all approved nodes of a cluster."""

    since: Revision | None
    revision: Revision
    frame: bytes


class Personal(msgspec.Struct, frozen=True, array_like=True, tag="personal"):
    """A frame for one node; `close` is the code that its connection is then closed with, 0 for none."""

    node: int
    frame: bytes
    close: int = 0


class Settle(msgspec.Struct, frozen=True, array_like=True, tag="settle"):
    """A node's standing changed."""

    node: int


class Replaced(msgspec.Struct, frozen=True, array_like=True, tag="replaced"):
    """A node's present session is this one; any other is over."""

    node: int
    session: str


class Watch(msgspec.Struct, frozen=True, array_like=True, tag="watch"):
    """A page shows the links of these nodes, and wants to hear of the cluster."""

    nodes: tuple[int, ...]
    seconds: float
    lease: float


Parcel = News | Personal | Settle | Replaced | Watch

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Parcel] = msgspec.msgpack.Decoder(Parcel)


class Frame(Protocol):
    """What the change log gives: an encoded Snapshot or Delta, and between which revisions it lies."""

    @property
    def bytes(self) -> builtins.bytes: ...

    @property
    def since(self) -> Revision | None: ...

    @property
    def revision(self) -> Revision: ...


def channel_name(cluster_pk: int) -> str:
    """The Redis channel of a cluster."""
    return f"kubespan:cluster:{cluster_pk}"


# Synchronous senders, for services and tasks.


def publish_frame(cluster_pk: int, frame: Frame) -> None:
    """Send a frame to all approved nodes of a cluster; raises redis.RedisError."""
    _publish(cluster_pk, News(frame.since, frame.revision, frame.bytes))


def publish_to_node(node_pk: int, cluster_pk: int, message: FromConsole) -> None:
    """Send one node a message, if it is connected anywhere; after `Removed` its connection is closed.

    Never fails for want of Redis: whatever must reach a node is also found when its socket is next checked.
    """
    close = CLOSE_REMOVED if isinstance(message, Removed) else 0
    _publish_gently(cluster_pk, Personal(node_pk, dump(message), close))


def settle_node(node_pk: int, cluster_pk: int) -> None:
    """Have a connected node told what its standing is now: it was approved."""
    _publish_gently(cluster_pk, Settle(node_pk))


def publish_watch(cluster_pk: int, watch: Watch) -> None:
    """Let nodes report faster, because a page shows them."""
    _publish_gently(cluster_pk, watch)


def _publish(cluster_pk: int, parcel: Parcel) -> None:
    sync_redis().publish(channel_name(cluster_pk), _encoder.encode(parcel))


def _publish_gently(cluster_pk: int, parcel: Parcel) -> None:
    try:
        _publish(cluster_pk, parcel)
    except redis.RedisError as error:
        log.warning("not published", parcel=type(parcel).__name__, error=str(error))


# The receiving end.


class Stalled(Exception):
    """A socket took nothing for SEND_SECONDS."""


class _Close(msgspec.Struct, frozen=True):
    """The last thing in a queue."""

    code: int


class _Text(msgspec.Struct, frozen=True):
    """A frame for this socket alone."""

    text: str


class _Note(msgspec.Struct, frozen=True):
    """News with its frame as the text that sockets send, made once for all of them."""

    since: Revision | None
    revision: Revision
    text: str


Send = Callable[[dict[str, object]], Awaitable[None]]
ReadFrame = Callable[[int, Revision | None], Awaitable[_Note]]


class Socket:
    """One agent's connection as the hub sees it: what it holds, what waits for it, and the writer of it."""

    __slots__ = (
        "_closing",
        "_failures",
        "_gap",
        "_queue",
        "_retry",
        "_send",
        "_told",
        "_wake",
        "approved",
        "cluster",
        "held",
        "node",
        "session",
        "settled",
    )

    def __init__(self, send: Send, cluster: int, node: int, session: str, held: Revision | None) -> None:
        self.cluster = cluster
        self.node = node
        self.session = session
        self.held = held
        self.approved = False
        self.settled = False
        """Whether it was told its standing; before, it cannot have missed anything."""
        self._send = send
        self._queue: deque[_Note | _Text | _Close] = deque()
        self._wake = asyncio.Event()
        self._gap = False
        self._told = False
        self._closing = False
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None

    def follow(self, held: Revision | None) -> None:
        """From now on this is an approved node's, who holds `held`: it is brought up to date, and kept so."""
        self.approved = True
        self.held = held
        self._told = False
        self.lost_touch()

    def lost_touch(self) -> None:
        """Compare with the change log, and send what is missing."""
        self._gap = True
        self._wake.set()

    def put(self, note: _Note) -> None:
        """Queue a frame that goes to all; an overflow is forgotten and read again from the log."""
        if not self.approved or self._closing:
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self._queue = deque(item for item in self._queue if not isinstance(item, _Note))
            self._gap = True
        else:
            self._queue.append(note)
        self._wake.set()

    def say(self, text: str) -> None:
        """Queue a frame for this socket alone."""
        if self._closing:
            return
        if len(self._queue) >= 2 * QUEUE_LIMIT:
            self.close(CLOSE_LATER)
            return
        self._queue.append(_Text(text))
        self._wake.set()

    def close(self, code: int, text: str = "") -> None:
        """Close after what is queued for it alone, and a last frame."""
        if self._closing:
            return
        self._closing = True
        self._gap = False
        self._queue = deque(item for item in self._queue if not isinstance(item, _Note))
        if text:
            self._queue.append(_Text(text))
        self._queue.append(_Close(code))
        self._wake.set()

    async def write(self, read: ReadFrame) -> None:
        """Send what comes until the socket is to close; raises Stalled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                # The queue first: the welcome comes before the first settings, and what does not fit is soon dropped.
                while self._gap or self._queue:
                    if not self._queue:
                        await self._catch_up(read)
                    elif not await self._send_next():
                        return
        finally:
            if self._retry is not None:
                self._retry.cancel()

    async def _send_next(self) -> bool:
        match self._queue.popleft():
            case _Close(code):
                await self._deliver({"type": "websocket.close", "code": code})
                return False
            case _Text(text):
                await self._deliver({"type": "websocket.send", "text": text})
            case _Note() as note:
                await self._pass_on(note)
        return True

    async def _pass_on(self, note: _Note) -> None:
        if self.held is not None and note.revision <= self.held:
            return
        if self.held is None or note.since is None or not _follows(note.since, self.held):
            self._gap = True
            return
        await self._hand_over(note)

    async def _catch_up(self, read: ReadFrame) -> None:
        # Before reading: what comes meanwhile and doesn't fit sets it again.
        self._gap = False
        try:
            note = await read(self.cluster, self.held)
        except Exception as error:  # noqa: BLE001 - the database is away, in any of the words that drivers have for it
            log.warning("change log not read", cluster=self.cluster, error=str(error))
            self._try_later()
            return
        self._failures = 0
        if self._closing or (self._told and note.revision == self.held):
            return
        await self._hand_over(note)

    def _try_later(self) -> None:
        low, high = RETRY_SECONDS
        delay = random.uniform(0.5, 1) * min(high, low * 2**self._failures)  # noqa: S311 - spreads load, keeps no secret
        self._failures += 1
        self._retry = asyncio.get_running_loop().call_later(delay, self.lost_touch)

    async def _hand_over(self, note: _Note) -> None:
        await self._deliver({"type": "websocket.send", "text": note.text})
        self.held = note.revision
        self._told = True

    async def _deliver(self, message: dict[str, object]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise Stalled from None


def _follows(since: Revision, held: Revision) -> bool:
    """A delta may be applied by whoever holds its start or later, in the same epoch."""
    return since.epoch == held.epoch and since <= held


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

    async def read_standings(self, cluster_pk: int) -> dict[int, Standing]:
        """Each node of the cluster by its primary key."""


class Listener(Protocol):
    """Who else hears what arrives."""

    def settle(self, socket: Socket) -> None:
        """The node's standing changed, or it was taken for gone: open its session anew."""

    def moved(self, cluster_pk: int) -> None:
        """A cluster's members or options changed."""

    def watched(self, cluster_pk: int, watch: Watch) -> None:
        """A page looks."""

    def resubscribed(self) -> None:
        """There is a connection to Redis again; it may have been emptied."""


class _Cluster:
    """The sockets of one cluster in this process, and frames read for them."""

    def __init__(self) -> None:
        self.sockets: dict[int, Socket] = {}
        self.subscribed = asyncio.Event()
        self.frames: OrderedDict[Revision | None, asyncio.Task[_Note]] = OrderedDict()


class Hub:
    """All agents' sockets of this process."""

    def __init__(self, rows: Rows, listener: Listener) -> None:
        self._rows = rows
        self._listener = listener
        self._clusters: dict[int, _Cluster] = {}
        self._redis = async_redis()
        self._pubsub: PubSub | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connected = asyncio.Event()

    def start(self) -> None:
        """Begin to listen and to check."""
        self._spawn(self._listen())
        self._spawn(self._check_always())

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
        """Take a socket in; once this returns, it misses nothing that is published.

        An older connection of the same node is closed, here and in every other process.
        """
        cluster = self._clusters.get(socket.cluster)
        if cluster is None:
            cluster = self._clusters[socket.cluster] = _Cluster()
            await self._subscribe(socket.cluster)
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

    async def claim(self, socket: Socket) -> None:
        """Say that this is the node's present connection, so that others close."""
        try:
            parcel = _encoder.encode(Replaced(socket.node, socket.session))
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

    async def read(self, cluster_pk: int, since: Revision | None) -> _Note:
        """What leads from `since` to the present; many sockets that ask at once are served by one reading.

        A reading is kept until anything is published, for it could then be too old to lead to what follows it.
        """
        cluster = self._clusters.get(cluster_pk)
        if cluster is None:
            return _note(await self._rows.read_frame(cluster_pk, since))
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

    async def _read(self, cluster_pk: int, since: Revision | None) -> _Note:
        return _note(await self._rows.read_frame(cluster_pk, since))

    async def check(self, cluster_pk: int) -> None:
        """Compare a cluster's sockets with the rows: revision held, standing, present session."""
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
                self._compare(socket, current, standings.get(socket.node))

    def _compare(self, socket: Socket, current: Revision, standing: Standing | None) -> None:
        if standing is None or not standing.session or (standing.status == "approved") != socket.approved:
            self._listener.settle(socket)
        elif standing.session != socket.session:
            socket.close(CLOSE_REPLACED)
        elif socket.approved and socket.held != current:
            socket.lost_touch()

    async def _check_always(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            for cluster_pk in list(self._clusters):
                await self.check(cluster_pk)

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
            async with self._lock:
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
                parcel = _decoder.decode(message["data"])  # type: ignore[arg-type]
            except msgspec.DecodeError:
                log.exception("parcel not understood", cluster=number)
                return
            self._distribute(int(number), cluster, parcel)

    def _distribute(self, cluster_pk: int, cluster: _Cluster, parcel: Parcel) -> None:
        match parcel:
            case News():
                cluster.frames.clear()
                note = _Note(parcel.since, parcel.revision, parcel.frame.decode())
                for socket in cluster.sockets.values():
                    socket.put(note)
                self._listener.moved(cluster_pk)
            case Watch():
                self._listener.watched(cluster_pk, parcel)
            case _ if (addressee := cluster.sockets.get(parcel.node)) is not None:
                self._deliver(addressee, parcel)

    def _deliver(self, socket: Socket, parcel: Personal | Settle | Replaced) -> None:
        match parcel:
            case Personal(frame=frame, close=0):
                socket.say(frame.decode())
            case Personal(frame=frame, close=code):
                socket.close(code, frame.decode())
            case Settle():
                self._listener.settle(socket)
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


def _note(frame: Frame) -> _Note:
    return _Note(frame.since, frame.revision, frame.bytes.decode())
