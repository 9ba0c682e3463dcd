"""Anything at all from a service, opened or sealed: what cannot be is left out, what is good beside it is taken."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

import grpc.aio
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import MAX_PORT, Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.listed import tidy
from kubespan.core.peer_spec import peer_specs
from kubespan.discovery import client as clients
from kubespan.discovery import service as names
from kubespan.discovery.client import Client, Known, Place
from kubespan.discovery.limits import DATA_BYTES, ENDPOINTS
from kubespan.discovery.proto import cluster_pb2
from kubespan.discovery.sealing import MACHINE_TYPES, seal_affiliate, seal_endpoint
from tests.fuzzing import affiliates, names_of_machines, sealed_endpoints

SECRET = bytes(range(32))
PATIENCE = 60.0
AT = Endpoint(ip_address("192.0.2.1"), 51820)
PREFIX = ula_prefix("c")
GOOD = Affiliate(
    "good",
    nodename="good",
    machine_type="worker",
    public_key=KeyPair.make(bytes(32)).public_key,
    address=IPv6Address(int(PREFIX.network_address) + 1),
)

fuzzed = settings(deadline=None)


def seal(plain, secret=SECRET):
    """Whatever it is, as an affiliate is sealed."""
    return bytes(12) + AESGCM(secret).encrypt(bytes(12), plain, None)


def sealed_good():
    data = seal_affiliate(GOOD, SECRET, bytes(12))
    return cluster_pb2.Affiliate(id="good", data=data, endpoints=[seal_endpoint(AT, SECRET)])


plains = st.one_of(st.binary(max_size=300), affiliates.map(lambda one: one.SerializeToString()))
blobs = st.one_of(st.binary(max_size=64), plains.map(seal), st.just(bytes(DATA_BYTES)))
listed = st.builds(
    cluster_pb2.Affiliate,
    id=names_of_machines.filter(lambda one: one != "good"),
    data=blobs,
    endpoints=st.lists(sealed_endpoints(SECRET), max_size=6),
)
batches = st.lists(listed, max_size=6)


@fuzzed
@given(batches, batches, st.lists(st.tuples(batches, st.booleans(), st.booleans()), max_size=3))
def test_whatever_a_watch_tells_the_good_is_known_and_the_rest_harmless(before, after, more):
    known = Known("me", SECRET)
    known.take(cluster_pb2.WatchResponse(affiliates=[*before, sealed_good(), *after]), first=True)
    assert known.affiliates["good"] == replace(GOOD, endpoints=(AT,))
    assert not known.wrong_secret
    for batch, deleted, first in more:
        known.take(cluster_pb2.WatchResponse(affiliates=batch, deleted=deleted), first=first)
        assert ("good" in known.affiliates) or any(one for _, _, one in more)
    for affiliate_id, affiliate in known.affiliates.items():
        assert affiliate.node_id == affiliate_id
        assert affiliate.machine_type in MACHINE_TYPES
        assert affiliate.address is None or isinstance(affiliate.address, IPv6Address)
        assert all(0 <= endpoint.port <= MAX_PORT for endpoint in affiliate.endpoints)
        assert str(affiliate)
    if "good" in known.affiliates:
        # As an agent goes on with it; what it does with warnings is another's business.
        kept = [tidied for one in known.affiliates.values() if (tidied := tidy(one, PREFIX)) is not None]
        assert GOOD.public_key in peer_specs(kept, "me").specs


@fuzzed
@given(
    st.lists(affiliates, min_size=1, max_size=5, unique_by=lambda one: one.node_id), st.binary(min_size=32, max_size=32)
)
def test_another_secret_is_told_from_damage(machines, secret):
    known = Known("me", SECRET)
    machines = [one for one in machines if one.node_id != "me"]
    sealed = [cluster_pb2.Affiliate(id=one.node_id, data=seal(one.SerializeToString(), secret)) for one in machines]
    known.take(cluster_pb2.WatchResponse(affiliates=sealed), first=True)
    if secret != SECRET and machines:
        assert known.wrong_secret
        assert (known.strange, known.damaged) == ({one.node_id for one in machines}, set())
    else:
        assert not known.wrong_secret


@fuzzed
@given(st.lists(st.binary(min_size=1, max_size=27), min_size=1, max_size=5))
def test_what_is_cut_short_is_damage_and_no_other_secret(pieces):
    known = Known("me", SECRET)
    sealed = [cluster_pb2.Affiliate(id=str(number), data=piece) for number, piece in enumerate(pieces)]
    known.take(cluster_pb2.WatchResponse(affiliates=sealed), first=True)
    assert len(known.damaged) == len(pieces)
    assert known.strange == set()
    assert not known.wrong_secret


def test_no_more_endpoints_of_one_machine_are_opened_than_a_service_keeps():
    sealed = sealed_good()
    sealed.endpoints.extend([b"x"] * 100_000 + [seal_endpoint(AT, SECRET)] * 1000)
    known = Known("me", SECRET)
    known.take(cluster_pb2.WatchResponse(affiliates=[sealed]), first=True)
    assert 0 < len(known.affiliates["good"].endpoints) <= ENDPOINTS


# A service that talks nonsense, and then comes to its senses.


class Fickle:
    """A service by real gRPC that answers with any bytes; once it is `sane`, with what is meant."""

    def __init__(self, hello=b"", update=b"", watch=()):
        self.sane = False
        self.hellos = 0
        self._answers = hello, update, watch

    async def hello(self, _request, _context):
        self.hellos += 1
        good = cluster_pb2.HelloResponse(client_ip=ip_address("127.0.0.1").packed)
        return good.SerializeToString() if self.sane else self._answers[0]

    async def update(self, _request, _context):
        return b"" if self.sane else self._answers[1]

    async def watch(self, _request, context):
        if not self.sane:
            for message in self._answers[2]:
                await context.write(message)
            return
        await context.write(cluster_pb2.WatchResponse(affiliates=[sealed_good()]).SerializeToString())
        await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def listening(self):
        """Its port, while it listens."""
        server = grpc.aio.server(options=names.SERVER_OPTIONS)
        handlers = {
            "Hello": grpc.unary_unary_rpc_method_handler(self.hello),
            "AffiliateUpdate": grpc.unary_unary_rpc_method_handler(self.update),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(names.SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)


async def meet(fickle):
    """Have a client meet it until it has given up once, then until it knows the good one; gives the faults it had."""
    faults, news = [], asyncio.Event()

    def note():
        faults.append(client.fault)
        news.set()

    async def until(true):
        while not true():
            await asyncio.wait({running, heard := asyncio.create_task(news.wait())}, return_when="FIRST_COMPLETED")
            assert not running.done(), running.exception()
            heard.cancel()
            news.clear()

    async with fickle.listening() as port:
        client = Client(
            Place(f"127.0.0.1:{port}", insecure=True), cluster_id="c", affiliate_id="me", secret=SECRET,
            version="v1.2.3", news=note, chance=lambda: 0.0,
        )  # fmt: skip
        client.publish(Affiliate("me", nodename="me"), [AT])
        running = asyncio.create_task(client.run())
        try:
            async with asyncio.timeout(PATIENCE):
                await until(lambda: any(faults))
                fickle.sane = True
                await until(lambda: "good" in client.known.affiliates and client.fault == "")
            assert client.known.affiliates["good"].endpoints == (AT,)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    return [fault for fault in faults if fault]


@pytest.fixture(scope="module")
def impatient():
    """A client that comes back at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients, "BACKOFF_FIRST", 0.002)
        patch.setattr(clients, "BACKOFF_MOST", 0.02)
        yield


