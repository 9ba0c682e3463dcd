"""Leaving nothing behind: the service, the process, the mesh, the state, and the agent's own files, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from kubespan.agent.background import LOG, stop
from kubespan.agent.home import LINKS, Home
from kubespan.agent.store import Store
from kubespan.agent.units import RUNNING, UNIT_DIRECTORY, remove

WIREGUARD_SOCKETS = Path("/run/wireguard")


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
