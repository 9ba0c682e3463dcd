"""A cluster of both kinds: machines with an agent, and one that behaves as Talos does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from nodes.certificates import fingerprint
from nodes.lab import Machine
from nodes.playground import TLS_PORT, Agent, Site, await_true
from tests.consoles import PreparedConsole
from tests.end_to_end.talos import Cluster, Talos, list_addresses
from tests.factories import cluster_identity
from tests.faults.changes import Browser
from tests.ports import free_port

DISCOVERY_PORT = 3443
SECONDS = 90.0
SWITCH = "198.18.0.0/15"
"""Where everybody can be reached; what lies behind a router is not offered."""


@dataclass
class Console:
    """A running console with its discovery service, and an operator at its pages."""

    running: PreparedConsole
    operator: Browser
    certificate: Path
    discovery: str
    directory: Path

    def start_agents(self, cluster: str, *agents: Agent) -> None:
        """Enrol machines by the line that an operator would paste, and start their agents."""
        token = self.running.call("create_token", cluster, "--uses", str(len(agents)))["token"]
        for agent in agents:
            agent.enrol(self.running.tls_url, fingerprint(self.certificate.read_bytes()), token)
            agent.start()


@contextmanager
def open_console(site: Site, directory: Path) -> Iterator[Console]:
    """Run one for the machines of a site."""
    places = {"tls_listen": f"{site.host}:{TLS_PORT}", "discovery": f"{site.host}:{DISCOVERY_PORT}"}
    data = directory / "console"
    data.mkdir()
    running = PreparedConsole(data, listen=f"127.0.0.1:{free_port()}", **places)
    try:
        running.start()
        operator = Browser(running.url)
        code = next(line for line in running.log.read_text().splitlines() if "one-time code: " in line)
        operator.begin(code.split()[-1])
        yield Console(running, operator, data / "tls" / "certificate.pem", places["discovery"], directory)
    finally:
        running.stop()


@dataclass
class Office:
    """One cluster on that console."""

    name: str
    uuid: str
    console: Console
    talos: Talos
    agents: dict[str, Agent] = field(default_factory=dict)

    def set_options(self, **changes: str) -> None:
        """What an operator chooses on the cluster's page."""
        form = {
            "enabled": "on",
            "discovery": "on",
            "routing": "after-handshake",
            "mtu": "1420",
            "endpoint_filters": SWITCH,
        }
        self.console.operator.post(f"/clusters/{self.uuid}/options/", **form, **changes)

    def join(self, *agents: Agent) -> None:
        """Make machines with an agent members."""
        self.console.start_agents(self.name, *agents)
        self.agents |= {agent.name: agent for agent in agents}

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What the console has, by name."""
        return {node["name"]: node for node in self.console.running.call("list_nodes", self.name)["nodes"]}

    def members(self) -> list[str]:
        """Everybody's name."""
        return [*self.agents, self.talos.name]

    def machine(self, name: str) -> Machine:
        """Somebody's machine."""
        return self.talos.machine if name == self.talos.name else self.agents[name].machine

    def addresses(self, name: str) -> list[str]:
        """The addresses that others have for somebody: KubeSpan's first, then its own."""
        if name == self.talos.name:
            return [self.talos.address, *self.talos.addresses]
        return [self.agents[name].address(), *list_addresses(self.machine(name))]

    def links(self, name: str) -> dict[str, str]:
        """Link states as somebody sees them."""
        if name == self.talos.name:
            return self.talos.links()
        return self.agents[name].links()

    def endpoint(self, name: str, peer: str) -> str:
        """Where somebody's WireGuard sends what is for a peer."""
        if name == self.talos.name:
            return self.talos.endpoint(peer)
        statuses = (one.spec for one in self.agents[name].resources("kubespanpeerstatuses"))
        return next(str(one["endpoint"]) for one in statuses if one["label"] == peer)

    def await_links(self, *pairs: tuple[str, str], seconds: float = SECONDS) -> None:
        """Wait until both ends of these links see them up."""

        def up() -> bool:
            return all(self.links(a).get(b) == "up" and self.links(b).get(a) == "up" for a, b in pairs)

        await_true(up, seconds, f"not up: {', '.join(map(' to '.join, pairs))}")

    def sends(self, name: str, address: str) -> bool:
        """Whether an agent's machine sends what is for an address to the Talos machine."""
        specs = [one.spec for one in self.agents[name].resources("kubespanpeerspecs")]
        networks = (network for spec in specs if spec["label"] == self.talos.name for network in spec["allowedIPs"])
        return any(ip_address(address) in ip_network(network) for network in networks)


@contextmanager
def open_office(
    console: Console, name: str, program: Path, machine: Machine, talos: str, node_id: str, **options: str
) -> Iterator[Office]:
    """Import a cluster of a Talos machine's, and let that machine in."""
    identity, secret = cluster_identity(name)
    file = console.directory / f"{name}.secret"
    file.write_text(secret)
    words = ("create_cluster", name, "--cluster-id", identity, "--secret-file", str(file))
    uuid = console.running.call(*words)["uuid"]
    cluster = Cluster(identity, secret, console.discovery, console.certificate)
    with ExitStack() as stack:
        log = console.directory / f"{talos}.log"
        running = stack.enter_context(Talos(machine, talos, node_id, cluster, program, log, offer=[SWITCH]))
        office = Office(name, uuid, console, running)
        office.set_options(**options)
        stack.callback(lambda: [agent.stop() for agent in office.agents.values()])

        def waits() -> bool:
            return office.nodes().get(talos, {}).get("status") == "pending"

        await_true(waits, SECONDS, f"{talos} does not wait for approval")
        console.running.call("approve_node", name, talos)
        yield office
