"""Clusters whose affiliates are rows, for any number of discovery processes (kubespan.discovery.registry.Registry).

Requests are gathered for a moment and written together, one transaction a cluster. Changes are numbered; each process
mirrors the clusters that somebody watches there, follows the numbers that come through Redis, and reads the rows where
one is missing. Redis may be away: then a process hears of others' changes when it next compares numbers.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import redis
import structlog
from django.db import InterfaceError, OperationalError

from kubespan.discovery.limits import Exhausted
from kubespan.discovery.metrics import Metrics
from kubespan.discovery.registry import Unavailable
from kubespan.discovery.state import ClusterState, Deletion, Event, Outcome, SealedAffiliate, Update, differences
from kubespan.discovery.watchers import Broadcast, Watcher
from nodes.agents.rows import in_thread
from nodes.connections import async_redis, subscriber_redis
from nodes.discovery.parcels import CHANNEL, Parcel, dump_parcel, parse_parcel
from nodes.models import DiscoveryCluster
from nodes.services import discovery as services

GATHER = 0.02
"""Seconds between two transactions of one cluster; a thousand machines at once are a few of them."""
COMPARE_SECONDS = 5.0
"""Between comparisons of numbers, in case Redis lost one."""
COLLECT_SECONDS = 60.0
BEAT_SECONDS = 10.0
GRACE_SECONDS = 120.0
"""After a start nobody is declared gone: machines come back with a back-off of up to a minute, and renew then."""
RETRY_SECONDS = 1.0
KNOWN_SECONDS = 5.0
"""How long a cluster is served without looking whether it still is."""
CANCEL_SECONDS = 0.1
"""For what goes on to end, once it was told to."""
NEVER = float("-inf")

AWAY = (OperationalError, InterfaceError)

log = structlog.get_logger(__name__)

A = TypeVar("A")
T = TypeVar("T")


@dataclass(slots=True)
class Mirror:
    """A cluster as this process knows it, for those who watch it here."""

    number: int = -1
    """Of the newest change that is in it; below nought while the rows have not been read."""
    state: ClusterState = field(default_factory=ClusterState)
    broadcast: Broadcast = field(default_factory=Broadcast)
    users: int = 0
    """Who watches it here, or is about to."""
    ahead: dict[int, Parcel] = field(default_factory=dict)
    """Changes that came before those that they follow."""

    def follow(self, parcel: Parcel) -> bool:
        """Take changes; false where some before them are missing."""
        self.ahead[parcel.since] = parcel
        for since in sorted(self.ahead):
            parcel = self.ahead[since]
            last = since + len(parcel.events)
            if since > self.number:
                return False
            del self.ahead[since]
            if last > self.number:
                self._take(Event(*event) for event in parcel.events[self.number - since :])
                self.number = last
        return True

    def replace(self, contents: services.Contents) -> None:
        """Take the rows as they are; watchers hear of what is different."""
        if contents.number < self.number:
            return
        self._take(list(differences(self.state.affiliates, contents.affiliates)))
        self.state.affiliates = dict(contents.affiliates)
        self.number = contents.number
        self.ahead = {since: parcel for since, parcel in self.ahead.items() if since >= contents.number}

    def _take(self, events: Iterable[Event]) -> None:
        events = list(events)
        for event in events:
            self.state.take(event)
        self.broadcast.tell(events)


@dataclass(slots=True)
class _Asked:
    """An operation that waits to be written, and who waits for it."""

    operation: Update | Deletion
    outcome: asyncio.Future[Outcome]


class DatabaseRegistry:
    """See kubespan.discovery.registry.Registry."""

    def __init__(
        self,
        *,
        serve_all: bool = False,
        metrics: Metrics | None = None,
        wall: Callable[[], float] = time.time,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.mirrors: dict[int, Mirror] = {}
        self.metrics = metrics or Metrics()
        self._serve_all = serve_all
        self._wall = wall
        self._grace = grace
        self._downtime = 0.0
        self._asked: dict[int, list[_Asked]] = {}
        self._writing: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.Task[None]] = set()
        self._known: dict[str, tuple[int, float]] = {}
        self._redis = async_redis()

    @property
    def now(self) -> float:
        """Discovery time."""
        return self._wall() - self._downtime

    async def start(self) -> None:
        """Begin to listen and to collect; raises what the database raises when it cannot be reached."""
        await self._beat()
        for work in (self._listen(), self._beat_always(), self._collect_always(), self._compare_always()):
            self._spawn(work)

    async def stop(self) -> None:
        """Write what was asked, and let go of everything."""
        if self._writers:
            await asyncio.wait(self._writers)
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            # Again where one is left: a cancellation that meets a publication to Redis may be lost within redis-py.
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        await self._redis.aclose()

    # What the gRPC end asks.

    async def update(self, cluster_id: str, update: Update) -> None:
        """Take in what somebody says of an affiliate."""
        outcome = await self._ask(cluster_id, update)
        if outcome.refusal is not None:
            raise Exhausted(*outcome.refusal.args)

    async def delete(self, cluster_id: str, affiliate_id: str) -> None:
        """Forget an affiliate, if it is there."""
        await self._ask(cluster_id, Deletion(affiliate_id))

    async def list(self, cluster_id: str) -> list[SealedAffiliate]:
        """All affiliates of a cluster."""
        cluster = await self._find(cluster_id)
        contents = await self._or_unavailable(services.read, cluster)
        return list(contents.affiliates.values())

    @asynccontextmanager
    async def watch(self, cluster_id: str) -> AsyncIterator[Watcher]:
        """Watch a cluster from a snapshot on."""
        cluster = await self._find(cluster_id)
        mirror = self.mirrors.setdefault(cluster, Mirror())
        mirror.users += 1
        try:
            if mirror.number < 0:
                await self._catch_up(cluster, mirror)
            if self.mirrors.get(cluster) is not mirror:
                raise Unavailable("the cluster has just been let go of")
            with mirror.broadcast.joined(mirror.state.affiliates.values) as watcher:
                yield watcher
        finally:
            mirror.users -= 1
            if not mirror.users and self.mirrors.get(cluster) is mirror:
                del self.mirrors[cluster]

    async def _find(self, cluster_id: str) -> int:
        now = time.monotonic()
        cluster, until = self._known.get(cluster_id, (0, NEVER))
        if until < now:
            find = functools.partial(services.find, serve_all=self._serve_all)
            cluster = await self._or_unavailable(find, cluster_id)
            self._known = {known: row for known, row in self._known.items() if row[1] >= now}
            self._known[cluster_id] = cluster, now + KNOWN_SECONDS
        return cluster

    async def _or_unavailable(self, function: Callable[[A], T], argument: A) -> T:
        try:
            return await in_thread(function, argument)
        except AWAY as error:
            raise Unavailable(str(error)) from None
        except DiscoveryCluster.DoesNotExist as error:
            # It was forgotten since it was found, and is found anew the next time.
            self._known.clear()
            raise Unavailable(str(error)) from None

    async def _catch_up(self, cluster: int, mirror: Mirror) -> None:
        """Read the rows; what is told meanwhile is kept for after."""
        contents = await self._or_unavailable(services.read, cluster)
        mirror.replace(contents)
        for parcel in list(mirror.ahead.values()):
            mirror.follow(parcel)

    # Writing.

    async def _ask(self, cluster_id: str, operation: Update | Deletion) -> Outcome:
        cluster = await self._find(cluster_id)
        asked = _Asked(operation, asyncio.get_running_loop().create_future())
        self._asked.setdefault(cluster, []).append(asked)
        if cluster not in self._writing:
            self._writing.add(cluster)
            self._spawn(self._write(cluster), self._writers)
        return await asked.outcome

    async def _write(self, cluster: int) -> None:
        """Write what is asked of a cluster until nothing is."""
        try:
            while waiting := self._asked.pop(cluster, []):
                try:
                    operations = [asked.operation for asked in waiting]
                    applied = await in_thread(services.apply, cluster, operations, self.now)
                except Exception as error:
                    if isinstance(error, DiscoveryCluster.DoesNotExist):
                        self._known.clear()
                    elif not isinstance(error, AWAY):
                        log.exception("what was asked could not be written")
                    for asked in waiting:
                        with suppress(asyncio.InvalidStateError):
                            asked.outcome.set_exception(Unavailable(str(error)))
                    continue
                for asked, outcome in zip(waiting, applied.outcomes, strict=True):
                    with suppress(asyncio.InvalidStateError):
                        asked.outcome.set_result(outcome)
                await self._tell(applied)  # for as long as Redis takes
                await asyncio.sleep(GATHER)
        finally:
            self._writing.discard(cluster)

    async def _tell(self, applied: services.Applied) -> None:
        """Have all processes hear of changes, this one first."""
        if not applied.events:
            return
        parcel = applied.parcel()
        self._follow(parcel)
        try:
            await self._redis.publish(CHANNEL, dump_parcel(parcel))
        except (redis.RedisError, OSError) as error:
            log.warning("other discovery processes were not told", error=str(error))

    def _follow(self, parcel: Parcel) -> None:
        mirror = self.mirrors.get(parcel.cluster)
        if mirror is not None and not mirror.follow(parcel) and mirror.number >= 0:
            self._spawn(self._fill(parcel.cluster, mirror))

    async def _fill(self, cluster: int, mirror: Mirror) -> None:
        """Some changes are missing: mostly they come a moment later, by another way."""
        await asyncio.sleep(0.2)
        if mirror.ahead:
            with suppress(Unavailable):
                await self._catch_up(cluster, mirror)

    # What goes on all the time.

    async def _listen(self) -> None:
        while True:
            try:
                async with subscriber_redis() as client, client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(CHANNEL)
                    await self._compare()
                    async for message in subscription.listen():
                        self._follow(parse_parcel(message["data"]))
            except (redis.RedisError, OSError, msgspec.DecodeError) as error:
                log.warning("other discovery processes are not heard", error=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _compare_always(self) -> None:
        while True:
            await asyncio.sleep(COMPARE_SECONDS)
            await self._compare()

    async def _compare(self) -> None:
        watched = dict(self.mirrors)  # others may come while the database is asked
        if not watched:
            return
        try:
            numbers = await in_thread(services.numbers, watched, serve_all=self._serve_all)
            for cluster, mirror in watched.items():
                if cluster not in numbers:
                    self._end(cluster, mirror)
                elif 0 <= mirror.number < numbers[cluster]:
                    await self._catch_up(cluster, mirror)
        except (*AWAY, Unavailable) as error:
            log.warning("numbers were not compared", error=str(error))

    def _end(self, cluster: int, mirror: Mirror) -> None:
        """A cluster is not served any more, or was forgotten: whoever watches it asks again, and is told."""
        self._known.clear()
        mirror.broadcast.end()
        if self.mirrors.get(cluster) is mirror:
            del self.mirrors[cluster]

    async def _beat_always(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(*AWAY):
                await self._beat()

    async def _beat(self) -> None:
        """Say that this process lives, and count what is kept."""
        self._downtime = await in_thread(services.beat, self._wall())
        totals = await in_thread(services.totals)
        self.metrics.clusters.set(totals.clusters)
        self.metrics.affiliates.set(totals.affiliates)
        self.metrics.endpoints.set(totals.endpoints)

    async def _collect_always(self) -> None:
        await asyncio.sleep(self._grace)
        while True:
            try:
                await self.collect()
            except AWAY as error:
                log.warning("nothing was collected", error=str(error))
            await asyncio.sleep(COLLECT_SECONDS)

    async def collect(self) -> None:
        """Forget what has expired, and clusters of which nobody speaks any more."""
        wall = datetime.fromtimestamp(self._wall(), UTC)
        await in_thread(services.note_used, list(self.mirrors), wall)
        for applied in await in_thread(services.collect, self.now):
            self.metrics.collected_affiliates.inc(sum(event.affiliate is None for event in applied.events))
            await self._tell(applied)
        self.metrics.collected_clusters.inc(await in_thread(services.forget_empty, wall))
        self.metrics.collections.inc()

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]] | None = None) -> None:
        among = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)
