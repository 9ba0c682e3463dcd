"""The hub: frames over a real Redis to every socket of a cluster, whatever one of them or Redis does."""

import asyncio
import contextlib
from dataclasses import dataclass

import pytest
import redis
from django.utils import timezone

from kubespan.core.messages import Pace, Removed, Revision
from kubespan.core.options import ClusterOptions
from nodes import agents, fanout
from nodes.agents import hub as hubs
from nodes.agents import sockets
from nodes.agents.hub import Hub, Standing
from nodes.agents.rows import in_thread
from nodes.agents.sockets import Socket, Stalled
from nodes.services import clusters
from tests.players import PATIENCE, make_cluster, push

CLUSTER = 1


@dataclass(frozen=True)
class Frame:
    """A frame whose text says what it is."""

    since: Revision | None
    revision: Revision

    @property
    def bytes(self):
        start = "snapshot" if self.since is None else str(self.since)
        return f"{start}→{self.revision}".encode()


class Log:
    """A change log that is only a number, and a listener that only remembers."""

    def __init__(self):
        self.number = 1
        self.reads = 0
        self.fails = False
        self.moves = asyncio.Event()
        self.settled = []
        self.handed_out = []
        self.standings = {}
        self.confirmed = []
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def current(self):
        return Revision(1, self.number)

    async def read_frame(self, cluster_pk, since):
        self.reads += 1
        if self.fails:
            raise RuntimeError("the database is away")
        frame = Frame(since, self.current)
        await self.gate.wait()
        return frame

    async def read_current(self, cluster_pk):
        return self.current

    async def read_newest(self, cluster_pks):
        if self.fails:
            raise RuntimeError("the database is away")
        return dict.fromkeys(cluster_pks, self.current)

    async def read_standings(self, cluster_pk):
        return self.standings

    async def read_standings_of(self, node_pks):
        if self.fails:
            raise RuntimeError("the database is away")
        self.confirmed.append(list(node_pks))
        await self.gate.wait()
        return {pk: self.standings[pk] for pk in node_pks if pk in self.standings}

    def commit(self):
        """One change; its frame."""
        self.number += 1
        return Frame(Revision(1, self.number - 1), self.current)

    def settle(self, socket):
        self.settled.append(socket.node)

    def moved(self, cluster_pk):
        self.moves.set()

    def hand_out(self, cluster_pk):
        self.handed_out.append(cluster_pk)

    def watched(self, cluster_pk, watch):
        pass

    def resubscribed(self):
        pass


class Wire:
    """The far end of a socket, which may stop to take."""

    def __init__(self):
        self.got = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, message):
        await self.open.wait()
        self.got.put_nowait(message.get("text", message.get("code")))

    async def take(self):
        async with asyncio.timeout(PATIENCE):
            return await self.got.get()


@pytest.fixture
def log():
    return Log()


@pytest.fixture
async def hub(valkey, log, monkeypatch):
    monkeypatch.setattr(hubs, "GLANCE_SECONDS", 3600)  # it is what these tests are about that must find things
    monkeypatch.setattr(hubs, "JOIN_SECONDS", PATIENCE)  # else a socket may miss what is published at once
    hub = Hub(log, log)
    hub.start()
    async with asyncio.timeout(PATIENCE):
        await hub.connected.wait()
    yield hub
    await hub.stop()


@pytest.fixture
async def join(hub, log):
    """Let a node in: gives its socket, its far end and its writer."""
    async with contextlib.AsyncExitStack() as stack:

        async def join(node=1, held=None):
            wire = Wire()
            socket = Socket(wire.send, CLUSTER, node, f"session {node}", held)
            log.standings[node] = Standing("approved", socket.session)
            await hub.join(socket)
            socket.follow(held)
            socket.settled = True
            writer = asyncio.create_task(socket.write(hub.read))
            stack.push_async_callback(asyncio.gather, writer, return_exceptions=True)
            stack.callback(writer.cancel)
            return socket, wire, writer

        yield join


