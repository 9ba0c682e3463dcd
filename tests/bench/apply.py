"""1,000 peers into WireGuard from nothing, one more, and a pass with nothing to do, beside wg(8) for the same.

`pass` is the agent's whole pass: look at link, peers, addresses, routes, rules and firewall, decide, act. `peers` is of
that what wg does: from the wish to WireGuard having it, and for the pass with nothing to do, reading it. `wg` is
setconf for the first and syncconf for the others, on a device of the same kind beside ours; it is a program, whose
start counts. Ratios are of `peers` to `wg`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubespan.agent.kernel import WireGuardDevice
from kubespan.agent.netlink import LinuxKernel
from kubespan.agent.userspace import UserspaceWireGuard
from kubespan.agent.wireguard import KernelWireGuard, is_available
from kubespan.core.plan import Desired, plan
from tests.agent.data_plane import make_desired, make_key, make_peer
from tests.bench.console import CannotRun
from tests.bench.figures import ratio, spread
from tests.namespaces import Lab, Machine

PEERS = 1000
ROUNDS = 9
LACKING = 77
ROOT = Path(__file__).parent.parent.parent
USER_MODE = ROOT / "tests" / "vm" / "user-mode"
SECONDS = 300

KINDS: dict[str, type[UserspaceWireGuard | KernelWireGuard]] = {
    "userspace": UserspaceWireGuard,
    "kernel": KernelWireGuard,
}


def bench(peers: int = PEERS, rounds: int = ROUNDS) -> dict[str, object]:
    """Both data planes: the kernel's here, or where a kernel of the user mode is built, in that."""
    if os.geteuid() != 0:
        raise CannotRun("needs root: network namespaces")
    if missing := [program for program in ("wg", "wireguard-go", "nft") if shutil.which(program) is None]:
        raise CannotRun(f"not installed: {', '.join(missing)}")
    found: dict[str, object] = {"peers": peers, "rounds": rounds, "userspace": measure("userspace", peers, rounds)}
    if asyncio.run(is_available()):
        return {**found, "kernel": measure("kernel", peers, rounds)}
    return {**found, "kernel": _measure_there(peers, rounds)}


def _measure_there(peers: int, rounds: int) -> object:
    command = [str(USER_MODE), "-t", str(SECONDS), sys.executable, "-m", "tests.bench.apply", str(peers), str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == LACKING:
        return {"skipped": f"this kernel has no WireGuard; {done.stderr.strip()}"}
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-500:]}{done.stderr[-500:]}")
    return {"in": "user mode Linux", **json.loads(done.stdout.splitlines()[-1])}


def measure(kind: str, peers: int = PEERS, rounds: int = ROUNDS) -> dict[str, object]:
    """One data plane, on a machine of its own."""
    with Lab() as lab:
        return Turns(lab.machine("bench"), KINDS[kind], peers).run(rounds)


class Turns:
    """Our device and wg's on one machine, each of which is taken through the same states in turns."""

    def __init__(self, machine: Machine, kind: type[UserspaceWireGuard | KernelWireGuard], peers: int) -> None:
        self.machine = machine
        self.device: WireGuardDevice = kind()
        self.other: WireGuardDevice = kind("other")
        many = [
            make_peer(n, f"fd7f::{n:x}/128", f"10.{n // 250}.{n % 250}.0/25", endpoint="192.0.2.2:51820")
            for n in range(10, 10 + peers)
        ]
        self.more = make_peer(9, "fd7f::9/128", endpoint="192.0.2.2:51820")
        self.none, self.all, self.grown = make_desired(), make_desired(*many), make_desired(*many, self.more)
        self.words = {len(one.peers): write_configuration(one) for one in (self.none, self.all, self.grown)}
        self.times: dict[str, list[float]] = {}

    def run(self, rounds: int) -> dict[str, object]:
        """Every figure, as medians with the middle half."""
        self.machine.call(self._set_up)
        for _ in range(rounds):
            self.machine.call(self._take_turns)
        figures = {name: spread(column) for name, column in self.times.items()}
        return {
            case: {
                **{part: figures[f"{case} {part}"] for part in ("pass", "peers", "wg")},
                "ratio": ratio(figures[f"{case} peers"], figures[f"{case} wg"]),
            }
            for case in ("from nothing", "one more", "nothing to do")
        }

    async def _set_up(self) -> None:
        await self._pass(self.none)
        await self.other.create()
        link = self.none.link
        if link is None:
            raise TypeError("KubeSpan is on in the example")
        await self.other.configure(replace(link, listen_port=51821))
        self.machine.run("ip", "link", "set", "other", "up")

    async def _take_turns(self) -> None:
        await self._time("from nothing wg", lambda: self._wg("setconf", self.all))
        await self._time("from nothing peers", lambda: self.device.set_peers(tuple(self.all.peers.values())))
        await self._pass(self.none)
        await self._time("from nothing pass", lambda: self._pass(self.all))

        await self._time("nothing to do peers", self.device.dump)
        await self._time("nothing to do wg", lambda: self._wg("syncconf", self.all))
        await self._time("nothing to do pass", lambda: self._pass(self.all, changes=0))

        await self._time("one more wg", lambda: self._wg("syncconf", self.grown))
        await self._time("one more peers", lambda: self.device.set_peers((self.more,)))
        await self.device.remove_peers((self.more.public_key,))
        await self._time("one more pass", lambda: self._pass(self.grown, changes=1))
        await self._pass(self.none)
        await self._wg("setconf", self.none)

    async def _time(self, name: str, act: Callable[[], Awaitable[Any]]) -> None:
        started = time.perf_counter()
        await act()
        self.times.setdefault(name, []).append(time.perf_counter() - started)

    async def _pass(self, desired: Desired, changes: int | None = None) -> None:
        kernel = LinuxKernel(self.device)
        planned = plan(desired, await kernel.observe())
        await kernel.apply(planned)
        if changes is not None and len(planned) != changes:
            raise ValueError(f"{len(planned)} changes instead of {changes}: {[type(one).__name__ for one in planned]}")

    async def _wg(self, command: str, desired: Desired) -> None:
        process = await asyncio.create_subprocess_exec(
            "wg", command, "other", "/dev/stdin", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        _, error = await process.communicate(self.words[len(desired.peers)])
        if process.returncode:
            raise RuntimeError(error.decode())


def write_configuration(desired: Desired) -> bytes:
    """The peers in wg's own words; key and port are the other device's."""
    lines = ["[Interface]", f"PrivateKey = {make_key(1).private_key}", "ListenPort = 51821", "FwMark = 0x20"]
    for peer in desired.peers.values():
        lines += ["[Peer]", f"PublicKey = {peer.public_key}", f"PresharedKey = {peer.preshared_key}"]
        lines += [f"AllowedIPs = {', '.join(map(str, peer.allowed_ips))}", f"Endpoint = {peer.endpoint}"]
        lines.append(f"PersistentKeepalive = {peer.keepalive}")
    return "\n".join([*lines, ""]).encode()


if __name__ == "__main__":
    print(json.dumps(measure("kernel", int(sys.argv[1]), int(sys.argv[2]))))
