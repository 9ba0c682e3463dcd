"""Agents played by their messages alone, and a real server for them to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address

import uvicorn
from django.utils import timezone
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from kubespan.core import sealing
from kubespan.core.identity import KeyPair, encode_node_id, make_signing_key, sign
from kubespan.core.membership import Membership
from kubespan.core.messages import (
    AGENT_PATH,
    VERSIONS,
    Applied,
    Challenge,
    ClusterSecret,
    Delta,
    EnrolRequest,
    Hello,
    Report,
    Revision,
    Snapshot,
    Welcome,
    challenge_text,
    dump,
    parse_from_console,
)
from kubespan_web.asgi import behind
from nodes import agents
from nodes.agents.rows import in_thread
from nodes.management.commands.run import AGENT_MESSAGE_LIMIT
from nodes.models import Cluster, Node
from nodes.services import clusters, enrolment, revisions, tokens

PATIENCE = 60.0
"""Seconds after which a test gives up."""

_numbers = itertools.count(1)


@dataclass
class Machine:
    """A machine's own keys."""

    name: str = field(default_factory=lambda: f"machine-{next(_numbers)}")
    keys: KeyPair = field(default_factory=lambda: KeyPair.make(os.urandom(32)))
    node_id: str = field(default_factory=lambda: encode_node_id(os.urandom(32)))
    interface_id: str = field(default_factory=lambda: os.urandom(8).hex())

    def __post_init__(self):
        self.signing, self.verify = make_signing_key(os.urandom(32))
        self.node: Node | None = None
        self.cluster = self.console_key = ""

    def enrol(self, token: str, **claims) -> Machine:
        """Ask to join, as its enrolment request would."""
        request = EnrolRequest(
            versions=VERSIONS,
            token=token,
            node_id=self.node_id,
            name=self.name,
            public_key=self.keys.public_key,
            verify_key=self.verify,
            interface_id=self.interface_id,
            **claims,
        )
        reply = enrolment.enrol(request, peer=ip_address("198.51.100.7"), now=timezone.now())
        self.cluster, self.console_key = reply.cluster, reply.console_key
        self.node = Node.objects.get(cluster__uuid=reply.cluster, node_id=self.node_id)
        return self

    def hello(self, challenge: Challenge, **fields) -> Hello:
        """Answer a challenge."""
        text = challenge_text(self.console_key, self.cluster, self.node_id, challenge.nonce)
        return Hello(
            **{
                "version": VERSIONS[0],
                "cluster": self.cluster,
                "node_id": self.node_id,
                "signature": sign(self.signing, text),
                **fields,
            }
        )


def make_cluster(nodes: int = 2, *, approval_required: bool = False, **options) -> tuple[Cluster, list[Machine], str]:
    """A cluster with so many enrolled machines, and the token by which they came."""
    now = timezone.now()
    cluster, _ = clusters.create_cluster("console", name=f"cluster {next(_numbers)}", now=now, **options)
    _, token = tokens.create_token(
        "console",
        cluster,
        name="test",
        uses=1000,
        lifetime=timedelta(hours=1),
        approval_required=approval_required,
        now=now,
    )
    machines = [Machine().enrol(token) for _ in range(nodes)]
    return cluster, machines, token


async def push(cluster: Cluster) -> Revision | None:
    """What the worker does after a commit."""
    return await in_thread(revisions.push, cluster.pk)


class Player:
    """One connection of a machine."""

    def __init__(self, machine: Machine, socket: ClientConnection) -> None:
        self.machine = machine
        self.socket = socket
        self.held = Membership()
        self.secret = ""
        self.reports = itertools.count()

    async def receive(self, kind: type | None = None):
        """The next message; it must be of this kind."""
        async with asyncio.timeout(PATIENCE):
            message = parse_from_console(await self.socket.recv())
        assert kind is None or isinstance(message, kind), message
        if isinstance(message, Snapshot | Delta):
            self.held = self.held.apply(message)
        if isinstance(message, ClusterSecret):
            self.secret = sealing.open_sealed(
                message.sealed,
                self.machine.keys.private_key,
                cluster=self.machine.cluster,
                node_id=self.machine.node_id,
                generation=message.generation,
            )
        return message

    async def reach(self, revision: Revision) -> None:
        """Receive until this revision is held."""
        while self.held.revision is None or self.held.revision < revision:
            await self.receive()

    async def say(self, message) -> None:
        """Send a message."""
        await self.socket.send(dump(message), text=True)

    async def report(
        self, links: dict[int, tuple[int, str]], *, complete: bool = False, age: int = 1000, **columns
    ) -> None:
        """Say how it sees others: by member index, state and endpoint; and further columns of the report."""
        count = len(links)
        await self.say(
            Report(
                number=next(self.reports),
                complete=complete,
                revision=self.held.revision or Revision(1, 0),
                members=tuple(links),
                states=tuple(state for state, _ in links.values()),
                endpoints=tuple(endpoint for _, endpoint in links.values()),
                handshakes=(age,) * count,
                received=(10,) * count,
                sent=(20,) * count,
                **columns,
            )
        )

    async def apply(self) -> None:
        """Say that it follows what it holds."""
        assert self.held.revision is not None
        await self.say(Applied(revision=self.held.revision))

    async def closed(self) -> int:
        """Wait for the end; the code that the console closed with."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else 1006


class Console:
    """A real server with the agents' end in it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._players = contextlib.AsyncExitStack()

    async def dial(self, **headers: str) -> ClientConnection:
        """A connection on which nothing was said yet."""
        url = f"ws://127.0.0.1:{self.port}{AGENT_PATH}"
        return await self._players.enter_async_context(
            connect(
                url, additional_headers=headers, compression=None, max_size=None, open_timeout=PATIENCE, close_timeout=1
            )
        )

    async def greet(self, machine: Machine, **fields) -> Player:
        """Connect and answer the challenge; nothing of what follows is read yet."""
        player = Player(machine, await self.dial())
        await player.say(machine.hello(await player.receive(Challenge), **fields))
        return player

    async def connect(self, machine: Machine, **fields) -> Player:
        """Connect an approved machine, up to its first settings."""
        player = await self.greet(machine, **fields)
        await player.receive(Welcome)
        if not fields.get("secret_generation"):
            await player.receive(ClusterSecret)
        while player.held.revision is None:
            await player.receive()
        return player


async def _route(scope, receive, send):
    serve = agents.lifespan if scope["type"] == "lifespan" else agents.application
    await serve(scope, receive, send)


@contextlib.asynccontextmanager
async def open_console(proxies: Sequence[str] = ()):
    """Serve agents on a free port, as if behind these proxies."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        behind(list(proxies), _route),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_max_size=AGENT_MESSAGE_LIMIT,
        proxy_headers=False,
        lifespan="on",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    console = Console(listener.getsockname()[1])
    task = asyncio.create_task(server._serve([listener]))  # without taking over the process' signals
    try:
        async with console._players:
            yield console
    finally:
        server.should_exit = True
        await task


async def until(condition, *, seconds: float = PATIENCE):
    """Wait until a condition, looked at in a thread, gives something; give that."""
    async with asyncio.timeout(seconds):
        while not (found := await in_thread(condition)):
            await asyncio.sleep(0.02)
    return found
