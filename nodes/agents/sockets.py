"""One agent's connection as the hub sees it: a bounded queue and a writer of its own, so one that stalls stops nobody.

It knows the revision that its agent holds. A gap or an overflow ends in reading the change log again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from kubespan.core.messages import VERSIONS, Revision, settings_for
from nodes.fanout import CLOSE_LATER, Frame

QUEUE_LIMIT = 64
"""Frames that wait for one socket; with more it has lost touch and gets the difference from the change log."""

SEND_SECONDS = 20.0
"""A socket that takes nothing for so long is closed."""

RETRY_SECONDS = (2.0, 30.0)
"""Least and most that a socket waits before it reads the change log again, after that could not be read."""

log = structlog.get_logger(__name__)


class Stalled(Exception):
    """A socket took nothing for SEND_SECONDS."""


class _Close(msgspec.Struct, frozen=True):
    """The last thing in a queue."""

    code: int


class _Text(msgspec.Struct, frozen=True):
    """A frame for this socket alone."""

    text: str


class Note(msgspec.Struct, frozen=True):
    """News with its frame as the text that sockets send, made once for all of them."""

    since: Revision | None
    revision: Revision
    text: str

    @classmethod
    def of(cls, frame: Frame) -> Note:
        """Of what the change log gave."""
        return cls(frame.since, frame.revision, frame.bytes.decode())


Send = Callable[[dict[str, object]], Awaitable[None]]
ReadFrame = Callable[[int, Revision | None], Awaitable[Note]]


class Socket:
    """One agent's connection as the hub sees it: what it holds, what waits for it, and the writer of it."""

    __slots__ = (
        "_closing",
        "_failures",
        "_gap",
        "_queue",
        "_retry",
        "_send",
        "_since",
        "_stalled",
        "_told",
        "_waiter",
        "_watch",
        "_writer",
        "approved",
        "cluster",
        "held",
        "node",
        "session",
        "settled",
        "version",
    )

    def __init__(
        self, send: Send, cluster: int, node: int, session: str, held: Revision | None, version: int = VERSIONS[0]
    ) -> None:
        self.cluster = cluster
        self.node = node
        self.session = session
        self.held = held
        self.version = version
        """Of the protocol that it speaks."""
        self.approved = False
        self.settled = False
        """Whether it was told its standing; before, there is nothing to compare with the rows."""
        self._send = send
        # A list and a future weigh 1 kB less than a deque and an event, and there is one of each for every agent.
        self._queue: list[Note | _Text | _Close] = []
        self._waiter: asyncio.Future[None] | None = None
        self._gap = False
        self._told = False
        self._closing = False
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._since: float | None = None
        """When the sending began that has not ended, by the loop's clock."""
        self._watch: asyncio.TimerHandle | None = None
        self._stalled = False

    def follow(self, held: Revision | None) -> None:
        """From now on this is an approved node's, who holds `held`: it is brought up to date, and kept so."""
        self.approved = True
        self.held = held
        self._told = False
        self.lost_touch()

    def lost_touch(self) -> None:
        """Compare with the change log, and send what is missing."""
        self._gap = True
        self._wake()

    def put(self, note: Note) -> None:
        """Queue a frame that goes to all; an overflow is forgotten and read again from the log."""
        if not self.approved or self._closing:
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self._queue = [item for item in self._queue if not isinstance(item, Note)]
            self._gap = True
        else:
            self._queue.append(note)
        self._wake()

    def say(self, text: str) -> None:
        """Queue a frame for this socket alone."""
        if self._closing:
            return
        if len(self._queue) >= 2 * QUEUE_LIMIT:
            self.close(CLOSE_LATER)
            return
        self._queue.append(_Text(text))
        self._wake()

    def close(self, code: int, text: str = "") -> None:
        """Close after what is queued for it alone, and a last frame."""
        if self._closing:
            return
        self._closing = True
        self._gap = False
        self._queue = [item for item in self._queue if not isinstance(item, Note)]
        if text:
            self._queue.append(_Text(text))
        self._queue.append(_Close(code))
        self._wake()

    async def write(self, read: ReadFrame) -> None:
        """Send what comes until the socket is to close; raises Stalled."""
        self._writer = asyncio.current_task()
        try:
            while True:
                await self._news()
                # The queue first: the welcome comes before the first settings, and what does not fit is soon dropped.
                while self._gap or self._queue:
                    if not self._queue:
                        await self._catch_up(read)
                    elif not await self._send_next():
                        return
        except asyncio.CancelledError:
            if self._stalled:
                raise Stalled from None
            raise
        finally:
            for timer in (self._retry, self._watch):
                if timer is not None:
                    timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _news(self) -> None:
        """Wait until there is something to send."""
        if not (self._gap or self._queue):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def _send_next(self) -> bool:
        match self._queue.pop(0):
            case _Close(code):
                await self._deliver({"type": "websocket.close", "code": code})
                return False
            case _Text(text):
                await self._deliver({"type": "websocket.send", "text": text})
            case Note() as note:
                await self._pass_on(note)
        return True

    async def _pass_on(self, note: Note) -> None:
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

    async def _hand_over(self, note: Note) -> None:
        await self._deliver({"type": "websocket.send", "text": settings_for(note.text, self.version)})
        self.held = note.revision
        self._told = True

    async def _deliver(self, message: dict[str, object]) -> None:
        # A timeout of its own for every frame would be a fifth of what a frame to a thousand costs.
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if self._watch is None:
            self._watch = loop.call_later(SEND_SECONDS, self._look)
        await self._send(message)
        self._since = None

    def _look(self) -> None:
        """End the writer where a sending has taken too long; look again when the present one would have."""
        self._watch = None
        if self._since is None or self._writer is None:
            return
        loop = asyncio.get_running_loop()
        left = self._since + SEND_SECONDS - loop.time()
        if left > 0:
            self._watch = loop.call_later(left, self._look)
        else:
            self._stalled = True
            self._writer.cancel()


def _follows(since: Revision, held: Revision) -> bool:
    """A delta may be applied by whoever holds its start or later, in the same epoch."""
    return since.epoch == held.epoch and since <= held
