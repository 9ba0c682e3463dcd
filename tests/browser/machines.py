"""Machines for the browser's journeys: real agents on fakes of the kernel, in one process, told what to do by lines.

Each line on standard input is a JSON list, verb first; each is answered by one line. Between machines that have each
other as peers handshakes succeed twice a second, unless the pair was cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from kubespan.agent.clock import Clock
from kubespan.agent.console import Way
from kubespan.agent.enrol import Machine, Wish, enrol
from kubespan.agent.loop import Agent, Facts, Place
from kubespan.agent.mesh import Own
from kubespan.agent.start import load, own_address
from kubespan.agent.store import Store
from kubespan.agent.trust import ConsoleUrl, parse_certificate, tls_context
from kubespan.core.endpoint import Endpoint
from kubespan.core.messages import Finding
from tests.fakes import FakeKernel

LINE = re.compile(r"echo (kst_\S+) \| .*?(https://\S+) (?:--pin )?(sha256:[0-9a-f]{64})")
"""Token, console and pin, in the line that brings an agent along and in the one for a machine that has it."""
SYSTEM = "Debian GNU/Linux 12 (bookworm)"


class SkippingClock(Clock):
    """The machine's clocks, which can be put forward together, as after minutes of waiting."""

    skipped = 0.0

    def now(self) -> float:
        return super().now() + self.skipped

    def wall(self) -> float:
        return super().wall() + self.skipped


@dataclass
class FakeHost:
    """Says what it was told; nothing ever happens on it."""

    name: str
    address: str

    async def facts(self) -> Facts:
        return Facts(self.name, SYSTEM, (self.address,))

    async def watch(self) -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield None


@dataclass
class Played:
    """One machine."""

    name: str
    address: str
    directory: Path
    networks: tuple[str, ...] = ()
    kernel: FakeKernel = field(default_factory=FakeKernel)
    clock: SkippingClock = field(default_factory=SkippingClock)
    agent: Agent | None = None
    task: asyncio.Task | None = None

    @property
    def store(self) -> Store:
        return Store(self.directory)

    def enrol(self, url: str, pin: str, token: str) -> None:
        wish = Wish(url=url, token=token, pin=pin, name=self.name, networks=self.networks)
        enrol(self.store, wish, Machine(self.name, SYSTEM, (self.address,), None))

    def start(self) -> None:
        identity, enrolment = load(self.store)
        url = ConsoleUrl.parse(enrolment.url, insecure_http=enrolment.insecure_http)
        own = Own(identity.keys, identity.node_id, own_address(identity, enrolment), 51820)
        place = Place(self.kernel, FakeHost(self.name, self.address), "kernel", self.networks)
        self.agent = Agent(self.store, enrolment, identity.state.signing_key, own, place, clock=self.clock)
        self.task = asyncio.create_task(
            self.agent.run(Way(url, tls_context(url, parse_certificate(enrolment.certificate))))
        )

    async def stop(self) -> None:
        if self.agent and self.task:
            self.agent.stop()
            await self.task

    @property
    def public_key(self) -> str:
        return self.agent.mesh.own.keys.public_key if self.agent else ""


class World:
    """All machines, and which of them cannot reach each other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.machines: dict[str, Played] = {}
        self.cuts: set[frozenset[str]] = set()

    async def obey(self, verb: str, *arguments: str) -> None:
        """Do what a line says."""
        match verb, arguments:
            case "enrol", (name, url, pin, token, *networks):
                number = len(self.machines) + 1
                machine = Played(name, f"192.0.2.{number}", self.directory / name, tuple(networks))
                await asyncio.to_thread(machine.enrol, url, pin, token)
                self.machines[name] = machine
            case "start", (name,):
                self.machines[name].start()
            case "stop", (name,):
                await self.machines[name].stop()
            case "claim", (name, *networks):
                machine = self.machines[name]
                await machine.stop()
                machine.networks = tuple(networks)
                machine.start()
            case "cut", (one, other):
                self.cuts.add(frozenset((one, other)))
            case "heal", (one, other):
                self.cuts.discard(frozenset((one, other)))
                for name, peer in ((one, other), (other, one)):
                    self._shake(self.machines[name], self.machines[peer])
                    self.machines[name].agent.talk.news.set()
            case "skip", (name, seconds):
                self.machines[name].clock.skipped += float(seconds)
                self.machines[name].agent.talk.news.set()
            case "find", (name, *findings):
                talk = self.machines[name].agent.talk
                parts = [finding.split("|") for finding in findings]
                talk.findings = tuple(Finding(code=code, text=text, remedy=remedy) for code, text, remedy in parts)
                talk.sayable.set()
            case _:
                raise ValueError(f"{verb}: no such verb")

    async def shake(self) -> None:
        """Let handshakes succeed where nothing was cut."""
        while True:
            for one in self.machines.values():
                for other in self.machines.values():
                    if one is not other and frozenset((one.name, other.name)) not in self.cuts:
                        self._shake(one, other)
            await asyncio.sleep(0.5)

    def _shake(self, one: Played, other: Played) -> None:
        if one.task and other.task and not one.task.done() and not other.task.done():
            mutual = other.public_key in one.kernel.peers and one.public_key in other.kernel.peers
            if mutual:
                before = one.kernel.counters.get(other.public_key)
                first = before is None or not before.last_handshake
                one.kernel.shake(other.public_key, one.clock.wall(), Endpoint.parse(f"{other.address}:51820"))
                if first and one.agent:
                    one.agent.talk.news.set()


async def serve(directory: Path) -> None:
    """Read lines until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # agents log to standard output
    world = World(directory)
    shaking = asyncio.create_task(world.shake())
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            await world.obey(*json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told
            print(json.dumps(f"{type(error).__name__}: {error}"), file=answers)
        else:
            print("null", file=answers)
    shaking.cancel()
    for machine in world.machines.values():
        await machine.stop()


class Machines:
    """The other end of such a process."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kubespan-machines-"))
        command = [sys.executable, "-m", "tests.browser.machines", str(self.directory)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        root = Path(__file__).parents[2]
        with (self.directory / "log").open("w") as log:
            self._process = subprocess.Popen(
                command, **pipes, stderr=log, cwd=root, env={**os.environ, "LOG_LEVEL": "INFO"}
            )

    def tell(self, *words: str) -> None:
        """Have something done, and wait until it is."""
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        if fault := json.loads(self._process.stdout.readline()):
            raise AssertionError(f"{words[0]} {words[1]}: {fault}")

    def join(self, name: str, line: str, *networks: str) -> None:
        """Enrol by the line that the console shows, and start."""
        token, url, pin = LINE.search(line).groups()
        self.tell("enrol", name, url, pin, token, *networks)
        self.tell("start", name)

    def close(self) -> None:
        """Stop all."""
        self._process.stdin.close()
        self._process.wait(60)  # each says goodbye to the console
        self._process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
