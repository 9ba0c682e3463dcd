"""The client against the real service on a free port: spec/discovery-protocol.md §6 and §8."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint
from kubespan.discovery.client import BACKOFF_MOST, Client, Known, Place, backoff
from kubespan.discovery.limits import AFFILIATES
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.sealing import seal_affiliate, seal_endpoint
from kubespan.discovery.server import Manners, Service, serve
from kubespan.discovery.state import Update
from nodes import certificates
from nodes.discovery.tls import CertificateFiles

SECRET = base64.b64decode("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
OTHER_SECRET = bytes(32)
PATIENCE = 60.0
AT = Endpoint(ip_address("192.0.2.1"), 51820)
AT_TOO = Endpoint(ip_address("2001:db8::1"), 51820)


def machine(node_id):
    return Affiliate(node_id=node_id, nodename=node_id, machine_type="worker")


class Machine:
    """A client that runs, and what was heard of."""

    def __init__(self, port, node_id, secret=SECRET, ttl=1800.0, place=None, **other):
        self.news = asyncio.Event()
        self.client = Client(
            place or Place(f"127.0.0.1:{port}", insecure=True), cluster_id="c", affiliate_id=node_id, secret=secret,
            version="v1.2.3", news=self.news.set, ttl=ttl, chance=lambda: 0.0, **other,
        )  # fmt: skip

    async def until(self, true):
        async with asyncio.timeout(PATIENCE):
            while not true(self.client):
                self.news.clear()
                if true(self.client):
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self.news.wait()


@contextlib.asynccontextmanager
async def machines(*given):
    tasks = [asyncio.create_task(one.client.run()) for one in given]
    try:
        yield given
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def listening(registry=None, port=0, credentials=None, **manners):
    service = Service(registry or MemoryRegistry(gather=0.01), Manners(rate=1e6, burst=10**6, **manners))
    server, port = await serve(service, f"127.0.0.1:{port}", credentials)
    try:
        yield port
    finally:
        await server.stop(None)


def names(client):
    return sorted(client.known.affiliates)


async def test_two_see_each_other_their_endpoints_and_their_end():
    async with listening() as port, machines(Machine(port, "one"), Machine(port, "two")) as (one, two):
        one.client.publish(machine("one"), [AT])
        two.client.publish(machine("two"), [], {"one": [AT_TOO]})
        await one.until(lambda client: names(client) == ["two"])
        await two.until(lambda client: "one" in client.known.affiliates and len(
            client.known.affiliates["one"].endpoints) == 2)  # fmt: skip
        assert set(two.client.known.affiliates["one"].endpoints) == {AT, AT_TOO}
        assert two.client.public_address == ip_address("127.0.0.1")
        two.client.publish(replace(machine("two"), hostname="new"), [])
        await one.until(lambda client: client.known.affiliates["two"].hostname == "new")
        two.client.withdraw()
        await one.until(lambda client: names(client) == [])


async def test_what_is_not_renewed_goes_and_what_is_renewed_stays():
    registry = MemoryRegistry(gather=0.01)
    async with listening(registry) as port, machines(Machine(port, "one"), Machine(port, "two", ttl=1.0)) as (one, two):
        two.client.publish(machine("two"), [AT])
        await one.until(lambda client: names(client) == ["two"])
        first = registry.clusters["c"][0].affiliates["two"]
        async with asyncio.timeout(PATIENCE):
            while registry.clusters["c"][0].affiliates["two"].expires == first.expires:
                await asyncio.sleep(0.05)
        assert registry.clusters["c"][0].affiliates["two"].data == first.data  # the same nonce, for the same words
    collecting = asyncio.create_task(registry.collect_always(0.1))
    async with listening(registry) as port, machines(Machine(port, "one")) as (one,):
        await one.until(lambda client: client.fault == "")
        await one.until(lambda client: names(client) == [])
    collecting.cancel()


async def test_one_sees_the_other_expire():
    """A second to live, and a collection each second."""
    registry = MemoryRegistry(gather=0.01)
    collecting = asyncio.create_task(registry.collect_always(1.0))
    async with listening(registry) as port, machines(Machine(port, "one")) as (one,):
        async with machines(Machine(port, "two", ttl=1.0)) as (two,):
            two.client.publish(machine("two"), [AT])
            await one.until(lambda client: names(client) == ["two"])
        await one.until(lambda client: names(client) == [])
        assert one.client.fault == ""  # it heard so, and did not begin anew
    collecting.cancel()


async def test_the_service_sends_a_client_elsewhere_for_good():
    async with (
        listening() as there,
        listening(redirect=f"127.0.0.1:{there}") as here,
        machines(Machine(here, "one"), Machine(there, "two")) as (one, two),
    ):
        one.client.publish(machine("one"), [])
        await two.until(lambda client: names(client) == ["one"])
        assert one.client.endpoint == f"127.0.0.1:{there}"


async def test_a_service_that_comes_back_empty_is_told_everything_again():
    async with listening() as port:
        running = machines(Machine(port, "one"), Machine(port, "two"))
        one, two = await running.__aenter__()
        one.client.publish(machine("one"), [AT])
        two.client.publish(machine("two"), [AT_TOO])
        await one.until(lambda client: names(client) == ["two"])
    await one.until(lambda client: client.fault != "")
    assert names(one.client) == ["two"]  # what was known stays known
    async with listening(port=port):
        await one.until(lambda client: client.fault == "" and names(client) == ["two"])
        await two.until(lambda client: names(client) == ["one"])
        await running.__aexit__(None, None, None)


async def test_nothing_is_pushed_that_is_not_new():
    pushed = []

    class Counting(MemoryRegistry):
        async def update(self, cluster_id, update):
            pushed.append(update)
            await super().update(cluster_id, update)

    async with (
        listening(Counting(gather=0.01)) as port,
        machines(Machine(port, "one"), Machine(port, "two")) as (one, two),
    ):
        one.client.publish(machine("one"), [AT])
        await two.until(lambda client: names(client) == ["one"])
        before = len(pushed)
        one.client.publish(machine("one"), [AT])
        two.client.publish(machine("two"), [])
        await one.until(lambda client: names(client) == ["two"])
        assert [update.id for update in pushed[before:]] == ["two"]
        one.client.publish(machine("one"), [AT, AT_TOO])
        await two.until(lambda client: len(client.known.affiliates["one"].endpoints) == 2)
        assert pushed[-1].data == pushed[0].data


async def test_a_wrong_secret_is_told():
    async with listening() as port, machines(Machine(port, "one"), Machine(port, "two", OTHER_SECRET)) as (one, two):
        one.client.publish(machine("one"), [AT])
        await two.until(lambda client: client.known.wrong_secret)
        assert two.client.known.strange == {"one"}


async def test_who_leaves_is_forgotten_at_once():
    async with listening() as port, machines(Machine(port, "one"), Machine(port, "two")) as (one, two):
        two.client.publish(machine("two"), [])
        await one.until(lambda client: names(client) == ["two"])
        await Machine(port, "two").client.leave()
        await one.until(lambda client: names(client) == [])


@pytest.mark.parametrize(
    "interfere",
    [
        pytest.param(lambda registry: registry.delete("c", "one"), id="deleted"),
        pytest.param(lambda registry: registry.update("c", Update("one", b"x" * 40, (), 1800.0)), id="written over"),
    ],
)
async def test_who_is_done_away_with_by_somebody_else_publishes_itself_again(interfere):
    registry = MemoryRegistry(gather=0.01)
    async with listening(registry) as port, machines(
        Machine(port, "one", defend=0.05), Machine(port, "two")
    ) as (one, two):  # fmt: skip
        one.client.publish(machine("one"), [AT])
        await two.until(lambda client: names(client) == ["one"])
        before = registry.clusters["c"][0].affiliates["one"].data
        await interfere(registry)
        async with asyncio.timeout(PATIENCE):
            while (now := registry.clusters["c"][0].affiliates.get("one")) is None or now.data != before:
                await asyncio.sleep(0.02)
        await two.until(lambda client: names(client) == ["one"] and client.known.strange == set())


async def test_a_machine_brings_its_own_way_to_connect():
    asked = []

    async def dial(host, port):
        asked.append((host, port))
        made = socket.create_connection((host, port))
        made.setblocking(False)
        return made

    async with listening() as port, machines(Machine(port, "one", dial=dial)) as (one,):
        await one.until(lambda client: client.fault == "")
    assert asked == [("127.0.0.1", port)]


@pytest.fixture
def certificate(tmp_path):
    return certificates.ensure(tmp_path, ["127.0.0.1"], datetime.now(UTC))


def by_tls(certificate):
    return CertificateFiles(certificate.certificate, certificate.key).credentials()


async def test_by_tls_with_a_root_of_its_own(certificate):
    async with listening(credentials=by_tls(certificate)) as port:
        place = Place(f"127.0.0.1:{port}", roots=certificate.certificate.read_bytes())
        async with machines(Machine(port, "one", place=place)) as (one,):
            await one.until(lambda client: client.fault == "")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        pytest.param({}, "certificate that is not trusted: self-signed certificate", id="not trusted here"),
        pytest.param({"insecure": True}, "the service closed the connection", id="plain, where TLS is meant"),
        pytest.param({"endpoint": "localhost"}, "'localhost' is not host:port", id="no port"),
    ],
)
async def test_why_there_is_no_connection(certificate, given, sentence):
    async with listening(credentials=by_tls(certificate)) as port:
        place = Place(**{"endpoint": f"127.0.0.1:{port}"} | given)
        async with machines(Machine(port, "one", place=place)) as (one,):
            await one.until(lambda client: sentence in client.fault)


async def test_tls_where_there_is_none():
    async with listening() as port, machines(Machine(port, "one", place=Place(f"127.0.0.1:{port}"))) as (one,):
        await one.until(lambda client: "WRONG_VERSION_NUMBER" in client.fault)


@pytest.mark.parametrize("size", [5, 15, 50])
@pytest.mark.timeout(300)
async def test_many_see_all_others_with_what_their_neighbours_saw(size):
    """Each publishes itself at one address, and its neighbour at another."""
    async with listening() as port, machines(*(Machine(port, f"m{number}") for number in range(size))) as everyone:
        for number, one in enumerate(everyone):
            seen = Endpoint(ip_address(f"2001:db8::{number + 1:x}"), 1)
            own = Endpoint(ip_address(f"192.0.2.{number + 1}"), 51820)
            one.client.publish(machine(f"m{number}"), [own], {f"m{(number + 1) % size}": [seen]})
        for one in everyone:
            await one.until(
                lambda client: (
                    len(client.known.affiliates) == size - 1
                    and all(len(other.endpoints) == 2 for other in client.known.affiliates.values())
                )
            )


# What a watch tells, without a service.


def sealed(node_id, secret=SECRET, endpoints=(AT,)):
    data = seal_affiliate(machine(node_id), secret, bytes(12))
    return proto.Affiliate(id=node_id, data=data, endpoints=[seal_endpoint(one, secret) for one in endpoints])


def test_the_first_message_replaces_everything():
    known = Known("me", SECRET)
    known.take(proto.WatchResponse(affiliates=[sealed("one"), sealed("two"), sealed("me")]), first=True)
    assert sorted(known.affiliates) == ["one", "two"]
    known.take(proto.WatchResponse(affiliates=[sealed("three")]), first=True)
    assert sorted(known.affiliates) == ["three"]


def test_what_cannot_be_read_harms_nothing_else():
    known = Known("me", SECRET)
    empty = proto.Affiliate(id="two", endpoints=[b"x" * 16])
    bad = sealed("three")
    bad.endpoints.extend([b"", b"\0" * 15, b"\xff" * 16, b"\0" * 32])
    messages = [sealed("one"), sealed("two"), empty, bad, proto.Affiliate(id="four", data=b"short")]
    known.take(proto.WatchResponse(affiliates=messages), first=True)
    assert sorted(known.affiliates) == ["one", "three", "two"]  # a word without data leaves what was known
    assert known.affiliates["three"].endpoints[0] == AT
    assert known.damaged == {"three", "four"}
    known.take(proto.WatchResponse(affiliates=[sealed("one", OTHER_SECRET)]), first=False)
    assert (known.strange, known.wrong_secret) == ({"one"}, False)
    known.take(proto.WatchResponse(affiliates=[proto.Affiliate(id="one")], deleted=True), first=False)
    assert known.strange == set()


def test_what_is_listed_under_another_id_is_a_replay():
    known = Known("me", SECRET)
    blob = sealed("one")
    blob.id = "two"
    known.take(proto.WatchResponse(affiliates=[blob]), first=True)
    assert (known.affiliates, known.damaged) == ({}, {"two"})


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET], ids=["that open", "that do not"])
def test_a_service_that_lists_ever_more_fills_no_memory(secret):
    known = Known("me", SECRET)
    for start in range(0, 3000, 100):
        many = [sealed(f"m{number}", secret, endpoints=()) for number in range(start, start + 100)]
        known.take(proto.WatchResponse(affiliates=many), first=start == 0)
    assert len(known.affiliates) + len(known.strange) == AFFILIATES
    known.take(proto.WatchResponse(affiliates=[sealed("m1")]), first=False)
    assert known.affiliates["m1"].endpoints == (AT,)  # who is known is still heard


def test_waits_grow_and_differ():
    assert [backoff(attempt, 0.5) for attempt in (0, 1, 2)] == [0.5, 0.75, 1.125]
    assert (backoff(0, 0.0), backoff(0, 1.0)) == (0.25, 0.75)
    assert backoff(10**6, 0.5) == BACKOFF_MOST
