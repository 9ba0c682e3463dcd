"""Testing a discovery service from here, against real servers: each step that can end it, and the sentence."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kubespan.core.service_endpoint import ServiceEndpoint
from kubespan.discovery.probe import NOBODY, Finding, Step, answer_fault, certificate_fault, probe, tls_fault
from kubespan.discovery.registry import MemoryRegistry, NotServed
from kubespan.discovery.server import Manners, Service, serve
from kubespan.discovery.state import Update
from nodes import certificates

SHORT = 1.0
"""Seconds for what is not to answer."""
PATIENCE = 30.0
"""Seconds for what is to."""


def at(port, scheme="http", host="127.0.0.1"):
    return ServiceEndpoint.parse(f"{scheme}://{host}:{port}")


class KnownAlone(MemoryRegistry):
    """Serves one cluster."""

    async def list(self, cluster_id):
        if cluster_id != "known":
            raise NotServed
        return await super().list(cluster_id)


@contextlib.asynccontextmanager
async def listening(registry=None, credentials=None, **manners):
    service = Service(registry or MemoryRegistry(gather=0.01), Manners(**manners))
    server, port = await serve(service, "127.0.0.1:0", credentials)
    try:
        yield port
    finally:
        await server.stop(None)


async def look(endpoint, **more):
    """In a thread, as the console does; the server here runs in the loop."""
    return await asyncio.to_thread(probe, endpoint, **{"seconds": PATIENCE} | more)


async def test_all_is_well():
    registry = KnownAlone(gather=0.01)
    async with listening(registry) as port:
        assert (await look(at(port))) == Finding(Step.FINE, "It is a discovery service: it sees us at 127.0.0.1.")
        found = await look(at(port), cluster_id="known")
        assert found.sentence == "All is well: it sees us at 127.0.0.1; 0 machines are listed there."
        assert found.fine
        await registry.update("known", Update("one", b"sealed", (), 60.0))
        assert "1 machine is listed" in (await look(at(port), cluster_id="known")).sentence


async def test_nothing_is_made_by_a_look():
    registry = MemoryRegistry(gather=0.01)
    async with listening(registry) as port:
        await look(at(port))
        assert await registry.list(NOBODY) == []


async def test_a_cluster_that_is_not_served():
    async with listening(KnownAlone(gather=0.01)) as port:
        found = await look(at(port), cluster_id="strange")
    assert (found.step, found.fine) == (Step.CLUSTER, False)
    assert "does not serve this cluster" in found.sentence
    assert "import it at its console" in found.sentence


async def test_a_hello_that_is_refused():
    async with listening() as port:
        found = await look(at(port), cluster_id="x" * 300)
    assert found.step is Step.HELLO
    assert "cluster ID is too long (INVALID_ARGUMENT)" in found.sentence


async def test_a_redirect():
    async with listening(redirect="elsewhere.example:443") as port:
        found = await look(at(port), cluster_id="c")
    assert found == Finding(Step.HELLO, "It sends every client on to elsewhere.example:443: test that one.")


async def test_an_address_that_is_not_told():
    async with listening(report_address=False) as port:
        assert "does not say which address" in (await look(at(port))).sentence


# ----------------------------------------------------------------------------------------------------------- the way


def test_a_name_that_is_none():
    found = probe(at(1, host="nowhere.invalid"), seconds=10.0)
    assert found.step is Step.NAME
    assert "nowhere.invalid" in found.sentence


def test_a_name_that_cannot_be_one():
    assert probe(at(1, host="a" * 70)).step is Step.NAME


def test_a_name_server_that_says_nothing(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(30) and [])
    found = probe(at(1, host="slow.example"), seconds=0.2)
    answered.set()
    assert found == Finding(Step.NAME, "The name server does not say where slow.example is.")


def test_a_port_at_which_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = probe(at(port))
    assert (found.step, found.sentence) == (
        Step.CONNECT,
        f"127.0.0.1:{port} cannot be connected to: nothing listens at 127.0.0.1 port {port}.",
    )


def test_a_listener_that_takes_nobody():
    """Its queue is full: the connection is never made."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        where = listener.getsockname()
        for _ in range(8):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(where)
        found = probe(at(where[1]), seconds=SHORT)
    assert found.step is Step.CONNECT
    assert "does not answer" in found.sentence


@pytest.fixture
def answer():
    """Servers that answer what they are sent with fixed bytes, or with nothing at all."""
    with contextlib.ExitStack() as stack:

        def start(reply):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            held = []

            def run():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        held.append(connection)
                        connection.recv(4096)
                        if reply is not None:
                            connection.sendall(reply)
                            connection.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=run, daemon=True).start()
            stack.callback(lambda: [connection.close() for connection in held])
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return listener.getsockname()[1]

        yield start