async def publish(frame):
    await asyncio.to_thread(fanout.publish_frame, CLUSTER, frame)


async def test_who_holds_nothing_gets_a_snapshot_and_then_each_frame(join, log):
    _, wire, _ = await join()
    assert await wire.take() == "snapshot→1.1"
    await publish(log.commit())
    assert await wire.take() == "1.1→1.2"


async def test_who_holds_the_newest_is_told_so_once(join, log):
    _, wire, _ = await join(held=Revision(1, 1))
    assert await wire.take() == "1.1→1.1"
    await publish(log.commit())
    assert await wire.take() == "1.1→1.2"


async def test_a_gap_is_filled_from_the_log(join, log):
    _, wire, _ = await join()
    assert await wire.take() == "snapshot→1.1"
    log.commit()  # never published
    await publish(log.commit())
    assert await wire.take() == "1.1→1.3"


async def test_what_was_had_already_is_not_sent_again(join, log):
    _, wire, _ = await join()
    assert await wire.take() == "snapshot→1.1"
    frame = log.commit()
    await publish(frame)
    await publish(frame)
    await publish(log.commit())
    assert [await wire.take(), await wire.take()] == ["1.1→1.2", "1.2→1.3"]


async def test_another_epoch_is_a_gap(join, log):
    _, wire, _ = await join(held=Revision(7, 9))
    assert await wire.take() == "7.9→1.1"
    await publish(log.commit())
    assert await wire.take() == "1.1→1.2"


async def test_a_frame_that_comes_while_the_log_is_read_is_not_lost(join, log):
    log.gate.clear()
    _, wire, _ = await join()
    frame = log.commit()
    await publish(frame)
    async with asyncio.timeout(PATIENCE):
        await log.moves.wait()
    log.gate.set()
    first = await wire.take()
    assert first in ("snapshot→1.1", "snapshot→1.2")
    if first == "snapshot→1.1":
        assert await wire.take() == "1.1→1.2"


async def test_a_stalled_socket_stops_nobody(join, log):
    _, stalled, _ = await join(1)
    _, other, _ = await join(2)
    assert await stalled.take() == await other.take() == "snapshot→1.1"
    stalled.open.clear()
    for number in range(2, 2 + 2 * sockets.QUEUE_LIMIT):
        await publish(log.commit())
        assert await other.take() == f"1.{number - 1}→1.{number}"
    # What overflowed is one frame from the log once it takes again, after those that still were in its queue.
    stalled.open.set()
    got = [await stalled.take()]
    while not got[-1].endswith(f"→{log.current}"):
        got.append(await stalled.take())
    assert len(got) <= sockets.QUEUE_LIMIT + 2


async def test_a_socket_that_takes_nothing_is_given_up(join, log, monkeypatch):
    monkeypatch.setattr(sockets, "SEND_SECONDS", 0.05)
    _, wire, writer = await join()
    await wire.take()
    wire.open.clear()
    await publish(log.commit())
    with pytest.raises(Stalled):
        await asyncio.wait_for(writer, PATIENCE)


async def test_many_sockets_are_served_by_one_reading(join, log):
    wires = [(await join(node))[1] for node in range(20)]
    for wire in wires:
        assert await wire.take() == "snapshot→1.1"
    assert log.reads <= 2


async def test_a_log_that_cannot_be_read_is_read_later(join, log, monkeypatch):
    monkeypatch.setattr(sockets, "RETRY_SECONDS", (0.01, 0.01))
    log.fails = True
    _, wire, _ = await join()
    async with asyncio.timeout(PATIENCE):
        while log.reads < 2:
            await asyncio.sleep(0.01)
    log.fails = False
    assert await wire.take() == "snapshot→1.1"


