"""An agent of the release before, by its recorded frames, and this console: real application, rows and Redis.

The agent says what it said then, but for its signature, which is made over this connection's nonce with its recorded
key. What the console was asked to do then, it is asked again, at the same place of the conversation. All that it says
is judged by the strict schema of that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from datetime import datetime, timedelta

import msgspec
import pytest
import urllib3
import uvicorn
from django.db import connections
from django.utils import timezone
from websockets.asyncio.client import connect

from kubespan.core import sealing
from kubespan.core.identity import sign
from kubespan.core.messages import (
    AGENT_PATH,
    ENROL_PATH,
    VERSIONS,
    EnrolRequest,
    Pace,
    Resync,
    challenge_text,
)
from kubespan.core.options import ClusterOptions
from kubespan_web.asgi import application
from nodes import fanout, live
from nodes.agents.rows import in_thread
from nodes.models import Cluster, Console, Node, Token, Transition
from nodes.services import clusters, enrolment, nodes, revisions, tokens
from tests.dialogues.recorded import PREVIOUS
from tests.players import PATIENCE, Machine, until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("valkey"),
    pytest.mark.parametrize("recorded", PREVIOUS, ids=lambda recorded: f"version {recorded.version}"),
]


@pytest.fixture(autouse=True)
def _close_connections(monkeypatch):
    """Threads would keep theirs for a minute, and the database could not be dropped at the end."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)


@pytest.fixture
def cluster(recorded):
    """This console, with the key and the cluster of the one of then."""
    was = recorded.dialogue["cluster"]
    revisions.console_settings()
    Console.objects.update(key=was["console_key"])
    made, _ = clusters.create_cluster(
        None, name=was["name"], cluster_id=was["cluster_id"], secret=was["secret"], now=timezone.now()
    )
    Cluster.objects.update(uuid=was["uuid"])
    made.refresh_from_db()
    return made


def recorded_token(recorded, cluster, *, approval_required: bool) -> Token:
    """The token of then."""
    token, _ = make_token(cluster, approval_required=approval_required)
    token.digest = tokens.digest_token(recorded.dialogue["enrolments"][0]["request"]["token"])
    token.save()
    return token


def make_token(cluster, *, approval_required: bool = False) -> tuple[Token, str]:
    return tokens.create_token(
        None, cluster, name="test", uses=10, lifetime=timedelta(hours=1), approval_required=approval_required,
        now=timezone.now(),
    )  # fmt: skip


# Enrolment.


async def ask(recorded, number):
    """Make a recorded request of the whole application; status, what it says, and what it said then."""
    then = recorded.dialogue["enrolments"][number]
    async with serving() as host:
        reply = await asyncio.to_thread(
            urllib3.request, "POST", f"http://{host}{ENROL_PATH}", json=then["request"], retries=False
        )
    return reply.status, recorded.understand("enrol-reply" if reply.status == 200 else "refusal", reply.data), then


async def test_it_enrols(recorded, cluster):
    await in_thread(recorded_token, recorded, cluster, approval_required=False)
    status, said, then = await ask(recorded, 1)
    assert (status, then["status"]) == (200, 200)
    assert said == then["reply"]
    assert (await ask(recorded, 1))[1] == said


async def test_where_it_must_wait_for_a_yes_it_is_told_to_be_upgraded_and_learns_nothing(recorded, cluster):
    token = await in_thread(recorded_token, recorded, cluster, approval_required=True)
    status, said, _ = await ask(recorded, 0)
    assert (status, said["code"]) == (403, "agent-too-old")
    assert "upgrade kubespan-agent" in said["reason"]
    assert cluster.cluster_id not in str(said)
    assert not await in_thread(Node.objects.exists)
    await in_thread(token.refresh_from_db)
    assert token.used == 0


async def test_a_wrong_token_is_refused_as_it_was(recorded, cluster):
    status, said, then = await ask(recorded, 2)
    assert (status, said) == (then["status"], then["reply"])


# The conversation.


@contextlib.asynccontextmanager
async def serving():
    """The whole application on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, ws="websockets-sansio", ws_per_message_deflate=False, proxy_headers=False, lifespan="on",
        log_config=None, access_log=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class Agent:
    """The recorded agent on one connection."""

    def __init__(self, recorded, world, line) -> None:
        self.recorded, self.world, self.line = recorded, world, line
        self.heard: list[dict] = []

    async def play(self, frames) -> None:
        """Say what it said, hear what it heard."""
        for side, frame in frames:
            then = json.loads(frame)
            if side == "agent":
                await self.line.send(json.dumps(self.sign(then) if then["type"] == "hello" else then))
            elif await in_thread(self.world.provoke, then):
                await self.hear(then["type"])

    def sign(self, hello: dict) -> dict:
        """Answer this connection's challenge."""
        nonce = next(said["nonce"] for said in self.heard if said["type"] == "challenge")
        keys, was = self.recorded.dialogue["machine"], self.recorded.dialogue["cluster"]
        text = challenge_text(was["console_key"], was["uuid"], keys["node_id"], nonce)
        return hello | {"signature": sign(keys["signing_key"], text)}

    async def hear(self, kind: str) -> None:
        """Until something of that kind was said; a snapshot is as good as a delta."""
        wanted = {"delta", "snapshot"} if kind in {"delta", "snapshot"} else {kind}
        async with asyncio.timeout(PATIENCE):
            while True:
                self.heard.append(self.recorded.understand("console", await self.line.recv()))
                said = self.heard[-1]["type"]
                assert said != "refused" or kind == "refused", self.heard[-1]
                if said in wanted:
                    return


