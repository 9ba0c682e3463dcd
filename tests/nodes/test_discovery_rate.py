"""One bucket of an address for all discovery processes, and one of each where Redis is away."""

from __future__ import annotations

import contextlib

import grpc
import grpc.aio
import pytest

from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.server import Manners, Service, serve
from kubespan.discovery.service import HELLO
from nodes.connections import sync_redis
from nodes.discovery import rate
from nodes.discovery.rate import SharedRateLimit

ONE, OTHER = b"\x7f\0\0\1", b"\x0a\0\0\1"
SLOW = 0.001
"""Tokens a second: so few that a test's own time is none."""


@contextlib.asynccontextmanager
async def limits(count, **options):
    """So many processes' limits."""
    made = [SharedRateLimit(**{"rate": SLOW, "burst": 3} | options) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Redis is heard however late it answers."""
    monkeypatch.setattr(rate, "PATIENCE_SECONDS", 60.0)


async def test_a_burst_is_one_over_all_processes(valkey):
    async with limits(2) as (here, there):
        assert [await one.reserve(ONE, 0.0) for one in (here, there, here)] == [0.0, 0.0, 0.0]
        assert await there.reserve(ONE, 0.0) is None
        assert await here.reserve(ONE, 0.0) is None
        assert await there.reserve(OTHER, 0.0) == 0.0


async def test_who_waits_waits_for_those_before_and_who_is_refused_pays_nothing(valkey):
    async with limits(2, burst=1) as (here, there):
        assert await here.reserve(ONE, None) == 0.0
        for _ in range(5):
            assert await there.reserve(ONE, 900.0) is None
        assert await there.reserve(ONE, None) == pytest.approx(1000, abs=30)
        assert await here.reserve(ONE, 2100.0) == pytest.approx(2000, abs=30)


async def test_a_token_that_was_not_used_comes_back(valkey):
    async with limits(2, burst=1) as (here, there):
        await here.reserve(ONE, None)
        assert await there.reserve(ONE, 0.0) is None
        await here.restore(ONE)
        await here.restore(OTHER)
        assert await there.reserve(ONE, 0.0) == 0.0
        assert await there.reserve(ONE, 0.0) is None


async def test_a_bucket_goes_when_it_is_full_again(valkey):
    async with limits(1, burst=3) as (here,):
        await here.reserve(ONE, None)
        (left,) = (sync_redis().pttl(key) for key in sync_redis().scan_iter(f"{rate.PREFIX}*"))
        assert 0.9e6 < left <= 1.0e6  # for one token; milliseconds


async def test_tokens_come_with_time(valkey):
    async with limits(2, burst=3) as (here, there):
        for _ in range(3):
            await here.reserve(ONE, 0.0)
        assert await there.reserve(ONE, 0.0) is None
        with valkey.client() as client:  # as if it had been 2,000 s ago
            key = rate.PREFIX + ONE.hex()
            client.hset(key, "at", float(client.hget(key, "at")) - 2000)
        assert [await there.reserve(ONE, 0.0) for _ in range(3)] == [0.0, 0.0, None]


async def test_who_is_out_of_tokens_here_is_not_asked_of_redis(valkey):
    async with limits(1, burst=1) as (here,):
        await here.reserve(ONE, 0.0)
        with valkey.client() as client:
            client.flushall()
            assert await here.reserve(ONE, 0.0) is None
            assert client.keys("*") == []


async def test_without_redis_each_process_limits_and_redis_is_asked_again(valkey):
    now = [100.0]
    async with limits(2, now=lambda: now[0]) as (here, there):
        valkey.stop()
        for one in (here, there):
            assert [await one.reserve(ONE, 0.0) for _ in range(3)] == [0.0] * 3
            assert await one.reserve(ONE, 0.0) is None
            await one.restore(ONE)
            assert await one.reserve(ONE, 0.0) == 0.0
        valkey.empty()
        assert await here.reserve(ONE, 0.0) is None  # Redis is left alone for a while
        now[0] += 10 / SLOW
        here.forget_quiet()
        assert len(here._own._limiter) == 0
        with valkey.client() as client:
            assert client.keys("*") == []
            assert await here.reserve(ONE, 0.0) == 0.0
            assert client.keys("*") == [rate.PREFIX + ONE.hex()]


async def test_a_redis_that_does_not_answer_is_not_waited_for(valkey, monkeypatch):
    monkeypatch.setattr("nodes.connections.TIMEOUT", 300.0)  # it is not what ends the waiting
    async with limits(2, burst=1) as (here, there):
        await there.reserve(ONE, 0.0)
        monkeypatch.setattr(rate, "PATIENCE_SECONDS", 0.1)
        with valkey.client() as client:
            client.client_pause(30_000, all=False)  # whoever writes waits; to end it is no writing
            try:
                assert await here.reserve(ONE, 0.0) == 0.0  # Redis knows better, and is not heard
            finally:
                client.client_unpause()


async def test_two_services_refuse_as_one(valkey):
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for limit in await stack.enter_async_context(limits(2, burst=2)):
            server, port = await serve(Service(MemoryRegistry(), Manners(), limit=limit), "127.0.0.1:0")
            stack.push_async_callback(server.stop, None)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            clients.append(channel.unary_unary(HELLO))
        hello = proto.HelloRequest(cluster_id="c", client_version="v1").SerializeToString()
        for client in clients:
            await client(hello, timeout=60)
        for client in clients:
            with pytest.raises(grpc.aio.AioRpcError, match="rate limit exceeds request timeout") as refused:
                await client(hello, timeout=60)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
