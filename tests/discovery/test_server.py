"""The service by real gRPC on a free port: spec/discovery-protocol.md §8, case by case."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_network

import grpc
import grpc.aio
import pytest

from kubespan.discovery import server as servers
from kubespan.discovery import service as names
from kubespan.discovery.limiter import OwnRateLimit
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.server import Manners, Service, serve
from kubespan.discovery.state import Update

PATIENCE = 30.0
NEVER = 3600.0
"""Seconds that no test waits."""
LOOPBACK = (ip_network("127.0.0.0/8"),)


class Client:
    """Calls by hand, as any client in any language makes them."""

    def __init__(self, channel):
        self.hello = channel.unary_unary(
            names.HELLO, proto.HelloRequest.SerializeToString, proto.HelloResponse.FromString
        )
        self._update = channel.unary_unary(
            names.AFFILIATE_UPDATE,
            proto.AffiliateUpdateRequest.SerializeToString,
            proto.AffiliateUpdateResponse.FromString,
        )
        self._delete = channel.unary_unary(
            names.AFFILIATE_DELETE,
            proto.AffiliateDeleteRequest.SerializeToString,
            proto.AffiliateDeleteResponse.FromString,
        )
        self._list = channel.unary_unary(names.LIST, proto.ListRequest.SerializeToString, proto.ListResponse.FromString)
        self._watch = channel.unary_stream(
            names.WATCH, proto.WatchRequest.SerializeToString, proto.WatchResponse.FromString
        )

    async def greet(self, cluster="fake", version="v0.12.0", metadata=(), patience=PATIENCE):
        request = proto.HelloRequest(cluster_id=cluster, client_version=version)
        return await self.hello(request, metadata=metadata, timeout=patience)

    async def update(self, affiliate="af1", data=None, endpoints=(), ttl=60.0, cluster="fake", nanoseconds=0):
        request = proto.AffiliateUpdateRequest(
            cluster_id=cluster, affiliate_id=affiliate, affiliate_data=data, affiliate_endpoints=endpoints
        )
        if ttl is not None:
            request.ttl.FromNanoseconds(int(ttl) * 1_000_000_000 + nanoseconds)
        await self._update(request, timeout=PATIENCE)

    async def delete(self, affiliate="af1", cluster="fake"):
        await self._delete(proto.AffiliateDeleteRequest(cluster_id=cluster, affiliate_id=affiliate), timeout=PATIENCE)

    async def list(self, cluster="fake"):
        response = await self._list(proto.ListRequest(cluster_id=cluster), timeout=PATIENCE)
        return {one.id: (one.data, list(one.endpoints)) for one in response.affiliates}

    def watch(self, cluster="fake"):
        return Watch(self._watch(proto.WatchRequest(cluster_id=cluster)))


class Watch:
    """One open watch."""

    def __init__(self, call):
        self.call = call

    async def hear(self):
        """The next message: the affiliates in it, or the ids of those that are gone."""
        async with asyncio.timeout(PATIENCE):
            message = await self.call.read()
        assert message is not grpc.aio.EOF
        if message.deleted:
            return {one.id for one in message.affiliates}
        return {one.id: (one.data, list(one.endpoints)) for one in message.affiliates}

    async def end(self):
        """Read what is on the way, to the end, which raises."""
        while await self.call.read():
            pass

    async def code(self):
        async with asyncio.timeout(PATIENCE):
            return await self.call.code(), await self.call.details()


@contextlib.asynccontextmanager
async def running(registry=None, manners=None, options=(), limit=None):
    """A service and a client of it."""
    service = Service(registry or MemoryRegistry(gather=0.0), manners or Manners(rate=1e6, burst=10**6), limit=limit)
    server, port = await serve(service, "127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            client = Client(channel)
            client.service = service
            yield client
    finally:
        await server.stop(None)


@pytest.fixture
async def client():
    async with running() as client:
        yield client


# Hello.


async def test_hello_says_where_one_comes_from_and_sends_nobody_elsewhere(client):
    response = await client.greet()
    assert response.SerializeToString().hex() == "12047f000001"
    assert not response.HasField("redirect")


@pytest.mark.parametrize(
    ("trusted", "metadata", "expected"),
    [
        pytest.param(LOOPBACK, (("x-real-ip", "1.2.3.4"),), "01020304", id="X-Real-IP of a trusted proxy"),
        pytest.param(LOOPBACK, (("x-forwarded-for", "5.6.7.8,192.168.0.0.1"),), "05060708", id="X-Forwarded-For"),
        pytest.param(LOOPBACK, (("x-real-ip", "x"), ("x-forwarded-for", "y")), "7f000001", id="neither can be"),
        pytest.param((), (("x-real-ip", "1.2.3.4"),), "7f000001", id="no proxy is trusted"),
    ],
)
async def test_forwarded_addresses_are_believed_of_trusted_proxies_alone(trusted, metadata, expected):
    async with running(manners=Manners(trusted=trusted)) as client:
        assert (await client.greet(metadata=metadata)).client_ip.hex() == expected


async def test_where_an_affiliate_speaks_from_is_kept():
    registry = MemoryRegistry()
    async with running(registry) as client:
        await client.update(data=b"d")
        await client.update("af2", endpoints=[b"e"])
    kept = registry.clusters["fake"][0].affiliates
    assert (kept["af1"].address, kept["af2"].address) == ("127.0.0.1", "")


async def test_addresses_can_be_kept_back():
    async with running(manners=Manners(report_address=False)) as client:
        assert (await client.greet()).client_ip == b""


async def test_redirect():
    async with running(manners=Manners(redirect="new.example.com:443")) as client:
        assert (await client.greet()).redirect.endpoint == "new.example.com:443"


async def test_hello_makes_no_cluster():
    registry = MemoryRegistry()
    async with running(registry) as client:
        await client.greet()
    assert registry.clusters == {}


# Updates, lists, deletions.


async def test_updates_merge(client):
    assert await client.list() == {}
    await client.update(data=b"data1", endpoints=[b"e1", b"e2"])
    await client.update(endpoints=[b"e3", b"e2"])
    await client.update("af2", endpoints=[b"e1"], ttl=None)
    assert await client.list() == {"af1": (b"data1", [b"e1", b"e2", b"e3"]), "af2": (b"", [b"e1"])}
    assert await client.list("another") == {}


async def test_deletion_of_the_unknown_and_the_known(client):
    await client.delete()
    await client.update(data=b"data1")
    await client.delete()
    assert await client.list() == {}


# Watches.


async def test_a_watch_is_a_snapshot_and_then_every_change_in_order(client):
    await client.update("af1", b"data1", [b"e1"])
    watch = client.watch()
    assert await watch.hear() == {"af1": (b"data1", [b"e1"])}
    await client.update("af2", b"data2")
    assert await watch.hear() == {"af2": (b"data2", [])}
    await client.update("af2", endpoints=[b"e2"])
    assert await watch.hear() == {"af2": (b"data2", [b"e2"])}
    await client.update("af2", b"data2", [b"e2"])  # the same again wakes nobody
    await client.delete("af2")
    assert await watch.hear() == {"af2"}


async def test_the_first_message_comes_even_if_it_is_empty(client):
    assert await client.watch().hear() == {}


async def test_a_burst_is_one_message():
    registry = MemoryRegistry(gather=NEVER)
    async with running(registry) as client:
        watch = client.watch()
        await watch.hear()
        await client.update("first", b"d")
        assert list(await watch.hear()) == ["first"]
        await asyncio.gather(*(client.update(f"af{number}", b"d") for number in range(50)))
        registry.clusters["fake"][1].flush()
        assert len(await watch.hear()) == 50


async def test_a_snapshot_that_is_too_large_comes_in_parts(client):
    for number in range(1024):
        await client.update(f"af{number}", bytes(2048), [bytes([n]) * 32 for n in range(1, 52)])
    watch = client.watch()
    first, second = await watch.hear(), await watch.hear()
    assert len(first) + len(second) == 1024
    assert len(second) > 0


async def test_who_lost_their_place_is_told_and_the_others_go_on():
    registry = MemoryRegistry(gather=0.0)
    async with running(registry) as client:
        await client.update("af1", b"data1")
        dead, live = client.watch(), client.watch()
        await dead.hear()
        await live.hear()
        _, broadcast = registry.clusters["fake"]
        next(iter(broadcast.watchers)).offer([b""] * 1000)
        await client.update("af2", b"data2")
        ended = await asyncio.wait_for(
            asyncio.wait({asyncio.ensure_future(one.code()) for one in (dead, live)}, return_when="FIRST_COMPLETED"),
            PATIENCE,
        )
        (code,) = ended[0]
        assert code.result() == (grpc.StatusCode.ABORTED, "subscription canceled: lost update")
        assert len(broadcast.watchers) == 1


async def test_who_takes_nothing_is_cut_off_and_never_waited_for(monkeypatch):
    monkeypatch.setattr(servers, "SEND_SECONDS", 3.0)  # who takes everything is no slower, even on a busy machine
    registry = MemoryRegistry(gather=0.0)
    async with running(registry) as client:
        stuck, live = client.watch(), client.watch()
        await stuck.hear()
        await live.hear()
        _, broadcast = registry.clusters["fake"]
        number = 0
        async with asyncio.timeout(6 * PATIENCE):
            while len(broadcast.watchers) == 2:  # more than is on the way anywhere between the two
                number += 1
                await client.update(f"af{number % 100}", number.to_bytes(2, "big") * 1024)
                assert await live.hear() == {f"af{number % 100}": (number.to_bytes(2, "big") * 1024, [])}
            with pytest.raises(grpc.aio.AioRpcError, match="subscription canceled: lost update") as ended:
                await stuck.end()
        assert ended.value.code() == grpc.StatusCode.ABORTED


PINGING = (
    ("grpc.keepalive_time_ms", 100),  # gRPC makes a second of it
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


async def test_a_quiet_watch_that_pings_is_kept_where_an_untuned_server_cuts_it():
    untuned = grpc.aio.server()
    untuned.add_generic_rpc_handlers((Service(MemoryRegistry()).handlers(),))
    port = untuned.add_insecure_port("127.0.0.1:0")
    await untuned.start()
    try:
        async with (
            running(options=PINGING) as client,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=PINGING) as channel,
        ):
            ours, theirs = client.watch(), Client(channel).watch()
            await ours.hear()
            await theirs.hear()
            async with asyncio.timeout(6 * PATIENCE):
                assert await theirs.call.code() == grpc.StatusCode.UNAVAILABLE
            assert "pings" in await theirs.call.details()
            assert not ours.call.done()
            await client.update("af1", b"d")
            assert await ours.hear() == {"af1": (b"d", [])}
    finally:
        await untuned.stop(None)


async def test_two_dead_watchers_lose_their_place_and_live_ones_see_everything_in_order():
    registry = MemoryRegistry(gather=0.0, buffer=1)
    async with contextlib.AsyncExitStack() as stack:
        dead, live = [[await stack.enter_async_context(registry.watch("fake")) for _ in range(2)] for _ in range(2)]
        for watcher in (*dead, *live):
            assert await watcher.take() == b""
        steps = [
            (registry.update("fake", Update("af1", b"data1", (), 60.0)), "af1", b"data1"),
            (registry.update("fake", Update("af2", b"data2", (), 60.0)), "af2", b"data2"),
            (registry.update("fake", Update("af2", b"newer", (), 60.0)), "af2", b"newer"),
            (registry.delete("fake", "af2"), "af2", None),
        ]
        for number, (step, affiliate, data) in enumerate(steps):
            await step
            for watcher in live:
                message = proto.WatchResponse.FromString(await watcher.take())
                (one,) = message.affiliates
                assert (one.id, None if message.deleted else one.data) == (affiliate, data)
            assert [watcher.lost for watcher in dead] == [number >= 1] * 2
        assert [await watcher.take() for watcher in dead] == [None, None]


async def test_who_leaves_is_forgotten():
    registry = MemoryRegistry(gather=0.0)
    async with running(registry) as client:
        watch = client.watch()
        await watch.hear()
        _, broadcast = registry.clusters["fake"]
        watch.call.cancel()
        async with asyncio.timeout(PATIENCE):
            while broadcast.watchers:
                await asyncio.sleep(0.01)


# Expiry.


async def test_what_expires_is_told_and_empty_clusters_go():
    clock = [0.0]
    registry = MemoryRegistry(gather=0.0, now=lambda: clock[0])
    async with running(registry) as client:
        await client.update("af1", b"data1", [b"e1"], ttl=60.0)
        await client.update("af1", endpoints=[b"e2"], ttl=180.0)
        watch = client.watch()
        await watch.hear()
        clock[0] = 120.0
        registry.collect()
        assert await watch.hear() == {"af1": (b"data1", [b"e2"])}
        clock[0] = 240.0
        registry.collect()
        assert await watch.hear() == {"af1"}
        assert "fake" in registry.clusters  # somebody watches
        watch.call.cancel()
        async with asyncio.timeout(PATIENCE):
            while registry.clusters["fake"][1].watchers:
                await asyncio.sleep(0.01)
        registry.collect()
        assert registry.clusters == {}


# Validation.


@pytest.mark.parametrize("call", ["hello", "update", "delete", "list", "watch"])
@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ("", "cluster ID can't be empty"),
        ("a" * 257, "cluster ID is too long"),
        ("é" * 129, "cluster ID is too long"),  # of 258 bytes
        ("a" * 1024, "cluster ID is too long"),
        ("a\x00", "cluster ID holds a NUL character"),
    ],
)
async def test_cluster_ids(client, call, cluster, words):
    calls = {"hello": client.greet, "update": client.update, "delete": client.delete, "list": client.list}
    if call == "watch":
        assert await client.watch(cluster).code() == (grpc.StatusCode.INVALID_ARGUMENT, words)
        return
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calls[call](cluster=cluster)
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, words)


@pytest.mark.parametrize("call", ["update", "delete"])
@pytest.mark.parametrize(
    ("affiliate", "words"),
    [
        ("", "affiliate ID can't be empty"),
        ("a" * 257, "affiliate ID is too long"),
        ("a" * 1024, "affiliate ID is too long"),
        ("\x00", "affiliate ID holds a NUL character"),
    ],
)
async def test_affiliate_ids(client, call, affiliate, words):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(client, call)(affiliate)
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": bytes(2049)}, "affiliate data is too big"),
        ({"endpoints": [bytes(33)]}, "affiliate endpoint is too big"),
        ({"endpoints": [b""]}, "affiliate endpoint can't be empty"),
        ({"ttl": 1800, "nanoseconds": 1}, "ttl is too large"),
        ({"data": bytes(2049), "endpoints": [bytes(33)], "ttl": 9999.0}, "affiliate data is too big"),
    ],
)
async def test_contents(client, given, words):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.update(**given)
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, words)
    assert await client.list() == {}


async def test_the_largest_of_everything_is_taken(client):
    await client.update("a" * 256, bytes(2048), [bytes([n]) * 32 for n in range(64)], ttl=1800.0, cluster="c" * 256)
    assert len(await client.list("c" * 256)) == 1


async def test_one_affiliate_and_one_endpoint_too_many(client):
    for start in range(0, 1024, 64):
        await asyncio.gather(*(client.update(f"af{number}", b"d") for number in range(start, start + 64)))
    with pytest.raises(grpc.aio.AioRpcError, match="too many affiliates in the cluster") as refused:
        await client.update("one more", b"d")
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError, match="too many endpoints in the affiliate") as refused:
        await client.update("af1", endpoints=[bytes([n + 1]) for n in range(65)])
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len((await client.list())["af1"][1]) == 64


async def test_a_cluster_that_is_not_served():
    async with running(MemoryRegistry(serves=lambda cluster_id: cluster_id == "known")) as client:
        await client.update(cluster="known", data=b"d")
        with pytest.raises(grpc.aio.AioRpcError, match="does not serve this cluster") as refused:
            await client.update(cluster="other", data=b"d")
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert (await client.watch("other").code())[0] == grpc.StatusCode.NOT_FOUND


# Rate limiting.


async def test_who_asks_too_often_waits_and_is_refused_only_where_there_is_no_time_to():
    clock = [0.0]
    limit = OwnRateLimit(1 / 60, 60, now=lambda: clock[0])
    async with running(manners=Manners(trusted=LOOPBACK), limit=limit) as client:
        await asyncio.gather(*(client.greet(patience=60) for _ in range(60)))
        with pytest.raises(grpc.aio.AioRpcError, match="rate limit exceeds request timeout") as refused:
            await client.greet()
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.greet(metadata=(("x-real-ip", "1.2.3.4"),))  # another's is another's
        clock[0] = 59.0
        await client.greet()  # waits for its turn


async def test_a_watch_counts_when_it_opens():
    async with running(manners=Manners(rate=1 / NEVER, burst=2)) as client:
        watches = [client.watch() for _ in range(2)]
        for watch in watches:
            await watch.hear()
        with pytest.raises(grpc.aio.AioRpcError, match="rate limit"):
            await client.greet()


# Counting.


async def test_metrics(client):
    await client.greet(version="v1.8.3-7-gf7d9f211")
    with pytest.raises(grpc.aio.AioRpcError):
        await client.update(affiliate="")
    registry = client.service.metrics.registry

    def value(name, **labels):
        return registry.get_sample_value(name, labels)

    assert value("discovery_server_hello_requests_total", client_version="v1.8-pre") == 1
    assert value("discovery_server_hello_requests_total", client_version="unknown") == 0
    call = {"grpc_type": "unary", "grpc_service": "sidero.discovery.server.Cluster"}
    async with asyncio.timeout(PATIENCE):  # the client has its answer before the server has counted it
        refused = {"grpc_method": "AffiliateUpdate", "grpc_code": "InvalidArgument"}
        while value("grpc_server_handled_total", **call, **refused) != 1:
            await asyncio.sleep(0.01)
    assert value("grpc_server_handled_total", **call, grpc_method="Hello", grpc_code="OK") == 1
    assert value("grpc_server_handling_seconds_count", **call, grpc_method="Hello") == 1
