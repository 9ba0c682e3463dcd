"""A mesh in a laboratory: real agents, enrolled by the real command into a running console."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import redis
import urllib3

from nodes import embedded
from nodes.lab import Lab, LabError, Machine, stop

AGENT = str(Path(sys.executable).with_name("kubespan-agent"))
MANAGE = Path(__file__).parent.parent / "manage.py"
TLS_PORT = 8443
READY_SECONDS = 90.0
LAST_LINES = 5
PAUSE = 0.25
"""Seconds between two looks at something that has no event to wait for."""


class Agent:
    """One machine's agent: enrol, start, kill, ask."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.state = directory / f"{machine.name}.state"
        self.log = directory / f"{machine.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        # Only what a program needs to run: the console's keys are none of an agent's business.
        self.env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "KUBESPAN_STATE_DIR": str(self.state)}

    def call(self, *arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the agent's commands to its end."""
        return self.machine.run(AGENT, *arguments, stdin=stdin, check=check, env=self.env)

    def enrol(self, url: str, pin: str, token: str) -> None:
        """Enrol by the line that an operator would paste; the token goes by standard input."""
        result = self.call(
            "enrol", url, "--pin", pin, "--token-file", "-", "--name", self.machine.name, stdin=token, check=False
        )
        if result.returncode:
            raise LabError(f"{self.machine.name} could not enrol: {result.stderr.strip() or result.stdout.strip()}")

    def start(self) -> None:
        """Start `kubespan-agent run` in the background."""
        self.process = self.machine.start(AGENT, "run", log=self.log, env=self.env)

    def kill(self) -> None:
        """Kill it as a crash would: no farewell."""
        if self.process is None:
            raise LabError(f"the agent of {self.machine.name} was never started")
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it politely; the mesh stays."""
        if self.process is not None:
            stop(self.process)

    def resources(self, kind: str) -> list[dict[str, Any]]:
        """What `kubespan-agent get KIND -o json` prints; nothing while the agent has published nothing yet."""
        result = self.call("get", kind, "-o", "json", check=False)
        return parse_json_stream(result.stdout) if result.returncode == 0 else []

    def links(self) -> dict[str, str]:
        """Link state by the peer's name."""
        specs = (resource["spec"] for resource in self.resources("kubespanpeerstatuses"))
        return {spec["label"]: spec["state"] for spec in specs}

    def address(self) -> str:
        """The machine's KubeSpan address, without its length."""
        return str(self.resources("kubespanidentities")[0]["spec"]["address"]).partition("/")[0]


class Mesh:
    """The agents of a laboratory."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.agents = {name: Agent(machine, directory) for name, machine in lab.machines.items()}

    def up(self) -> int:
        """Count the directed links that are `up`."""
        return sum(state == "up" for agent in self.agents.values() for state in agent.links().values())


def parse_json_stream(text: str) -> list[dict[str, Any]]:
    """Read JSON objects that follow one another, as `get -o json` prints them."""
    decoder = json.JSONDecoder()
    objects = []
    rest = text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        objects.append(value)
        rest = rest[end:].lstrip()
    return objects


def await_true(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Look until a condition of other processes holds; returns how long it took, raises LabError after `seconds`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise LabError(f"{what}: not within {seconds:.0f} s")
        time.sleep(PAUSE)
    return time.monotonic() - started


@contextmanager
def open_mesh(directory: Path, names: list[str]) -> Iterator[tuple[Lab, Mesh]]:
    """Make a laboratory with an agent for each machine; everything is gone afterwards."""
    with Lab(directory, names) as lab:
        yield lab, Mesh(lab, directory)


class RunningConsole:
    """A console of its own, started by `manage.py run` in a directory of its own."""

    def __init__(self, directory: Path, *, listen: str, tls_listen: str) -> None:
        self.directory = directory
        self.url = f"http://{listen}"
        self.tls_url = f"https://{tls_listen}"
        self.log = directory / "console.log"
        self.arguments = ["run", "--data", str(directory), "--listen", listen, "--tls-listen", tls_listen]
        self.env = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "KUBESPAN_DATA": str(directory),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                # It ends when we do, however that happens.
                ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, str(MANAGE), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self.env,
            )
        try:
            await_true(self.ready, READY_SECONDS, "the console is not ready")
        except LabError as error:
            raise LabError(f"{error}; its last words: {self.last_words()}") from None

    def last_words(self) -> str:
        """The end of its log, for a message: the log itself may be gone by the time that somebody reads it."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])

    def ready(self) -> bool:
        """Ask `/readyz`; raises LabError when the console has ended."""
        if self.process is not None and self.process.poll() is not None:
            raise LabError(f"the console ended with status {self.process.returncode}")
        try:
            return urllib3.request("GET", f"{self.url}/readyz", retries=False, timeout=5).status == HTTPStatus.OK
        except urllib3.exceptions.HTTPError:
            return False

    def call(self, *arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Run one of the console's commands; what it prints is one JSON object, or nothing."""
        command = [sys.executable, str(MANAGE), *arguments]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
        )
        if result.returncode:
            raise LabError(f"{' '.join(arguments)}: {result.stderr.strip()}")
        return json.loads(result.stdout) if result.stdout.startswith("{") else {}

    def kill(self) -> None:
        """Kill every process of it at once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def kill_redis(self) -> None:
        """Kill the private Redis; what it held is gone with it."""
        with redis.Redis(unix_socket_path=str(embedded.socket_path(self.directory))) as client:
            os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)

    def stop(self) -> None:
        """End it politely."""
        if self.process is not None:
            stop(self.process)
