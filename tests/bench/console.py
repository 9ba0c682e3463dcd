"""A console as `manage.py run` starts it, with a crowd of agents for it, and what its processes cost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

import urllib3

from nodes import embedded
from tests.bench import processes
from tests.ports import free_port
from tests.postgresql import PostgreSQL, find_programs

ROOT = Path(__file__).parent.parent.parent
READY_SECONDS = 60.0

PROCESSES = {
    "web": "kubespan_web.asgi:application",
    "discovery": "discovery",
    "worker": "worker",
    "beat": "beat",
    "valkey": "valkey",
}
"""A word of each child's command line that no other's has."""


LAUNCH = """
import sys
from nodes import supervisor
supervisor.SETTLED_SECONDS = 0.0
sys.argv[0] = "manage.py"
import manage
manage.main()
"""
"""`manage.py`, where a process that is killed again and again is started again as after the first time."""


class CannotRun(Exception):
    """This machine lacks something that the benchmark needs; the text says what."""


@dataclass
class Commit:
    """A change of a cluster, and when it was committed."""

    since: list[int]
    revision: list[int]
    at: float


class Console:
    """A context manager: a running console with an empty database; this process is set up to call its services.

    One a process, for settings are read once.
    """

    def __init__(
        self, database: str = "sqlite", *, discovery: bool = False, environ: Mapping[str, str] | None = None
    ) -> None:
        """`discovery`: with that service too; `environ` is added to the processes' environment."""
        self.database = database
        self.discovery = f"127.0.0.1:{free_port()}" if discovery else ""
        self._environ = dict(environ or {})
        self._postgresql: PostgreSQL | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="kubespan-bench-"))
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._clusters = 0
        self._changes = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        data = self.directory / "data"
        environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "KUBESPAN_DATA": str(data), "LOG_LEVEL": "WARNING"}
        environ |= self._environ
        if self.database == "postgresql":
            environ["DATABASE_URL"] = self._start_postgresql()
        arguments = ["run", "--data", str(data), "--listen", f"127.0.0.1:{self.port}"]
        if self.discovery:
            arguments += ["--discovery-listen", self.discovery]
        self.log = self.directory / "console.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-c", LAUNCH, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environ,
                cwd=ROOT,
            )
        self._stack.callback(self._end)
        self.await_ready()
        os.environ |= {name: value for name, value in environ.items() if name != "PATH"}
        os.environ["DJANGO_SETTINGS_MODULE"] = "kubespan_web.settings"
        embedded.prepare(["manage.py", "shell"], os.environ)
        import django  # noqa: PLC0415 - the settings could not be read before

        django.setup()

    def _start_postgresql(self) -> str:
        programs = find_programs()
        if programs is None:
            raise CannotRun("no PostgreSQL on this machine")
        # Its user may look into no directory of ours.
        directory = Path(tempfile.mkdtemp(prefix="kubespan-bench-pg-"))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        server = PostgreSQL(programs, directory)
        server.make()
        server.start()
        self._stack.callback(server.stop)
        self._postgresql = server
        return server.url

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def await_ready(self, path: str = "/readyz") -> None:
        """Wait until it says so; raises RuntimeError with its last words."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers(path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self.log.read_text(errors="replace").splitlines()[-5:]
                raise RuntimeError(f"the console is not ready; its last words: {' | '.join(words)}")
            time.sleep(0.05)

    def _answers(self, path: str) -> bool:
        try:
            return urllib3.request("GET", self.url + path, retries=False, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    # Its processes.

    def pid(self, name: str) -> int:
        """One of its processes; raises LookupError."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in children:
            with contextlib.suppress(OSError):
                if PROCESSES[name] in Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
        raise LookupError(name)

    def cpu(self, name: str) -> float:
        """Seconds of processor that one of its processes has used."""
        return processes.used(self.pid(name))

    def database_cpu(self) -> float:
        """Seconds of processor that PostgreSQL's processes have used, those included that ended."""
        if self._postgresql is None:
            raise LookupError("SQLite has no process of its own")
        pid = self._postgresql.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(map(processes.used, [pid, *map(int, children)]))

    def kill_web(self) -> float:
        """Kill the web process outright; when it was killed. The supervisor starts it again."""
        os.kill(self.pid("web"), signal.SIGKILL)
        return time.monotonic()

    # Its rows, by its own services.

    def make_cluster(self, uses: int) -> tuple[object, str]:
        """An empty cluster, and a token for so many."""
        from django.utils import timezone  # noqa: PLC0415

        from nodes.services import clusters, tokens  # noqa: PLC0415

        self._clusters += 1
        now = timezone.now()
        cluster, _ = clusters.create_cluster("bench", name=f"bench {self._clusters}", now=now)
        lifetime = timedelta(hours=1)
        made = tokens.create_token(
            "bench", cluster, name="bench", uses=uses, lifetime=lifetime, approval_required=False, now=now
        )
        return cluster, made[1]

    def delete_cluster(self, cluster: object) -> None:
        """Have it gone, with its nodes, so that nobody looks for them any more."""
        from django.utils import timezone  # noqa: PLC0415

        from nodes.services import clusters  # noqa: PLC0415

        clusters.delete_cluster("bench", cluster, cluster.name, timezone.now())

    def commit(self, cluster: object) -> Commit:
        """Change one member as an operator would, so that everybody must hear of it."""
        from django.db import transaction  # noqa: PLC0415
        from django.utils import timezone  # noqa: PLC0415

        from nodes.models import Node  # noqa: PLC0415
        from nodes.services import nodes, revisions  # noqa: PLC0415

        self._changes += 1
        node = Node.objects.approved().filter(cluster=cluster).first()
        since = self.revision(cluster)
        stamps = []
        with transaction.atomic():
            transaction.on_commit(lambda: stamps.append(time.monotonic()))  # before those of the service
            nodes.set_node_options(
                "bench",
                node,
                extra_endpoints=[f"203.0.113.{self._changes % 250 + 1}:{51820 + self._changes // 250}"],
                advertised_networks=[],
                excluded_networks=[],
                now=timezone.now(),
            )
        revision = revisions.current(cluster.pk)
        return Commit(since, [revision.epoch, revision.number], stamps[0])

    def revision(self, cluster: object) -> list[int]:
        """The newest revision."""
        from nodes.services import revisions  # noqa: PLC0415

        revision = revisions.current(cluster.pk)
        return [revision.epoch, revision.number]

    def begun(self, cluster: object, revision: list[int]) -> float:
        """When the console took up the change that became this revision, by CLOCK_MONOTONIC."""
        change = cluster.changes.get(number=revision[1])
        return change.at.timestamp() - time.time() + time.monotonic()

    def frame(self, cluster: object, since: list[int]) -> bytes:
        """What agents that hold this revision are sent."""
        from kubespan.core.messages import Revision  # noqa: PLC0415
        from nodes.services import revisions  # noqa: PLC0415

        return revisions.frame(cluster.pk, Revision(*since)).bytes

    def recorded(self, cluster: object, revision: list[int]) -> int:
        """How many nodes' rows say that they applied this revision or a later one."""
        from nodes.models import Node  # noqa: PLC0415

        rows = Node.objects.approved().filter(cluster=cluster, applied_epoch=revision[0])
        return rows.filter(applied_number__gte=revision[1]).count()

    def await_recorded(self, cluster: object, revision: list[int], count: int, seconds: float) -> float:
        """Wait until so many rows say so; when. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (found := self.recorded(cluster, revision)) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found} of {count} recorded revision {revision} within {seconds:.0f} s")
            time.sleep(0.02)
        return time.monotonic()
