"""TCP through our tunnel, beside one configured by hand with the same WireGuard in the same namespaces.

Two machines on a wire, a real agent on each, with wireguard-go. `mesh` is to the other's KubeSpan address, by IPv6, and
`forced` to a network behind it, by IPv4, which nftables marks for the tunnel. `by_hand` is a second wireguard-go
between the two, set by wg(8) and ip(8), and measured by either family: each of ours is compared with its like. While
it is measured the agents stand still, and their table is dormant. `by_hand_beside` is the same tunnel by IPv6 with the
agents' table as it is: what KubeSpan's two chains cost whatever passes through this machine, `chains_ratio`, without
which ours would be `rest_ratio`. Taken in turns, by iperf3.

Where there are fewer processors than two tunnels' ends and iperf3 like, turns differ by a fifth from one another, and
their medians by a tenth. What a GByte takes of processors in all, which limits the rate here, is steadier.
"""

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
from collections.abc import Iterator
from pathlib import Path

from kubespan.agent.store import Settings
from kubespan.core.messages import Snapshot
from tests.agent.console_double import ALPHA, BRAVO, CLUSTER, SECRET, Someone, snapshot
from tests.bench.agent import LAUNCH, hidden, make_state
from tests.bench.console import CannotRun
from tests.bench.figures import ratios, spread
from tests.bench.processes import used
from tests.namespaces import Lab, Machine

ROUNDS = 11
SECONDS = 2
"""Of each turn; a first second, in which TCP finds its pace, is not among them."""
FIRST = ("nice", "-n", "-15")
"""What moves the packets goes before whatever else this machine has to do, on both sides alike."""
APART = ("setsid", "--wait")
"""As the agent starts it: Linux shares processors between sessions first (sched(7), autogroup)."""
UP_SECONDS = 60.0
MTU = 1420
BEHIND = {"alpha": "10.91.0.1", "bravo": "10.92.0.1"}
BY_HAND = {"alpha": ("fd00:ab::1", "10.93.0.1"), "bravo": ("fd00:ab::2", "10.93.0.2")}
LIKE = {"mesh": "by_hand_6", "forced": "by_hand_4"}
"""What each of ours is compared with."""
BESIDE = "by_hand_beside"
UNDER = {"alpha": "192.0.2.1", "bravo": "192.0.2.2"}


def bench(rounds: int = ROUNDS, seconds: int = SECONDS) -> dict[str, object]:
    """Bits a second over each way, and how ours compare."""
    if os.geteuid() != 0:
        raise CannotRun("needs root: network namespaces")
    if missing := [one for one in ("iperf3", "wg", "wireguard-go", "nft") if shutil.which(one) is None]:
        raise CannotRun(f"not installed: {', '.join(missing)}")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubespan-bench-")))
        lab = stack.enter_context(Lab())
        machines = {someone.name: lab.machine(someone.name) for someone in (ALPHA, BRAVO)}
        lab.join(machines["alpha"], machines["bravo"], addresses=(f"{UNDER['alpha']}/24", f"{UNDER['bravo']}/24"))
        agents = [stack.enter_context(_agent(machines[one.name], one, directory)) for one in (ALPHA, BRAVO)]
        _configure_by_hand(machines)
        ways = {
            **dict(zip(LIKE.values(), BY_HAND["bravo"], strict=True)),
            BESIDE: BY_HAND["bravo"][0],
            "mesh": str(BRAVO.address),
            "forced": BEHIND["bravo"],
        }
        _await_force(machines)
        for address in ways.values():
            _await_ping(machines["alpha"], address)
        stack.enter_context(_server(machines["bravo"]))
        rates: dict[str, list[float]] = {name: [] for name in ways}
        costs: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            # Forwards and backwards, so that none always comes first.
            for name, address in list(ways.items())[:: 1 if number % 2 else -1]:
                with (
                    contextlib.nullcontext() if name in LIKE else _stood_still(machines, agents, chains=name == BESIDE)
                ):
                    tunnel = "kubespan" if name in LIKE else "hand"
                    rate, cost = _measure(machines, address, tunnel, seconds)
                rates[name].append(rate)
                costs[name].append(cost)
    compared = {name: ratios(rates[name], rates[like]) for name, like in LIKE.items()}
    compared["chains"] = ratios(rates[BESIDE], rates[LIKE["mesh"]])
    compared["rest"] = ratios(rates["mesh"], rates[BESIDE])
    cost = {name: ratios(costs[name], costs[like]) for name, like in LIKE.items()}
    return {
        "seconds": seconds,
        "rounds": rounds,
        **{name: spread(column, "mbit_s") for name, column in rates.items()},
        **{f"{name}_ratio": quarters for name, quarters in compared.items()},
        "processor_a_gbyte": {name: spread(column, "seconds") for name, column in costs.items()},
        "cost_ratio": max(middle for _, middle, _ in cost.values()),
        "ratio": min(compared[name][1] for name in LIKE),
    }


