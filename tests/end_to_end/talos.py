"""A machine that does what Talos does: upstream's own client finds the peers, WireGuard is set from what it received.

Discovery is the Go program under tests/interop/discovery, in the machine's namespace; decisions are talos_rules.py's;
WireGuard is `wireguard-go`, told by its own control socket. Not a line of the agent is used.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nodes.lab import LabError, Machine, stop
from nodes.playground import await_true
from tests.end_to_end.talos_rules import (
    NEVER,
    PORT,
    PeerSpec,
    PeerStatus,
    kubespan_address,
    own_endpoints,
    peer_specs,
    ruleset,
)

LINK = "kubespan"
MTU = 1420
MARK = 0x20
TABLE = "180"
KEEPALIVE = 25
TICK = 1.0
"""Seconds between looks; KubeSpan's are 30, so that it waits longer and decides the same."""
START_SECONDS = 30.0
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Cluster:
    """What the machine configuration of every machine has."""

    id: str
    secret: str
    endpoint: str
    """Of the discovery service."""
    roots: Path
    """What its certificate is trusted by."""


class WireGuard:
    """`wireguard-go` by its control socket (its configuration protocol: keys in hexadecimal, one pair a line)."""

    def __init__(self, machine: Machine) -> None:
        self.socket = machine.mounts.parent.parent / "root/run/wireguard" / f"{LINK}.sock"

    def ask(self, *lines: str) -> list[tuple[str, str]]:
        """Send a request; raises LabError unless it was done."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(self.socket))
            connection.sendall("".join(f"{line}\n" for line in (*lines, "")).encode())
            connection.shutdown(socket.SHUT_WR)  # it would wait for another request
            answer = connection.makefile().read()
        pairs = [(key, value) for key, _, value in (line.partition("=") for line in answer.splitlines() if line)]
        if ("errno", "0") not in pairs:
            raise LabError(f"wireguard-go refuses {lines[0]}: {answer}")
        return pairs

    def answers(self) -> bool:
        """Whether it takes requests: the socket is there a moment before anybody listens."""
        try:
            return bool(self.ask("get=1"))
        except OSError:
            return False

    def peers(self) -> dict[str, tuple[str, float]]:
        """Endpoint and time of the last handshake (Unix time) of each peer."""
        found: dict[str, tuple[str, float]] = {}
        key = ""
        for name, value in self.ask("get=1"):
            if name == "public_key":
                key = base64.b64encode(bytes.fromhex(value)).decode()
                found[key] = ("", NEVER)
            elif name == "endpoint":
                found[key] = (value, found[key][1])
            elif name == "last_handshake_time_sec" and value != "0":
                found[key] = (found[key][0], float(value))
            elif name == "last_handshake_time_nsec" and found[key][1] != NEVER:
                found[key] = (found[key][0], found[key][1] + int(value) / 1e9)
        return found


def list_addresses(machine: Machine) -> list[str]:
    """A machine's own addresses that mean the same everywhere."""
    link = json.loads(machine.run("ip", "-j", "address", "show", "eth0"))[0]
    return [str(one["local"]) for one in link["addr_info"] if one["scope"] == "global"]


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


