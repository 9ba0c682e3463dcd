"""Machines that find each other by discovery: alone, and while the console is away. Real agents, WireGuard, packets."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubespan.agent.store import Store
from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair, encode_node_id
from kubespan.discovery.client import Client, Place
from nodes import certificates
from nodes.certificates import fingerprint
from nodes.discovery.tls import CertificateFiles
from nodes.lab import Machine, background
from nodes.playground import MANAGE, TLS_PORT, Agent, Mesh, Site, await_true, open_site
from tests.answers import await_answer
from tests.consoles import PreparedConsole
from tests.discovery.apart import ServiceApart
from tests.end_to_end.conftest import UP_SECONDS
from tests.end_to_end.pinger import no_ping_lost
from tests.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(600)]

CLUSTER_ID = base64.b64encode(bytes(range(32, 64))).decode()
SECRET = base64.b64encode(bytes(range(32))).decode()
BUNDLE = f"cluster:\n    id: {CLUSTER_ID}\n    secret: {SECRET}\n"
NAMES = ("alpha", "bravo", "charlie")
SECONDS = 60.0


def join(agent: Agent, url: str, roots: Path) -> None:
    """Join by the command that an operator would give; the secret goes by standard input."""
    words = ("--discovery", url, "--ca-file", str(roots), "--name", agent.name)
    done = agent.call("join", "--secrets-file", "-", *words, stdin=BUNDLE)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr


def await_up(mesh: Mesh, names: Sequence[str]) -> None:
    """Wait until every one of these sees every other one `up`."""

    def up() -> bool:
        links = {name: mesh.agents[name].links() for name in names}
        return all(links[a].get(b) == "up" for a, b in itertools.permutations(names, 2))

    await_true(up, UP_SECONDS, f"links between {', '.join(names)} are not up")


def await_status(agent: Agent, words: str) -> None:
    """Wait until an agent's status says so."""
    await_true(lambda: words in agent.call("status").stdout, SECONDS, f"{agent.name} does not say: {words}")


def await_answers(site: Site, mesh: Mesh, here: str, there: str) -> None:
    """By KubeSpan's address, and by the other's own."""
    for address in (mesh.agents[there].address(), *map(str, site.addresses[there])):
        await_answer(site.machines[here], address)


def ring(site: Site, mesh: Mesh) -> Iterator[tuple[Machine, str]]:
    """Who pings whom: the next one of the ring of machines."""
    for here, there in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True):
        yield site.machines[here], mesh.agents[there].address()


def test_three_machines_mesh_with_a_discovery_service_alone(tmp_path: Path) -> None:
    with open_site(NAMES) as site, Mesh(site, tmp_path) as mesh:
        made = certificates.ensure(tmp_path, [str(site.host)], datetime.now(UTC))
        credentials = CertificateFiles(made.certificate, made.key).credentials
        with ServiceApart(str(site.host), credentials) as service:
            for agent in mesh.agents.values():
                join(agent, service.url, made.certificate)
                agent.start()
            await_up(mesh, NAMES)
            for here, there in itertools.permutations(NAMES, 2):
                await_answers(site, mesh, here, there)
            ids = {Store(agent.state).node_id() for agent in mesh.agents.values()}
            assert service.names(CLUSTER_ID) == ids

            with no_ping_lost(ring(site, mesh), tmp_path):
                # Whoever knows the cluster id may delete there.
                for node_id in ids:
                    service.delete(CLUSTER_ID, str(node_id))
                await_true(lambda: service.names(CLUSTER_ID) == ids, SECONDS, "they do not publish themselves again")
                service.stop()
                alpha = mesh.agents["alpha"]
                await_true(lambda: "not connected" in alpha.call("status").stdout, SECONDS, "it is not missed")
                alpha.kill()
                published = alpha.state / "resources.json"
                written = published.stat().st_mtime_ns
                alpha.start()
                await_true(lambda: published.stat().st_mtime_ns > written, SECONDS, "no pass after the start")
                await_up(mesh, NAMES)
                service.start()
                await_true(lambda: service.names(CLUSTER_ID) == ids, SECONDS, "they are not back")

            # Somebody who knows the cluster id, but not its secret.
            strange = Affiliate("lie", public_key=KeyPair.make(bytes(32)).public_key)
            service.put(CLUSTER_ID, bytes(32), strange)
            await_status(mesh.agents["charlie"], f"discovery {site.host}:{service.port} connected since")
            done = mesh.agents["charlie"].call("status")
            assert done.returncode == 0, done.stdout
            mesh.agents["charlie"].stop()
            done = mesh.agents["charlie"].call("leave", "--yes")
            assert (done.returncode, done.stderr) == (0, "")
            assert len(service.names(CLUSTER_ID) - {"lie"}) == 2


