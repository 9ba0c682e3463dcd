"""Agents' sockets: a real server, real Redis, real rows; only the agents are played."""

import asyncio
import contextlib
import gc
import json
from functools import partial

import pytest
from django.db import OperationalError
from django.utils import timezone
from websockets.exceptions import ConnectionClosed

from kubespan.core.identity import make_signing_key
from kubespan.core.messages import (
    FRAME_BASE,
    Challenge,
    Claim,
    ClusterSecret,
    Delta,
    Finding,
    Findings,
    Notice,
    Refused,
    Removed,
    Report,
    Revision,
    Snapshot,
    Welcome,
    frame_limit,
)
from kubespan.core.options import ClusterOptions
from nodes import agents, fanout
from nodes.agents import conversation, gate, ledger, peer_address
from nodes.agents.hub import Hub
from nodes.agents.rows import in_thread
from nodes.counters import read_counters
from nodes.management.commands.run import AGENT_MESSAGE_LIMIT
from nodes.models import Node, Obstacle, Transition
from nodes.services import clusters, revisions
from nodes.services import nodes as services
from tests.players import PATIENCE, Machine, Player, make_cluster, open_console, push, until

pytestmark = pytest.mark.django_db(transaction=True)


async def test_an_approved_node_gets_welcome_secret_and_snapshot(console):
    cluster, (machine, _), _ = await in_thread(make_cluster)
    player = await console.greet(machine)
    welcome = await player.receive(Welcome)
    assert (welcome.status, welcome.index, welcome.frame_limit) == ("approved", 0, frame_limit(2))
    await player.receive(ClusterSecret)
    assert player.secret == await in_thread(lambda: clusters.reveal_secret("console", cluster, timezone.now()))
    await player.receive(Snapshot)
    assert sorted(player.held.members) == [0, 1]


async def test_who_holds_a_revision_gets_what_came_after(console):
    _, (machine, other), token = await in_thread(make_cluster)
    first = await console.connect(machine)
    await first.socket.close()
    third = await in_thread(lambda: Machine().enrol(token))
    again = await console.greet(machine, held=first.held.revision, secret_generation=1)
    again.held = first.held
    await again.receive(Welcome)
    delta = await again.receive(Delta)
    assert delta.since == first.held.revision
    assert third.node.index in {member.index for member in delta.changed}
    assert other.node.index not in {member.index for member in delta.changed}
    assert sorted(again.held.members) == [0, 1, 2]


async def test_a_change_reaches_every_node(console):
    cluster, machines, _ = await in_thread(make_cluster, 3)
    players = [await console.connect(machine) for machine in machines]
    await in_thread(lambda: clusters.set_options("console", cluster, ClusterOptions(mtu=1400), timezone.now()))
    revision = await push(cluster)
    for player in players:
        await player.reach(revision)
        assert player.held.options.mtu == 1400