class Talos:
    """The machine; a context manager, within which it takes part."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        node_id: str,
        cluster: Cluster,
        program: Path,
        log: Path,
        offer: Iterable[str],
    ) -> None:
        self.machine = machine
        self.name = name
        self.node_id = node_id
        self.cluster = cluster
        self.harvest = False
        """`harvestExtraEndpoints`."""
        self.further: list[str] = []
        """Addresses that it has besides those of its interface."""
        self.received: list[dict[str, Any]] = []
        """What the client last said."""
        self.messages = 0
        """How often it said anything."""
        self.specs: dict[str, PeerSpec] = {}
        self.statuses: dict[str, PeerStatus] = {}
        self._program = program
        self._log = log
        self._offer = list(offer)
        self._key = X25519PrivateKey.generate()
        self._wireguard = WireGuard(machine)
        self._seen_from = ""
        self._published: dict[str, Any] = {}
        self._lines: queue.Queue[str] = queue.Queue()
        self._stop = threading.Event()
        self._fault: BaseException | None = None
        self._stack = ExitStack()
        link = json.loads(machine.run("ip", "-j", "link", "show", "eth0"))[0]
        self.address = str(kubespan_address(cluster.id, link["address"]))
        self.addresses = list_addresses(machine)

    @property
    def public_key(self) -> str:
        """WireGuard's, base64."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open_link(stack)
            self._client = stack.enter_context(self._start_client())
            for work in (self._read, self._work):
                thread = threading.Thread(target=work, name=f"{self.name}{work.__name__}")
                thread.start()
                stack.callback(thread.join)
            stack.callback(stop, self._client)  # the threads end with it
            stack.callback(self._stop.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # What a test asks.

    def links(self) -> dict[str, str]:
        """State by the peer's name; raises what went wrong meanwhile."""
        if self._fault is not None:
            raise self._fault
        now, statuses = time.time(), self.statuses
        return {spec.label: statuses[key].state(now) for key, spec in self.specs.items() if key in statuses}

    def endpoint(self, name: str) -> str:
        """Where WireGuard sends what is for a peer."""
        return next(self.statuses[key].endpoint for key, spec in self.specs.items() if spec.label == name)

    def knows(self) -> set[str]:
        """Names of the affiliates that the client last listed."""
        return {str(one.get("nodename")) for one in self.received}

    def configured(self) -> set[str]:
        """Keys of the peers that WireGuard has."""
        return set(self._wireguard.peers())

    # The link.

    def _open_link(self, stack: ExitStack) -> None:
        with self._log.open("wb") as output:
            environment = {"PATH": os.environ["PATH"], "LOG_LEVEL": "error"}
            command = ["setpriv", "--pdeathsig", "TERM", "--", *self.machine.inside("wireguard-go", "-f", LINK)]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment
            )
        stack.callback(stop, process)
        await_true(self._wireguard.answers, START_SECONDS, "wireguard-go has no control socket")
        key = self._key.private_bytes_raw().hex()
        self._wireguard.ask("set=1", f"private_key={key}", f"listen_port={PORT}", f"fwmark={MARK}")
        ip = self.machine.ip
        ip(f"address add {self.address}/64 dev {LINK} nodad")
        ip(f"link set {LINK} mtu {MTU} up")
        for family in ("-4", "-6"):
            ip(f"{family} route add default dev {LINK} table {TABLE} mtu {MTU}")
            ip(f"{family} rule add fwmark 0x40/0x60 lookup {TABLE} priority 32500")

    # Discovery.

    def _start_client(self) -> subprocess.Popen[str]:
        where = ("--endpoint", self.cluster.endpoint, "--roots", str(self.cluster.roots), "--cluster", self.cluster.id)
        command = self.machine.inside(str(self._program), *where, "--id", self.node_id)
        with self._log.with_suffix(".client").open("wb") as output:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], "CLUSTER_SECRET": self.cluster.secret},
            )

    def _read(self) -> None:
        assert self._client.stdout is not None
        for line in self._client.stdout:
            self._lines.put(line)
        if not self._stop.is_set():
            self._fault = LabError(f"{self.name}: the discovery client ended")

    def _publish(self) -> None:
        """Say what is so now, if it was not said yet (discovery-protocol.md §6.4)."""
        addresses = [*self.addresses, *self.further]
        said = {
            "publish": {
                "id": self.node_id,
                "addresses": [*addresses, self.address],
                "hostname": self.name,
                "nodename": self.name,
                "type": "controlplane",
                "system": "Talos (v1.13.0)",
                "public_key": self.public_key,
                "address": self.address,
                "api_port": 6443,
            },
            "endpoints": own_endpoints(self.addresses, self._seen_from, self._offer),
            "others": self._harvested() if self.harvest else {},
        }
        if said != self._published:
            assert self._client.stdin is not None
            self._client.stdin.write(json.dumps(said) + "\n")
            self._client.stdin.flush()
            self._published = said

    def _harvested(self) -> dict[str, list[str]]:
        """Where peers that are up were seen, by their node ids (kubespan.md §5)."""
        now = time.time()
        seen = ((self.specs[key].node_id, status) for key, status in self.statuses.items() if key in self.specs)
        return {node_id: [status.endpoint] for node_id, status in seen if status.state(now) == "up"}

    # The loop.

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with suppress(queue.Empty):
                    message = json.loads(self._lines.get(timeout=TICK))
                    self.received, self._seen_from = message["affiliates"], message["ip"]
                    self.messages += 1
                self._reconcile()
                self._publish()
        except BaseException as fault:  # noqa: BLE001 - raised again where somebody asks
            if not self._stop.is_set():
                self._fault = fault

    def _reconcile(self) -> None:
        """One pass of the manager (kubespan.md §6.1): everything but what a peer's own packets decide."""
        wanted = peer_specs(self.received, self.node_id)
        seen, now = self._wireguard.peers(), time.time()
        lines = [line for key in seen.keys() - wanted.keys() for line in (f"public_key={_hex(key)}", "remove=true")]
        statuses: dict[str, PeerStatus] = {}
        for key, spec in wanted.items():
            endpoint, handshake = seen.get(key, ("", NEVER))
            status = replace(self.statuses.get(key, PeerStatus()), endpoint=endpoint, handshake=handshake)
            given = status.next_endpoint(spec.endpoints, now)
            statuses[key] = status.given(given, now) if given else status
            if given or key not in seen or self.specs.get(key) != spec:
                lines += self._peer(key, spec, given)
        if lines:
            self._wireguard.ask("set=1", *lines)
        if {key: spec.allowed_ips for key, spec in wanted.items()} != {k: s.allowed_ips for k, s in self.specs.items()}:
            self.machine.run("nft", "-f", "-", stdin=ruleset(wanted.values()))
        self.statuses, self.specs = statuses, wanted

    def _peer(self, key: str, spec: PeerSpec, endpoint: str) -> list[str]:
        """A peer's configuration; allowed IPs are replaced only where they are others: packets are on their way."""
        lines = [f"public_key={_hex(key)}"]
        if key not in self.specs or self.specs[key].allowed_ips != spec.allowed_ips:
            lines += [f"preshared_key={_hex(self.cluster.secret)}", f"persistent_keepalive_interval={KEEPALIVE}"]
            lines += ["replace_allowed_ips=true", *(f"allowed_ip={network}" for network in spec.allowed_ips)]
        return [*lines, *([f"endpoint={endpoint}"] if endpoint else [])]
