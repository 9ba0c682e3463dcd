"""A crowd of agents without machines: many nodes' connections in one process, real protocol, real keys, no data plane.

Each enrols by HTTP, answers the challenge with its signature, opens the sealed secret, applies snapshots and deltas by
`kubespan.core.membership`, says what it applied, claims, reports, pings, and comes back with the agent's own back-off.
What costs a processor and proves nothing is shared: a frame that a thousand receive is decoded and applied once.

It runs in a process of its own and is told what to do by JSON lines; `Crowd` is the other end of that pipe::

    with Crowd(["http://127.0.0.1:8000"]) as crowd:          # several URLs: agents start spread, and go on to the next
        crowd.ask("enrol", token=token, count=300, at_once=300)  # {"enrolled": 300, "refused": {}, "first": …}
        crowd.ask("connect")  # all of them, for ever; back-off when cut
        crowd.ask("await", what="connected", seconds=30)  # {"ready": 300, "first": …, "last": …}
        crowd.ask("await", what="revision", revision=[1, 300], seconds=10)
        crowd.ask("await", what="acknowledged", revision=[1, 300], seconds=10)
        crowd.ask("state", each=True)

`await` waits until `count` agents (all that are to be connected, unless it is given) are connected, hold this revision
or a later one, or have said that they applied it; `ready` tells how many were when it ended, which is fewer where
`seconds` ran out. `first` and `last` are when the first and last of them came to be so. All times are CLOCK_MONOTONIC,
which one machine's processes have in common: a frame's is when its last byte was read from the socket.

`state` tells `agents`, `connected`, `revisions` and `acknowledged` (how many per revision, as "epoch.number"),
`last_frame`, `memberships` (how many hold each digest of what the frames add up to: one entry when all agree) and
`counts`; with `each`, `nodes`: by name `connected`, `held`, `acknowledged`, `frame_at`, `url`, `members`.

`set` changes how they behave: `think` (two numbers: seconds between a frame's arrival and its being applied, at random;
none: at once), `reports` (none, or `every` seconds, and the `share` of links that changed; a first complete one
follows the first settings), `version` (protocol version spoken). `drop` cuts connections (`code` or none for a cut
without a word); those agents come back. `disconnect` ends them for good; with `forget` they then hold nothing.

For comparison, `listen` opens sockets to `url` that only read, `at_once` at a time, and come back when cut as agents
do; with `enrol` each posts a request to join there before, with `answer` each says that it applied whatever it hears.
`await` with what="heard" waits until all have had a frame, with what="listening" until each was connected; not before
`since`, as for "connected". `set` with `mirror` has them send a copy of each agent's reports. `hush` ends them for
good.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from kubespan import __version__
from kubespan.agent.console import (
    MAX_FRAME,
    OPEN_SECONDS,
    PING_SECONDS,
    SETTLED,
    TRY_LATER,
    backoff,
    slow_retry,
)
from kubespan.core import sealing
from kubespan.core.identity import KeyPair, encode_node_id, make_signing_key, sign
from kubespan.core.membership import Membership
from kubespan.core.messages import (
    AGENT_PATH,
    ENROL_PATH,
    VERSIONS,
    Applied,
    Challenge,
    Claim,
    ClusterSecret,
    Delta,
    EnrolReply,
    EnrolRequest,
    FromConsole,
    Hello,
    MessageError,
    Pace,
    Refused,
    Removed,
    Report,
    Resync,
    Revision,
    SecretKept,
    Snapshot,
    Welcome,
    challenge_text,
    dump,
    negotiate,
    parse_body,
    parse_from_console,
)
from tests.apart import Apart, allow_files, answer_lines

SHARED = 256
"""Frames and memberships that are kept for whoever comes to the same."""

LOOK_SECONDS = 0.02
"""Between two looks at whether all have come so far."""

ENROL_ATTEMPTS = 4
"""As an agent's own enrolment: a console that restarts is asked again."""

HISTORY = 64
"""Arrivals that an agent remembers."""