@pytest.mark.parametrize(
    ("scheme", "reply", "step", "words"),
    [
        pytest.param("http", None, Step.HTTP2, "takes the connection and says nothing", id="silent"),
        pytest.param("https", None, Step.TLS, "takes the connection and says nothing", id="silent at TLS"),
        pytest.param("http", b"", Step.HTTP2, "ends the connection: it may want TLS", id="hangs up"),
        pytest.param("https", b"", Step.TLS, "", id="hangs up at TLS"),
        pytest.param("http", b"SSH-2.0-OpenSSH_9\r\n", Step.HTTP2, "speaks something else", id="another protocol"),
        pytest.param("https", b"SSH-2.0-OpenSSH_9\r\n", Step.TLS, "does not speak TLS", id="another one at TLS"),
        pytest.param("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", Step.TLS, "does not speak TLS", id="plain HTTP"),
        pytest.param("http", b"HTTP/1.1 400 Bad Request\r\n\r\n", Step.HTTP2, "speaks HTTP, but no gRPC", id="HTTP/1"),
        pytest.param("http", b"\x15\x03\x01\0\2\2\x46", Step.HTTP2, "something else than HTTP/2|ends", id="wants TLS"),
    ],
)
def test_what_is_no_grpc(answer, scheme, reply, step, words):
    port = answer(reply)
    found = probe(at(port, scheme), seconds=SHORT if reply is None else PATIENCE)
    assert found.step is step
    assert any(word in found.sentence for word in words.split("|"))
    assert f"127.0.0.1:{port}" in found.sentence


class Quiet(BaseHTTPRequestHandler):
    """A web server like any other."""

    def log_message(self, *_):
        pass


def test_a_web_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = probe(at(server.server_address[1]), seconds=PATIENCE)
        server.shutdown()
    assert found.step is Step.HTTP2
    assert "no gRPC" in found.sentence


async def test_a_grpc_server_of_another_kind():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        found = await look(at(port))
    finally:
        await server.stop(None)
    assert (found.step, found.sentence) == (
        Step.HELLO,
        f"127.0.0.1:{port} speaks gRPC, but it is no discovery service.",
    )


# --------------------------------------------------------------------------------------------------------------- TLS

NOW = datetime.now(UTC)


def make(names=("localhost",), begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=1), by=None):
    """A certificate and its key, signed by itself or by another one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "service" if by else "authority")])
    issuer, signer = (by[0].subject, by[1]) if by else (subject, key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate, key


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("made", "trusted", "words"),
    [
        pytest.param({}, True, "", id="trusted itself"),
        pytest.param({}, False, "signed by itself and not trusted here", id="signed by itself"),
        pytest.param({"ends": NOW - timedelta(hours=1)}, True, "has expired", id="expired"),
        pytest.param({"begins": NOW + timedelta(hours=1)}, True, "not valid yet", id="of tomorrow"),
        pytest.param({"names": ("other.example",)}, True, "for other names than localhost", id="another name"),
    ],
)
async def test_certificates(made, trusted, words):
    certificate, key = make(**made)
    credentials = grpc.ssl_server_credentials([(key_pem(key), pem(certificate))])
    async with listening(credentials=credentials) as port:
        roots = pem(certificate) if trusted else None
        found = await look(at(port, "https", "localhost"), roots=roots)
    assert found.step is (Step.TLS if words else Step.FINE)
    assert words in found.sentence


async def test_a_certificate_of_an_authority_that_nobody_knows():
    authority = make()
    certificate, key = make(by=authority)
    async with listening(credentials=grpc.ssl_server_credentials([(key_pem(key), pem(certificate))])) as port:
        found = await look(at(port, "https", "localhost"))
    assert found.step is Step.TLS
    assert "leads to no authority that is trusted here" in found.sentence


async def test_the_consoles_own_certificate(tmp_path):
    own = certificates.ensure(tmp_path, ["127.0.0.1"], NOW)
    roots = own.certificate.read_bytes()
    credentials = grpc.ssl_server_credentials([(own.key.read_bytes(), roots)])
    async with listening(credentials=credentials) as port:
        assert (await look(at(port, "https"), roots=roots)).fine
        other = await look(at(port, "https", "127.0.0.2"), roots=roots)
    # The service listens at one address alone, so it is the connection that ends it.
    assert other.step is Step.CONNECT


def test_tls_without_http2(tmp_path):
    own = certificates.ensure(tmp_path, ["127.0.0.1"], NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = probe(at(server.server_address[1], "https"), roots=own.certificate.read_bytes(), seconds=PATIENCE)
        server.shutdown()
    assert found.step is Step.HTTP2
    assert "not HTTP/2 in it (ALPN h2)" in found.sentence


@pytest.mark.parametrize(
    ("code", "words"),
    [(10, "has expired"), (62, "other names than h.example"), (64, "other addresses than h.example"), (23, "revoked")],
)
def test_what_openssl_has_against_a_certificate(code, words):
    assert words in certificate_fault(code, "certificate revoked", "h.example")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "tlsv1 alert protocol version"),
        ("", "broke it off"),
    ],
)
def test_what_keeps_tls_from_beginning(reason, words):
    assert words in tls_fault(reason, "h:3000")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("DEADLINE_EXCEEDED", "does not answer in time"),
        ("RESOURCE_EXHAUSTED", "too many requests"),
        ("UNKNOWN", "does not answer as a discovery service: said (UNKNOWN)"),
    ],
)
def test_what_a_call_comes_back_with(code, words):
    assert words in answer_fault(code, "said", "h:3000")
