"""The bare server, as a process beside the console's, and what is asked of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any, Self

import urllib3

from nodes.management.commands import run
from tests.bench.console import READY_SECONDS, ROOT
from tests.ports import free_port

APPLICATION = {"kubespan_web.asgi:application": "tests.bench.bare:application"}


class Bare:
    """A context manager: the server with the console's own flags and environment, and no Django."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGTERM)

    @property
    def pid(self) -> int:
        """Its process; setpriv becomes what it starts."""
        return self._process.pid

    def _start(self) -> None:
        child = run.web("bare", "127.0.0.1", self.port)
        words = [APPLICATION.get(word, word) for word in child.command]
        command = ["setpriv", "--pdeathsig", "TERM", "--", *words]
        self._process = subprocess.Popen(command, cwd=ROOT, env=os.environ | dict(child.environ))
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the bare server is not ready")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self.post("/ready")
        except urllib3.exceptions.HTTPError:
            return False
        return True

    def _end(self, number: int) -> None:
        self._process.send_signal(number)
        self._process.wait()

    def restart(self) -> float:
        """Kill it outright and start it again; when it was killed."""
        self._end(signal.SIGKILL)
        killed = time.monotonic()
        self._start()
        return killed

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        """Send it something; its answer."""
        return urllib3.request("POST", self.url + path, body=body, retries=False, timeout=READY_SECONDS).json()
