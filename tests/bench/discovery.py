"""What the discovery benchmarks have in common: the service as `manage.py run` starts it, the reference, and load.

The load is a process of its own; both sides are asked in turns. Plain gRPC over loopback, as behind a proxy that does
TLS: loopback is the trusted proxy, and each machine has an address of its own in X-Forwarded-For. The clusters are the
console's, and what is published opens with their secret: so the console follows them meanwhile, as it does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import grpc

from tests.apart import Apart, allow_files
from tests.bench.console import ROOT, Console
from tests.bench.machines import BARE, OURS
from tests.ports import free_port

READY_SECONDS = 30.0


@contextlib.contextmanager
def bare_server() -> Iterator[tuple[str, int]]:
    """The reference's address and process, while it runs."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "tests.bench.bare_discovery", address]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *command], cwd=ROOT)
    try:
        await_service(address)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def await_service(address: str) -> None:
    """Wait until somebody listens."""
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=READY_SECONDS)


class Sides:
    """Both services with as many machines each, watching."""

    def __init__(self, console: Console, load: Apart, bare: tuple[str, int], machines: int) -> None:
        self.console = console
        self.load = load
        self.machines = machines
        self.bare_pid = bare[1]
        for side, address in ((OURS, console.discovery), (BARE, bare[0])):
            load.ask("open", side=side, address=address, count=machines)

    def watch(self, side: str) -> float:
        """Have all watch a cluster that has nothing yet; seconds until each had its first message."""
        cluster, _ = self.console.make_cluster(1)
        secret = cluster.secret.reveal()
        return self.load.ask("watch", side=side, cluster=cluster.cluster_id, secret=secret)["seconds"]

    def publish(self, count: int, within: float = 0.0) -> dict[str, float]:
        """Publish so many machines within so many seconds, until all have heard of all."""
        return self.load.ask("publish", count=count, within=within)

    def broadcast(self, count: int, within: float = 0.0, messages: int = 1) -> dict[str, float]:
        """Have the reference tell of so many machines, by so many messages evenly within so many seconds."""
        return self.load.ask("broadcast", count=count, within=within, messages=messages)

    def refresh(self, side: str, pace: float, seconds: float) -> dict[str, float]:
        """Say again what was said last, so many times a second for so long."""
        return self.load.ask("refresh", side=side, pace=pace, seconds=seconds)


@contextlib.contextmanager
def both(machines: int, database: str = "sqlite") -> Iterator[Sides]:
    """Both sides, ready and connected."""
    allow_files()
    with (
        Console(database, discovery=True, environ={"TRUSTED_PROXIES": "127.0.0.0/8"}) as console,
        bare_server() as bare,
        Apart("tests.bench.machines") as load,
    ):
        await_service(console.discovery)
        sides = Sides(console, load, bare, machines)
        for side in (OURS, BARE):
            sides.watch(side)
        yield sides
