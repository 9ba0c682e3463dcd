"""Who watches a cluster, and what they have yet to hear.

A change goes out at once where there was none just before; else changes are gathered for a moment. They are put
together and encoded once for all watchers. Each has a queue; one that takes nothing for so long that the queue is full
has lost its place and must begin anew. Nobody waits for it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from kubespan.discovery.limits import FIRST_MESSAGE_BYTES
from kubespan.discovery.proto.cluster_pb2 import Affiliate, WatchResponse
from kubespan.discovery.state import Batch, Event, SealedAffiliate, batches, coalesce

GATHER_SECONDS = 0.05
"""Between two messages, at least: a thousand machines that come within a second are twenty of them at most."""
GATHER_MOST_SECONDS = 1.0
"""Likewise at most, however busy the process is."""
REST = 3
"""So many times as long as a message took to be sent is it until the next. One call is accepted in each turn of the
loop, and one in which a thousand are told is long: without a rest there are ever more messages of ever fewer changes.
"""

BUFFER = 256
"""Messages that one watcher may have yet to hear; upstream has 32, but of one affiliate each."""


class Watcher:
    """One watcher's queue of encoded messages."""

    def __init__(self, buffer: int = BUFFER) -> None:
        self.lost = False
        """Whether it has lost its place."""
        self.caught_up = -math.inf
        """When, by the loop's clock, it last took all that there was."""
        self._buffer = buffer
        self._messages: deque[bytes] = deque()
        self._news = asyncio.Event()

    @property
    def behind(self) -> bool:
        """Whether there is something that it has not taken."""
        return bool(self._messages)

    def offer(self, messages: Iterable[bytes]) -> None:
        """Queue messages."""
        self._messages.extend(messages)
        if len(self._messages) > self._buffer:
            self.lose()
        else:
            self._news.set()

    def lose(self) -> None:
        """Have it begin anew."""
        self._messages.clear()
        self.lost = True
        self._news.set()

    async def take(self) -> bytes | None:
        """Wait for the next message; none when the place is lost."""
        while not self._messages and not self.lost:
            self._news.clear()
            await self._news.wait()
        if self.lost:
            return None
        message = self._messages.popleft()
        if not self._messages:
            self.caught_up = asyncio.get_running_loop().time()
        return message


class Broadcast:
    """All watchers of one cluster."""

    def __init__(self, gather: float = GATHER_SECONDS, buffer: int = BUFFER) -> None:
        self.watchers: set[Watcher] = set()
        self._gather = gather
        self._buffer = buffer
        self._pending: list[Event] = []
        self._flushing: asyncio.Handle | None = None
        self._flushed = -math.inf
        """When the last message was made, by the loop's clock."""
        self._prompt: list[Watcher] = []
        """Who had everything then: the others are not waited for."""
        self._snapshot: list[bytes] | None = None
        """Encoded, as long as nothing changes: a thousand that come back at once are told the same."""

    def tell(self, events: Iterable[Event]) -> None:
        """Have everybody hear of changes, with what else has changed since the last message."""
        self._snapshot = None
        if not self.watchers:
            return
        self._pending.extend(events)
        if self._pending and self._flushing is None:
            # Not at once, though it may be due: what else this turn of the loop brings goes with it.
            self._flushing = asyncio.get_running_loop().call_soon(self._flush_when_due)

    def _flush_when_due(self) -> None:
        loop = asyncio.get_running_loop()
        due, now = self._due(), loop.time()
        if due <= now:
            self.flush()
        else:
            self._flushing = loop.call_at(min(due, now + GATHER_SECONDS), self._flush_when_due)

    def _due(self) -> float:
        still = (watcher for watcher in self._prompt if watcher in self.watchers)
        taken = (math.inf if watcher.behind else watcher.caught_up for watcher in still)
        return next_message(self._flushed, taken, self._gather)

    def flush(self) -> None:
        """Have everybody hear of what is pending now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._flushed = asyncio.get_running_loop().time()
        self._prompt = [watcher for watcher in self.watchers if not watcher.behind]
        messages = [encode(batch) for batch in batches(coalesce(self._pending), FIRST_MESSAGE_BYTES)]
        self._pending.clear()
        for watcher in self.watchers:
            watcher.offer(messages)

    def join(self, snapshot: Callable[[], Iterable[SealedAffiliate]]) -> Watcher:
        """Begin to watch: all affiliates as they are now, and then every change, without a gap between.

        What is pending is in the snapshot, and is told again: harmless, where telling all others now would be one
        message for each that joins.
        """
        if self._snapshot is None:
            self._snapshot = list(encode_snapshot(snapshot()))
        watcher = Watcher(self._buffer)
        watcher.offer(self._snapshot)
        self.watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no longer."""
        self.watchers.discard(watcher)

    @contextmanager
    def joined(self, snapshot: Callable[[], Iterable[SealedAffiliate]]) -> Iterator[Watcher]:
        """Watch for a while; see `join`."""
        watcher = self.join(snapshot)
        try:
            yield watcher
        finally:
            self.leave(watcher)

    def end(self) -> None:
        """Have everybody begin anew: there is nothing more to hear."""
        for watcher in self.watchers:
            watcher.lose()


def next_message(last: float, taken: Iterable[float], gather: float) -> float:
    """When the next message may go out: by when each watcher had taken the one before, made at `last`.

    Nine tenths are enough, and infinite is for not yet: whoever takes nothing is never waited for by the others.
    """
    times = sorted(taken)
    took = times[len(times) * 9 // 10] - last if times else 0.0
    return last + max(gather, min(REST * took, GATHER_MOST_SECONDS))


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