def _settings() -> Snapshot:
    members = [
        someone.member(
            addresses=(UNDER[someone.name], BEHIND[someone.name]), endpoints=(f"{UNDER[someone.name]}:51820",)
        )
        for someone in (ALPHA, BRAVO)
    ]
    return snapshot(1, *members)


@contextlib.contextmanager
def _agent(machine: Machine, someone: Someone, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real agent with settings in its store, and no console to be had."""
    machine.ip(f"address add {BEHIND[someone.name]}/32 dev lo")
    machine.ip("route add default dev wire0")
    state = directory / someone.name
    store = make_state(state, someone, "https://192.0.2.9")  # elsewhere: its own port would be exempt from forcing
    store.save_settings(Settings(cluster=CLUSTER, secret=SECRET, secret_generation=1, snapshot=_settings()))
    words = [*FIRST, sys.executable, "-c", LAUNCH.format(hidden=hidden()), "run", "--data-plane", "userspace"]
    with (directory / f"{someone.name}.log").open("wb") as log:
        process = machine.start(*words, "--state-dir", str(state), stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _configure_by_hand(machines: dict[str, Machine]) -> None:
    for someone, other in ((ALPHA, BRAVO), (BRAVO, ALPHA)):
        machine = machines[someone.name]
        machine.run(*FIRST, *APART, "wireguard-go", "hand")
        lines = [
            "[Interface]",
            f"PrivateKey = {someone.keys.private_key}",
            "ListenPort = 51821",
            "FwMark = 0x20",  # our table, while it is not dormant, forces the underlay's addresses, too
            "[Peer]",
            f"PublicKey = {other.keys.public_key}",
            f"PresharedKey = {SECRET}",
            "AllowedIPs = {}/128, {}/32".format(*BY_HAND[other.name]),
            f"Endpoint = {UNDER[other.name]}:51821",
            "PersistentKeepalive = 25",
        ]
        machine.run("wg", "setconf", "hand", "/dev/stdin", stdin="\n".join([*lines, ""]))
        machine.ip(f"link set hand up mtu {MTU}")
        for address, length in zip(BY_HAND[someone.name], ("64 dev hand nodad", "24 dev hand"), strict=True):
            machine.ip(f"address add {address}/{length}")


@contextlib.contextmanager
def _stood_still(
    machines: dict[str, Machine],
    agents: list[subprocess.Popen[bytes]],
    *,
    chains: bool,
) -> Iterator[None]:
    """Nothing of ours but WireGuard at work: not the agents, and their chains only where asked for."""

    def set_flags(flags: str) -> None:
        for machine in machines.values():
            machine.run("nft", f"add table inet kubespan {flags}")

    for agent in agents:
        agent.send_signal(signal.SIGSTOP)
    if not chains:
        set_flags("{ flags dormant; }")
    try:
        yield
    finally:
        set_flags("")
        for agent in agents:
            agent.send_signal(signal.SIGCONT)


def _await_force(machines: dict[str, Machine]) -> None:
    """Wait until both agents have seen the other one, before which nothing is forced."""
    deadline = time.monotonic() + UP_SECONDS
    while any("daddr" not in machine.run("nft", "list", "ruleset") for machine in machines.values()):
        if time.monotonic() > deadline:
            raise RuntimeError("the agents do not force any traffic")
        time.sleep(0.1)


def _await_ping(machine: Machine, address: str) -> None:
    deadline = time.monotonic() + UP_SECONDS
    ping = ["ping", "-c1", "-W1", address]
    while machine.execute(*ping).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{address} does not answer")


@contextlib.contextmanager
def _server(machine: Machine) -> Iterator[None]:
    process = machine.start(*FIRST, "iperf3", "--server", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not machine.run("ss", "-Hltn", "sport = :5201"):
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def _measure(machines: dict[str, Machine], address: str, tunnel: str, seconds: int) -> tuple[float, float]:
    """Bits a second that arrived through this tunnel, and seconds of processor that each GByte took."""
    client = machines["alpha"]
    before, used = _count_sent(client, tunnel), _used(machines)
    words = [*FIRST, "iperf3", "--client", address, "--time", str(seconds), "--omit", "1", "--json"]
    found = json.loads(client.run(*words))["end"]["sum_received"]
    sent = _count_sent(client, tunnel) - before
    if sent < found["bytes"]:
        raise RuntimeError(f"traffic to {address} did not go through {tunnel}")
    return float(found["bits_per_second"]), (_used(machines) - used) / sent * 1e9


def _used(machines: dict[str, Machine]) -> float:
    """Seconds of processor of what lives in the machines, and of what was started there and has ended."""
    seconds = sum(os.times()[2:4])
    for pid in (pid for machine in machines.values() for pid in machine.processes()):
        with contextlib.suppress(FileNotFoundError):  # an agent's nft, which ended meanwhile
            seconds += used(pid)
    return seconds


def _count_sent(machine: Machine, interface: str) -> int:
    """Bytes that the interface was given."""
    (link,) = json.loads(machine.run("ip", "-json", "-statistics", "link", "show", interface))
    return int(link["stats64"]["tx"]["bytes"])