async def test_a_node_is_told_what_is_for_it_alone(join):
    _, wire, _ = await join(1)
    _, other, _ = await join(2)
    await wire.take()
    await other.take()
    await asyncio.to_thread(fanout.publish_to_node, 1, CLUSTER, Pace(seconds=1, lease=60))
    assert '"pace"' in await wire.take()
    await asyncio.to_thread(fanout.publish_to_node, 1, CLUSTER, Removed(reason="gone"))
    assert '"removed"' in await wire.take()
    assert await wire.take() == fanout.CLOSE_REMOVED
    assert other.got.empty()


async def test_who_floods_a_socket_with_its_own_messages_has_it_closed(join):
    socket, wire, _ = await join()
    await wire.take()
    wire.open.clear()
    for _ in range(2 * sockets.QUEUE_LIMIT + 2):
        socket.say("hi")
    wire.open.set()
    while (got := await wire.take()) == "hi":
        pass
    assert got == fanout.CLOSE_LATER


async def test_a_pending_node_gets_no_frame(hub, log, valkey):
    wire = Wire()
    socket = Socket(wire.send, CLUSTER, 1, "session", None)
    await hub.join(socket)
    await publish(log.commit())
    async with asyncio.timeout(PATIENCE):
        await log.moves.wait()
    assert not socket._queue


async def test_the_check_finds_what_was_not_heard(hub, join, log):
    _, behind, _ = await join(1)
    _, replaced, _ = await join(2)
    _, demoted, _ = await join(3)
    for wire in (behind, replaced, demoted):
        await wire.take()
    log.commit()
    log.standings[2] = Standing("approved", "a newer one")
    log.standings[3] = Standing("removed", "")
    await hub.check(CLUSTER)
    assert await behind.take() == "1.1→1.2"
    assert await replaced.take() == fanout.CLOSE_REPLACED
    assert log.settled == [3]


async def test_what_was_not_heard_before_the_join_is_found_by_few_queries(hub, join, log, monkeypatch):
    monkeypatch.setattr(hubs, "CONFIRMED_TOGETHER", 4)
    joined = [await join(node) for node in range(1, 8)]
    for _, wire, _ in joined:
        await wire.take()
    log.standings[2] = Standing("approved", "a newer one")
    log.standings[3] = Standing("removed", "")
    log.standings[7] = Standing("pending", "session 7")
    del log.standings[4]
    log.fails = True
    hub.confirm(joined[0][0])  # and nothing comes of it
    await asyncio.sleep(0)
    log.fails = False
    log.gate.clear()
    for socket, _, _ in joined:
        hub.confirm(socket)
        await asyncio.sleep(0)
    log.gate.set()
    assert await joined[1][1].take() == fanout.CLOSE_REPLACED
    async with asyncio.timeout(PATIENCE):
        while hub._confirming:
            await asyncio.sleep(0)
    assert log.confirmed == [[1], [2, 3, 4, 5], [6, 7]]
    assert log.settled == [3, 4, 7]


async def test_a_glance_finds_what_nobody_published(hub, join, log):
    _, wire, _ = await join()
    assert await wire.take() == "snapshot→1.1"
    await hub.read(CLUSTER, Revision(1, 1))  # is kept until something is published
    before = await hub.glance({})
    log.commit()
    reads = log.reads
    news = await hub.glance(before)
    await asyncio.sleep(0)
    assert log.reads == reads  # it may be on its way
    log.fails = True
    assert await hub.glance(news) == news
    log.fails = False
    await hub.glance(news)
    assert await wire.take() == "1.1→1.2"


async def test_after_redis_was_away_everybody_catches_up(hub, join, log, valkey, monkeypatch):
    monkeypatch.setattr(hubs, "BACKOFF_SECONDS", (0.01, 0.05))
    _, wire, _ = await join()
    assert await wire.take() == "snapshot→1.1"
    valkey.stop()
    log.commit()  # and nobody can say so
    with pytest.raises(redis.RedisError):
        await publish(log.commit())
    valkey.start()
    assert await wire.take() == "1.1→1.3"
    await publish(log.commit())
    assert await wire.take() == "1.3→1.4"