class Views:
    """What frames say and add up to, worked out once for all who receive the same."""

    def __init__(self) -> None:
        self._messages: OrderedDict[tuple[int, bytes], FromConsole] = OrderedDict()
        self._sums: OrderedDict[tuple[int, bytes], tuple[Membership | None, Membership]] = OrderedDict()
        self._digests: OrderedDict[int, tuple[Membership, str]] = OrderedDict()

    def parse(self, frame: bytes, version: int) -> FromConsole:
        """Read a frame; what is only one agent's is not kept."""
        key = (version, frame)
        if (kept := self._messages.get(key)) is not None:
            return kept
        message = parse_from_console(frame, version)
        if isinstance(message, Snapshot | Delta):
            _keep(self._messages, key, message)
        return message

    def apply(self, before: Membership, frame: bytes, news: Snapshot | Delta) -> Membership:
        """Give the membership after a frame; raises Gap."""
        base = None if isinstance(news, Snapshot) else before
        key = (id(base), frame)
        if (kept := self._sums.get(key)) is not None:
            return kept[1]
        after = before.apply(news)
        _keep(self._sums, key, (base, after))  # with what its id stands for, which no other can then have
        return after

    def digest(self, membership: Membership) -> str:
        """A short name of all that is held."""
        if (kept := self._digests.get(id(membership))) is None:
            raw = dump(membership.snapshot()) if membership.revision else b""
            kept = (membership, hashlib.sha256(raw).hexdigest()[:16])
            _keep(self._digests, id(membership), kept)
        return kept[1]


def _keep(kept: OrderedDict, key: object, value: object) -> None:
    kept[key] = value
    if len(kept) > SHARED:
        kept.popitem(last=False)


