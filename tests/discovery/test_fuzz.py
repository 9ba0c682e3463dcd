"""Anything at all, in any field: the service answers with a status that is meant, and then as if nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from kubespan.discovery import service as names
from kubespan.discovery.limits import DATA_BYTES, ENDPOINT_BYTES, ENDPOINTS, ID_BYTES, TTL_SECONDS
from kubespan.discovery.metrics import RELEASES
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.server import Manners, Service, serve
from tests.fuzzing import MEANT, PATIENCE, Running, ids, texts, updates

CALLS = (names.HELLO, names.AFFILIATE_UPDATE, names.AFFILIATE_DELETE, names.LIST, names.WATCH)

fuzzed = settings(deadline=None)


@pytest.fixture(scope="module")
def running():
    with Running(MemoryRegistry(gather=0.0)) as running:
        yield running


@fuzzed
@given(updates())
def test_whatever_an_update_says_it_is_taken_or_refused_with_a_reason(running, request_):
    before = time.monotonic()
    status, words = running.call(names.AFFILIATE_UPDATE, request_)
    assert status in MEANT, words
    if status == grpc.StatusCode.INVALID_ARGUMENT:
        assert words
    if request_.cluster_id and status == grpc.StatusCode.OK:
        listed = running.list(request_.cluster_id)
        for one in listed.values():
            assert 0 < len(one.id.encode()) <= ID_BYTES
            assert len(one.data) <= DATA_BYTES
            assert len(one.endpoints) <= ENDPOINTS
            assert all(0 < len(endpoint) <= ENDPOINT_BYTES for endpoint in one.endpoints)
        assert request_.affiliate_id in listed
        kept = running.registry.clusters[request_.cluster_id][0].affiliates[request_.affiliate_id]
        assert before <= kept.expires <= time.monotonic() + TTL_SECONDS
        delete = proto.AffiliateDeleteRequest(cluster_id=request_.cluster_id, affiliate_id=request_.affiliate_id)
        assert running.call(names.AFFILIATE_DELETE, delete)[0] == grpc.StatusCode.OK
    running.assert_serves()


@fuzzed
@given(st.sampled_from(CALLS), ids, ids)
def test_whatever_a_cluster_or_machine_is_called_each_call_answers(running, name, cluster, affiliate):
    requests = {
        names.HELLO: proto.HelloRequest(cluster_id=cluster, client_version=affiliate),
        names.AFFILIATE_UPDATE: proto.AffiliateUpdateRequest(cluster_id=cluster, affiliate_id=affiliate),
        names.AFFILIATE_DELETE: proto.AffiliateDeleteRequest(cluster_id=cluster, affiliate_id=affiliate),
        names.LIST: proto.ListRequest(cluster_id=cluster),
        names.WATCH: proto.WatchRequest(cluster_id=cluster),
    }
    status, words = running.call(name, requests[name])
    assert status in MEANT, words
    running.assert_serves()


VALID = proto.AffiliateUpdateRequest(
    cluster_id="c", affiliate_id="af", affiliate_data=b"data", affiliate_endpoints=[b"e" * 16]
).SerializeToString()


@st.composite
def broken(draw):
    """Bytes that are no request, or one that came to harm on the way."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    raw = bytearray(VALID)
    for place in draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[place] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))]) + draw(st.binary(max_size=8))


@fuzzed
@example(names.HELLO, b"\x0a\x02\xff\xfe")
@example(names.WATCH, b"\xff")
@given(st.sampled_from(CALLS), broken())
def test_bytes_that_are_no_request_are_refused(running, name, raw):
    status, words = running.call(name, raw)
    assert status in MEANT, words
    running.assert_serves()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("raw", [b"\xff\xff", b"\x0a\x02\xff\xfe"], ids=["no protobuf", "an id that is no UTF-8"])
def test_a_broken_request_is_the_clients_fault_and_says_so(running, name, raw, caplog):
    assert running.call(name, raw) == (grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of the protocol")
    assert not caplog.records  # no traceback for everybody who sends rubbish


def test_broken_requests_are_limited_and_counted_as_all_others():
    async def ask():
        service = Service(MemoryRegistry(), Manners(rate=1e-6, burst=1))
        server, port = await serve(service, "127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            codes = []
            for _ in range(2):
                call = channel.unary_unary(names.HELLO)(b"\xff", timeout=PATIENCE)
                codes.append(await call.code())
        await server.stop(None)
        labels = {"grpc_type": "unary", "grpc_service": names.SERVICE, "grpc_method": "Hello"}
        return codes, service.metrics.registry.get_sample_value("grpc_server_started_total", labels)

    codes, started = asyncio.run(ask())
    assert codes == [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert started == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_request_that_is_far_too_large_is_refused(running, name):
    raw = proto.HelloRequest(cluster_id="c" * (5 * 1024 * 1024)).SerializeToString()
    assert running.call(name, raw)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    running.assert_serves()


def test_as_many_endpoints_as_a_request_can_hold(running):
    endpoints = [number.to_bytes(3, "big") for number in range(500_000)]
    update = proto.AffiliateUpdateRequest(cluster_id="many", affiliate_id="af", affiliate_endpoints=endpoints)
    status, words = running.call(names.AFFILIATE_UPDATE, update)
    assert (status, words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many endpoints in the affiliate")
    assert len(running.list("many")["af"].endpoints) == ENDPOINTS
    running.assert_serves()


@settings(deadline=None, max_examples=30)
@given(
    st.one_of(
        st.binary(max_size=200), st.binary(max_size=100).map(lambda raw: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw)
    )
)
def test_a_connection_that_speaks_something_else_is_nobody_elses_business(running, raw):
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass
    running.assert_serves()


visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
addresses = st.one_of(
    visible,
    st.ip_addresses().map(str),
    st.sampled_from(["fe80::1%eth0", "::ffff:1.2.3.4", "1.2.3", " ,1.1.1.1"]),
)


@fuzzed
@given(addresses, addresses)
def test_whatever_a_proxy_says_of_a_client_it_is_an_address_or_none(running, real, forwarded):
    metadata = (("x-real-ip", real), ("x-forwarded-for", forwarded))
    status, answer = running.call(names.HELLO, proto.HelloRequest(cluster_id="c"), metadata)
    assert status == grpc.StatusCode.OK
    assert len(proto.HelloResponse.FromString(answer).client_ip) in {4, 16}


versions = st.one_of(texts, st.from_regex(r"v\d{1,2}\.\d{1,2}\.\d(-x)?", fullmatch=True))


@fuzzed
@given(st.lists(versions, max_size=20))
def test_whatever_release_clients_say_they_are_the_figures_stay_few(running, said):
    for version in said:
        request = proto.HelloRequest(cluster_id="c", client_version=version)
        assert running.call(names.HELLO, request)[0] == grpc.StatusCode.OK
    lines = generate_latest(running.service.metrics.registry).decode().splitlines()
    assert sum(line.startswith("discovery_server_hello_requests_total{") for line in lines) <= RELEASES


def test_clients_that_make_releases_up_fill_no_memory(running):
    for number in range(150):
        request = proto.HelloRequest(cluster_id="c", client_version=f"v{number // 100}.{number % 100}.0")
        assert running.call(names.HELLO, request)[0] == grpc.StatusCode.OK
    lines = generate_latest(running.service.metrics.registry).decode().splitlines()
    assert sum(line.startswith("discovery_server_hello_requests_total{") for line in lines) == RELEASES
