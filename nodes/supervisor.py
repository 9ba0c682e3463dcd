"""Keeps the console's processes alive: starts them, starts again what dies, ends all of them together.

One process, the foundation (Redis), is there before the others start and until the last of them has ended.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
SETTLED_SECONDS = 30.0
"""A child that lived so long starts over with the shortest pause."""

GRACE_SECONDS = 15.0
READY_SECONDS = 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Child:
    """A process to keep alive; `ready` is asked again and again until it is true."""

    name: str
    command: Sequence[str]
    ready: Callable[[], Awaitable[bool]] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


def next_pause(pause: float, lived: float) -> float:
    """How long to wait before the next start, given the last wait and how long the child then lived (seconds)."""
    if lived >= SETTLED_SECONDS or pause == 0:
        return FIRST_PAUSE
    return min(pause * 2, LONGEST_PAUSE)


async def supervise(foundation: Child | None, children: Sequence[Child], stop: asyncio.Event) -> None:
    """Keep all of them alive until `stop` is set; then end the children together, and the foundation last."""
    base = [asyncio.create_task(_keep(foundation, stop_base := asyncio.Event()))] if foundation else []
    try:
        if foundation:
            await _wait_ready(foundation, stop)
        if not stop.is_set():
            await asyncio.gather(*(_keep(child, stop) for child in children))
    finally:
        if base:
            stop_base.set()
        await asyncio.gather(*base)


async def _keep(child: Child, stop: asyncio.Event) -> None:
    """Run one child over and over until `stop`."""
    pause = 0.0
    while not stop.is_set():
        started = time.monotonic()
        process = await _start(child)
        status = await _until(process, stop)
        if stop.is_set():
            return
        pause = next_pause(pause, time.monotonic() - started)
        log.error("a process ended and is started again", process=child.name, status=status, pause=pause)
        await _first(stop.wait(), asyncio.sleep(pause))


async def _start(child: Child) -> Process:
    """Start a child in a session of its own, so that Ctrl-C reaches this process alone."""
    # Should this process be killed outright, the kernel kills the child too: no half a console stays behind.
    leash = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    return await asyncio.create_subprocess_exec(
        *leash,
        *child.command,
        env={**os.environ, **child.environ},
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _until(process: Process, stop: asyncio.Event) -> int:
    """Wait for a process to end by itself, or end it when `stop` is set."""
    try:
        await _first(process.wait(), stop.wait())
    finally:
        if process.returncode is None:
            await _end(process)
    return await process.wait()


async def _end(process: Process) -> None:
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _wait_ready(child: Child, stop: asyncio.Event) -> None:
    if child.ready is None:
        return
    deadline = time.monotonic() + READY_SECONDS
    while not stop.is_set() and not await child.ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{child.name} did not become ready within {READY_SECONDS:.0f} s")
        await asyncio.sleep(0.02)


async def _first(*waits: Awaitable[object]) -> None:
    """Wait for the first of several, and leave none of the others behind."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Have SIGINT, SIGTERM and SIGHUP set `stop`."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
