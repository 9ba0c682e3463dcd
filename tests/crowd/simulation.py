"""The crowd's own process: what each verb does."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kubespan.agent.enrol import READ_SECONDS
from kubespan.core.messages import VERSIONS, Revision, dump
from tests.crowd.agent import Agent
from tests.crowd.caller import Listener
from tests.crowd.links import Links
from tests.crowd.machine import Machine
from tests.crowd.views import Views

LOOK_SECONDS = 0.02
"""Between two looks at whether all have come so far."""


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
    enrol_seconds: float = READ_SECONDS

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
