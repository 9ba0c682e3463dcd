"""Machines for trying a mesh on one host: network namespaces on a bridge, each with its own `/run/wireguard`.

Only the demonstration and the end-to-end tests use it. Root only; Linux only. The bridge lives in a namespace of its
own, so that a firewall of the host has no say in it; the host itself is plugged in with one address, where a console
can listen. Whatever it makes carries the laboratory's prefix and goes away with `close`, also after a failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from types import TracebackType

HOST = 254
"""Last part of the host's own address on the bridge."""
MAX_MACHINES = 200
SUBNETS = 250
STOP_SECONDS = 10.0


class LabError(Exception):
    """The laboratory cannot be made here; the text says why."""


class Machine:
    """One namespace: its addresses on the bridge, and a way to run things in it."""

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.lab = lab
        self.name = name
        self.number = number
        self.namespace = f"{lab.prefix}{number}"
        self.mounts = lab.mounts / name
        self.ipv4 = IPv4Interface(f"198.18.{lab.subnet}.{number}/24")
        self.ipv6 = IPv6Interface(f"2001:db8:{lab.subnet:x}::{number:x}/64")

    def inside(self, *command: str) -> list[str]:
        """The command line that runs `command` in this machine's network and mounts."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", f"--mount={self.mounts}", "--", *command]

    def run(
        self, *command: str, stdin: str | None = None, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; with `check`, a failure raises CalledProcessError that holds what was printed."""
        return subprocess.run(
            self.inside(*command),
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=check,
            env=dict(env) if env is not None else None,
        )

    def start(self, *command: str, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start in the background, output appended to `log`; ended with the laboratory at the latest."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.inside(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(env) if env is not None else None,
            )
        self.lab.processes.append(process)
        return process

    def nft(self, script: str) -> None:
        """Apply an nftables script, such as one that cuts a link."""
        self.run("nft", "-f", "-", stdin=script)


class Lab:
    """A switch and its machines; a context manager."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        if os.geteuid() != 0:
            raise LabError("network namespaces need root")
        if missing := [tool for tool in ("ip", "nsenter", "unshare", "nft") if shutil.which(tool) is None]:
            raise LabError(f"missing on this machine: {', '.join(missing)}")
        if len(names) > MAX_MACHINES:
            raise LabError(f"at most {MAX_MACHINES} machines fit on the bridge, not {len(names)}")
        self.directory = directory
        self.mounts = directory / "mounts"
        self.subnet = _claim_subnet()
        # An interface name has at most 15 characters.
        self.prefix = f"ks{self.subnet}-"
        self.switch = f"{self.prefix}sw"
        self.uplink = f"{self.prefix}up"
        self.host_ipv4 = IPv4Interface(f"198.18.{self.subnet}.{HOST}/24")
        self.machines = {name: Machine(self, name, number) for number, name in enumerate(names, 1)}
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Lab:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _make(self) -> None:
        self.mounts.mkdir(parents=True, exist_ok=True)
        # A namespace can be kept by a bind mount only below a private mount.
        _call("mount", "--bind", str(self.mounts), str(self.mounts))
        _call("mount", "--make-private", str(self.mounts))
        _batch(["link add br0 type bridge", "link set br0 up"], self.switch)
        _batch(
            [
                f"link add {self.uplink} type veth peer name host netns {self.switch}",
                f"addr add {self.host_ipv4} dev {self.uplink}",
                f"link set {self.uplink} up",
            ]
        )
        _batch(["link set host master br0 up"], self.switch)
        for machine in self.machines.values():
            self._plug(machine)

    def _plug(self, machine: Machine) -> None:
        _call("ip", "netns", "add", machine.namespace)
        port = f"m{machine.number}"
        plug = f"link add {port} type veth peer name eth0 netns {machine.namespace}"
        _batch([plug, f"link set {port} master br0 up"], self.switch)
        _batch(
            [
                "link set lo up",
                f"addr add {machine.ipv4} dev eth0",
                f"addr add {machine.ipv6} dev eth0 nodad",
                "link set eth0 up",
            ],
            machine.namespace,
        )
        machine.mounts.touch()
        private = "mkdir -p /run/wireguard && mount -t tmpfs -o mode=700 tmpfs /run/wireguard"
        enter = f"--net=/run/netns/{machine.namespace}"
        _call("nsenter", enter, "unshare", f"--mount={machine.mounts}", "--propagation", "private", "sh", "-c", private)

    @contextlib.contextmanager
    def recording(self, command: Sequence[str], output: Path) -> Iterator[None]:
        """Run a command of this host, such as tcpdump, during the block; its output goes to a file."""
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield
        finally:
            stop(process)

    def close(self) -> None:
        """End what was started, then whatever still runs in a namespace, then remove the namespaces."""
        for process in self.processes:
            stop(process)
        namespaces = [self.switch, *(machine.namespace for machine in self.machines.values())]
        for namespace in namespaces:
            for pid in _inhabitants(namespace):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for machine in self.machines.values():
            if machine.mounts.exists():
                _call("umount", str(machine.mounts), check=False)
        for namespace in namespaces:
            _call("ip", "netns", "del", namespace, check=False)
        _call("ip", "link", "del", self.uplink, check=False)
        _call("umount", str(self.mounts), check=False)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what shares its session: politely first, after STOP_SECONDS by force."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _call(*command: str, check: bool = True) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


def _batch(lines: Sequence[str], namespace: str = "") -> None:
    """Run `ip` commands, all of one namespace in one process."""
    command = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    result = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip()}")


def _inhabitants(namespace: str) -> list[int]:
    """The processes of a namespace, such as a `wireguard-go` that outlives its agent by design."""
    return [int(pid) for pid in _call("ip", "netns", "pids", namespace, check=False).split()]


def _claim_subnet() -> int:
    """Take a number for 198.18.N.0/24 (RFC 2544) by making its switch's namespace, which only one can make."""
    start = os.getpid() + time.monotonic_ns()
    for step in range(SUBNETS):
        subnet = 1 + (start + step) % SUBNETS
        made = subprocess.run(["ip", "netns", "add", f"ks{subnet}-sw"], capture_output=True, text=True, check=False)
        if made.returncode == 0:
            return subnet
        if "File exists" not in made.stderr:
            raise LabError(f"ip netns add: {made.stderr.strip()}")
    raise LabError(f"{SUBNETS} laboratories are open on this host already")
