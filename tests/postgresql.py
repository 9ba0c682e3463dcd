"""A private PostgreSQL server on a Unix socket, for tests; it never runs as root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

START_SECONDS = 30.0
UNSYNCED = ("-c", "fsync=off", "-c", "full_page_writes=off")
"""What only the machine's own failure could lose."""


def find_programs() -> Path | None:
    """Where the newest server's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


class PostgreSQL:
    """A server in a directory; with `durable`, what it acknowledged survives its own crash."""

    def __init__(self, programs: Path, directory: Path, *, durable: bool = False) -> None:
        self.programs = programs
        self.directory = directory
        self.url = f"postgresql://console@{str(directory).replace('/', '%2F')}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        self._rows = str(directory / "rows")
        self._flags = UNSYNCED if durable else (*UNSYNCED, "-c", "synchronous_commit=off")
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        if user:
            shutil.chown(directory, "nobody", "nogroup")
        self._quiet = {"cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}

    def make(self) -> None:
        """Make its files."""
        initdb = ("-D", self._rows, "-U", "console", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        subprocess.run([self.programs / "initdb", *initdb], check=True, **self._quiet)

    def start(self) -> None:
        """Start it, and wait until it takes connections; raises RuntimeError when it does not."""
        sockets = ("-k", str(self.directory), "-c", "listen_addresses=")
        # Should this process be killed outright, the server must not stay behind.
        leash = ("setpriv", "--pdeathsig", "QUIT", "--") if shutil.which("setpriv") else ()
        command = [*leash, self.programs / "postgres", "-D", self._rows, *sockets, *self._flags]
        self.process = subprocess.Popen(command, **self._quiet)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start in {self.directory}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes connections."""
        command = [self.programs / "pg_isready", "-q", "-h", self.directory]
        return subprocess.run(command, check=False).returncode == 0

    def kill(self) -> None:
        """Stop it at once, as a crash would: it recovers at its next start (`pg_ctl stop -m immediate`)."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Stop it, and end its clients' connections."""
        self._end(signal.SIGINT)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(START_SECONDS)
