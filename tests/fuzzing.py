"""A discovery service that anything at all is sent to, and requests that can be read, whatever they say."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from ipaddress import ip_network

import grpc
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import strategies as st

from kubespan.core.endpoint import MAX_PORT
from kubespan.discovery import service as names
from kubespan.discovery.proto import affiliate_pb2
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.server import Manners, Service, serve

PATIENCE = 60.0
MEANT = frozenset({grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED})
"""What the protocol has for requests that it does not like (spec/discovery-protocol.md §5.1)."""


class Running:
    """A service whose loop has a thread of its own, and calls by bytes; a context manager."""

    def __init__(self, registry, work=contextlib.nullcontext):
        """`work` goes on around the service, in its loop."""
        self.registry = registry
        self.service = Service(registry, Manners(rate=1e9, burst=10**9, trusted=(ip_network("127.0.0.0/8"),)))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._work = work()

    def __enter__(self):
        self._thread.start()
        self._run(self._work.__aenter__())
        self._server, self.port = self._run(serve(self.service, "127.0.0.1:0"))
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        return self

    def __exit__(self, *_):
        self._channel.close()
        self._run(self._server.stop(None))
        self._run(self._work.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def call(self, name, request, metadata=()):
        """The status, and the answer: of a watch the first message."""
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            if name == names.WATCH:
                answers = self._channel.unary_stream(name)(raw, metadata=metadata, timeout=PATIENCE)
                with contextlib.closing(_Cancelling(answers)):
                    return grpc.StatusCode.OK, next(answers)
            return grpc.StatusCode.OK, self._channel.unary_unary(name)(raw, metadata=metadata, timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code(), error.details()

    def list(self, cluster):
        status, answer = self.call(names.LIST, proto.ListRequest(cluster_id=cluster))
        assert status == grpc.StatusCode.OK
        return {one.id: one for one in proto.ListResponse.FromString(answer).affiliates}

    def assert_serves(self):
        """A machine says hello, publishes itself, watches, and is gone again."""
        status, answer = self.call(names.HELLO, proto.HelloRequest(cluster_id="after", client_version="v1.9.0"))
        assert (status, answer.hex()) == (grpc.StatusCode.OK, "12047f000001")
        update = proto.AffiliateUpdateRequest(cluster_id="after", affiliate_id="af", affiliate_data=b"d")
        update.ttl.seconds = 60
        assert self.call(names.AFFILIATE_UPDATE, update) == (grpc.StatusCode.OK, b"")
        status, answer = self.call(names.WATCH, proto.WatchRequest(cluster_id="after"))
        assert [one.id for one in proto.WatchResponse.FromString(answer).affiliates] == ["af"]
        delete = proto.AffiliateDeleteRequest(cluster_id="after", affiliate_id="af")
        assert self.call(names.AFFILIATE_DELETE, delete) == (grpc.StatusCode.OK, b"")


class _Cancelling:
    def __init__(self, call):
        self.close = call.cancel


texts = st.text(st.characters(codec="utf-8"), max_size=12)
ids = st.one_of(
    texts,
    st.sampled_from(["", "c", "c" * 256, "c" * 257, "é" * 128, "é" * 129, "../..", "a b"]),
    st.sampled_from(["\0", "a\0b", "\u202eabc", "\ufeff"]),
)
ENDPOINT_SIZES = (0, 1, 15, 16, 31, 32, 33, 64, 5000)
some_bytes = st.one_of(st.binary(max_size=40), st.sampled_from([b"e" * size for size in ENDPOINT_SIZES]))
endpoint_lists = st.one_of(
    st.lists(some_bytes, max_size=8),
    st.integers(60, 3000).map(lambda count: [number.to_bytes(2, "big") for number in range(count)]),
)
data = st.one_of(
    st.none(), st.binary(max_size=64), st.sampled_from([b"d" * size for size in (27, 28, 2048, 2049, 100_000)])
)
seconds = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([-1, 0, 1, 1799, 1800, 1801, 2**63 - 1]))
nanos = st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1, -1, 999_999_999]))


@st.composite
def updates(draw):
    """Requests that can be read, whatever they say."""
    request = proto.AffiliateUpdateRequest(
        cluster_id=draw(ids),
        affiliate_id=draw(ids),
        affiliate_data=draw(data),
        affiliate_endpoints=draw(endpoint_lists),
    )
    if (extra := draw(nanos)) is not None:
        request.ttl.seconds, request.ttl.nanos = draw(seconds), extra
    return request


# What machines say of themselves, and others of them.


def seal_blocks(plain, secret):
    """Whatever it is, as an endpoint is sealed."""
    encryptor = Cipher(algorithms.AES256(secret), modes.ECB()).encryptor()
    return encryptor.update(plain + bytes(-len(plain) % 16)) + encryptor.finalize()


names_of_machines = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(["", "\0", "a\0b", "\u202egood", "\ufeff", "\x1b[31m", "x" * 1500, "../../etc", "good"]),
)
raw_addresses = st.one_of(st.binary(max_size=20), st.ip_addresses().map(lambda one: one.packed))
prefixes = st.builds(affiliate_pb2.IPPrefix, ip=raw_addresses, bits=st.integers(0, 2**32 - 1) | st.integers(0, 129))
affiliates = st.builds(
    affiliate_pb2.Affiliate,
    node_id=names_of_machines,
    addresses=st.lists(raw_addresses, max_size=4),
    hostname=names_of_machines,
    nodename=names_of_machines,
    machine_type=names_of_machines,
    operating_system=names_of_machines,
    kubespan=st.none()
    | st.builds(
        affiliate_pb2.KubeSpan,
        public_key=names_of_machines,
        address=raw_addresses,
        additional_addresses=st.lists(prefixes, max_size=4),
        exclude_advertised_addresses=st.lists(prefixes, max_size=4),
    ),
    control_plane=st.none() | st.builds(affiliate_pb2.ControlPlane, api_server_port=st.integers(0, 2**32 - 1)),
)


def _with_length(endpoint, length, padding):
    raw = endpoint.SerializeToString()
    return bytes([min(len(raw), 255) if length is None else length]) + raw + padding


endpoint_plains = st.one_of(
    st.binary(max_size=47),
    st.builds(
        lambda ip, port, length, padding: _with_length(affiliate_pb2.Endpoint(ip=ip, port=port), length, padding),
        raw_addresses,
        st.integers(0, 2**32 - 1) | st.integers(0, MAX_PORT),
        st.none() | st.integers(0, 255),
        st.binary(max_size=16),
    ),
)


def sealed_endpoints(secret):
    """Any bytes, and anything that is sealed as an endpoint is."""
    return st.one_of(st.binary(max_size=40), endpoint_plains.map(lambda plain: seal_blocks(plain, secret)))
