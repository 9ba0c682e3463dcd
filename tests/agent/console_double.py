"""A console of a few lines that really listens: WebSocket and messages as the agent meets them; the test decides."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from kubespan.agent.console import Way
from kubespan.agent.enrol import parse_mac_interface
from kubespan.agent.loop import Agent, Facts, Place
from kubespan.agent.mesh import Own
from kubespan.agent.store import AgentState, Enrolment, Store
from kubespan.agent.trust import ConsoleUrl
from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import KeyPair, encode_node_id, make_signing_key, node_address, verify
from kubespan.core.messages import (
    AGENT_PATH,
    VERSIONS,
    Challenge,
    ClusterSecret,
    Hello,
    Member,
    Revision,
    Snapshot,
    Welcome,
    challenge_text,
    dump,
    parse_from_agent,
)
from kubespan.core.options import Options
from kubespan.core.plan import Change
from kubespan.core.sealing import seal
from tests.fakes import FakeKernel

CLUSTER_ID = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
CLUSTER = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0"
CONSOLE_KEY = "console-key"
SECRET = base64.b64encode(bytes(range(32))).decode()
OWN_INDEX = 1

M = TypeVar("M")


@dataclass(frozen=True)
class Someone:
    """A machine of the cluster."""

    name: str
    index: int
    keys: KeyPair
    node_id: str
    mac: str

    @property
    def address(self) -> IPv6Address:
        """Its KubeSpan address."""
        return node_address(ula_prefix(CLUSTER_ID), parse_mac_interface(self.mac))

    def member(self, **other: object) -> Member:
        """What the console tells of it."""
        values = {"addresses": (f"192.0.2.{self.index}",), "endpoints": (f"192.0.2.{self.index}:51820",)}
        return Member(
            index=self.index,
            node_id=self.node_id,
            name=self.name,
            public_key=self.keys.public_key,
            address=str(self.address),
            **(values | other),  # type: ignore[arg-type]
        )


def someone(name: str, index: int) -> Someone:
    """A machine whose keys follow from its name."""
    raw = hashlib.sha256(name.encode()).digest()
    return Someone(name, index, KeyPair.make(raw), encode_node_id(raw), f"02:00:00:00:00:{index:02x}")


ALPHA, BRAVO, CHARLIE = someone("alpha", OWN_INDEX), someone("bravo", 2), someone("charlie", 3)
SIGNING_KEY, VERIFY_KEY = make_signing_key(bytes(32))


def snapshot(number: int = 1, *members: Member, epoch: int = 1, options: Options | None = None) -> Snapshot:
    """Members as of a revision; alpha, bravo and charlie by default."""
    return Snapshot(
        revision=Revision(epoch, number),
        secret_generation=1,
        options=options or Options(),
        members=members or (ALPHA.member(), BRAVO.member(), CHARLIE.member()),
    )


def sealed_secret(secret: str = SECRET, generation: int = 1, *, to: Someone = ALPHA) -> ClusterSecret:
    """The cluster secret for one machine."""
    sealed = seal(secret, to.keys.public_key, cluster=CLUSTER, node_id=to.node_id, generation=generation)
    return ClusterSecret(generation=generation, sealed=sealed)


class FakeHost:
    """Names, addresses and events as the test wants them."""

    def __init__(self) -> None:
        self.now = Facts("alpha.example", "Testing Linux 1", ("192.0.2.1",))
        self.events: asyncio.Queue[str] = asyncio.Queue()

    async def facts(self) -> Facts:
        """What was set."""
        return self.now

    async def watch(self) -> AsyncIterator[str]:
        """What was put."""
        while True:
            yield await self.events.get()


@dataclass
class WatchedKernel(FakeKernel):
    """A fake kernel that one can wait for."""

    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes, then tell."""
        await super().apply(changes)
        self.done.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds after changes were made."""
        while not condition():
            await self.done.wait()
            self.done.clear()


class SetClock:
    """Two clocks that go only when told."""

    def __init__(self) -> None:
        self.boot, self.unix = 1000.0, 1_700_000_000.0

    def now(self) -> float:
        """The timeline."""
        return self.boot

    def wall(self) -> float:
        """Unix time."""
        return self.unix

    def pass_by(self, seconds: float) -> None:
        """Let time pass, on both."""
        self.boot += seconds
        self.unix += seconds


@dataclass
class Bench:
    """An enrolled machine with a kernel and a host of the test's."""

    directory: Path
    kernel: WatchedKernel = field(default_factory=WatchedKernel)
    host: FakeHost = field(default_factory=FakeHost)
    clock: SetClock | None = None

    def __post_init__(self) -> None:
        self.store = Store(self.directory)
        self.enrolment = Enrolment(
            url="http://127.0.0.1",
            cluster=CLUSTER,
            cluster_id=CLUSTER_ID,
            cluster_name="office",
            console_key=CONSOLE_KEY,
            node_id=ALPHA.node_id,
            address=str(ALPHA.address),
        )
        if self.store.keys() is None:
            self.store.create_keys(ALPHA.keys)
            self.store.create_node_id(ALPHA.node_id)
        self.store.save_agent(
            AgentState(signing_key=SIGNING_KEY, verify_key=VERIFY_KEY, mac=ALPHA.mac, enrolment=self.enrolment)
        )

    def agent(self, **other: Any) -> Agent:
        """An agent that starts from the store; what else is given is Agent's."""
        own = Own(ALPHA.keys, ALPHA.node_id, ALPHA.address, 51820)
        place = Place(self.kernel, self.host, "kernel", ("10.9.0.0/16",))
        given = {"clock": self.clock, "chance": lambda: 0.01} | other
        return Agent(self.store, self.enrolment, SIGNING_KEY, own, place, **given)


