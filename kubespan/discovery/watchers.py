"""Who watches a cluster, and what they have yet to hear.

Changes are gathered for a moment, put together and encoded once for all watchers. Each has a queue; one that takes
nothing for so long that the queue is full has lost its place and must begin anew. Nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from kubespan.discovery.limits import FIRST_MESSAGE_BYTES
from kubespan.discovery.proto.cluster_pb2 import Affiliate, WatchResponse
from kubespan.discovery.state import Batch, Event, SealedAffiliate, batches, coalesce

GATHER_SECONDS = 0.05
"""How long changes are gathered: a thousand machines that come within a second are some twenty messages."""

BUFFER = 256
"""Messages that one watcher may have yet to hear; upstream has 32, but of one affiliate each."""


class Watcher:
    """One watcher's queue of encoded messages."""

    def __init__(self, buffer: int = BUFFER) -> None:
        self.lost = False
        """Whether it has lost its place."""
        self._buffer = buffer
        self._messages: deque[bytes] = deque()
        self._news = asyncio.Event()

    def offer(self, messages: Iterable[bytes]) -> None:
        """Queue messages."""
        self._messages.extend(messages)
        if len(self._messages) > self._buffer:
            self._messages.clear()
            self.lost = True
        self._news.set()

    async def take(self) -> bytes | None:
        """Wait for the next message; none when the place is lost."""
        while not self._messages and not self.lost:
            self._news.clear()
            await self._news.wait()
        return None if self.lost else self._messages.popleft()


class Broadcast:
    """All watchers of one cluster."""

    def __init__(self, gather: float = GATHER_SECONDS, buffer: int = BUFFER) -> None:
        self.watchers: set[Watcher] = set()
        self._gather = gather
        self._buffer = buffer
        self._pending: list[Event] = []
        self._flushing: asyncio.TimerHandle | None = None

    def tell(self, events: Iterable[Event]) -> None:
        """Have everybody hear of changes, a moment from now."""
        if not self.watchers:
            return
        self._pending.extend(events)
        if self._pending and self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(self._gather, self.flush)

    def flush(self) -> None:
        """Have everybody hear of what is pending now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        messages = [encode(batch) for batch in batches(coalesce(self._pending), FIRST_MESSAGE_BYTES)]
        self._pending.clear()
        for watcher in self.watchers:
            watcher.offer(messages)

    def join(self, snapshot: Callable[[], Iterable[SealedAffiliate]]) -> Watcher:
        """Begin to watch: all affiliates as they are now, and then every change, without a gap between."""
        self.flush()  # what is pending is older than the snapshot
        watcher = Watcher(self._buffer)
        watcher.offer(encode_snapshot(snapshot()))
        self.watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no longer."""
        self.watchers.discard(watcher)


def encode(batch: Batch) -> bytes:
    """Encode changes as a WatchResponse."""
    if batch.deleted:
        affiliates = [Affiliate(id=affiliate_id) for affiliate_id in batch.ids]
    else:
        affiliates = list(map(describe, batch.affiliates))
    return WatchResponse(affiliates=affiliates, deleted=batch.deleted).SerializeToString()


def encode_snapshot(affiliates: Iterable[SealedAffiliate]) -> Iterator[bytes]:
    """Encode all affiliates as the first message of a watch; as several where one would be too large (spec §7, 13)."""
    first = True
    for batch in batches((Event(one.id, one) for one in affiliates), FIRST_MESSAGE_BYTES):
        yield encode(batch)
        first = False
    if first:
        yield b""  # also an empty one must come: clients wait for it


def describe(affiliate: SealedAffiliate) -> Affiliate:
    """An affiliate as the protocol has it."""
    return Affiliate(
        id=affiliate.id, data=affiliate.data, endpoints=[endpoint.data for endpoint in affiliate.endpoints]
    )