def test_the_agent_that_is_handed_out_can_ask_discovery(built: Path, tmp_path: Path) -> None:
    """By itself, on a Python that has none of our packages; it changes nothing of this machine."""
    environment = {"PATH": os.environ["PATH"], "KUBESPAN_AGENT_HOME": str(tmp_path), "LANG": "C.UTF-8"}
    agent = ["/usr/bin/python3", "-I", str(built / "kubespan-agent.pyz"), "kubespan-agent"]
    with ServiceApart() as service:
        service.put(CLUSTER_ID, base64.b64decode(SECRET), mallory())
        words = ["join", "--secrets-file", "-", "--discovery", service.url, "--ignore", "all"]
        done = subprocess.run(
            [*agent, *words, "--state-dir", str(tmp_path / "state")],
            input=BUNDLE, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 other machine listed" in done.stdout


@contextmanager
def discovery(console: PreparedConsole, listen: str, directory: Path) -> Iterator[None]:
    """The console's discovery service, as a process of its own: it outlives the console."""
    tls = console.directory / "tls"
    files = ("--certificate", str(tls / "certificate.pem"), "--key", str(tls / "key.pem"))
    command = [sys.executable, str(MANAGE), "discovery", "--listen", listen, "--metrics", "", *files]
    log = directory / "discovery.log"
    with background(["env", *(f"{name}={value}" for name, value in console.env.items()), *command], log):
        await_true(lambda: f"discovery: {listen}" in log.read_text(), SECONDS, "discovery does not listen")
        yield


def lie(url: str, roots: bytes, *affiliates: Affiliate) -> None:
    """Publish machines by the cluster's own secret, as one that was removed still could."""

    async def publish() -> None:
        told = asyncio.Event()
        clients = [
            Client(
                Place(url.removeprefix("https://"), roots=roots),
                cluster_id=CLUSTER_ID,
                affiliate_id=one.node_id,
                secret=base64.b64decode(SECRET),
                version="v1",
                news=told.set,
            )
            for one in affiliates
        ]
        for client, one in zip(clients, affiliates, strict=True):
            client.publish(one, one.endpoints)
        tasks = [asyncio.create_task(client.run()) for client in clients]
        async with asyncio.timeout(SECONDS):
            # What one publishes comes back to itself.
            while not all(client.known.own for client in clients):
                told.clear()
                await told.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(publish())


def mallory() -> Affiliate:
    """A machine that the console never named."""
    return Affiliate(
        encode_node_id(b"m" * 32),
        nodename="mallory",
        machine_type="worker",
        public_key=KeyPair.make(b"m" * 32).public_key,
        address=ula_prefix(CLUSTER_ID)[0xBAD],  # type: ignore[arg-type]
        endpoints=(Endpoint.parse("192.0.2.66:51820"),),
    )


def move(site: Site, name: str, part: int) -> tuple[str, str]:
    """Give a machine other addresses on the switch; the old ones are nobody's."""
    v4, v6 = site.addresses[name]
    moved = f"{str(v4).rpartition('.')[0]}.{part}", f"{str(v6).rpartition(':')[0]}:{part:x}"
    machine = site.machines[name]
    machine.run("ip", "address", "flush", "dev", "eth0", "scope", "global")
    machine.ip(f"address add {moved[0]}/24 dev eth0")
    machine.ip(f"address add {moved[1]}/64 dev eth0 nodad")
    return moved


def test_while_the_console_is_away_discovery_says_where_a_member_has_moved(tmp_path: Path) -> None:
    """Both move, and the one that has a console was off meanwhile: neither knows by itself where the other is."""
    with open_site(["alpha", "tango"]) as site, Mesh(site, tmp_path) as mesh:
        (tmp_path / "console").mkdir()
        secret = tmp_path / "secret"
        secret.write_text(SECRET)
        console = PreparedConsole(
            tmp_path / "console", listen=f"127.0.0.1:{free_port()}", tls_listen=f"{site.host}:{TLS_PORT}"
        )
        listen = f"{site.host}:3000"
        console.env["DISCOVERY_URL"] = f"https://{listen}"
        alpha, tango = mesh.agents["alpha"], mesh.agents["tango"]
        try:
            console.start()
            certificate = console.directory / "tls" / "certificate.pem"
            console.call("create_cluster", "office", "--cluster-id", CLUSTER_ID, "--secret-file", str(secret))
            with discovery(console, listen, tmp_path):
                token = console.call("create_token", "office")["token"]
                alpha.enrol(console.tls_url, fingerprint(certificate.read_bytes()), token)
                alpha.start()
                join(tango, f"https://{listen}", certificate)
                tango.start()
                await_true(
                    lambda: any(node["name"] == "tango" for node in console.call("list_nodes", "office")["nodes"]),
                    UP_SECONDS,
                    "the console does not hear of tango",
                )
                console.call("approve_node", "office", "tango")
                await_up(mesh, ["alpha", "tango"])
                await_answers(site, mesh, "alpha", "tango")

                console.kill()
                alpha.stop()
                assert alpha.call("down").returncode == 0
                moved, _ = move(site, "tango", 77)
                move(site, "alpha", 88)
                lie(f"https://{listen}", certificate.read_bytes(), mallory())
                alpha.start()

                def found() -> bool:
                    specs = [one.spec for one in alpha.resources("kubespanpeerspecs")]
                    told = any(f"{moved}:51820" in spec["endpoints"] for spec in specs)
                    return told and alpha.links() == {"tango": "up"}

                await_true(found, UP_SECONDS, "alpha does not find tango")
                for here, there in (("alpha", "tango"), ("tango", "alpha")):
                    await_answer(site.machines[here], mesh.agents[there].address())
                await_status(alpha, f"discovery {listen} connected since")

                console.start()
                await_true(
                    lambda: (
                        "connected\n" in alpha.call("status").stdout and "discovery" not in alpha.call("status").stdout
                    ),
                    UP_SECONDS,
                    "the console does not lead again",
                )
                assert alpha.links() == {"tango": "up"}
        finally:
            with suppress(ProcessLookupError):
                console.stop()
