"""Upstream's unmodified Go client against our service: what a Talos machine does at a discovery service."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address, ip_interface

import pytest

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint
from kubespan.discovery.client import Client, Place
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.server import Manners, Service, serve
from nodes import certificates
from nodes.discovery.tls import CertificateFiles
from tests.discovery_process import environment, running
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700), pytest.mark.xdist_group("interop")]

SECRET = base64.b64encode(bytes(range(32))).decode()
PATIENCE = 60.0
ONE = {
    "id": "7x1SuC8Ege5BGXdAfTEff5iQnlWZLfv9h1LGMxA2pYkC",
    "addresses": ["192.168.3.5", "2001:db8::5"],
    "hostname": "one.example",
    "nodename": "one",
    "type": "controlplane",
    "system": "Talos (v1.9.0)",
    "public_key": "1CXkdhWBm58c36kTpchR8iGlXHG1ruHa5W8gsFqD8Qs=",
    "address": "fd50:8d60:4238:6302:f857:23ff:fe21:d1e1",
    "additional": ["10.244.4.1/24"],
    "excluded": ["10.9.0.0/16"],
    "api_port": 6443,
}


class Machine:
    """One running Go client."""

    def __init__(self, process, affiliate_id):
        self.process = process
        self.id = affiliate_id

    def tell(self, **command):
        self.process.stdin.write(json.dumps(command).encode() + b"\n")

    def publish(self, endpoints=(), others=None, **fields):
        """Publish itself, and where it saw others."""
        self.tell(publish={"id": self.id, **fields}, endpoints=list(endpoints), others=others or {})

    async def until(self, true):
        """Read what it knows until that is so; gives the affiliates by id."""
        async with asyncio.timeout(PATIENCE):
            while True:
                line = await self.process.stdout.readline()
                assert line, "the Go client ended"
                state = json.loads(line)
                known = {one["id"]: one for one in state["affiliates"]}
                if true(known):
                    return known, state["ip"]


@contextlib.asynccontextmanager
async def machines(program, port, *ids, ttl="30m", roots=None, secret=SECRET):
    """Run a client of each id."""
    async with contextlib.AsyncExitStack() as stack:
        running = []
        for affiliate_id in ids:
            more = ["--roots", str(roots)] if roots else []
            where = ["--endpoint", f"127.0.0.1:{port}", "--cluster", "c+/=", "--id", affiliate_id, "--ttl", ttl]
            process = await asyncio.create_subprocess_exec(
                program,
                *where,
                *more,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"CLUSTER_SECRET": secret},
            )
            stack.push_async_callback(end, process)
            running.append(Machine(process, affiliate_id))
        yield running


async def end(process):
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


@contextlib.asynccontextmanager
async def listening(registry=None, port=0, credentials=None, **manners):
    service = Service(registry or MemoryRegistry(gather=0.01), Manners(**manners))
    server, port = await serve(service, f"127.0.0.1:{port}", credentials)
    try:
        yield port
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def collecting():
    """A registry that looks for what has expired all the time."""
    registry = MemoryRegistry(gather=0.01)
    work = asyncio.create_task(registry.collect_always(0.2))
    try:
        yield registry
    finally:
        work.cancel()


async def test_two_see_each_others_data_and_endpoints_and_who_leaves_is_gone(go_client):
    async with listening() as port, machines(go_client, port, ONE["id"], "two") as (one, two):
        one.publish(["192.0.2.1:51820"], **{key: value for key, value in ONE.items() if key != "id"})
        await two.until(lambda known: one.id in known)  # what came first stays first
        two.publish(["[2001:db8::2]:51820"], nodename="two", type="worker", others={one.id: ["198.51.100.1:40000"]})
        known, ip = await two.until(lambda known: len(known.get(one.id, {}).get("endpoints", [])) == 2)
        assert known[one.id] == ONE | {"endpoints": ["192.0.2.1:51820", "198.51.100.1:40000"]}
        assert ip == "127.0.0.1"
        known, _ = await one.until(lambda known: "two" in known)
        assert known["two"]["endpoints"] == ["[2001:db8::2]:51820"]
        two.tell(delete=True)
        await one.until(lambda known: known == {})


async def test_what_is_not_renewed_expires(go_client):
    async with collecting() as registry, listening(registry) as port, machines(go_client, port, "one") as (one,):
        async with machines(go_client, port, "two", ttl="1s") as (two,):
            two.publish(nodename="two")
            await one.until(lambda known: "two" in known)
        await one.until(lambda known: known == {})


async def test_what_is_renewed_stays(go_client):
    def alone(known):
        assert "one" in known  # at no moment is it gone
        return "two" not in known

    async with (
        collecting() as registry,
        listening(registry) as port,
        machines(go_client, port, "one", "watcher", ttl="16s") as (one, watcher),
    ):
        one.publish(nodename="one")
        async with machines(go_client, port, "two", ttl="16s") as (two,):
            await watcher.until(lambda known: "one" in known)
            two.publish(nodename="two")
            await watcher.until(lambda known: "two" in known)
        # What was said later, and for as long, ends; so would the other have without its renewals.
        await watcher.until(alone)


async def test_an_endpoint_that_expires_leaves_the_machine_and_its_other_endpoints(go_client):
    async with (
        collecting() as registry,
        listening(registry) as port,
        machines(go_client, port, "one", "watcher") as (one, watcher),
    ):
        one.publish(["192.0.2.1:51820"], nodename="one")
        async with machines(go_client, port, "neighbour", ttl="1s") as (neighbour,):
            neighbour.publish(nodename="neighbour", others={"one": ["198.51.100.1:40000"]})
            await watcher.until(lambda known: len(known.get("one", {}).get("endpoints", [])) == 2)

        def only_its_own(known):
            assert "one" in known  # at no moment is it gone
            return known["one"]["endpoints"] == ["192.0.2.1:51820"]

        await watcher.until(only_its_own)


async def test_a_killed_service_forgets_nobody(go_client, tmp_path, valkey):
    """`manage.py discovery`, on its rows: a client that comes back sees everybody at once, who is away as well."""
    environ, port = await asyncio.to_thread(environment, tmp_path), free_port()
    async with machines(go_client, port, "one", "two") as (one, two):
        with running(environ, port):
            async with machines(go_client, port, "away") as (away,):
                away.publish(["192.0.2.3:51820"], nodename="away")
                one.publish(["192.0.2.1:51820"], nodename="one")
                two.publish(["192.0.2.2:51820"], nodename="two")
                _, ip = await two.until(lambda known: set(known) == {"away", "one"})
                assert ip == "127.0.0.1"
                await one.until(lambda known: set(known) == {"away", "two"})

        def renamed(known):
            assert set(known) == {"away", "one"}
            return known["one"].get("hostname") == "new"

        with running(environ, port):
            # An update that failed with the service has this client wait for something to say, or for half its TTL.
            two.publish(["192.0.2.2:51820"], nodename="two", hostname="two")
            one.publish(["192.0.2.1:51820"], nodename="one", hostname="new")
            known, _ = await two.until(renamed)
            assert known["away"]["endpoints"] == ["192.0.2.3:51820"]
            one.tell(delete=True)
            await two.until(lambda known: set(known) == {"away"})


async def test_a_restart_of_the_service_is_survived(go_client):
    async with contextlib.AsyncExitStack() as stack:
        async with listening() as port:
            one, two = await stack.enter_async_context(machines(go_client, port, "one", "two"))
            one.publish(nodename="one")
            two.publish(nodename="two")
            await one.until(lambda known: "two" in known)
        async with listening(port=port):  # with an empty memory
            two.publish(nodename="two", hostname="new")
            await one.until(lambda known: known.get("two", {}).get("hostname") == "new")


async def test_it_follows_a_redirect(go_client):
    async with (
        listening() as there,
        listening(redirect=f"127.0.0.1:{there}") as here,
        machines(go_client, here, "one") as (one,),
        machines(go_client, there, "two") as (two,),
    ):
        one.publish(nodename="one")
        await two.until(lambda known: "one" in known)


async def test_by_tls_with_the_consoles_own_certificate(go_client, tmp_path):
    made = certificates.ensure(tmp_path, ["127.0.0.1"], datetime.now(UTC))
    files = CertificateFiles(made.certificate, made.key)
    async with (
        listening(credentials=files.credentials()) as port,
        machines(go_client, port, "one", "two", roots=made.certificate) as (one, two),
    ):
        one.publish(nodename="one")
        await two.until(lambda known: "one" in known)


async def test_it_and_our_client_read_each_other(go_client):
    async with listening() as port, machines(go_client, port, ONE["id"]) as (one,):
        news = asyncio.Event()
        ours = Client(
            Place(f"127.0.0.1:{port}", insecure=True), cluster_id="c+/=", affiliate_id="ours",
            secret=base64.b64decode(SECRET), version="v0.1.0", news=news.set, chance=lambda: 0.0,
        )  # fmt: skip
        ours.publish(
            Affiliate(
                "ours", (ip_address("10.0.0.9"),), "ours.example", "ours", "worker", "Debian GNU/Linux 12",
                "NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4=", IPv6Address("fd50::1"), (ip_interface("10.1.0.0/16"),),
            ),
            [Endpoint(ip_address("192.0.2.9"), 51820)],
        )  # fmt: skip
        running = asyncio.create_task(ours.run())
        try:
            known, _ = await one.until(lambda known: "ours" in known)
            assert known["ours"] == {
                "id": "ours",
                "addresses": ["10.0.0.9"],
                "hostname": "ours.example",
                "nodename": "ours",
                "type": "worker",
                "system": "Debian GNU/Linux 12",
                "public_key": "NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4=",
                "address": "fd50::1",
                "additional": ["10.1.0.0/16"],
                "endpoints": ["192.0.2.9:51820"],
            }
            one.publish(["192.0.2.1:51820"], **{key: value for key, value in ONE.items() if key != "id"})
            async with asyncio.timeout(PATIENCE):
                while ONE["id"] not in ours.known.affiliates:
                    news.clear()
                    await news.wait()
            affiliate = ours.known.affiliates[ONE["id"]]
            assert (affiliate.nodename, affiliate.api_server_port) == ("one", 6443)
            assert affiliate.endpoints == (Endpoint(ip_address("192.0.2.1"), 51820),)
            assert affiliate.exclude_advertised_networks == (ip_interface("10.9.0.0/16"),)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("size", [15])
async def test_many_see_each_other(go_client, size):
    ids = [f"m{number}" for number in range(size)]
    async with listening(rate=1e6, burst=10**6) as port, machines(go_client, port, *ids) as everyone:
        for number, one in enumerate(everyone):
            neighbour = ids[(number + 1) % size]
            one.publish([f"192.0.2.{number + 1}:51820"], nodename=one.id, others={neighbour: ["[2001:db8::1]:1"]})
        for one in everyone:
            await one.until(
                lambda known: (
                    len(known) == size - 1 and all(len(other.get("endpoints", [])) == 2 for other in known.values())
                )
            )


async def test_a_wrong_secret_sees_nobody_and_harms_nobody(go_client):
    other = base64.b64encode(bytes(32)).decode()
    async with (
        listening() as port,
        machines(go_client, port, "one", "two") as (one, two),
        machines(go_client, port, "stranger", secret=other) as (stranger,),
    ):
        one.publish(nodename="one")
        stranger.publish(nodename="stranger")
        await two.until(lambda known: set(known) == {"one"})
