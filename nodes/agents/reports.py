"""Reports on their way from sockets to Redis, pages and rows.

Each connection has a table of what its node last said. A report is merged in place; ten times a second whatever changed
is written in one go: records and summaries to Redis, one message a cluster to the pages that look at it, transitions
and harvested endpoints to the database. Where Redis or the database is away, the tables keep the newest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec
import redis
import structlog
from channels.layers import get_channel_layer

from kubespan.core.messages import REPORT_SECONDS, Pace, Report, Resync, Revision, dump
from nodes import live
from nodes.agents.ledger import Ledger
from nodes.agents.rows import Roster, in_thread, read_roster
from nodes.agents.sockets import Socket
from nodes.announce import announce_soon, group
from nodes.connections import async_redis
from nodes.counters import Tally
from nodes.fanout import Watch
from nodes.pages import FULL_LINKS, Flushed

FLUSH_SECONDS = 0.1
"""How often reports are written, many at a time."""

RETRY_SECONDS = 1.0
"""How long the next try waits after Redis was found away."""

BATCH = 50
"""Nodes a pipeline: a record of a thousand links takes a third of a millisecond to pack, and everybody else waits."""

PRESENCE_SECONDS = REPORT_SECONDS
"""A connected node's values are renewed at least this often, whether it reports or not."""

RENEW_SECONDS = 1.0
"""How often is looked for those."""

ROSTER_SECONDS = 1.0
"""A cluster's members are read at most this often, whatever reports and pushes say."""

HARVEST_SECONDS = 600.0
"""An endpoint that stays in use is told again so often; it expires after three times as long (docs/security.md)."""

HARVEST_KEPT = 100_000
"""Endpoints whose last telling is remembered."""

# A summary begins with its session, so its first bytes tell whose it is.
FORGET_SUMMARY = """
if string.sub(redis.call('GET', KEYS[1]) or '', 1, #ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

log = structlog.get_logger(__name__)


class Line:
    """One connection's reports."""

    __slots__ = ("asked", "changed", "checked", "expected", "index", "moved", "socket", "table", "written")

    def __init__(self, socket: Socket, index: int | None, record: bytes | None) -> None:
        self.socket = socket
        self.index = index
        self.table = live.Table(record)
        self.expected = 0
        self.asked = False
        self.checked = False
        """Whether links to nodes that are no members were looked for in what Redis kept."""
        self.changed: set[int] = set()
        self.moved: set[int] = set()
        self.written = float("-inf")


class _Watched:
    """Until when pages look at a cluster, and at single nodes; by the loop's clock."""

    def __init__(self) -> None:
        self.until = float("-inf")
        self.nodes: dict[int, float] = {}
        self.seconds = 1.0