class World:
    """What the console is asked to do, so that it says again what it said then."""

    def __init__(self, cluster, alpha) -> None:
        self.cluster, self.alpha = cluster, alpha
        self.token = make_token(cluster)[1]

    def provoke(self, frame: dict) -> bool:
        """Have that said; false where there is nothing to say it for: news of the machine itself came with the rest."""
        now = timezone.now()
        match frame:
            case {"type": "welcome", "status": "approved"}:
                if Node.objects.pending().filter(pk=self.alpha.pk).exists():
                    nodes.approve_node(None, self.alpha, now)
            case {"type": "delta"}:
                return self.change(frame, now)
            case {"type": "pace", "seconds": seconds, "lease": lease}:
                fanout.publish_to_node(self.alpha.pk, self.cluster.pk, Pace(seconds=seconds, lease=lease))
            case {"type": "resync"}:
                fanout.publish_to_node(self.alpha.pk, self.cluster.pk, Resync())
            case {"type": "tryagain"}:
                nodes.try_again(None, Node.objects.get(pk=self.alpha.pk), None, now)
            case {"type": "removed"}:
                nodes.remove_node(None, self.alpha, self.alpha.name, now)
        return True

    def change(self, delta: dict, now: datetime) -> bool:
        """Change members and options as then; whether there was anything to change."""
        before = revisions.current(self.cluster.pk)
        for member in delta["changed"]:
            self.join(member)
        for node in Node.objects.filter(index__in=delta["gone"]):
            nodes.remove_node(None, node, node.name, now)
        if delta["options"]:
            clusters.set_options(None, self.cluster, every_option(delta["options"]), now)
        revisions.push(self.cluster.pk)
        return revisions.current(self.cluster.pk) != before

    def join(self, member: dict) -> None:
        """A machine more, at the addresses of then."""
        if not Node.objects.filter(name=member["name"]).exists():
            Machine(member["name"]).enrol(self.token, addresses=tuple(member["addresses"]))


def every_option(then: dict) -> ClusterOptions:
    """The options of then, and whatever a cluster has besides."""
    return ClusterOptions(**then, extra_endpoints=("203.0.113.9:51820",), approved_networks=("10.66.0.0/16",))


def enrolled_before(recorded, cluster) -> Node:
    """The row that the release before made for the machine, which waits for a yes."""
    recorded_token(recorded, cluster, approval_required=True)
    request = msgspec.convert(recorded.dialogue["enrolments"][0]["request"], EnrolRequest)
    enrolment.enrol(msgspec.structs.replace(request, versions=VERSIONS), peer=None, now=timezone.now())
    return Node.objects.get(name=request.name)


async def test_all_that_it_says_is_taken_and_all_that_it_is_told_it_knows(recorded, cluster):
    pending_life, member_life, nonsense = recorded.dialogue["conversations"]
    alpha = await in_thread(enrolled_before, recorded, cluster)
    world = await in_thread(World, cluster, alpha)
    await in_thread(world.join, {"name": "bravo", "addresses": ["192.0.2.2"]})
    async with serving() as host:
        url = f"ws://{host}{AGENT_PATH}"
        async with connect(url, compression=None, max_size=None) as line:
            agent = Agent(recorded, world, line)
            await agent.play(pending_life)
            await until(lambda: Transition.objects.filter(node=alpha, kind="drift").exists())
            await until(lambda: _reported(alpha) == _last(pending_life, "report")["number"])
            await until(lambda: _follows(alpha, pending_life))
        _check_secret(recorded, agent.heard)
        async with connect(url, compression=None, max_size=None) as line:
            await Agent(recorded, world, line).play(member_life)
        async with connect(url, compression=None) as line:
            stranger = Agent(recorded, world, line)
            await stranger.play(nonsense)
            assert stranger.heard[-1]["code"] == json.loads(nonsense[-1][1])["code"]
    kinds = {said["type"] for said in agent.heard}
    then = {json.loads(frame)["type"] for side, frame in pending_life if side == "console"}
    assert then <= kinds


def _last(frames, kind) -> dict:
    said = [json.loads(frame) for side, frame in frames if side == "agent"]
    return [frame for frame in said if frame["type"] == kind][-1]


def _reported(alpha) -> int | None:
    summary = live.read_summaries(alpha.cluster).get(alpha.pk)
    return None if summary is None else summary.number


def _follows(alpha, frames) -> bool:
    alpha.refresh_from_db()
    return (
        [alpha.applied_epoch, alpha.applied_number] == _last(frames, "applied")["revision"]
        and (alpha.status, alpha.fault, alpha.refused_claims) == ("approved", "", [])
        and alpha.addresses == _last(frames, "claim")["addresses"]
    )


def _check_secret(recorded, heard) -> None:
    keys, was = recorded.dialogue["machine"], recorded.dialogue["cluster"]
    (secret,) = (said for said in heard if said["type"] == "clustersecret")
    opened = sealing.open_sealed(
        secret["sealed"], keys["private_key"], cluster=was["uuid"], node_id=keys["node_id"],
        generation=secret["generation"],
    )  # fmt: skip
    assert opened == was["secret"]
