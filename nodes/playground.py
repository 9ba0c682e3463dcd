"""A mesh in a laboratory: real agents, enrolled by the real command into a running console."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address
from itertools import permutations
from pathlib import Path
from typing import Any, Self

import redis
import urllib3

from kubespan.core.resources import FILE_NAME, Resource, parse, resolve
from nodes import embedded
from nodes.lab import Lab, LabError, Machine, stop

AGENT = str(Path(sys.executable).with_name("kubespan-agent"))
MANAGE = Path(__file__).parent.parent / "manage.py"
TLS_PORT = 8443
DISCOVERY_PORT = 3000
HOST = 254
"""Last part of the host's own address on the switch."""
MAX_MACHINES = 200
SUBNETS = 250
READY_SECONDS = 90.0
LAST_LINES = 5
PAUSE = 0.25
"""Seconds between two looks at something that has no event to wait for."""


@dataclass(frozen=True)
class Site:
    """Machines on one switch, and the host with them."""

    lab: Lab[Machine]
    switch: Machine
    machines: Mapping[str, Machine]
    addresses: Mapping[str, tuple[IPv4Address, IPv6Address]]
    """Each machine's own on the switch."""
    host: IPv4Address


class Agent:
    """One machine's agent: enrol, start, kill, ask."""

    def __init__(self, name: str, machine: Machine, directory: Path) -> None:
        self.name = name
        self.machine = machine
        self.state = directory / f"{name}.state"
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        # Only what a program needs to run: the console's keys are none of an agent's business.
        self.env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "KUBESPAN_STATE_DIR": str(self.state)}

    def call(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of the agent's commands to its end."""
        return self.machine.execute(AGENT, *arguments, stdin=stdin, env=self.env)

    def enrol(self, url: str, pin: str, token: str) -> None:
        """Enrol by the line that an operator would paste; the token goes by standard input."""
        result = self.call("enrol", url, "--pin", pin, "--token-file", "-", "--name", self.name, stdin=token)
        if result.returncode:
            raise LabError(f"{self.name} could not enrol: {result.stderr.strip() or result.stdout.strip()}")

    def start(self) -> None:
        """Start `kubespan-agent run` in the background; it ends when we do, however that happens."""
        with self.log.open("ab") as output:
            command = ["setpriv", "--pdeathsig", "TERM", "--", *self.machine.inside(AGENT, "run")]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self.env,
            )

    def kill(self) -> None:
        """Kill it as a crash would: no farewell."""
        if self.process is None:
            raise LabError(f"the agent of {self.name} was never started")
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it politely; the mesh stays."""
        if self.process is not None:
            stop(self.process)

    def resources(self, kind: str) -> list[Resource]:
        """What the agent published of that kind, as `kubespan-agent get` finds it; nothing where it has not yet.

        Read from the file, in which it is whole at any time: this is asked over and over, and the command takes half a
        second of a processor to start.
        """
        try:
            published = parse((self.state / FILE_NAME).read_bytes())
        except FileNotFoundError:
            return []
        wanted = resolve(kind).type
        return [resource for resource in published if resource.metadata.type == wanted]

    def links(self) -> dict[str, str]:
        """Link state by the peer's name."""
        return {one.spec["label"]: one.spec["state"] for one in self.resources("kubespanpeerstatuses")}

    def address(self) -> str:
        """The machine's KubeSpan address, without its length."""
        return str(self.resources("kubespanidentities")[0].spec["address"]).partition("/")[0]


class Mesh:
    """The agents of a site; a context manager, which ends them."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.agents = {name: Agent(name, machine, directory) for name, machine in site.machines.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents.values():
            agent.stop()

    def missing(self) -> list[str]:
        """Name each directed link that is not `up`, with its state where the agent knows the peer."""
        states = {name: agent.links() for name, agent in self.agents.items()}
        pairs = [(one, two, states[one].get(two, "not known")) for one, two in permutations(self.agents, 2)]
        return [f"{one} → {two} ({state})" for one, two, state in pairs if state != "up"]


def await_true(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Look until a condition of other processes holds; returns how long it took, raises LabError after `seconds`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise LabError(f"{what}: not within {seconds:.0f} s")
        time.sleep(PAUSE)
    return time.monotonic() - started


@contextmanager
def open_site(names: Sequence[str]) -> Iterator[Site]:
    """Make machines with an IPv4 and an IPv6 address each on one switch; everything is gone afterwards."""
    if len(names) > MAX_MACHINES:
        raise LabError(f"at most {MAX_MACHINES} machines fit on the switch, not {len(names)}")
    with ExitStack() as stack:
        subnet, lab = _claim_subnet(stack)
        addresses = {
            name: (IPv4Address(f"198.18.{subnet}.{number}"), IPv6Address(f"2001:db8:{subnet:x}::{number:x}"))
            for number, name in enumerate(names, 1)
        }
        machines = {name: lab.machine(name) for name in names}
        wires = [(machines[name], (f"{v4}/24", f"{v6}/64")) for name, (v4, v6) in addresses.items()]
        switch = lab.bridge("switch", wires)
        host = IPv4Address(f"198.18.{subnet}.{HOST}")
        lab.plug_host(switch, f"{host}/24")
        yield Site(lab, switch, machines, addresses, host)


def _claim_subnet(stack: ExitStack) -> tuple[int, Lab[Machine]]:
    """Open a laboratory under the first free number for 198.18.N.0/24 (RFC 2544): only one of each name can be made."""
    start = os.getpid() + time.monotonic_ns()
    for step in range(SUBNETS):
        subnet = 1 + (start + step) % SUBNETS
        with suppress(FileExistsError):
            return subnet, stack.enter_context(Lab[Machine](f"ks{subnet}"))
    raise LabError(f"{SUBNETS} laboratories are open on this host already")


class RunningConsole:
    """A console of its own, started by `manage.py run` in a directory of its own."""

    def __init__(
        self, directory: Path, *, listen: str, tls_listen: str, discovery: str = "", plain_discovery: str = ""
    ) -> None:
        self.directory = directory
        self.url = f"http://{listen}"
        self.tls_url = f"https://{tls_listen}"
        self.log = directory / "console.log"
        self.arguments = ["run", "--data", str(directory), "--listen", listen, "--tls-listen", tls_listen]
        for option, place in (("--discovery-listen", discovery), ("--discovery-plain-listen", plain_discovery)):
            self.arguments += [option, place] if place else []
        self.discovery = [
            f"{scheme}://{place}" for scheme, place in (("https", discovery), ("http", plain_discovery)) if place
        ]
        """Where its discovery service is, as Talos writes it."""
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
        result = self.execute(*arguments, env=env or {})
        if result.returncode:
            raise LabError(f"{' '.join(arguments)}: {result.stderr.strip()}")
        return json.loads(result.stdout) if result.stdout.startswith("{") else {}

    def execute(self, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run one of the console's commands to its end, with a few more variables in its environment."""
        return subprocess.run(
            [sys.executable, str(MANAGE), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
        )

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