class Wire(asyncio.Protocol):
    """One WebSocket, without a task of its own: what arrives is stamped, and read now or after some thought."""

    def __init__(self, owner: Caller, url: str) -> None:
        self._owner = owner
        self._crowd = owner.crowd
        self._url = url
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._pieces: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self.slow = False

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._protocol = ClientProtocol(parse_uri(self._url), max_size=MAX_FRAME)
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self._timer = self._crowd.loop.call_later(OPEN_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        think = self._crowd.think
        if not (self._waiting or (self.slow and think)):
            self._read(now, data)
            return
        self._waiting.append((now, data))
        if len(self._waiting) == 1:
            self._crowd.loop.call_later(random.uniform(*think), self._think)

    def _think(self) -> None:
        while self._waiting:
            self._read(*self._waiting.popleft())

    def _read(self, at: float, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event, at)
            elif self._protocol.handshake_exc is None:
                self._timer.cancel()
                self._timer = self._crowd.loop.call_later(random.uniform(0.5, 1) * PING_SECONDS, self._ping)
                self._owner.opened()
        self._flush()

    def _take(self, frame: Frame, at: float) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._pieces.append(bytes(frame.data))
            if frame.fin:
                whole, self._pieces = b"".join(self._pieces), []
                self._owner.heard(whole, at)
        elif frame.opcode is Opcode.PONG:
            self._timer.cancel()
            self._timer = self._crowd.loop.call_later(PING_SECONDS, self._ping)

    def _ping(self) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._flush()
        self._timer = self._crowd.loop.call_later(PING_SECONDS, self._transport.abort)

    def say(self, message: msgspec.Struct) -> int:
        """Send a message; its size."""
        return self.send(dump(message))

    def send(self, raw: bytes) -> int:
        """Send a frame; its size."""
        if self._protocol.state is not OPEN:
            return 0
        self._protocol.send_text(raw)
        self._flush()
        self._crowd.counts["bytes_sent"] += len(raw)
        return len(raw)

    def close(self, code: int | None) -> None:
        """Close, or cut without a word."""
        if code is not None and self._protocol.state is OPEN:
            self._protocol.send_close(code)
            self._flush()
        else:
            self._transport.abort()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    def eof_received(self) -> None:
        self._think()
        if not self._over:
            self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self._waiting.clear()  # what came after a cut was not heard
        if self._timer:
            self._timer.cancel()
        self._owner.closed(self._protocol.close_code)


@dataclass(frozen=True)
class Machine:
    """A machine's keys and names, the same ones for the same seed and number."""

    seed: str
    number: int

    def _bytes(self, what: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{self.number}/{what}".encode()).digest()

    @cached_property
    def keys(self) -> KeyPair:
        return KeyPair.make(self._bytes("wireguard"))

    @cached_property
    def node_id(self) -> str:
        return encode_node_id(self._bytes("node id"))

    @cached_property
    def signing(self) -> tuple[str, str]:
        """The private and the public half."""
        return make_signing_key(self._bytes("signing"))

    @property
    def name(self) -> str:
        return f"{self.seed}-{self.number:05}"

    @property
    def addresses(self) -> tuple[str, ...]:
        high, low = divmod(self.number, 250)
        return f"10.{high // 250}.{high % 250}.{low + 1}", f"2001:db8::{high + 1:x}:{low + 1:x}"

    def request(self, token: str, versions: tuple[int, ...]) -> EnrolRequest:
        """Ask to join."""
        return EnrolRequest(
            versions=versions,
            token=token,
            node_id=self.node_id,
            name=self.name,
            public_key=self.keys.public_key,
            verify_key=self.signing[1],
            interface_id=self._bytes("interface")[:8].hex(),
            hostname=f"{self.name}.example",
            operating_system="Debian GNU/Linux 12 (bookworm)",
            agent_version=__version__,
            addresses=self.addresses,
        )

    def claim(self) -> Claim:
        """What it says of itself once it is connected."""
        return Claim(
            hostname=f"{self.name}.example",
            operating_system="Debian GNU/Linux 12 (bookworm)",
            agent_version=__version__,
            backend="kernel",
            listen_port=51820,
            addresses=self.addresses,
        )


class Caller:
    """Who is to be connected, dials, and dials again when cut: with the agent's own back-off."""

    def __init__(self, crowd: Simulation, urls: list[str], path: str, attempt: int = 0) -> None:
        self.crowd = crowd
        self.wanted = False
        self.wire: Wire | None = None
        self.url = ""
        self._urls = urls
        self._path = path
        self._attempt = attempt
        self._failures = 0
        self._started = 0.0

    def start(self) -> None:
        """Be connected from now on."""
        if not self.wanted:
            self.wanted = True
            self._dial()

    def stop(self) -> None:
        """Be connected no more."""
        self.wanted = False
        if self.wire:
            self.wire.close(1001)

    def _dial(self) -> None:
        if self.wanted:
            self._started = time.monotonic()
            self.url = self._urls[self._attempt % len(self._urls)]
            self.crowd.spawn(self._connect())

    async def _connect(self) -> None:
        target = urlsplit(self.url)
        address = "ws" + self.url.removeprefix("http") + self._path
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                _, self.wire = await self.crowd.loop.create_connection(
                    lambda: Wire(self, address), target.hostname, target.port
                )
        except OSError:  # among them: in time it was not
            self.closed(None)

    def opened(self) -> None:
        """There is a WebSocket."""

    def heard(self, frame: bytes, at: float) -> None:
        """Take a frame."""

    def closed(self, code: int | None) -> None:
        """Come back later."""
        self.wire = None
        self._failures = 0 if time.monotonic() - self._started > SETTLED else self._failures + 1
        self._attempt += 1
        wait = self._wait(code)
        if self.wanted:
            self.crowd.loop.call_later(wait, self._dial)

    def _wait(self, code: int | None) -> float:
        return backoff(self._failures, random.random(), later=code == TRY_LATER)


class Agent(Caller):
    """One node: enrolled, and then connected whenever possible."""

    def __init__(self, crowd: Simulation, machine: Machine) -> None:
        super().__init__(crowd, crowd.urls, AGENT_PATH, machine.number)
        self.machine = machine
        self.enrolled: EnrolReply | None = None
        self.version = VERSIONS[0]
        self.held = Membership()
        self.generation = 0
        self.frame_at = 0.0
        self.connected_at = 0.0
        self.acknowledged: Revision | None = None
        self.arrivals: deque[tuple[Revision, float]] = deque(maxlen=HISTORY)
        self.acknowledgements: deque[tuple[Revision, float]] = deque(maxlen=HISTORY)
        self.greeted = self.approved = False
        self._at_the_door: Refused | None = None
        self._reports = itertools.count()
        self._report: asyncio.TimerHandle | None = None
        self._reported = False

    # Enrolment.

    async def enrol(self, token: str) -> str:
        """Join; the code of the refusal, or nothing."""
        request = self.machine.request(token, self.crowd.versions)
        for attempt in range(ENROL_ATTEMPTS):
            url = self.crowd.urls[(self.machine.number + attempt) % len(self.crowd.urls)]
            try:
                async with asyncio.timeout(self.crowd.enrol_seconds):
                    status, body = await _post(url + ENROL_PATH, dump(request))
            except (OSError, ValueError, asyncio.IncompleteReadError):
                status, body = 0, b""
            if status == 200:
                self.enrolled = parse_body(body, EnrolReply)
                return ""
            if status not in (0, 502, 503, 504):
                return msgspec.json.decode(body)["code"] if body.startswith(b"{") else str(status)
            self.crowd.counts["enrol.again"] += 1
            await asyncio.sleep(random.uniform(0.5, 1) * 0.25 * 2**attempt)
        return "unreachable"

    # Connections.

    def start(self) -> None:
        """Be connected from now on, if it is enrolled."""
        if self.enrolled:
            super().start()

    def opened(self) -> None:
        """Wait for the challenge."""
        self.crowd.counts["opened"] += 1

    def closed(self, code: int | None) -> None:
        """Come back later."""
        self.crowd.counts[f"closed.{code}"] += 1
        self.greeted = self.approved = False
        if self._report:
            self._report.cancel()
        super().closed(code)

    def _wait(self, code: int | None) -> float:
        refusal, self._at_the_door = self._at_the_door, None
        return slow_retry(random.random()) if refusal else super()._wait(code)

    def heard(self, frame: bytes, at: float) -> None:
        """Take a frame."""
        self.frame_at = at
        counts = self.crowd.counts
        counts["frames"] += 1
        counts["bytes_heard"] += len(frame)
        try:
            self._hear(self.crowd.views.parse(frame, self.version), frame, at)
        except (MessageError, ValueError) as error:
            counts[f"misheard: {error}"[:200]] += 1
            self._close(1008)
        except Exception as error:  # noqa: BLE001 - a fault of ours is counted, and told with the rest
            counts[f"{type(error).__name__}: {error}"[:200]] += 1
            self._close(1008)

    def _close(self, code: int | None) -> None:
        if self.wire:
            self.wire.close(code)

    def _hear(self, message: FromConsole, frame: bytes, at: float) -> None:
        match message:
            case Challenge():
                self._greet(message)
            case Welcome(status=status):
                self.greeted, self.approved = True, status == "approved"
                self.connected_at = at
                self._say(self.machine.claim())
            case ClusterSecret():
                self._keep_secret(message)
            case Snapshot() | Delta():
                self._apply(self.crowd.views.apply(self.held, frame, message), at)
            case Pace(seconds=seconds):
                self._report_after(seconds * random.random())
            case Resync():
                self._say(self.machine.claim())
                self._send_report(complete=True)
            case Removed():
                self.wanted = False
                self.crowd.counts["removed"] += 1
                self._close(1000)
            case Refused():
                self._at_the_door = None if self.greeted else message
                self.crowd.counts[f"refused.{message.code}"] += 1
                self._close(1000)
            case _:
                self.crowd.counts[type(message).__name__] += 1

    def _greet(self, challenge: Challenge) -> None:
        reply = self.enrolled
        self.version = negotiate(challenge.versions, self.crowd.versions)
        self._reports = itertools.count()
        self._reported = False
        self.acknowledgements.clear()
        text = challenge_text(reply.console_key, reply.cluster, reply.node_id, challenge.nonce)
        hello = Hello(
            version=self.version,
            cluster=reply.cluster,
            node_id=reply.node_id,
            signature=sign(self.machine.signing[0], text),
            held=self.held.revision,
            secret_generation=self.generation,
            agent_version=__version__,
            agent_time=time.time(),
        )
        self._say(hello)

    def _keep_secret(self, message: ClusterSecret) -> None:
        sealing.open_sealed(
            message.sealed,
            self.machine.keys.private_key,
            cluster=self.enrolled.cluster,
            node_id=self.machine.node_id,
            generation=message.generation,
        )
        self.generation = message.generation
        if self.version > 1:
            self._say(SecretKept(generation=message.generation))

    def _apply(self, held: Membership, at: float) -> None:
        self.held = held
        self.arrivals.append((held.revision, at))
        self._say(Applied(revision=held.revision))
        self.acknowledged = held.revision
        self.acknowledgements.append((held.revision, time.monotonic()))
        if self.wire:
            self.wire.slow = True
        if self.crowd.every and not self._reported:
            self._reported = True
            self._send_report(complete=True)
            self._report_after(self.crowd.every * random.random())

    def forget(self) -> None:
        """Hold nothing, as when it had just enrolled."""
        self.held, self.generation = Membership(), 0

    # Reports.

    def begin_reports(self) -> None:
        """Report from now on, if it does not yet."""
        if self.approved and self.held.revision and not self._reported and self.crowd.every:
            self._reported = True
            self._report_after(self.crowd.every * random.random())

    def _report_after(self, seconds: float) -> None:
        if self._report:
            self._report.cancel()
        self._report = self.crowd.loop.call_later(seconds, self._report_now)

    def _report_now(self) -> None:
        if self.approved and self.crowd.every:
            self._send_report(complete=False)
            self._report_after(self.crowd.every)

    def _send_report(self, *, complete: bool) -> None:
        if self.held.revision is None or not self.approved:
            return
        report = self.crowd.links.report(
            self.held,
            self.machine.node_id,
            next(self._reports),
            1.0 if complete else self.crowd.share,
            complete=complete,
        )
        self.crowd.counts["reports"] += 1
        raw = dump(report)
        self.crowd.counts["report_bytes"] += self.wire.send(raw) if self.wire else 0
        self.crowd.mirror(self.machine.number, raw)

    def _say(self, message: msgspec.Struct) -> int:
        return self.wire.say(message) if self.wire else 0


class Links:
    """How all see each other: every link is up, at its peer's first endpoint, and has moved some bytes again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple] = OrderedDict()

    def report(self, held: Membership, node_id: str, number: int, share: float, *, complete: bool) -> Report:
        """One node's report of `share` of its links."""
        rows = self._rows(held)
        start = random.randrange(len(rows)) if rows and share < 1 else 0
        stop = start + round(share * len(rows))
        chosen = [row for row in (rows + rows if stop > len(rows) else rows)[start:stop] if row[0] != node_id]
        _, members, endpoints, handshakes = zip(*chosen, strict=True) if chosen else ((), (), (), ())
        moved = int(time.monotonic() * 1000)
        return Report(
            number=number,
            complete=complete,
            revision=held.revision,
            members=members,
            states=(1,) * len(members),
            endpoints=endpoints,
            handshakes=handshakes,
            received=(moved,) * len(members),
            sent=(moved + 148,) * len(members),
        )

    def _rows(self, held: Membership) -> list[tuple[str, int, str, int]]:
        kept = self._kept.get(id(held))
        if kept is None:
            rows = [
                (member.node_id, index, next(iter(member.endpoints), ""), random.randrange(120_000))
                for index, member in sorted(held.members.items())
            ]
            kept = (held, rows)
            _keep(self._kept, id(held), kept)
        return kept[1]


class Listener(Caller):
    """A socket to something that knows no agents: it reads, and says no more than that it did."""

    def __init__(self, crowd: Simulation, url: str, *, answer: bool) -> None:
        super().__init__(crowd, [url], "")
        self.times: list[float] = []
        self.openings: list[float] = []
        self._answer = answer
        self._connected = asyncio.Event()

    async def call(self, body: bytes) -> None:
        """Connect, after this request to join was answered if there is one."""
        if body:
            await _post(self._urls[0] + ENROL_PATH, body)
        self.start()
        await self._connected.wait()

    def opened(self) -> None:
        """Note when."""
        self.openings.append(time.monotonic())
        self.wire.slow = True
        self._connected.set()

    def heard(self, frame: bytes, at: float) -> None:
        """Note when, and answer where that is wanted."""
        self.times.append(at)
        if self._answer:
            self.wire.say(Applied(revision=Revision(1, len(self.times))))

    def closed(self, code: int | None) -> None:
        """Come back later."""
        self.crowd.counts[f"listener.closed.{code}"] += 1
        super().closed(code)


@dataclass
class Simulation:
    """The crowd's own process."""

    urls: list[str]
    seed: str
    loop: asyncio.AbstractEventLoop
    agents: list[Agent] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)
    think: tuple[float, float] | None = None
    every: float = 0.0
    share: float = 1.0
    mirrored: bool = False
    versions: tuple[int, ...] = VERSIONS
    enrol_seconds: float = 60.0

    def __post_init__(self) -> None:
        self.views = Views()
        self.links = Links()
        self.counts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task] = set()
        self._numbers = itertools.count()

    def spawn(self, coroutine) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Nobody comes back any more."""
        for caller in (*self.agents, *self.listeners):
            caller.wanted = False
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def do_enrol(self, token: str, count: int, at_once: int = 16, *, connect: bool = False) -> dict:
        """New machines join; `at_once` requests are on their way at a time."""
        fresh = [Agent(self, Machine(self.seed, next(self._numbers))) for _ in range(count)]
        for agent in fresh:
            agent.machine.request(token, self.versions)  # its keys are made before the clock starts
        gate = asyncio.Semaphore(at_once)
        times: list[float] = []
        refused: Counter[str] = Counter()

        async def one(agent: Agent) -> None:
            async with gate:
                if code := await agent.enrol(token):
                    refused[code] += 1
                    return
            times.append(time.monotonic())
            if connect:
                agent.start()

        first = time.monotonic()
        await asyncio.gather(*(one(agent) for agent in fresh))
        self.agents += [agent for agent in fresh if agent.enrolled]
        return {"enrolled": len(times), "refused": refused, "first": first, "last": max(times, default=first)}

    async def do_connect(self) -> dict:
        """All who are enrolled connect, at the same moment."""
        for agent in self.agents:
            agent.start()
        return {"at": time.monotonic()}

    async def do_disconnect(self, count: int | None = None, *, forget: bool = False) -> dict:
        """End connections for good."""
        for agent in [agent for agent in self.agents if agent.wanted][:count]:
            agent.stop()
            if forget:
                agent.forget()
        while any(agent.wire and not agent.wanted for agent in self.agents):
            await asyncio.sleep(LOOK_SECONDS)
        return {}

    async def do_drop(self, count: int | None = None, code: int | None = None) -> dict:
        """Cut connections; the agents come back."""
        for agent in [agent for agent in self.agents if agent.wire][:count]:
            agent.wire.close(code)
        return {"at": time.monotonic()}

    async def do_set(self, **values) -> dict:
        """Change how they behave."""
        if "think" in values:
            self.think = tuple(values["think"]) if values["think"] else None
        if "version" in values:
            self.versions = (values["version"],)
        if "reports" in values:
            wish = values["reports"] or {}
            self.every, self.share = wish.get("every", 0.0), wish.get("share", 1.0)
            for agent in self.agents:
                agent.begin_reports()
        if "mirror" in values:
            self.mirrored = values["mirror"]
        if "enrol_seconds" in values:
            self.enrol_seconds = values["enrol_seconds"]
        return {}

    def mirror(self, number: int, raw: bytes) -> None:
        """Send a copy of what an agent said by the socket of the same number that only reads."""
        if self.mirrored and number < len(self.listeners) and (wire := self.listeners[number].wire):
            self.counts["mirrored"] += 1
            wire.send(raw)

    async def do_listen(
        self, url: str, count: int, at_once: int = 100, *, enrol: bool = False, answer: bool = False
    ) -> dict:
        """Open sockets that only read."""
        fresh = [Listener(self, url, answer=answer) for _ in range(count)]
        body = dump(Machine(self.seed, 0).request("a token", self.versions)) if enrol else b""
        first = time.monotonic()
        for start in range(0, count, at_once):
            await asyncio.gather(*(listener.call(body) for listener in fresh[start : start + at_once]))
        self.listeners += fresh
        return {"first": first, "last": max(one.openings[0] for one in fresh)}

    async def do_hush(self) -> dict:
        """End those sockets for good."""
        gone, self.listeners = self.listeners, []
        for listener in gone:
            listener.stop()
        while any(listener.wire for listener in gone):
            await asyncio.sleep(LOOK_SECONDS)
        return {}

    async def do_await(
        self, what: str, seconds: float, count: int | None = None, revision=(0, 0), since: float = 0.0
    ) -> dict:
        """Wait until so many have come so far."""
        wanted = Revision(*revision)
        look: dict[str, Callable[[], list[float]]] = {
            "connected": lambda: _since(([agent.connected_at] for agent in self.agents if agent.greeted), since),
            "revision": lambda: _times((agent.arrivals for agent in self.agents), wanted),
            "acknowledged": lambda: _times((agent.acknowledgements for agent in self.agents), wanted),
            "heard": lambda: _since((one.times for one in self.listeners), since),
            "listening": lambda: _since((one.openings for one in self.listeners), since),
        }
        if count is None:
            count = (
                len(self.listeners) if what in ("heard", "listening") else sum(agent.wanted for agent in self.agents)
            )
        deadline = time.monotonic() + seconds
        while len(times := look[what]()) < count and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        return {"ready": len(times), "first": min(times, default=0.0), "last": max(times, default=0.0)}

    async def do_state(self, *, each: bool = False) -> dict:
        """Who is where."""
        agents = self.agents
        told = {
            "agents": len(agents),
            "connected": sum(agent.greeted for agent in agents),
            "revisions": Counter(str(agent.held.revision) for agent in agents),
            "acknowledged": Counter(str(agent.acknowledged) for agent in agents),
            "memberships": Counter(self.views.digest(agent.held) for agent in agents),
            "last_frame": max((agent.frame_at for agent in agents), default=0.0),
            "counts": self.counts,
        }
        if each:
            told["nodes"] = {agent.machine.name: _describe(agent) for agent in agents}
        return told


def _times(columns, wanted: Revision) -> list[float]:
    """When each first came to this revision, for those who have."""
    found = (next((at for revision, at in column if revision >= wanted), None) for column in columns)
    return [at for at in found if at is not None]


def _since(columns, since: float) -> list[float]:
    """The first time of each that is not before, for those who have one."""
    found = (next((at for at in column if at >= since), None) for column in columns)
    return [at for at in found if at is not None]


def _describe(agent: Agent) -> dict:
    return {
        "connected": agent.greeted,
        "held": agent.held.revision,
        "acknowledged": agent.acknowledged,
        "frame_at": agent.frame_at,
        "url": agent.url,
        "members": len(agent.held.members),
    } | {"held": _pair(agent.held.revision), "acknowledged": _pair(agent.acknowledged)}


def _pair(revision: Revision | None) -> list[int] | None:
    return [revision.epoch, revision.number] if revision else None


async def _post(url: str, body: bytes) -> tuple[int, bytes]:
    """One HTTP request on a connection of its own; the status and the body."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    try:
        head = (
            f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]) if head else 0, rest


async def serve(urls: list[str], seed: str) -> None:
    """Do what the lines of standard input say until it ends."""
    simulation = Simulation(urls, seed, asyncio.get_running_loop())
    await answer_lines(simulation)
    await simulation.end()


class Crowd(Apart):
    """A crowd in a process of its own; a context manager, which ends it."""

    def __init__(self, urls: list[str], seed: str = "crowd") -> None:
        super().__init__("tests.crowd", "--seed", seed, *urls)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.crowd", description=__doc__.splitlines()[0])
    parser.add_argument("urls", nargs="+", help="where the console is, http://HOST:PORT; several are taken in turn")
    parser.add_argument("--seed", default="crowd", help="of keys and names: the same ones for the same seed")
    options = parser.parse_args()
    allow_files()
    asyncio.run(serve(options.urls, options.seed))


if __name__ == "__main__":
    main()