@dataclass
class Line:
    """One connection of an agent, from the console's side."""

    socket: ServerConnection
    hello: Hello

    async def say(self, *messages: object) -> None:
        """Send messages; bytes and text go as they are."""
        for message in messages:
            await self.socket.send(message if isinstance(message, bytes | str) else dump(message).decode())  # type: ignore[arg-type]

    async def hear(self, kind: type[M]) -> M:
        """The next message of a kind; others on the way are passed over."""
        while True:
            message = parse_from_agent(await self.socket.recv())
            if isinstance(message, kind):
                return message

    async def gone(self) -> tuple[int, str]:
        """Wait until the agent has closed; code and reason."""
        try:
            while True:
                await self.socket.recv()
        except ConnectionClosed as closed:
            frame = closed.rcvd
            return (frame.code, frame.reason) if frame else (0, "")

    async def let_in(self, *then: object, status: str = "approved", report_seconds: float = 30.0) -> None:
        """Welcome the agent, and say more."""
        index = OWN_INDEX if status == "approved" else None
        welcome = Welcome(
            version=VERSIONS[0],
            status=status,
            console_time=0.0,
            index=index,
            report_seconds=report_seconds,  # type: ignore[arg-type]
        )
        await self.say(welcome, *then)


class ConsoleDouble:
    """Listens, checks who says hello, and hands each connection to the test."""

    def __init__(self) -> None:
        self.server: Server
        self.lines: asyncio.Queue[Line] = asyncio.Queue()
        self.first: object = None
        """What to send instead of a challenge, to the next connection alone."""

    @property
    def way(self) -> Way:
        """How an agent gets here."""
        port = self.server.sockets[0].getsockname()[1]
        return Way(ConsoleUrl.parse(f"http://127.0.0.1:{port}"), None)

    async def serve(self, socket: ServerConnection) -> None:
        """One connection."""
        assert socket.request is not None
        assert socket.request.path == AGENT_PATH
        assert "Sec-WebSocket-Extensions" not in socket.request.headers
        nonce = "nonce of this connection"
        first, self.first = self.first or Challenge(nonce=nonce, versions=VERSIONS), None
        await socket.send(first if isinstance(first, str) else dump(first).decode())  # type: ignore[arg-type]
        try:
            hello = parse_from_agent(await socket.recv())
        except ConnectionClosed:
            return
        assert isinstance(hello, Hello)
        text = challenge_text(CONSOLE_KEY, hello.cluster, hello.node_id, nonce)
        assert verify(VERIFY_KEY, hello.signature, text)
        await self.lines.put(Line(socket, hello))
        await socket.wait_closed()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[ConsoleDouble]:
        """Listen on a free port, or on the one of before."""
        async with serve(self.serve, "127.0.0.1", port, compression=None, max_size=None) as server:
            self.server = server
            yield self

    async def line(self) -> Line:
        """The next connection of an agent."""
        return await self.lines.get()


@asynccontextmanager
async def running(agent: Agent, way: Way) -> AsyncIterator[asyncio.Task[object]]:
    """Run an agent for as long as the block takes; what it raises is raised."""
    task: asyncio.Task[object] = asyncio.create_task(agent.run(way))
    try:
        yield task
    finally:
        agent.stop()
        await task
