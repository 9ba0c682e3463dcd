"""Is a discovery service there, and would a Talos machine find it? One step after the other, and where it ends.

The name, the connection, TLS, HTTP/2, then Hello, and List where a cluster is named: neither changes anything. Each
step has a few seconds, so the whole ends in good time, whatever the other end does. It blocks: run it where that is no
harm.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import TypeVar

from google.protobuf.message import Message

from kubespan.core.service_endpoint import ServiceEndpoint
from kubespan.discovery import service
from kubespan.discovery.calls import ALPN, CallError, Connection, connect, make_context
from kubespan.discovery.proto import cluster_pb2 as proto

STEP_SECONDS = 5.0
"""For each step; there are at most five that wait."""
ADDRESSES_TRIED = 3
"""Of those that a name has."""

PING_SECONDS = 60.0
"""Longer than all of it."""

NOBODY = "kubespan-probe"
"""The cluster that Hello names where none is given; nothing is made for it."""
VERSION = "v0.0.0"

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 begins with, and empty settings (RFC 9113 §3.4)."""
FRAME_HEAD = 9
SETTINGS_FRAME = 4


class Step(StrEnum):
    """How far it came."""

    NAME = "name"
    CONNECT = "connection"
    TLS = "TLS"
    HTTP2 = "HTTP/2"
    HELLO = "hello"
    CLUSTER = "cluster"
    FINE = "fine"


@dataclass(frozen=True, slots=True)
class Finding:
    """The step at which it ended, and a sentence."""

    step: Step
    sentence: str

    @property
    def fine(self) -> bool:
        """Whether a machine would find what it needs."""
        return self.step is Step.FINE


class _Fault(Exception):
    """A step did not succeed."""

    def __init__(self, step: Step, sentence: str) -> None:
        super().__init__(sentence)
        self.finding = Finding(step, sentence)


def probe(
    endpoint: ServiceEndpoint, cluster_id: str = "", roots: bytes | None = None, seconds: float = STEP_SECONDS
) -> Finding:
    """Look; `roots` are trusted besides what this machine trusts, PEM. Raises nothing that the network does."""
    try:
        addresses = _resolve(endpoint, seconds)
        with _connect(addresses, endpoint, seconds) as connection:
            wrapped = connection if endpoint.insecure else _secure(connection, endpoint, roots)
            with wrapped:
                _speak_http2(wrapped, endpoint)
        return asyncio.run(_ask(endpoint, cluster_id, roots, seconds))
    except _Fault as fault:
        return fault.finding


# --------------------------------------------------------------------------------------------------------- the way


