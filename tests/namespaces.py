"""Machines to test on: network namespaces, each with a `/run/wireguard` of its own, on bridges or veth pairs.

    with Lab() as lab:
        one, two = lab.machine("one"), lab.machine("two")
        lab.join(one, two, addresses=("192.0.2.1/24", "192.0.2.2/24"))
        one.run("ping", "-c1", "192.0.2.2")
        one.call(kernel.observe)

Whatever is started inside ends with the lab: processes that live in its namespaces are ended by their ids, then the
namespaces go, also after a failure. Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

NAMESPACES = Path("/run/netns")
END_SECONDS = 10.0
CLONE_FS, CLONE_NEWNET, CLONE_NEWNS = 0x200, 0x40000000, 0x20000

_libc = ctypes.CDLL(None, use_errno=True)
_thread = threading.local()
"""Which machine the running thread is in; from inside, the way in is not to be seen."""
_numbers = itertools.count()


class Machine:
    """One network namespace with a private `/run/wireguard`."""

    def __init__(self, name: str, mounts: Path) -> None:
        self.name = name
        self.mounts = mounts
        self.net = NAMESPACES / name

    @property
    def prefix(self) -> list[str]:
        """What to put before a command for it to run inside."""
        if getattr(_thread, "machine", None) is self:
            return []
        return ["nsenter", f"--net={self.net}", f"--mount={self.mounts}", "--"]

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Run a command inside to its end, and return what it wrote."""
        done = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=timeout, check=False, env=_environment()
        )
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(command)} → {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *command: str, **options: Any) -> subprocess.Popen:
        """Start a command inside."""
        return subprocess.Popen([*self.prefix, *command], **options)

    def ip(self, words: str) -> str:
        """Run `ip` with these words."""
        return self.run("ip", *words.split())

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run an async function inside, on an event loop in a thread of its own; what it starts is inside too."""
        outcome: dict[str, Any] = {}

        def enter_and_run() -> None:
            try:
                self._enter()
                outcome["value"] = asyncio.run(function())
            except BaseException as error:  # noqa: BLE001 - raised again where the function was called
                outcome["error"] = error

        thread = threading.Thread(target=enter_and_run, name=self.name)
        thread.start()
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    def _enter(self) -> None:
        """Put this thread into the namespaces; only this one, and for good."""
        _check(_libc.unshare(CLONE_FS))  # a thread that shares its root cannot change its mounts
        for path, kind in ((self.net, CLONE_NEWNET), (self.mounts, CLONE_NEWNS)):
            with path.open() as handle:
                _check(_libc.setns(handle.fileno(), kind))
        _thread.machine = self

    def processes(self) -> list[int]:
        """Ids of the processes that live inside, but for this one's own threads."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        return [int(pid) for pid in found.stdout.split() if int(pid) != os.getpid()]


class Lab:
    """Machines and the wires between them."""

    def __init__(self, name: str = "") -> None:
        self.name = name or f"t{os.getpid()}-{next(_numbers)}"
        self.machines: list[Machine] = []
        self._directory = Path(f"/run/kubespan-lab-{self.name}")
        self._wires = itertools.count()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._directory.mkdir()
            stack.callback(self._directory.rmdir)
            # A mount namespace can only be bound to a file on a private mount.
            _run("mount", "--bind", str(self._directory), str(self._directory))
            stack.callback(_run, "umount", "--lazy", str(self._directory))
            _run("mount", "--make-private", str(self._directory))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def machine(self, name: str) -> Machine:
        """Make a machine with its loopback up, and no wire yet."""
        full = f"{self.name}-{name}"
        made = Machine(full, self._directory / name)
        with contextlib.ExitStack() as stack:
            _run("ip", "netns", "add", full)
            stack.callback(_run, "ip", "netns", "del", full)
            stack.callback(end_processes, made)
            made.mounts.touch()
            stack.callback(made.mounts.unlink)
            inside = "mkdir -p /run/wireguard && mount -t tmpfs -o mode=700 tmpfs /run/wireguard"
            _run("unshare", f"--mount={made.mounts}", "--propagation", "private", "sh", "-c", inside)
            stack.callback(_run, "umount", str(made.mounts))
            _run("ip", "-n", full, "link", "set", "lo", "up")
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

    def bridge(self, name: str, members: Sequence[tuple[Machine, Sequence[str]]], interface: str = "eth0") -> Machine:
        """Make a switch (a machine with the bridge `br0`) and wire members to it, each with its addresses."""
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


def end_processes(machine: Machine) -> None:
    """End what lives in a machine: kindly, then for good; each by its id."""
    deadline = time.monotonic() + END_SECONDS
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in machine.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        patience = time.monotonic() + END_SECONDS / 2
        while machine.processes() and time.monotonic() < min(patience, deadline):
            time.sleep(0.01)  # they are not our children: nothing to wait on


def _add_address(machine: Machine, interface: str, address: str) -> None:
    # Duplicate address detection would make the address unusable for a second.
    machine.ip(f"address add {address} dev {interface}{' nodad' if ':' in address else ''}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _environment() -> dict[str, str]:
    return os.environ | {"LC_ALL": "C"}


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
