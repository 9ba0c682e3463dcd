"""Machines for trying a mesh on one host: network namespaces, each with a `/run/wireguard` of its own.

    with Lab() as lab:
        one, two = lab.machine("one"), lab.machine("two")
        lab.join(one, two, addresses=("192.0.2.1/24", "192.0.2.2/24"))
        one.run("ping", "-c1", "192.0.2.2")

Only the demonstration and the tests use it. Whatever is started inside ends with the laboratory: processes that live in
its namespaces are ended by their ids, then the namespaces go, also after a failure. Root only; Linux only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

NAMESPACES = Path("/run/netns")
END_SECONDS = 10.0
TOOLS = ("ip", "nsenter", "unshare", "setpriv", "mount", "nft", "sysctl")

_numbers = itertools.count()


class LabError(Exception):
    """The laboratory cannot be made here, or something in it failed; the text says why."""


class Machine:
    """One network namespace with a private `/run/wireguard`."""

    def __init__(self, name: str, holder: int) -> None:
        self.name = name
        self.net = NAMESPACES / name
        self.mounts = Path(f"/proc/{holder}/ns/mnt")

    def inside(self, *command: str) -> list[str]:
        """The command line that runs `command` in this machine's network and mounts."""
        return ["nsenter", f"--net={self.net}", f"--mount={self.mounts}", "--", *command]

    def execute(
        self, *command: str, stdin: str = "", env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end, whatever that is."""
        return subprocess.run(
            self.inside(*command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=_environment() if env is None else dict(env),
        )

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        """Run a command inside, and return what it wrote; with `check`, raises LabError where it fails."""
        done = self.execute(*command, stdin=stdin)
        if check and done.returncode:
            raise LabError(f"{self.name}: {' '.join(command)} → {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command inside; options are Popen's."""
        return subprocess.Popen(self.inside(*command), **options)

    def ip(self, words: str) -> str:
        """Run `ip` with these words."""
        return self.run("ip", *words.split())

    def processes(self) -> list[int]:
        """Ids of the processes that live inside, but for this one's own threads."""
        found = _run("ip", "netns", "pids", self.name)
        return [int(pid) for pid in found.split() if int(pid) != os.getpid()]


Kind = TypeVar("Kind", bound=Machine)


class Lab(Generic[Kind]):
    """Machines and the wires between them. Raises LabError where there is no root, or a tool is missing."""

    kind: type[Machine] = Machine

    def __init__(self, name: str = "") -> None:
        if os.geteuid() != 0:
            raise LabError("network namespaces need root")
        if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
            raise LabError(f"missing on this machine: {', '.join(missing)}")
        self.name = name or f"t{os.getpid()}-{next(_numbers)}"
        self.machines: list[Kind] = []
        self._claim = Path(f"/run/kubespan-lab-{self.name}")
        self._wires = itertools.count()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._claim.mkdir()
        self._stack.callback(self._claim.rmdir)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def machine(self, name: str) -> Kind:
        """Make a machine with its loopback up, and no wire yet."""
        full = f"{self.name}-{name}"
        with contextlib.ExitStack() as stack:
            _run("ip", "netns", "add", full)
            stack.callback(_run, "ip", "netns", "del", full)
            holder = stack.enter_context(_hold_mounts())
            made: Kind = self.kind(full, holder)  # type: ignore[assignment]  # what the subclass says
            stack.callback(end_processes, made)
            _run("ip", "-n", full, "link", "set", "lo", "up")
            # Linux's own default, whatever this host has: a new namespace begins with its host's.
            made.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
            self._stack.push(stack.pop_all())
        self.machines.append(made)
        return made

    def join(
        self,
        one: Machine,
        two: Machine,
        *,
        addresses: tuple[str, str] | None = None,
        names: tuple[str, str] | None = None,
    ) -> tuple[str, str]:
        """Lay a wire between two machines; returns the interfaces' names, `wireN` unless given."""
        number = next(self._wires)
        ends = names or (f"wire{number}", f"wire{number}")
        wire = ["type", "veth", "peer", "name", ends[1], "netns", two.name]
        _run("ip", "-n", one.name, "link", "add", ends[0], *wire)
        for machine, end, address in zip((one, two), ends, addresses or ("", ""), strict=True):
            if address:
                _add_address(machine, end, address)
            machine.ip(f"link set {end} up")
        return ends

    def bridge(self, name: str, members: Sequence[tuple[Machine, Sequence[str]]], interface: str = "eth0") -> Kind:
        """Make a switch (a machine with the bridge `br0`) and wire members to it, each with its addresses.

        The bridge lives in a namespace of its own, so that a firewall of the host has no say in it.
        """
        switch = self.machine(name)
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")
        for number, (member, addresses) in enumerate(members):
            port = f"port{number}"
            self.join(switch, member, names=(port, interface))
            switch.ip(f"link set {port} master br0")
            for address in addresses:
                _add_address(member, interface, address)
        return switch

    def plug_host(self, switch: Machine, address: str) -> None:
        """Wire this host itself to a switch."""
        uplink = f"{self.name}-host"
        _run("ip", "link", "add", uplink, "type", "veth", "peer", "name", "host", "netns", switch.name)
        self._stack.callback(_run, "ip", "link", "del", uplink)
        _run("ip", "address", "add", address, "dev", uplink)
        _run("ip", "link", "set", uplink, "up")
        switch.ip("link set host master br0 up")


def end_processes(machine: Machine) -> None:
    """End what lives in a machine, such as a `wireguard-go` that outlives its agent: kindly, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        living = machine.processes()
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        patience = time.monotonic() + END_SECONDS / 2
        while living and time.monotonic() < patience:
            time.sleep(0.01)  # they are not our children: nothing to wait on
            living = machine.processes()
        if not living:
            return


@contextlib.contextmanager
def background(command: Sequence[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command during the block, its output in a file."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what shares its session: kindly, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)


def _add_address(machine: Machine, interface: str, address: str) -> None:
    # Duplicate address detection would make the address unusable for a second.
    machine.ip(f"address add {address} dev {interface}{' nodad' if ':' in address else ''}")


@contextlib.contextmanager
def _hold_mounts() -> Iterator[int]:
    """Keep a mount namespace with a `/run/wireguard` of its own in being by a process that sleeps; give its id.

    Bound to a file it would need no process, but in a container some kernels refuse that binding at random (EINVAL).
    """
    private = "mkdir -p /run/wireguard && mount -t tmpfs -o mode=700 tmpfs /run/wireguard && echo ready"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{private} && exec sleep infinity"]
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,
    )
    with holder:
        try:
            if holder.stdout is None or holder.stdout.readline() != "ready\n":
                raise LabError(f"{' '.join(command[:4])}: {holder.communicate()[1].strip()}")
            yield holder.pid
        finally:
            holder.kill()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    return os.environ | {"LC_ALL": "C"}