async def test_a_cluster_joined_while_redis_is_away_is_heard_later(hub, join, log, valkey, monkeypatch):
    monkeypatch.setattr(hubs, "BACKOFF_SECONDS", (0.01, 0.05))
    valkey.stop()
    async with asyncio.timeout(PATIENCE):
        while hub.connected.is_set():
            await asyncio.sleep(0.01)
    _, wire, _ = await join()
    assert await wire.take() == "snapshot→1.1"
    log.commit()
    valkey.start()
    assert await wire.take() == "1.1→1.2"


async def test_a_redis_that_takes_connections_and_says_nothing_keeps_nobody_out(valkey, log, monkeypatch, settings):
    """As one does that is frozen: the socket is served from the log, and heard for once Redis answers."""
    monkeypatch.setattr(hubs, "BACKOFF_SECONDS", (0.01, 0.05))
    monkeypatch.setattr(hubs, "TIMEOUT", 0.2)
    answering, asked = settings.REDIS_URL, asyncio.Event()

    async def say_nothing(reader, writer):
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    mute = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    settings.REDIS_URL = f"redis://127.0.0.1:{mute.sockets[0].getsockname()[1]}/0"
    hub = Hub(log, log)
    hub.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
            await hub.join(Socket(Wire().send, CLUSTER, 1, "session", None))
            settings.REDIS_URL = answering
            await hub._clusters[CLUSTER].subscribed.wait()
        await publish(log.commit())
        async with asyncio.timeout(PATIENCE):
            await log.moves.wait()
    finally:
        await hub.stop()
        mute.close()


async def test_one_that_leaves_while_another_joins_takes_nothing_along(valkey, log, monkeypatch):
    """Redis is slow, and the first of a cluster waits for its subscription while a second one comes and goes."""
    hub = Hub(log, log)  # which never listens: it is not started
    first, second = (Socket(Wire().send, CLUSTER, node, f"session {node}", None) for node in (1, 2))
    async with hub._lock:
        joining = asyncio.create_task(hub.join(first))
        await asyncio.sleep(0)
        await hub.join(second)
        leaving = asyncio.create_task(hub.leave(second))
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await joining
        await leaving
    assert hub.sockets() == [first]
    await hub.stop()


async def test_the_last_socket_to_leave_ends_the_subscription(hub, join, valkey):
    def subscribers():
        with valkey.client() as client:
            return client.pubsub_numsub(fanout.channel_name(CLUSTER))[0][1]

    socket, wire, _ = await join()
    await wire.take()
    assert subscribers() == 1
    await hub.leave(socket)
    async with asyncio.timeout(PATIENCE):
        while subscribers():
            await asyncio.sleep(0.01)
    _, wire, _ = await join()
    await wire.take()
    assert subscribers() == 1


async def test_nonsense_on_the_channel_hurts_nobody(join, log, valkey):
    _, wire, _ = await join()
    await wire.take()
    with valkey.client() as client:
        client.publish(fanout.channel_name(CLUSTER), "nonsense")
    await publish(log.commit())
    assert await wire.take() == "1.1→1.2"


@pytest.mark.django_db(transaction=True)
async def test_agents_get_what_was_committed_while_redis_was_away(console, valkey, monkeypatch):
    monkeypatch.setattr(hubs, "BACKOFF_SECONDS", (0.01, 0.05))
    cluster, machines, _ = await in_thread(make_cluster)
    players = [await console.connect(machine) for machine in machines]
    valkey.stop()
    await in_thread(lambda: clusters.set_options("console", cluster, ClusterOptions(mtu=1400), timezone.now()))
    valkey.start()
    for player in players:
        while player.held.options.mtu != 1400:
            await player.receive()
    await in_thread(lambda: clusters.set_options("console", cluster, ClusterOptions(mtu=1410), timezone.now()))
    async with asyncio.timeout(PATIENCE):
        await agents.running_end().hub.connected.wait()
    revision = await push(cluster)
    for player in players:
        await player.reach(revision)
        assert player.held.options.mtu == 1410
