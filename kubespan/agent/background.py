"""An agent that no service manager keeps: started until the next boot, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kubespan.agent.store import Store

LOG = Path("/var/log/kubespan-agent.log")
"""What an agent says that was started in the background."""
START_SECONDS = 60.0
STOP_SECONDS = 20.0
PAUSE = 0.05


class NotRunning(Exception):
    """The agent was started, and does not run; the sentence says why."""


class StillRunning(Exception):
    """The agent did not end."""


def start(store: Store, command: Sequence[str], *, output: Path = LOG) -> subprocess.Popen[bytes]:
    """Start the agent in a session of its own, and wait until it holds its state directory.

    Whoever comes next, be it to end it, finds it then. It goes on when this process ends.
    Raises NotRunning, StillRunning, StoreError.
    """
    stop(store)  # it goes by what it read at its start
    try:
        with output.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
    except OSError as error:
        raise NotRunning(f"cannot start the agent: {error.filename}: {error.strerror}") from None

    def runs() -> bool:
        if (status := process.poll()) is not None:
            raise NotRunning(f"the agent ended at once, with exit status {status}: its last words are in {output}")
        return store.directory.is_dir() and store.is_locked()

    if not _await(runs, START_SECONDS):
        process.kill()
        process.wait()
        raise NotRunning(
            f"the agent did not begin to work within {START_SECONDS:.0f} seconds of its start, and was ended: "
            f"see {output}"
        )
    return process


def stop(store: Store) -> bool:
    """End an agent that no service manager keeps; whether there was one. Raises StillRunning, StoreError."""
    if not store.directory.is_dir() or not store.is_locked():
        return False
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
