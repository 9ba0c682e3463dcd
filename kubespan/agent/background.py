"""An agent that no service manager keeps: started until the next boot, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from kubespan.agent.publish import Condition
from kubespan.agent.store import STATUS, Store

LOG = Path("/var/log/kubespan-agent.log")
"""What an agent says that was started in the background."""
START_SECONDS = 60.0
STOP_SECONDS = 20.0
PAUSE = 0.05


class NotRunning(Exception):
    """No agent runs after all; the sentence says why."""


class StillRunning(Exception):
    """The agent did not end."""


def start(store: Store, command: Sequence[str], *, output: Path = LOG) -> subprocess.Popen[bytes]:
    """Start the agent in a session of its own, and wait until it has looked at the mesh once and says how it stands.

    What keeps it from that is told here, for nobody starts it again; and whoever comes next, be it to end it, finds it.
    It goes on when this process ends. Raises NotRunning, StillRunning, StoreError.
    """
    stop(store)  # it goes by what it read at its start
    process = _spawn(command, output)

    def works() -> bool:
        if (status := process.poll()) is not None:
            how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
            raise NotRunning(f"the agent ended at once, {how}: its last words are in {output}")
        holder = _holder(store, process.pid)
        return holder is not None and _published_by(store) == holder

    # One that holds its state and cannot publish, as on a disk that is full, meshes all the same.
    if not _await(works, START_SECONDS) and _holder(store, process.pid) is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise NotRunning(
            f"the agent (process {process.pid}) did not begin to work within {START_SECONDS:.0f} seconds of its start, "
            f"and was ended: see {output}"
        )
    return process


def _spawn(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    try:
        log = output.open("ab")
    except OSError as error:
        raise NotRunning(f"the agent was not started: cannot write to {output}: {error.strerror}") from None
    with log:
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        except OSError as error:
            raise NotRunning(f"the agent was not started: cannot run {command[0]}: {error.strerror}") from None


def _holder(store: Store, session: int) -> int | None:
    """The process that holds the state directory, if it is of that session: the agent, be it its launcher's child."""
    holder = store.holder()
    try:
        return holder if holder is not None and os.getsid(holder) == session else None
    except ProcessLookupError:
        return None


def _published_by(store: Store) -> int | None:
    content = store.read_published(STATUS)
    try:
        return None if content is None else msgspec.json.decode(content, type=Condition).process
    except msgspec.DecodeError:
        return None  # another release's


def stop(store: Store) -> bool:
    """End an agent that no service manager keeps; whether there was one. Raises StillRunning, StoreError."""
    if not store.is_locked():
        return False
    _await(lambda: store.holder() is not None or not store.is_locked(), 1.0)  # it says who it is once it has the lock
    process = store.holder()
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    if not _await(lambda: not store.is_locked(), STOP_SECONDS):
        raise StillRunning(
            f"the agent that runs with {store.directory} does not end"
            f"{f' (process {process})' if process else ''}: stop it, then repeat this"
        )
    return True


def _await(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time; a file's lock tells nobody that it changed, and not every process is our child."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True
