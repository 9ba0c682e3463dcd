"""Discovery services as an agent's registry: against the real service, with sockets of the agent's own kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface

import pytest

from kubespan.agent.registries import ports_here
from kubespan.agent.registries.opening import open_registry
from kubespan.agent.registries.service import ASK_SECONDS, OWN_ENDPOINTS, ServiceRegistry, Where, fit
from kubespan.agent.store import Discovery, DiscoveryService, Enrolment, Store
from kubespan.core.endpoint import Endpoint
from kubespan.core.service_endpoint import ServiceEndpoint
from kubespan.discovery.limits import DATA_BYTES
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.sealing import NONCE_BYTES, seal_affiliate
from nodes import certificates
from nodes.discovery.tls import CertificateFiles
from tests.agent.console_double import ALPHA, BRAVO, CHARLIE, CLUSTER_ID, SECRET
from tests.agent.discovery_double import listed
from tests.discovery.test_client import listening

PATIENCE = 60.0
RAW = base64.b64decode(SECRET)


class Memory(dict):
    """Keeps what a state directory would."""

    def read_published(self, name):
        return self.get(name)

    def publish(self, name, content):
        self[name] = content


def make(*ports, one=ALPHA, host="127.0.0.1", secret=SECRET, **other):
    news = asyncio.Event()
    registry = ServiceRegistry(
        [Where(ServiceEndpoint(host, port, insecure=True)) for port in ports],
        cluster_id=CLUSTER_ID, node_id=one.node_id, secret=secret, news=news.set, chance=lambda: 0.0, **other,
    )  # fmt: skip
    registry.news = news
    return registry


@contextlib.asynccontextmanager
async def running(*registries):
    tasks = [asyncio.create_task(one.run()) for one in registries]
    try:
        yield registries
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(registry, condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            registry.news.clear()
            if condition():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await registry.news.wait()


async def test_two_machines_see_each_other():
    async with listening() as port, running(make(port), make(port, one=BRAVO)) as (one, two):
        assert one.listed() is None
        one.publish(listed(ALPHA), {})
        two.publish(listed(BRAVO), {ALPHA.node_id: [Endpoint(ip_address("203.0.113.9"), 4000)]})
        await until(one, lambda: set(one.listed() or ()) == {BRAVO.node_id})
        await until(two, lambda: ALPHA.node_id in (two.listed() or ()))
        await until(two, lambda: len(two.listed()[ALPHA.node_id].endpoints) == 2)
        assert one.listed()[BRAVO.node_id] == listed(BRAVO)
        assert one.public_addresses == (ip_address("127.0.0.1"),)
        assert (one.fault, one.standings[0].fault) == ("", "")
        assert await two.leave() == []
        await until(one, lambda: one.listed() == {})


async def test_what_any_service_lists_is_listed_and_one_that_goes_costs_nothing():
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(listening())
        going = listening()
        there = await going.__aenter__()
        one, two, three = make(here, there), make(here, one=BRAVO), make(there, one=CHARLIE)
        await stack.enter_async_context(running(one, two, three))
        two.publish(listed(BRAVO), {})
        three.publish(listed(CHARLIE), {})
        await until(one, lambda: set(one.listed() or ()) == {BRAVO.node_id, CHARLIE.node_id})
        assert [standing.place for standing in one.standings] == [f"127.0.0.1:{here}", f"127.0.0.1:{there}"]
        await going.__aexit__(None, None, None)
        await until(one, lambda: one.standings[1].fault != "")
        assert set(one.listed()) == {BRAVO.node_id, CHARLIE.node_id}


async def test_a_service_that_goes_is_said_with_when_and_why():
    clock = [1000.0]
    async with listening() as port:
        one = make(port, wall=lambda: clock[0])
        task = asyncio.create_task(one.run())
        clock[0] = 2000.0
        await until(one, lambda: not one.standings[0].fault)
        assert one.standings[0].since == 2000.0
        clock[0] = 3000.0
    await until(one, lambda: "Connection refused" in one.standings[0].fault)
    assert one.standings[0].since == 3000.0
    assert one.listed() is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_words_of_a_service_that_is_connected_count_more():
    one = make(1, 2)
    first, second = (service.client for service in one._services)
    first.known.affiliates = {BRAVO.node_id: listed(BRAVO, hostname="fresh")}
    second.known.affiliates = {BRAVO.node_id: listed(BRAVO, hostname="stale"), CHARLIE.node_id: listed(CHARLIE)}
    first.fault = ""
    found = one.listed()
    assert (found[BRAVO.node_id].hostname, set(found)) == ("fresh", {BRAVO.node_id, CHARLIE.node_id})


async def test_a_wrong_secret_is_told_from_a_service_that_is_away():
    async with listening() as port, running(
        make(port), make(port, one=BRAVO, secret=base64.b64encode(bytes(32)).decode())
    ) as (one, two):  # fmt: skip
        one.publish(listed(ALPHA), {})
        await until(two, lambda: "nothing that discovery lists can be opened" in two.fault)
        assert two.standings[0].fault == ""
        assert one.fault == ""
    assert "Connection" not in two.fault


@pytest.mark.skipif(os.geteuid() != 0, reason="marking takes CAP_NET_ADMIN")
async def test_its_connections_bear_wireguards_own_mark():
    async with listening() as port:
        one = make(port)
        made = await one._services[0].dial("127.0.0.1", port)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x20
        made.close()


async def test_a_name_that_leads_nowhere_is_tried_where_it_last_was(monkeypatch):
    memory = Memory()
    async with listening() as port:
        async with running(make(port, host="localhost", memory=memory)) as (one,):
            await until(one, lambda: not one.standings[0].fault)
        assert b"localhost" in memory["discovery-address-0.json"]

        def nowhere(*given, **other):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", nowhere)
        async with running(make(port, host="localhost", memory=memory)) as (one,):
            await until(one, lambda: not one.standings[0].fault)
        async with running(make(port, host="localhost")) as (one,):
            await until(one, lambda: one.standings[0].fault == "Name or service not known")


async def test_a_service_on_this_machine_is_exempt():
    assert make(3000).exempt == {3000}
    assert make(3000, host="192.0.2.77").exempt == frozenset()


async def test_asking_once_says_who_is_there_or_why_not(unused_tcp_port_factory):
    async with listening() as port, running(make(port, one=BRAVO)) as (two,):
        two.publish(listed(BRAVO), {})
        await until(two, lambda: not two.standings[0].fault)
        closed = unused_tcp_port_factory()
        one = make(port, closed)
        async with asyncio.timeout(ASK_SECONDS):
            await one.ask()
        assert set(one.listed()) <= {BRAVO.node_id}
        assert [standing.fault for standing in one.standings] == ["", "Connection refused"]


async def test_who_cannot_tell_a_service_says_so(unused_tcp_port_factory):
    port = unused_tcp_port_factory()
    assert await make(port).leave() == [f"127.0.0.1:{port} cannot be told: Connection refused"]


async def test_a_machine_with_very_many_addresses_is_published_with_some_of_them():
    registry = MemoryRegistry(gather=0.01)
    many = tuple(ip_address(f"2001:db8::{number:x}") for number in range(1, 200))
    endpoints = tuple(Endpoint(address, 51820) for address in many)
    async with listening(registry) as port, running(make(port), make(port, one=BRAVO)) as (one, two):
        one.publish(listed(ALPHA, addresses=many, endpoints=endpoints), {})
        await until(two, lambda: ALPHA.node_id in (two.listed() or ()))
        found = two.listed()[ALPHA.node_id]
        assert found.addresses == many[: len(found.addresses)]
        assert len(found.addresses) > 80
        assert found.endpoints == endpoints[:OWN_ENDPOINTS]


def test_what_fits_is_left_as_it_is_and_what_does_not_is_cut_from_its_end():
    one = listed(ALPHA)
    assert fit(one) == replace(one, endpoints=())
    wide = replace(
        one, hostname="h" * 256, nodename="n" * 256, operating_system="o" * 256,
        addresses=tuple(ip_address(f"2001:db8::{number:x}") for number in range(1, 200)),
        additional_addresses=tuple(ip_interface(f"10.{number}.0.0/16") for number in range(200)),
        exclude_advertised_networks=tuple(ip_interface(f"10.{number}.1.0/24") for number in range(30)),
    )  # fmt: skip
    fitting = fit(wide)
    assert fitting.exclude_advertised_networks == wide.exclude_advertised_networks
    assert fitting.addresses == ()
    assert len(seal_affiliate(fitting, RAW, bytes(NONCE_BYTES))) <= DATA_BYTES


# What is kept of services, and what it becomes.


@pytest.fixture
def certificate(tmp_path):
    return certificates.ensure(tmp_path, ["console.example"], datetime.now(UTC))


def enrolment(certificate, url):
    der = ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())
    return Enrolment(
        url=url, cluster="c", console_key="k", node_id=ALPHA.node_id, cluster_id=CLUSTER_ID,
        certificate=base64.b64encode(der).decode(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("console", "roots", "fault"),
    [
        pytest.param(
            "https://127.0.0.1:8443", False, "", id="on the console's host, by the certificate that is pinned"
        ),
        pytest.param("https://elsewhere.example", False, "certificate that is not trusted", id="on another one"),
        pytest.param("https://elsewhere.example", True, "", id="on another one, by roots of its own"),
    ],
)
async def test_how_a_service_is_known(tmp_path, certificate, console, roots, fault):
    files = CertificateFiles(certificate.certificate, certificate.key)
    async with listening(credentials=files.credentials()) as port:
        service = DiscoveryService(
            url=f"https://127.0.0.1:{port}", roots=certificate.certificate.read_text() if roots else ""
        )
        registry = open_registry(
            Store(tmp_path / "state"), Discovery(services=(service,)), enrolment(certificate, console), SECRET,
            lambda: None,
        )  # fmt: skip
        await registry.ask()
        assert fault in registry.standings[0].fault
        assert bool(fault) == bool(registry.standings[0].fault)


def test_ports_of_services_on_this_machine():
    urls = ("https://console.example:3000", "https://elsewhere.example:4000", "nonsense")
    discovery = Discovery(services=tuple(DiscoveryService(url=url) for url in urls))
    assert ports_here(discovery, lambda host: host == "console.example") == {3000}
