"""Leaving nothing behind: the service, the process, the mesh, the state, and the agent's own files, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from kubespan.agent.home import LINKS, Home
from kubespan.agent.store import Store
from kubespan.agent.units import RUNNING, UNIT_DIRECTORY, remove

LOG = Path("/var/log/kubespan-agent.log")
"""What an agent says that was started in the background."""
WIREGUARD_SOCKETS = Path("/run/wireguard")
STOP_SECONDS = 20.0


class StillRunning(Exception):
    """The agent did not end."""


def uninstall(
    store: Store,
    home: Home,
    take_down: Callable[[], Coroutine[Any, Any, None]],
    *,
    links: Path = LINKS,
    units: Path = UNIT_DIRECTORY,
    running: Path = RUNNING,
    output: Path = LOG,
    sockets: Path = WIREGUARD_SOCKETS,
) -> Iterator[str]:
    """Take everything away, saying what is gone. Raises UnitError, StillRunning, StoreError, KernelError, HomeError.

    May be repeated after it was broken off: each step finds what is left.
    """
    home.confirm()  # a new agent that is stopped must not be started once more
    yield from remove(directory=units, running=running)
    if stop(store):
        yield "the agent's process"
    asyncio.run(take_down())
    yield "link, addresses, routes, rules and firewall table"
    if store.directory.is_dir():
        shutil.rmtree(store.directory)
        yield str(store.directory)
    with contextlib.suppress(FileNotFoundError):
        output.unlink()
        yield str(output)
    with contextlib.suppress(OSError):
        sockets.rmdir()  # only where nobody else's socket is in it
    yield from home.sweep(links)


def stop(store: Store) -> bool:
    """End an agent that no service manager keeps; whether there was one. Raises StillRunning, StoreError."""
    if not store.directory.is_dir() or not store.is_locked():
        return False
    process = store.holder()
    deadline = time.monotonic() + STOP_SECONDS
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    while store.is_locked():
        if time.monotonic() > deadline:
            raise StillRunning(
                f"the agent that runs with {store.directory} does not end"
                f"{f' (process {process})' if process else ''}: stop it, then repeat this"
            )
        time.sleep(0.05)  # it is not our child: nothing to wait on
    return True
