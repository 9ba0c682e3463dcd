"""One console and four machines for the whole room: they are the costly part, and every test leaves them whole."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodes.certificates import fingerprint
from nodes.lab import Machine
from nodes.playground import TLS_PORT, Agent, Mesh, Site, await_true, open_site
from tests.consoles import PreparedConsole
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
UP_SECONDS = 120.0
"""The demonstration's own limit; C and D must first give up an endpoint that does not answer."""


@dataclass
class World:
    """What the tests of this room share."""

    site: Site
    mesh: Mesh
    console: PreparedConsole
    pin: str

    def machine(self, name: str) -> Machine:
        """Return a machine by name."""
        return self.site.machines[name]

    def agent(self, name: str) -> Agent:
        """Return its agent."""
        return self.mesh.agents[name]

    def connected(self) -> set[str]:
        """The nodes whose reports the console has had since its Redis last started."""
        return {node["name"] for node in self.console.call("list_nodes", "office")["nodes"] if node["reporting"]}

    def await_up(self, *names: str) -> None:
        """Wait until every one of these sees every other one `up`."""

        def up() -> bool:
            links = {name: self.agent(name).links() for name in names}
            return all(links[a].get(b) == "up" for a in names for b in names if a != b)

        await_true(up, UP_SECONDS, f"links between {', '.join(names)} are not up")


NAMES = ["alpha", "bravo", "charlie", "delta"]
SPARE = "echo"
"""A fifth machine, for the test that removes one."""

CUT_IPV4 = """
table ip underlay {{
  chain arriving {{ type filter hook input priority -10; iifname "eth0" ip saddr {other} drop; }}
}}
"""


@pytest.fixture(scope="session")
def built() -> Path:
    """The agent of these sources, as `make agent` builds it."""
    done = subprocess.run([ROOT / "scripts" / "agent.sh"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the agent cannot be built here: {done.stderr.strip()[-300:]}")
    return ROOT / "build" / "agent"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Four machines in one mesh; between charlie and delta the underlay carries IPv6 only."""
    directory = tmp_path_factory.mktemp("world")
    with open_site([*NAMES, SPARE]) as site, Mesh(site, directory) as mesh:
        for here, there in (("charlie", "delta"), ("delta", "charlie")):
            cut = CUT_IPV4.format(other=site.addresses[there][0])
            site.machines[here].run("nft", "-f", "-", stdin=cut)
        (directory / "console").mkdir()
        console = PreparedConsole(
            directory / "console", listen=f"127.0.0.1:{free_port()}", tls_listen=f"{site.host}:{TLS_PORT}"
        )
        try:
            console.start()
            pin = fingerprint((directory / "console" / "tls" / "certificate.pem").read_bytes())
            world = World(site, mesh, console, pin)
            console.call("create_cluster", "office")
            token = console.call("create_token", "office", "--uses", str(len(NAMES)))["token"]
            for name in NAMES:
                mesh.agents[name].enrol(console.tls_url, pin, token)
                mesh.agents[name].start()
            world.await_up(*NAMES)
            yield world
        finally:
            console.stop()
