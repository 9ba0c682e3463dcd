"""Connections, by those who lie: replayed and borrowed hellos, and what one that waits overhears."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import msgspec
import pytest
from django.utils import timezone
from websockets.exceptions import ConnectionClosed

from kubespan.core.identity import sign
from kubespan.core.messages import (
    VERSIONS,
    Challenge,
    Claim,
    ClusterSecret,
    Pace,
    Refused,
    Removed,
    Snapshot,
    Welcome,
    challenge_text,
    dump,
    parse_from_console,
)
from kubespan.core.options import ClusterOptions
from nodes import fanout
from nodes.agents.rows import in_thread
from nodes.models import Node
from nodes.services import clusters, nodes, revisions
from tests import factories
from tests.players import PATIENCE, Machine, Player, make_cluster, push, until

pytestmark = pytest.mark.django_db(transaction=True)


async def hear_all(socket):
    """Every frame until the console closes."""
    frames = []
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(PATIENCE):
            while True:
                frames.append(await socket.recv(decode=False))
    return b"\n".join(frames)


# Who is it?


async def test_every_connection_has_a_nonce_of_its_own(console):
    seen = set()
    for _ in range(20):
        challenge = parse_from_console(await (await console.dial()).recv())
        assert challenge.versions == VERSIONS
        assert len(base64.b64decode(challenge.nonce)) == 32
        seen.add(challenge.nonce)
    assert len(seen) == 20


async def test_a_recorded_hello_is_worth_nothing_later(console):
    """Whoever recorded a whole hello cannot use it: not while its machine is connected, not after it has gone."""
    _, (machine, _), _ = await in_thread(make_cluster)
    first = Player(machine, await console.dial())
    recorded = machine.hello(await first.receive(Challenge))
    await first.say(recorded)
    await first.receive(Welcome)
    session = await in_thread(lambda: Node.objects.get(pk=machine.node.pk).session)
    for _ in range(2):
        liar = Player(machine, await console.dial())
        await liar.receive(Challenge)
        await liar.say(recorded)
        assert (await liar.receive(Refused)).code == "signature"
        assert await liar.closed() == fanout.CLOSE_REMOVED
        # It did not take its machine's place either.
        assert await in_thread(lambda: Node.objects.get(pk=machine.node.pk).session) == session
        await first.socket.close()
        session = await until(lambda: not Node.objects.get(pk=machine.node.pk).session) and ""


async def test_a_second_hello_on_one_connection_is_refused(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = Player(machine, await console.dial())
    hello = machine.hello(await player.receive(Challenge))
    await player.say(hello)
    await player.receive(Welcome)
    await player.receive(ClusterSecret)
    await player.say(hello)
    while not isinstance(said := await player.receive(), Refused):
        pass
    assert "one hello" in said.reason


@pytest.mark.parametrize("borrowed", ["console_key", "cluster", "node_id", "nonce"])
async def test_what_was_signed_for_something_else_is_refused(console, borrowed):
    """Another console's challenge, another cluster's, another node's, another connection's."""
    _, (machine, other), _ = await in_thread(make_cluster)
    player = Player(machine, await console.dial())
    challenge = await player.receive(Challenge)
    true = {
        "console_key": machine.console_key,
        "cluster": machine.cluster,
        "node_id": machine.node_id,
        "nonce": challenge.nonce,
    }
    lie = {"console_key": "another console", "cluster": str(other.node.pk), "node_id": other.node_id, "nonce": "old"}
    text = challenge_text(**(true | {borrowed: lie[borrowed]}))
    await player.say(machine.hello(challenge, signature=sign(machine.signing, text)))
    assert (await player.receive(Refused)).code == "signature"


async def test_one_member_does_not_pass_for_another(console):
    _, (machine, other), _ = await in_thread(make_cluster)
    player = Player(machine, await console.dial())
    challenge = await player.receive(Challenge)
    text = challenge_text(machine.console_key, machine.cluster, other.node_id, challenge.nonce)
    await player.say(machine.hello(challenge, node_id=other.node_id, signature=sign(machine.signing, text)))
    assert (await player.receive(Refused)).code == "signature"


# One that waits.


def everything_of(cluster, members):
    """Words that would tell of the cluster and its members."""
    cluster.refresh_from_db()
    words = [cluster.cluster_id, cluster.name, cluster.prefix.partition("::")[0], cluster.secret.reveal()]
    for member in members:
        words += [member.name, member.node_id, member.keys.public_key, member.node.address, "203.0.113.77"]
    return words


@pytest.mark.parametrize("version", VERSIONS)
async def test_one_that_waits_overhears_nothing(console, version):
    """While members join, change, report and go, and until it is sent away itself."""
    cluster, (stranger,), _ = await in_thread(lambda: make_cluster(1, approval_required=True))
    plain = await in_thread(lambda: token_for(cluster))
    members = [await in_thread(Machine().enrol, plain) for _ in range(2)]
    waiting = await console.greet(stranger, version=version)
    first = await waiting.socket.recv(decode=False)
    await waiting.say(a_claim(members[0].node.address, "10.0.0.1"))
    player = await console.connect(members[0])
    await player.say(a_claim("203.0.113.77"))
    await until(lambda: Node.objects.get(pk=members[0].node.pk).addresses)
    await player.report({1: (1, "203.0.113.77:51820")}, complete=True)
    options = ClusterOptions(mtu=1400, harvest_extra_endpoints=True)
    await in_thread(lambda: clusters.set_options("tests", cluster, options, timezone.now()))
    await in_thread(lambda: nodes.remove_node("tests", members[1].node, members[1].name, timezone.now()))
    await push(cluster)
    await player.reach(await in_thread(revisions.current, cluster.pk))
    words = await in_thread(everything_of, cluster, members)
    await in_thread(lambda: nodes.remove_node("tests", stranger.node, stranger.name, timezone.now()))
    heard = first + b"\n" + await hear_all(waiting.socket)

    assert [word for word in words if word.encode() in heard] == []
    kinds = [type(parse_from_console(frame)) for frame in heard.splitlines()]
    assert (kinds[0], kinds[-1]) == (Welcome, Removed)
    assert set(kinds) <= {Welcome, Removed, Pace}
    again = await console.greet(stranger, version=version)
    heard = await hear_all(again.socket)
    assert b"removed" in heard
    assert [word for word in words if word.encode() in heard] == []


def token_for(cluster):
    return factories.make_token(cluster, uses=100, now=timezone.now())[1]


def a_claim(*addresses):
    return Claim(
        hostname="", operating_system="", agent_version="", backend="kernel", listen_port=51820, addresses=addresses
    )


async def test_a_deleted_clusters_name_is_not_told_to_one_that_waited(console):
    cluster, (stranger,), _ = await in_thread(lambda: make_cluster(1, approval_required=True))
    waiting = await console.greet(stranger)
    await waiting.receive(Welcome)
    await in_thread(lambda: clusters.delete_cluster("tests", cluster, cluster.name, timezone.now()))
    assert cluster.name not in (await waiting.receive(Removed)).reason


async def test_how_many_members_there_are_is_not_told_to_one_that_waits(console):
    cluster, (stranger,), _ = await in_thread(lambda: make_cluster(1, approval_required=True))
    first = msgspec.structs.replace(await (await console.greet(stranger)).receive(Welcome), console_time=0.0)
    plain = await in_thread(lambda: token_for(cluster))
    for _ in range(3):
        await in_thread(Machine().enrol, plain)
    again = await (await console.greet(stranger)).receive(Welcome)
    assert msgspec.structs.replace(again, console_time=0.0) == first


async def test_the_yes_brings_what_was_kept_back_and_only_in_a_version_that_knows_it(console):
    cluster, (one, other), _ = await in_thread(lambda: make_cluster(2, approval_required=True))
    players = [await console.greet(one, version=2), await console.greet(other, version=1)]
    for player in players:
        welcome = await player.receive(Welcome)
        assert (welcome.cluster_id, welcome.cluster_name, welcome.address) == ("", "", "")
        await in_thread(lambda node=player.machine.node: nodes.approve_node("tests", node, timezone.now()))
    new, old = [await player.receive(Welcome) for player in players]

    assert (new.cluster_id, new.cluster_name) == (cluster.cluster_id, cluster.name)
    assert new.address == (await in_thread(lambda: Node.objects.get(pk=one.node.pk))).address
    assert (old.cluster_id, old.cluster_name, old.address) == ("", "", "")


# Versions.


async def test_to_version_1_nothing_is_said_that_it_does_not_know(console):
    cluster, (old, _), plain = await in_thread(make_cluster)
    player = await console.greet(old, version=1)
    first = [await player.socket.recv(decode=False) for _ in range(3)]
    await in_thread(Machine().enrol, plain)
    await in_thread(lambda: clusters.set_options("tests", cluster, ClusterOptions(mtu=1400), timezone.now()))
    await in_thread(lambda: nodes.remove_node("tests", old.node, old.name, timezone.now()))
    await push(cluster)
    frames = [*first, *(await hear_all(player.socket)).splitlines()]
    kinds = [type(parse_from_console(frame, 1)) for frame in frames]
    assert {Welcome, ClusterSecret, Snapshot, Removed} <= set(kinds)
    assert not any(b"cluster_id" in frame for frame in frames)


async def test_a_new_message_in_the_old_version_is_refused(console):
    _, (machine, _), _ = await in_thread(make_cluster)
    player = await console.connect(machine, version=1)
    await player.socket.send('{"type":"findings","findings":[]}')
    while not isinstance(said := await player.receive(), Refused):
        pass
    assert (said.code, "findings" in said.reason) == ("bad", True)


# The secret.


async def test_the_secret_is_sent_once_for_each_connection_that_lacks_it_and_always_sealed(console):
    cluster, (machine, other), _ = await in_thread(make_cluster)
    secret = await in_thread(cluster.secret.reveal)
    player = await console.connect(machine)
    assert player.secret == secret
    again = await console.greet(machine, secret_generation=1)
    assert isinstance(await again.receive(), Welcome)
    assert isinstance(await again.receive(), Snapshot)
    await in_thread(lambda: nodes.remove_node("tests", other.node, other.name, timezone.now()))
    await push(cluster)
    await again.reach(await in_thread(revisions.current, cluster.pk))
    frame = await in_thread(lambda: revisions.frame(cluster.pk, None).bytes)
    assert secret.encode() not in frame
    assert secret not in dump(again.held.snapshot()).decode()