answers = st.one_of(
    st.binary(max_size=60),
    st.builds(
        cluster_pb2.HelloResponse,
        client_ip=st.binary(max_size=20),
        redirect=st.none() | st.builds(cluster_pb2.RedirectMessage, endpoint=names_of_machines),
    ).map(lambda one: one.SerializeToString()),
)
told = st.one_of(
    st.binary(max_size=60),
    st.builds(cluster_pb2.WatchResponse, affiliates=batches, deleted=st.booleans()).map(
        lambda one: one.SerializeToString()
    ),
)


@settings(deadline=None, max_examples=60)
@given(answers, st.binary(max_size=20), st.lists(told, max_size=4))
def test_whatever_a_service_answers_a_client_notes_it_and_tries_again(impatient, hello, update, watch):
    assert asyncio.run(meet(Fickle(hello, update, watch)))


def redirect(endpoint):
    return cluster_pb2.HelloResponse(redirect=cluster_pb2.RedirectMessage(endpoint=endpoint)).SerializeToString()


@pytest.mark.parametrize("which", ["hello", "watch"])
def test_bytes_that_are_no_answer_are_a_fault_of_the_service_and_are_told_so(impatient, which, capsys):
    fickle = Fickle(hello=b"\xff") if which == "hello" else Fickle(watch=[b"\xff"])
    assert "an answer of the service is no message of the protocol" in asyncio.run(meet(fickle))
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "endpoint",
    [
        "nowhere",
        "a:b:c",
        ":1",
        "host:0",
        "host:99999",
        "\0:1",
        "a b:1",
        "[::1",
        "x" * 300 + ":1",
        "\u202e:1",
        "127.0.0.1:1",
    ],
)
def test_where_nobody_answers_a_client_is_not_sent_for_good(impatient, endpoint):
    """Upstream's client stays there for ever, whoever it was that sent it."""
    assert asyncio.run(meet(Fickle(hello=redirect(endpoint))))


@pytest.mark.parametrize("length", [0, 1, 3, 5, 15, 17, 1000])
def test_an_address_of_no_such_length_is_none(impatient, length):
    hello = cluster_pb2.HelloResponse(client_ip=bytes(length)).SerializeToString()
    assert asyncio.run(meet(Fickle(hello=hello)))
