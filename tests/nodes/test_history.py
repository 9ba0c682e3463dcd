"""A link's past, asked of its agent: real sockets and a real Redis; the agent is played."""

import asyncio
import base64

import pytest

from kubespan.core.history import Point, pack
from kubespan.core.messages import FetchHistory, History, Track
from kubespan.core.peer_status import PeerState
from nodes import live
from nodes.agents import history
from nodes.agents.history import MOST_ASKED, Questions, fetch_history
from nodes.agents.rows import in_thread
from nodes.models import Node
from nodes.services.refused import Refused
from tests.players import make_cluster, until

pytestmark = pytest.mark.django_db(transaction=True)

GOOD = Point(PeerState.UP, 1.0, 0.012, 0.0, 1000, 2000)


def track(seconds, *points, age=0):
    return Track(seconds=seconds, age=age, points=base64.b64encode(b"".join(map(pack, points))).decode())


async def meet(console, **fields):
    """Two members, of whom the first is connected and known to be."""
    cluster, machines, _ = await in_thread(lambda: make_cluster(2))
    one = await console.connect(machines[0], **fields)
    await until(lambda: live.read_summaries_of([one.machine.node.pk]))
    node, peer = await in_thread(lambda: list(Node.objects.filter(cluster=cluster).order_by("index")))
    return one, node, peer


async def asked(player):
    while not isinstance(message := await player.receive(), FetchHistory):
        pass
    return message


async def test_a_links_past_is_fetched_from_its_agent(console):
    one, node, peer = await meet(console)
    fetching = asyncio.create_task(fetch_history(node, peer))
    question = await asked(one)
    assert question.member == peer.index
    tracks = (track(900, None, GOOD, age=30_000), track(60, GOOD))
    await one.say(History(request=question.request, member=question.member, tracks=tracks))
    minutes, quarters = await fetching
    assert (minutes.seconds, quarters.seconds) == (60, 900)
    ((began, nothing), (next_began, point)) = quarters.points
    assert nothing is None
    assert (next_began - began, point.state, point.up) == (900, PeerState.UP, 1.0)
    assert point.rtt == pytest.approx(0.012, rel=0.001)
    assert minutes.points[0][0] - next_began == pytest.approx(870, abs=5)


async def test_a_link_that_the_agent_knows_nothing_of_has_no_past(console):
    one, node, peer = await meet(console)
    fetching = asyncio.create_task(fetch_history(node, peer))
    question = await asked(one)
    await one.say(History(request=question.request, member=question.member))
    assert await fetching == []


async def test_two_who_ask_at_once_each_get_their_answer(console):
    one, node, peer = await meet(console)
    fetching = [asyncio.create_task(fetch_history(node, peer)) for _ in range(2)]
    questions = [await asked(one), await asked(one)]
    for number, question in enumerate(questions, 1):
        points = (GOOD,) * number
        await one.say(History(request=question.request, member=question.member, tracks=(track(60, *points),)))
    found = await asyncio.gather(*fetching)
    assert sorted(len(ring.points) for (ring,) in found) == [1, 2]


async def refusal(node, peer):
    with pytest.raises(Refused) as refused:
        await fetch_history(node, peer)
    assert node.name in refused.value.reason
    return refused.value.code


async def test_an_agent_that_does_not_answer(console, monkeypatch):
    monkeypatch.setattr(history, "ANSWER_SECONDS", 1)
    _, node, peer = await meet(console)
    assert await refusal(node, peer) == "timed-out"


async def test_an_agent_that_is_away(console):
    one, node, peer = await meet(console)
    assert await refusal(peer, node) == "agent-away"
    await one.socket.close()
    await until(lambda: not live.read_summaries_of([node.pk]))
    assert await refusal(node, peer) == "agent-away"


async def test_an_agent_whose_process_is_gone(console, valkey):
    """Its summary is still there, and nobody hears the question."""
    cluster, _, _ = await in_thread(lambda: make_cluster(2))
    node, peer = await in_thread(lambda: list(Node.objects.filter(cluster=cluster).order_by("index")))
    with valkey.client() as client:
        client.set(live.summary_key(node.pk), live.Table().summary("s"))
    assert await refusal(node, peer) == "agent-away"


async def test_an_agent_of_the_release_before(console):
    _, node, peer = await meet(console, version=1)
    assert await refusal(node, peer) == "agent-too-old"


async def test_a_talos_machine(console):
    node, peer = Node(name="talos", kind=Node.Kind.TALOS), Node(name="other", index=1)
    assert await refusal(node, peer) == "no-agent"


async def test_redis_is_away(console, valkey):
    _, node, peer = await meet(console)
    valkey.stop()
    assert await refusal(node, peer) == "redis-away"
    valkey.start()


async def test_what_cannot_be_read_is_no_history(console):
    one, node, peer = await meet(console)
    fetching = asyncio.create_task(refusal(node, peer))
    question = await asked(one)
    tracks = (Track(seconds=60, age=0, points="nonsense"),)
    await one.say(History(request=question.request, member=question.member, tracks=tracks))
    assert await fetching == "bad-history"


async def test_an_agent_answers_only_what_it_was_asked(console, valkey):
    one, node, peer = await meet(console)
    await one.say(History(request=7, member=peer.index, tracks=(track(60, GOOD),)))
    fetching = asyncio.create_task(fetch_history(node, peer))
    question = await asked(one)
    await one.say(History(request=question.request, member=question.member))
    assert await fetching == []
    with valkey.client() as client:
        assert client.keys(history.answer_key(node.pk, "*")) == []


def test_questions_that_nobody_answers_are_few():
    questions = Questions()
    for request in range(3 * MOST_ASKED):
        questions.note(request, 1)
    assert not questions.settle(0, 1)
    assert questions.settle(3 * MOST_ASKED - 1, 1)
    assert not questions.settle(3 * MOST_ASKED - 1, 1)
    assert not questions.settle(3 * MOST_ASKED - 2, 2)
