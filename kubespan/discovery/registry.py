"""Where the service keeps its clusters: the interface, and one that lives in this process's memory alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from kubespan.discovery.limits import Exhausted
from kubespan.discovery.state import ClusterState, SealedAffiliate, Update
from kubespan.discovery.watchers import BUFFER, GATHER_SECONDS, Broadcast, Watcher

COLLECT_SECONDS = 60.0
"""Between collections of what has expired (spec/discovery-protocol.md §5.5)."""


class NotServed(Exception):
    """This service does not serve that cluster."""


class Unavailable(Exception):
    """It cannot be answered now; the client tries again."""


class Registry(Protocol):
    """What the gRPC end needs. All of it raises NotServed for a cluster that is not served here, and Unavailable."""

    async def update(self, cluster_id: str, update: Update) -> None:
        """Take in what somebody says of an affiliate; raises Exhausted, perhaps after a part was taken in."""

    async def delete(self, cluster_id: str, affiliate_id: str) -> None:
        """Forget an affiliate, if it is there."""

    async def list(self, cluster_id: str) -> list[SealedAffiliate]:
        """All affiliates of a cluster."""

    def watch(self, cluster_id: str) -> AbstractAsyncContextManager[Watcher]:
        """Watch a cluster from a snapshot on."""


class MemoryRegistry:
    """Clusters of this process, gone with it."""

    def __init__(
        self,
        *,
        serves: Callable[[str], bool] = lambda _cluster_id: True,
        now: Callable[[], float] = time.monotonic,
        gather: float = GATHER_SECONDS,
        buffer: int = BUFFER,
    ) -> None:
        self.clusters: dict[str, tuple[ClusterState, Broadcast]] = {}
        self._serves = serves
        self._now = now
        self._gather = gather
        self._buffer = buffer

    async def update(self, cluster_id: str, update: Update) -> None:
        """See Registry."""
        state, broadcast = self._find(cluster_id)
        outcome = state.update(update, self._now())
        if outcome.event is not None:
            broadcast.tell([outcome.event])
        if outcome.refusal is not None:
            raise Exhausted(*outcome.refusal.args)

    async def delete(self, cluster_id: str, affiliate_id: str) -> None:
        """See Registry."""
        state, broadcast = self._find(cluster_id)
        event = state.delete(affiliate_id)
        if event is not None:
            broadcast.tell([event])

    async def list(self, cluster_id: str) -> list[SealedAffiliate]:
        """See Registry."""
        state, _ = self._find(cluster_id)
        return list(state.affiliates.values())

    @asynccontextmanager
    async def watch(self, cluster_id: str) -> AsyncIterator[Watcher]:
        """See Registry."""
        state, broadcast = self._find(cluster_id)
        with broadcast.joined(state.affiliates.values) as watcher:
            yield watcher

    async def collect_always(self, every: float = COLLECT_SECONDS) -> None:
        """Forget what has expired, again and again."""
        while True:
            self.collect()
            await asyncio.sleep(every)

    def collect(self) -> None:
        """Forget what has expired, and clusters that nobody speaks of."""
        for cluster_id, (state, broadcast) in list(self.clusters.items()):
            broadcast.tell(state.collect(self._now()))
            if not state.affiliates and not broadcast.watchers:
                del self.clusters[cluster_id]

    def _find(self, cluster_id: str) -> tuple[ClusterState, Broadcast]:
        if not self._serves(cluster_id):
            raise NotServed
        if cluster_id not in self.clusters:
            self.clusters[cluster_id] = ClusterState(), Broadcast(self._gather, self._buffer)
        return self.clusters[cluster_id]
