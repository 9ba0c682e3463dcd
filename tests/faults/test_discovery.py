"""Two discovery processes on PostgreSQL and Valkey, one of which is killed: nothing is lost but its streams."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import grpc
import grpc.aio
import pytest

from kubespan.core.affiliate import Affiliate
from kubespan.discovery import service as names
from kubespan.discovery.client import Client, Place
from kubespan.discovery.proto import cluster_pb2 as proto
from nodes.lab import LabError
from nodes.playground import MANAGE
from tests.discovery.test_server import Client as Hand
from tests.faults.balancer import Balancer
from tests.faults.site import Part, Rows, Valkey, await_back
from tests.ports import free_port
from tests.web.test_discovery import settings_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults"), pytest.mark.timeout(600)]

SECRET = bytes(32)
PATIENCE = 60.0
CLUSTER = "c"
MACHINES = 6


class Discovery(Part):
    """One discovery process."""

    def __init__(self, name, env, directory):
        self.port = free_port()
        listen = ["--listen", f"127.0.0.1:{self.port}", "--metrics", ""]
        super().__init__(name, [sys.executable, str(MANAGE), "discovery", *listen], env, directory)

    def answers(self):
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            hello = channel.unary_unary(
                names.HELLO, proto.HelloRequest.SerializeToString, proto.HelloResponse.FromString
            )
            with contextlib.suppress(grpc.RpcError):
                return bool(hello(proto.HelloRequest(cluster_id=CLUSTER), timeout=5).client_ip)
            return False


@pytest.fixture
def two(tmp_path):
    """Both processes, and what they stand on."""
    try:
        rows = Rows()
    except LabError as absent:
        pytest.skip(str(absent))
    valkey = Valkey(free_port(), tmp_path)
    env = settings_of(tmp_path) | {"REDIS_URL": valkey.url, "DATABASE_URL": rows.url}
    parts = [Discovery(name, env, tmp_path) for name in ("one", "two")]
    try:
        rows.server.make()
        rows.start()
        valkey.start()
        migrate = Part("migrate", [sys.executable, str(MANAGE), "migrate", "-v", "0"], env, tmp_path)
        migrate.start()
        assert migrate.process.wait() == 0, migrate.last_words()
        for part in parts:
            part.start()
        for part in parts:
            await_back(part)
        yield parts
    finally:
        for part in (*parts, valkey, rows):
            part.kill()
        rows.remove()


class Machine:
    """A client that runs, and whom it ever missed after it had heard of everybody."""

    def __init__(self, port, node_id, everybody):
        self.missed = set()
        self._news = asyncio.Event()
        self._others = everybody - {node_id}
        self._complete = False
        self.client = Client(
            Place(f"127.0.0.1:{port}", insecure=True), cluster_id=CLUSTER, affiliate_id=node_id, secret=SECRET,
            version="v1.2.3", news=self._hear,
        )  # fmt: skip
        self.client.publish(Affiliate(node_id, nodename=node_id, machine_type="worker"), [])

    def _hear(self):
        missing = self._others - self.client.known.affiliates.keys()
        self._complete = self._complete or not missing
        if self._complete:
            self.missed |= missing
        self._news.set()

    async def until(self, true):
        async with asyncio.timeout(PATIENCE):
            while not true(self):
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._news.wait()

    @property
    def complete(self):
        """Whether it is connected and knows everybody."""
        return not self.client.fault and self._complete and self._others <= self.client.known.affiliates.keys()


async def test_killing_one_loses_nothing_but_its_streams(two):
    one, other = two
    everybody = {f"m{number}" for number in range(MACHINES)}
    with Balancer([one.port, other.port]) as balancer:
        port = balancer.listen("127.0.0.1")
        machines = [Machine(port, name, everybody) for name in sorted(everybody)]
        running = [asyncio.create_task(machine.client.run()) for machine in machines]
        try:
            for machine in machines:
                await machine.until(lambda machine: machine.complete)
            async with (
                grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as here,
                grpc.aio.insecure_channel(f"127.0.0.1:{other.port}") as there,
            ):
                dying, living = Hand(here).watch(CLUSTER), Hand(there).watch(CLUSTER)
                assert set(await dying.hear()) == set(await living.hear()) == everybody
                await Hand(here).update("last", b"words", cluster=CLUSTER)  # acknowledged
                one.kill()
                assert (await dying.code())[0] == grpc.StatusCode.UNAVAILABLE
                assert await living.hear() == {"last": (b"words", [])}
                for machine in machines:
                    await machine.until(lambda machine: machine.complete)
                assert set(await Hand(there).list(CLUSTER)) == everybody | {"last"}
                await Hand(there).update("after", b"it", cluster=CLUSTER)
                assert await living.hear() == {"after": (b"it", [])}
                one.start()
                await asyncio.to_thread(await_back, one)
                async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as again:
                    assert set(await Hand(again).watch(CLUSTER).hear()) == everybody | {"last", "after"}
                    living.call.cancel()
            assert {name for machine in machines for name in machine.missed} == set()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