async def test_what_a_node_says_becomes_rows(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    await player.apply()
    await player.say(
        Claim(
            hostname="edge-7",
            operating_system="Debian 12",
            agent_version="1",
            backend="kernel",
            listen_port=51821,
            addresses=("192.0.2.4",),
        )
    )
    await player.say(Notice(kind="drift", text="somebody removed the link"))
    pk, revision = machine.node.pk, player.held.revision
    await until(lambda: Node.objects.filter(pk=pk, applied_number=revision.number).exists())
    await until(lambda: Node.objects.filter(pk=pk, hostname="edge-7", listen_port=51821).exists())
    await until(lambda: Transition.objects.filter(node=pk, kind="drift").exists())


async def test_who_floods_the_console_with_notices_crowds_out_nobody(console, monkeypatch):
    _, (loud, quiet), _ = await in_thread(make_cluster)
    ours, theirs = await console.connect(loud), await console.connect(quiet)
    end = agents.running_end()
    monkeypatch.setattr(end.ledger, "_clock", lambda: 1_000_000.0)  # it stays the same minute
    for number in range(60):
        await ours.say(Notice(kind="fault", text=str(number)))
    await theirs.apply()
    await theirs.say(Notice(kind="drift", text="healed"))
    await until(lambda: Node.objects.filter(pk=quiet.node.pk, applied_number=theirs.held.revision.number).exists())
    await until(lambda: Transition.objects.filter(node=quiet.node, kind="drift").exists())
    kept = Transition.objects.filter(node=loud.node, kind="fault").order_by("pk").values_list("text", flat=True)
    await until(lambda: list(kept.all()) == [str(number) for number in range(ledger.NOTICES_A_MINUTE)])
    await until(lambda: read_counters()["notices.lost"] == 60 - ledger.NOTICES_A_MINUTE)


async def test_what_a_node_said_last_does_not_stay_until_it_says_more(console):
    _, (first, _), _ = await in_thread(make_cluster)
    player = await console.connect(first)
    tables = {id(held) for held in gc.get_objects() if type(held) is Report}  # other tests' own
    await player.report({1: (1, "192.0.2.1:51820")}, complete=True)
    reports = agents.running_end().reports
    async with asyncio.timeout(PATIENCE):
        while not reports._lines[first.node.pk].table.at:
            await asyncio.sleep(0)
        # The last step of its taking.
        while any(type(held) is Report and id(held) not in tables for held in gc.get_objects()):
            await asyncio.sleep(0)


async def test_a_pending_node_learns_nothing_until_it_is_approved(console):
    cluster, (machine, _), _ = await in_thread(lambda: make_cluster(approval_required=True))
    player = await console.greet(machine)
    welcome = await player.receive(Welcome)
    assert (welcome.status, welcome.index) == ("pending", None)
    await player.report({0: (1, "192.0.2.1:51820")}, complete=True)
    await in_thread(lambda: clusters.set_options("console", cluster, ClusterOptions(mtu=1400), timezone.now()))
    await push(cluster)
    await in_thread(lambda: services.approve_node("console", machine.node, timezone.now()))
    # The next it hears is its approval: the frame that went to all before was not for it.
    assert (await player.receive(Welcome)).status == "approved"
    await player.receive(ClusterSecret)
    assert len((await player.receive(Snapshot)).members) == 1


async def test_an_approval_that_was_not_heard_is_found_by_the_check(console):
    cluster, (machine, _), _ = await in_thread(lambda: make_cluster(approval_required=True))
    player = await console.greet(machine)
    await player.receive(Welcome)
    await in_thread(lambda: Node.objects.filter(pk=machine.node.pk).update(status="approved", index=0))
    await agents.running_end().hub.check(cluster.pk)
    assert (await player.receive(Welcome)).status == "approved"


async def test_a_node_that_was_taken_for_gone_is_connected_again(console):
    cluster, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    rows = Node.objects.filter(pk=machine.node.pk)
    await in_thread(lambda: rows.update(session="", away=True))
    await agents.running_end().hub.check(cluster.pk)
    await player.receive(Welcome)
    assert await in_thread(lambda: rows.filter(away=False).exclude(session="").exists())


async def test_a_removed_node_is_told_and_its_connection_closed(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    await in_thread(lambda: services.remove_node("console", machine.node, machine.name, timezone.now()))
    assert isinstance(await player.receive(), Removed)
    assert await player.closed() == fanout.CLOSE_REMOVED


@pytest.fixture
def before_the_join(monkeypatch):
    """Have something done between the look at a node's row and its socket's part in what is published; once."""
    join, waiting = Hub.join, []

    async def join_late(hub, socket):
        while waiting:
            await in_thread(waiting.pop())
        await join(hub, socket)

    monkeypatch.setattr(Hub, "join", join_late)
    return waiting.append


async def test_a_node_that_is_removed_as_it_connects_is_told(console, before_the_join):
    _, (machine, other), _ = await in_thread(make_cluster)
    await console.connect(other)  # else the subscription, when it begins, would have all looked at
    before_the_join(lambda: services.remove_node("console", machine.node, machine.name, timezone.now()))
    player = await console.greet(machine)
    while not isinstance(await player.receive(), Removed):
        pass
    assert await player.closed() == fanout.CLOSE_REMOVED


async def test_a_node_that_is_approved_as_it_connects_is_told(console, before_the_join):
    _, (machine, other), _ = await in_thread(lambda: make_cluster(approval_required=True))
    await (await console.greet(other)).receive(Welcome)
    before_the_join(lambda: services.approve_node("console", machine.node, timezone.now()))
    player = await console.greet(machine)
    assert (await player.receive(Welcome)).status == "pending"
    assert (await player.receive(Welcome)).status == "approved"
    await player.receive(ClusterSecret)
    assert len((await player.receive(Snapshot)).members) == 1


async def test_a_removed_node_is_refused(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    await in_thread(lambda: services.remove_node("console", machine.node, machine.name, timezone.now()))
    player = await console.greet(machine)
    assert isinstance(await player.receive(), Removed)
    assert await player.closed() == fanout.CLOSE_REMOVED


async def test_a_newer_connection_closes_the_older(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    older = await console.connect(machine)
    newer = await console.connect(machine)
    assert await older.closed() == fanout.CLOSE_REPLACED
    await newer.apply()
    pk, number = machine.node.pk, newer.held.revision.number
    await until(lambda: Node.objects.filter(pk=pk, applied_number=number).exclude(session="").exists())


async def test_a_newer_connection_in_another_process_closes_the_older(console):
    cluster, (machine, _), _ = await in_thread(make_cluster)
    older = await console.connect(machine)
    fanout._publish(cluster.pk, fanout.Replaced(machine.node.pk, "elsewhere"))
    assert await older.closed() == fanout.CLOSE_REPLACED


async def test_a_late_word_of_its_own_session_does_not_close_a_settled_connection(console):
    cluster, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    session = await in_thread(lambda: Node.objects.get(pk=machine.node.pk).session)
    settle = partial(fanout.settle_node, machine.node.pk, cluster.pk)
    await in_thread(settle)
    await player.receive(Welcome)
    await in_thread(lambda: fanout._publish(cluster.pk, fanout.Replaced(machine.node.pk, session)))
    await in_thread(settle)
    assert (await player.receive(Welcome)).status == "approved"


async def test_an_older_connection_does_not_take_the_place_of_the_newer_when_both_are_settled(console):
    cluster, (machine, _), _ = await in_thread(make_cluster)
    older = await console.connect(machine)
    await in_thread(lambda: Node.objects.filter(pk=machine.node.pk).update(session="elsewhere"))
    await in_thread(lambda: fanout.settle_node(machine.node.pk, cluster.pk))
    assert await older.closed() == fanout.CLOSE_REPLACED
    assert await in_thread(lambda: Node.objects.get(pk=machine.node.pk).session) == "elsewhere"


async def test_a_session_ends_with_its_connection(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    await until(lambda: Node.objects.exclude(session="").filter(pk=machine.node.pk).exists())
    await player.socket.close()
    await until(lambda: Node.objects.filter(pk=machine.node.pk, session="").exists())


# What is wrong is refused in a sentence, counted, and changes nothing.


@pytest.mark.parametrize(
    ("frame", "code", "close"),
    [
        pytest.param("nonsense", "bad", 1008, id="nonsense"),
        pytest.param(b"\xff\xfe", "bad", 1008, id="not text"),
        pytest.param('{"type":"evil"}', "bad", 1008, id="unknown type"),
        pytest.param('{"type":"applied","revision":[1,2],"extra":1}', "bad", 1008, id="unknown field"),
        pytest.param('{"type":"applied","revision":[1,-2]}', "bad", 1008, id="a number that is none"),
        pytest.param("[" * 2000, "bad", 1008, id="nested deeply"),
        pytest.param("x" * (frame_limit(2) + 1), "too-large", 1009, id="larger than its cluster can need"),
        pytest.param(
            json.dumps(
                {
                    "type": "report",
                    "number": 0,
                    "complete": True,
                    "revision": [1, 2],
                    "members": [1],
                    "states": [1],
                    "endpoints": ["nowhere"],
                    "handshakes": [1],
                    "received": [1],
                    "sent": [1],
                }
            ),
            "bad",
            1008,
            id="a report with an endpoint that is none",
        ),
        pytest.param(
            json.dumps(
                {"type": "hello", "version": 1, "cluster": "x", "node_id": "y", "signature": "z"},
            ),
            "bad",
            1008,
            id="a second hello",
        ),
    ],
)
async def test_a_bad_frame_is_refused(console, frame, code, close):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    before = await in_thread(lambda: Node.objects.values("applied_number", "status").get(pk=machine.node.pk))
    await player.socket.send(frame)
    refused = await player.receive(Refused)
    assert refused.code == code
    assert refused.reason
    assert await player.closed() == close
    await until(lambda: read_counters().get(f"frame.{code}") == 1)
    assert before == await in_thread(lambda: Node.objects.values("applied_number", "status").get(pk=machine.node.pk))


async def test_a_frame_beyond_the_servers_own_limit_is_refused_in_the_close_and_counted(console):
    """By its header alone: no word of ours can go before, but the close has the sentence."""
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    with contextlib.suppress(ConnectionClosed):  # while it is still being sent
        await player.socket.send(b"x" * (AGENT_MESSAGE_LIMIT + 1))
    with pytest.raises(ConnectionClosed) as ended:
        await player.receive(Refused)
    assert ended.value.rcvd.code == 1009
    assert ended.value.rcvd.reason == "frame with 4194305 bytes exceeds limit of 4194304 bytes"
    await until(lambda: read_counters().get("frame.too-large") == 1)


async def test_a_frame_as_large_as_the_cluster_needs_is_taken(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    text = json.dumps({"type": "notice", "kind": "fault", "text": ""})
    room = frame_limit(2) - len(text)
    await player.socket.send(text.replace('""', f'"{"x" * room}"'))
    await until(lambda: Transition.objects.filter(node=machine.node.pk, kind="fault").exists())
    await until(lambda: read_counters().get("notice.fault") == 1)


@pytest.mark.parametrize(
    ("fields", "code", "close"),
    [
        pytest.param({"version": 9}, "version", 1008, id="a future version"),
        pytest.param({"signature": "AAAA"}, "signature", 4403, id="a signature that is none"),
        pytest.param({"node_id": "unknown"}, "node-unknown", 4403, id="an unknown node"),
        pytest.param({"node_id": "a\0b"}, "node-unknown", 4403, id="a node id that no database takes"),
        pytest.param({"cluster": "unknown"}, "cluster", 4403, id="an unknown cluster"),
    ],
)
async def test_a_bad_hello_is_refused(console, fields, code, close):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.greet(machine, **fields)
    assert (await player.receive(Refused)).code == code
    assert await player.closed() == close
    await until(lambda: read_counters().get(f"hello.{code}") == 1)
    assert await in_thread(lambda: Node.objects.get(pk=machine.node.pk).session) == ""


async def test_another_nodes_key_is_refused(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    machine.signing, _ = make_signing_key(b"\1" * 32)
    player = await console.greet(machine)
    assert (await player.receive(Refused)).code == "signature"


async def test_a_signature_for_another_challenge_is_refused(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    first = Player(machine, await console.dial())
    old = machine.hello(await first.receive())
    second = Player(machine, await console.dial())
    await second.receive()
    await second.say(old)
    assert (await second.receive(Refused)).code == "signature"


async def test_the_first_message_must_be_a_hello(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = Player(machine, await console.dial())
    await player.receive()
    await player.say(Notice(kind="fault", text="hi"))
    assert (await player.receive(Refused)).code == "hello-expected"


async def test_before_the_hello_only_small_frames_are_taken(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = Player(machine, await console.dial())
    await player.receive()
    await player.socket.send("x" * (FRAME_BASE + 1))
    assert (await player.receive(Refused)).code == "too-large"
    assert await player.closed() == 1009


async def test_who_does_not_say_hello_is_let_go(console, monkeypatch):
    monkeypatch.setattr(conversation, "HELLO_SECONDS", 0.05)
    _, (machine, _), _ = await in_thread(make_cluster)
    player = Player(machine, await console.dial())
    await player.receive()
    assert await player.closed() == fanout.CLOSE_LATER
    await until(lambda: read_counters().get("hello.late") == 1)


async def test_one_address_has_not_all_the_places_of_those_who_have_not_said_who_they_are(valkey, monkeypatch):
    monkeypatch.setattr(conversation, "STRANGERS_EACH", 2)
    _, (machine, _), _ = await in_thread(make_cluster)

    async def come_from(address):
        return Player(machine, await console.dial(**{"X-Forwarded-For": address}))

    async with open_console(["127.0.0.0/8"]) as console:
        for _ in range(2):
            await (await come_from("192.0.2.66")).receive(Challenge)
        assert await (await come_from("192.0.2.66")).closed() == fanout.CLOSE_LATER
        another = await come_from("192.0.2.7")
        await another.say(machine.hello(await another.receive(Challenge)))
        await another.receive(Welcome)
        await until(lambda: read_counters().get("hello.crowded") == 1)


async def test_the_limit_of_a_frame_grows_with_the_cluster(console):
    cluster, (machine, _), token = await in_thread(make_cluster)
    player = await console.connect(machine)
    await in_thread(lambda: [Machine().enrol(token) for _ in range(4)])
    await player.reach(await push(cluster))
    await player.socket.send("x" * (frame_limit(6) - 1))
    assert (await player.receive(Refused)).code == "bad"  # it was read


# Parts that fail.


async def test_without_a_database_an_agent_is_asked_to_come_later(console, monkeypatch):
    _, (machine, _), _ = await in_thread(make_cluster)

    def away(*_):
        raise OperationalError("away")

    monkeypatch.setattr(gate.sessions, "open_sessions", away)
    player = await console.greet(machine)
    assert await player.closed() == fanout.CLOSE_LATER


async def test_what_cannot_be_written_waits_for_the_database(console, monkeypatch):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()

    def away(*_):
        loop.call_soon_threadsafe(tried.set)
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.sessions, "record_applied", away)
        await player.apply()
        async with asyncio.timeout(PATIENCE):
            await tried.wait()
    number = player.held.revision.number
    await until(lambda: Node.objects.filter(pk=machine.node.pk, applied_number=number).exists())


async def test_the_end_of_a_connection_waits_for_the_database(console, monkeypatch):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()

    def away(*_):
        loop.call_soon_threadsafe(tried.set)
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.sessions, "close_sessions", away)
        await player.socket.close()
        async with asyncio.timeout(PATIENCE):
            await tried.wait()
        assert await in_thread(lambda: Node.objects.get(pk=machine.node.pk).session)
    await until(lambda: Node.objects.filter(pk=machine.node.pk, session="").exists())


async def test_the_servers_stop_sends_agents_elsewhere(valkey):
    async with open_console() as console:
        _, (machine, _), _ = await in_thread(make_cluster)
        player = await console.connect(machine)
        console_closed = asyncio.create_task(player.closed())
        await agents.stop_end()
        assert await console_closed == fanout.CLOSE_RESTART


async def test_the_servers_stop_waits_until_conversations_have_taken_leave(valkey):
    async with open_console() as console:
        _, (machine, _), _ = await in_thread(make_cluster)
        await console.connect(machine)
        await agents.stop_end()
        assert await in_thread(lambda: Node.objects.get(pk=machine.node.pk).session) == ""
        # Whatever opened a connection to Redis after it was let go of would leave it open: a warning, here an error.
        gc.collect()


@pytest.mark.parametrize(
    ("proxies", "address"),
    [
        pytest.param(["127.0.0.0/8"], "203.0.113.5", id="a trusted proxy"),
        pytest.param(["10.0.0.0/8"], "127.0.0.1", id="anybody else"),
        pytest.param([], "127.0.0.1", id="no proxies"),
    ],
)
async def test_a_forwarded_address_is_believed_of_trusted_proxies_only(valkey, proxies, address):
    async with open_console(proxies) as console:
        _, (machine, _), _ = await in_thread(make_cluster)
        header = {"X-Forwarded-For": "198.51.100.99, 203.0.113.5"}
        player = Player(machine, await console.dial(**header))
        await player.say(machine.hello(await player.receive()))
        await player.receive(Welcome)
        assert await in_thread(lambda: Node.objects.get(pk=machine.node.pk).peer_address) == address


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        pytest.param(("192.0.2.1", 4711), "192.0.2.1", id="IPv4"),
        pytest.param(("::ffff:192.0.2.1", 4711), "192.0.2.1", id="IPv4 on an IPv6 socket"),
        pytest.param(("2001:db8::1", 4711), "2001:db8::1", id="IPv6"),
        pytest.param(("", 0), "None", id="no address"),
        pytest.param(None, "None", id="a Unix socket"),
    ],
)
def test_peer_address(client, expected):
    assert str(peer_address({"client": client})) == expected


def test_revision_of_another_epoch_is_answered_with_a_snapshot():
    cluster, _, _ = make_cluster()
    assert revisions.frame(cluster.pk, Revision(99, 1)).since is None


async def test_what_preflight_finds_becomes_rows_and_is_gone_with_the_next_word(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine)
    found = Finding(code="rp-filter", text="The kernel drops it.", remedy="sysctl -w a=0")
    await player.say(Findings(findings=(found,)))
    await until(lambda: Obstacle.objects.filter(node=machine.node, code="rp-filter").exists())
    await player.say(Findings(findings=()))
    await until(lambda: not Obstacle.objects.filter(node=machine.node).exists())