class Reports:
    """All agents' reports of this process."""

    def __init__(self, ledger: Ledger, tally: Tally, clock: Callable[[], float] = time.time) -> None:
        self.tally = tally
        self._ledger = ledger
        self._clock = clock
        self._redis = async_redis()
        self._forget = self._redis.register_script(FORGET_SUMMARY)
        self._lines: dict[int, Line] = {}
        self._dirty: dict[int, Line] = {}
        self._rosters: dict[int, Roster] = {}
        self._before: dict[int, Roster] = {}
        """The last roster of a cluster whose present one must be read: who is gone since."""
        self._readings: dict[int, asyncio.Task[Roster]] = {}
        self._read_at: dict[int, float] = {}
        self._watched: dict[int, _Watched] = {}
        self._harvested: dict[tuple[int, int, str], float] = {}
        self._renewed_at = float("-inf")
        self._flushing = asyncio.Lock()

    # Connections.

    async def open(self, socket: Socket, index: int | None) -> Line:
        """Begin where the node's last connection ended, so that coming back is no burst of news."""
        record = None
        if index is not None:
            try:
                record = await self._redis.get(live.record_key(socket.node))
            except (redis.RedisError, OSError) as error:
                log.warning("last report not read", node=socket.node, error=str(error))
        line = Line(socket, index, record)
        self._lines[socket.node] = self._dirty[socket.node] = line
        return line

    async def close(self, line: Line) -> None:
        """The connection is over: what it said stays a while, its presence ends."""
        node = line.socket.node
        if self._dirty.get(node) is line:
            del self._dirty[node]
        if self._lines.get(node) is not line:
            return
        del self._lines[node]
        begin = live.Summary(line.socket.session)
        try:
            await self._forget(keys=[live.summary_key(node)], args=[live.summary_start(begin)])
        except (redis.RedisError, OSError) as error:
            log.warning("presence not ended", node=node, error=str(error))

    # Rosters.

    def moved(self, cluster_pk: int) -> None:
        """The cluster's members or options changed: read them before the next report is taken."""
        if (roster := self._rosters.pop(cluster_pk, None)) is not None:
            self._before[cluster_pk] = roster

    async def roster(self, cluster_pk: int, revision: Revision | None = None) -> Roster:
        """The cluster's members, as of this revision or later where that can be had."""
        roster = self._rosters.get(cluster_pk)
        if roster is not None and (revision is None or revision <= roster.revision or self._read_lately(cluster_pk)):
            return roster
        reading = self._readings.get(cluster_pk)
        if reading is None:
            reading = self._readings[cluster_pk] = asyncio.create_task(self._read_roster(cluster_pk))
            reading.add_done_callback(lambda done: self._finish_reading(cluster_pk, done))
        try:
            return await asyncio.shield(reading)
        except Exception:
            if roster is None:
                raise
            return roster

    def _finish_reading(self, cluster_pk: int, done: asyncio.Task[Roster]) -> None:
        self._readings.pop(cluster_pk, None)
        if not done.cancelled():
            done.exception()  # all who waited for it may be gone

    def _read_lately(self, cluster_pk: int) -> bool:
        return asyncio.get_running_loop().time() - self._read_at.get(cluster_pk, float("-inf")) < ROSTER_SECONDS

    async def _read_roster(self, cluster_pk: int) -> Roster:
        self._read_at[cluster_pk] = asyncio.get_running_loop().time()
        before = self._rosters.get(cluster_pk) or self._before.get(cluster_pk)
        roster = self._rosters[cluster_pk] = await in_thread(read_roster, cluster_pk)
        self._before.pop(cluster_pk, None)
        departed = [] if before is None else [index for index in before.members if index not in roster.members]
        for line in self._lines.values():
            if line.socket.cluster == cluster_pk:
                self._drop_departed(line, departed, roster)
        return roster

    def _drop_departed(self, line: Line, departed: Iterable[int], roster: Roster) -> None:
        """Forget a node's links to who is gone; all of its links are looked at once only, for what Redis kept of them.

        A thousand tables of a thousand links are a million looks, at every push.
        """
        known = departed if line.checked else line.table.indexes()
        line.checked = True
        gone = [index for index in known if index not in roster.members and line.table.seen(index) is not None]
        if gone:
            line.table.drop(gone)
            self._dirty[line.socket.node] = line

    async def take(self, line: Line, report: Report) -> None:
        """Merge a report; raises MessageError when it is none."""
        if line.index is None:
            return  # a pending node has no links to speak of
        roster = await self.roster(line.socket.cluster, report.revision)
        if report.complete:
            line.asked = False
        elif (report.number != line.expected or not line.table.known) and not line.asked:
            line.asked = True
            self.tally["reports.gap"] += 1
            line.socket.say(dump(Resync()).decode())
        line.expected = report.number + 1
        changed, moved = line.table.merge(report, line.index, roster.members, self._clock())
        self.tally["reports"] += 1
        line.changed.update(changed)
        line.moved.update(move.member for move in moved)
        self._dirty[line.socket.node] = line
        for move in moved:
            self._ledger.note_link(line.socket.cluster, line.socket.node, roster.members[move.member].pk, move)
        if roster.harvest:
            self._harvest(line, roster, changed)

    def _harvest(self, line: Line, roster: Roster, changed: Iterable[int]) -> None:
        """Tell of endpoints at which links are up and that their owners don't know of (spec/kubespan.md §7.4)."""
        assert line.index is not None  # noqa: S101 - `take` returned else
        now = asyncio.get_running_loop().time()
        for member in changed:
            seen = line.table.seen(member)
            if seen is None or seen.state != "up" or not seen.endpoint:
                continue
            key = (line.socket.node, member, seen.endpoint)
            told = self._harvested.get(key)
            if seen.endpoint in roster.members[member].endpoints or (told and now - told < HARVEST_SECONDS):
                continue
            if len(self._harvested) >= HARVEST_KEPT:
                self._harvested.clear()
            self._harvested[key] = now
            self._ledger.note_harvest(line.socket.cluster, line.index, member, seen.endpoint)

    # Pages.

    def watch(self, cluster_pk: int, watch: Watch) -> None:
        """Have the nodes that a page shows report faster, and tell pages what they say, until the lease ends."""
        now = asyncio.get_running_loop().time()
        watched = self._watched.setdefault(cluster_pk, _Watched())
        watched.until = max(watched.until, now + watch.lease)
        watched.seconds = watch.seconds
        watched.nodes = {node: until for node, until in watched.nodes.items() if until > now}
        watched.nodes.update(dict.fromkeys(watch.nodes, now + watch.lease))
        for node in watch.nodes:
            line = self._lines.get(node)
            if line is not None and line.socket.cluster == cluster_pk:
                self.pace(line)

    def pace(self, line: Line) -> None:
        """Tell a node for how long it is looked at, if it is."""
        watched = self._watched.get(line.socket.cluster)
        if watched is None or line.index is None:
            return
        lease = watched.nodes.get(line.socket.node, 0) - asyncio.get_running_loop().time()
        if lease > 0:
            line.socket.say(dump(Pace(seconds=watched.seconds, lease=lease)).decode())

    # Writing.

    async def write_always(self) -> None:
        """Flush for ever."""
        while True:
            try:
                written = await self.flush()
            except Exception:
                log.exception("reports not written")
                written = False
            await asyncio.sleep(FLUSH_SECONDS if written else RETRY_SECONDS)

    async def flush(self) -> bool:
        """Write what changed to Redis and tell pages; false when Redis is away, and then nothing is forgotten."""
        async with self._flushing:
            self._renew()
            while self._dirty or self.tally:
                batch = {node: self._dirty.pop(node) for node in list(self._dirty)[:BATCH]}
                try:
                    await self._store(batch.values())
                    await self._tell_pages(batch.values())
                except (redis.RedisError, OSError) as error:
                    log.warning("reports not written", nodes=len(batch), error=str(error))
                    self._dirty = {**batch, **self._dirty}
                    for node in [node for node, line in self._dirty.items() if self._lines.get(node) is not line]:
                        del self._dirty[node]
                    return False
        return True

    def write_all(self) -> None:
        """Write everything again soon: what Redis held may be gone, and most of it no agent will repeat by itself."""
        for node, line in self._lines.items():
            self._dirty.setdefault(node, line)

    def touch(self, line: Line) -> None:
        """Write a line's summary soon: its session is another one."""
        self._dirty[line.socket.node] = line

    def forget(self, cluster_pk: int) -> None:
        """Nobody of this cluster is here any more."""
        for kept in (self._rosters, self._before, self._read_at, self._watched):
            kept.pop(cluster_pk, None)

    def _renew(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._renewed_at < RENEW_SECONDS:
            return
        self._renewed_at = now
        stale = self._clock() - PRESENCE_SECONDS
        for node, line in self._lines.items():
            if line.written < stale:
                self._dirty.setdefault(node, line)

    async def _store(self, lines: Iterable[Line]) -> None:
        now = self._clock()
        seconds = int(live.TIME_TO_LIVE)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for line in lines:
                node = line.socket.node
                if line.table.at:
                    pipeline.set(live.record_key(node), line.table.dump(), ex=seconds)
                    pipeline.set(live.states_key(node), line.table.states(), ex=seconds)
                    pipeline.set(live.ages_key(node), line.table.ages(), ex=seconds)
                pipeline.set(live.summary_key(node), line.table.summary(line.socket.session), ex=seconds)
            counted = self.tally.move(pipeline)
            try:
                await pipeline.execute()
            except (redis.RedisError, OSError):
                self.tally.update(counted)
                raise
        arrived = {line.socket.cluster for line in lines if line.written == float("-inf")}
        for line in lines:
            line.written = now
        for cluster in arrived:
            # Not before: pages look for the summary to see who is connected.
            await announce_soon(cluster, "node.connected")

    async def _tell_pages(self, lines: Iterable[Line]) -> None:
        news: dict[int, Flushed] = {}
        now = asyncio.get_running_loop().time()
        for line in lines:
            cluster = line.socket.cluster
            watched = self._watched.get(cluster)
            changed, moved = line.changed, line.moved
            line.changed, line.moved = set(), set()
            if watched is None or watched.until < now:
                self._watched.pop(cluster, None)
                continue
            told = news.setdefault(cluster, Flushed([], []))
            told.nodes.append((line.socket.node, line.table.summarise(line.socket.session)))
            told.links.extend(self._links(line, changed, moved, watched, now))
        for cluster, told in news.items():
            message = {"type": "live.flushed", "data": msgspec.msgpack.encode(told)}
            await get_channel_layer().group_send(group(cluster), message)

    def _links(
        self, line: Line, changed: set[int], moved: set[int], watched: _Watched, now: float
    ) -> list[tuple[int, int, live.Seen | None]]:
        roster = self._rosters.get(line.socket.cluster)
        if roster is None:
            return []
        small = len(roster.members) <= FULL_LINKS
        in_view = small or watched.nodes.get(line.socket.node, 0) > now
        links = []
        for index in changed:
            member = roster.members.get(index)
            if member is None:
                continue
            seen = line.table.seen(index)
            not_up = seen is not None and seen.state != "up"
            if in_view or index in moved or not_up or watched.nodes.get(member.pk, 0) > now:
                links.append((line.socket.node, member.pk, seen))
        return links

    async def stop(self) -> None:
        """Write the last of it and let go of Redis."""
        await self.flush()
        for reading in list(self._readings.values()):
            reading.cancel()
        await self._redis.aclose()