def _resolve(endpoint: ServiceEndpoint, seconds: float) -> list[tuple[int, tuple[str, int]]]:
    """The addresses of the name, with their families; the resolver has no limit of its own, so it gets a thread."""
    answers: queue.SimpleQueue[list[tuple[int, tuple[str, int]]] | OSError] = queue.SimpleQueue()

    def look() -> None:
        try:
            found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            answers.put([(family, (str(where[0]), int(where[1]))) for family, _, _, _, where in found])
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(0, "it is no name"))

    threading.Thread(target=look, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise _Fault(Step.NAME, f"The name server does not say where {endpoint.host} is.") from None
    if isinstance(answer, OSError):
        raise _Fault(Step.NAME, f"The name {endpoint.host} does not resolve: {answer.strerror}.")
    return list(dict.fromkeys(answer))[:ADDRESSES_TRIED]


def _connect(addresses: list[tuple[int, tuple[str, int]]], endpoint: ServiceEndpoint, seconds: float) -> socket.socket:
    """A connection to the first address that takes one."""
    faults = []
    for family, where in addresses:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(seconds / len(addresses))
        try:
            connection.connect(where)
        except ConnectionRefusedError:
            faults.append(f"nothing listens at {where[0]} port {where[1]}")
        except TimeoutError:
            faults.append(f"{where[0]} port {where[1]} does not answer; a firewall may drop what comes")
        except OSError as error:
            faults.append(f"{where[0]} cannot be reached: {error.strerror}")
        else:
            connection.settimeout(seconds)
            return connection
        connection.close()
    raise _Fault(Step.CONNECT, f"{endpoint.target} cannot be connected to: {'; '.join(faults)}.")


def _secure(connection: socket.socket, endpoint: ServiceEndpoint, roots: bytes | None) -> ssl.SSLSocket:
    try:
        wrapped = make_context(roots, besides=True).wrap_socket(connection, server_hostname=endpoint.host)
    except ssl.SSLCertVerificationError as error:
        raise _Fault(Step.TLS, certificate_fault(error.verify_code, error.verify_message, endpoint.host)) from None
    except TimeoutError:
        raise _Fault(Step.TLS, f"{endpoint.target} takes the connection and says nothing.") from None
    except ssl.SSLError as error:
        raise _Fault(Step.TLS, tls_fault(error.reason or "", endpoint.target)) from None
    except OSError:
        raise _Fault(Step.TLS, f"{endpoint.target} ends the connection when TLS begins.") from None
    if wrapped.selected_alpn_protocol() != ALPN:
        wrapped.close()
        raise _Fault(
            Step.HTTP2,
            f"{endpoint.target} speaks TLS, but not HTTP/2 in it (ALPN {ALPN}): a proxy in front must pass gRPC on.",
        )
    return wrapped


_EXPIRED, _NOT_YET, _SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _OTHER_NAME, _OTHER_ADDRESS = (
    10, 9, 18, 19, 20, 62, 64,
)  # fmt: skip
"""OpenSSL's X509_V_ERR_*."""

_CERTIFICATE_FAULTS = {
    _EXPIRED: "has expired",
    _NOT_YET: "is not valid yet: compare the clocks",
    _SELF_SIGNED: "is signed by itself and not trusted here; machines need it as a trusted root",
    _SELF_SIGNED_IN_CHAIN: "leads to an authority that is not trusted here; machines need that one as a trusted root",
    _NO_ISSUER: "leads to no authority that is trusted here: the service does not send the whole chain, or machines "
    "need its authority as a trusted root",
    _OTHER_NAME: "is for other names than {host}",
    _OTHER_ADDRESS: "is for other addresses than {host}",
}


def certificate_fault(code: int, message: str, host: str) -> str:
    """A sentence for what OpenSSL has against a certificate."""
    words = _CERTIFICATE_FAULTS.get(code, f"is not trusted: {message}")
    return f"TLS: the certificate {words.format(host=host)}."


def tls_fault(reason: str, target: str) -> str:
    """A sentence for what else keeps TLS from beginning."""
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
        return f"{target} does not speak TLS: its address would begin with http://."
    words = reason.replace("_", " ").lower() or "the other end broke it off"
    return f"TLS: {target} does not agree on it: {words}."


def _speak_http2(connection: socket.socket, endpoint: ServiceEndpoint) -> None:
    """Begin as gRPC does, and see whether the answer is HTTP/2."""
    answer = b""
    try:
        connection.sendall(PREFACE)
        while len(answer) < FRAME_HEAD and (more := connection.recv(FRAME_HEAD - len(answer))):
            answer += more
    except TimeoutError:
        raise _Fault(Step.HTTP2, f"{endpoint.target} takes the connection and says nothing.") from None
    except OSError:
        answer = b""
    if len(answer) == FRAME_HEAD and answer[3] == SETTINGS_FRAME:
        return
    if answer.startswith((b"HTTP/1", b"<")):  # old servers answer a version that they don't know by a page alone
        raise _Fault(Step.HTTP2, f"{endpoint.target} speaks HTTP, but no gRPC: this is a web server.")
    if not answer:
        raise _Fault(Step.HTTP2, f"{endpoint.target} ends the connection: it may want TLS, with https://.")
    raise _Fault(Step.HTTP2, f"{endpoint.target} speaks something else than HTTP/2.")


# ---------------------------------------------------------------------------------------------------------- gRPC


async def _ask(endpoint: ServiceEndpoint, cluster_id: str, roots: bytes | None, seconds: float) -> Finding:
    tls = None if endpoint.insecure else make_context(roots, besides=True)
    try:
        async with connect(
            endpoint.host, endpoint.port, tls=tls, ping_every=PING_SECONDS, seconds=seconds
        ) as connection:
            return await _Asking(connection, endpoint, seconds).ask(cluster_id)
    except OSError as error:
        raise _Fault(Step.HELLO, answer_fault("UNAVAILABLE", str(error), endpoint.target)) from None


Answer = TypeVar("Answer", bound=Message)


class _Asking:
    """Questions over one connection."""

    def __init__(self, connection: Connection, endpoint: ServiceEndpoint, seconds: float) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._seconds = seconds

    async def ask(self, cluster_id: str) -> Finding:
        """Say hello, and have a cluster listed where one is named."""
        hello = proto.HelloRequest(cluster_id=cluster_id or NOBODY, client_version=VERSION)
        response = await self._call(service.HELLO, hello, proto.HelloResponse.FromString, Step.HELLO)
        if response.redirect.endpoint:
            return Finding(Step.HELLO, f"It sends every client on to {response.redirect.endpoint}: test that one.")
        seen = _seen(response.client_ip)
        if not cluster_id:
            return Finding(Step.FINE, f"It is a discovery service: {seen}.")
        request = proto.ListRequest(cluster_id=cluster_id)
        listed = await self._call(service.LIST, request, proto.ListResponse.FromString, Step.CLUSTER)
        count = len(listed.affiliates)
        machines = "machine is" if count == 1 else "machines are"
        return Finding(Step.FINE, f"All is well: {seen}; {count} {machines} listed there.")

    async def _call(self, path: str, request: Message, parse: Callable[[bytes], Answer], step: Step) -> Answer:
        target = self._endpoint.target
        try:
            answer = await self._connection.call(path, request.SerializeToString(), self._seconds)
            return service.read(parse, answer, "its answer")
        except CallError as error:
            raise _Fault(step, answer_fault(error.status, error.details, target)) from None
        except TimeoutError:
            raise _Fault(step, answer_fault("DEADLINE_EXCEEDED", "", target)) from None
        except service.Unreadable as error:
            raise _Fault(step, answer_fault("INTERNAL", str(error), target)) from None


def answer_fault(status: str, details: str, target: str) -> str:
    """A sentence for a call that came back with a fault; `status` is gRPC's name for it."""
    match status:
        case "NOT_FOUND":
            return f"It is a discovery service, but it does not serve this cluster: {details}."
        case "UNIMPLEMENTED":
            return f"{target} speaks gRPC, but it is no discovery service."
        case "DEADLINE_EXCEEDED":
            return f"{target} speaks HTTP/2, but does not answer in time."
        case "RESOURCE_EXHAUSTED":
            return f"It has had too many requests from here: {details}."
        case _:
            return f"{target} speaks HTTP/2, but does not answer as a discovery service: {details} ({status})."


def _seen(raw: bytes) -> str:
    if len(raw) not in {4, 16}:
        return "it does not say which address it sees us at"
    return f"it sees us at {ip_address(raw)}"
