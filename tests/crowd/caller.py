"""Who keeps up a connection: an agent, or a socket that only reads."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kubespan.agent.console import OPEN_SECONDS, SETTLED, TRY_LATER, backoff
from kubespan.core.messages import ENROL_PATH, Applied, Revision
from tests.crowd.http import post
from tests.crowd.wire import Wire

if TYPE_CHECKING:
    from tests.crowd.simulation import Simulation


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
            await post(self._urls[0] + ENROL_PATH, body)
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
