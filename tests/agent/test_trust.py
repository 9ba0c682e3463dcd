"""Whom the agent talks to, and by which way."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest

from kubespan.agent.trust import (
    ConsoleUrl,
    TrustError,
    dump_certificate,
    fetch_pinned,
    parse_certificate,
    parse_pin,
    tls_context,
)
from tests.agent.certificates import make_certificate

PIN = "sha256:" + 32 * "ab"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("https://console.example", "https://console.example:443/x", id="default port"),
        pytest.param("https://console.example:8443/", "https://console.example:8443/x", id="port and slash"),
        pytest.param("https://[2001:db8::1]:8443/kube", "https://[2001:db8::1]:8443/kube/x", id="IPv6 and path"),
        pytest.param("http://127.0.0.1:8000", "http://127.0.0.1:8000/x", id="loopback"),
        pytest.param("http://[::1]:8000", "http://[::1]:8000/x", id="IPv6 loopback"),
        pytest.param("http://localhost", "http://localhost:80/x", id="localhost"),
    ],
)
def test_urls_of_consoles(text, expected):
    url = ConsoleUrl.parse(text)
    assert url.at("/x") == expected
    assert url.at("/x", websocket=True) == expected.replace("http", "ws", 1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("http://console.example", "plain HTTP", id="plain to a name"),
        pytest.param("http://192.0.2.1", "plain HTTP", id="plain to an address"),
        pytest.param("http://127.0.0.1.evil.example", "plain HTTP", id="looks like loopback"),
        pytest.param("console.example", "not a URL", id="no scheme"),
        pytest.param("ftp://console.example", "not a URL", id="other scheme"),
        pytest.param("https://", "not a URL", id="no host"),
        pytest.param("https://[::1", "not a URL", id="half a bracket"),
        pytest.param("https://console.example:99999", "not a URL", id="no port"),
        pytest.param("https://me:secret@console.example", "user name", id="user"),
        pytest.param("https://console.example/?token=1", "query", id="query"),
    ],
)
def test_urls_that_are_none(text, sentence):
    with pytest.raises(TrustError, match=sentence):
        ConsoleUrl.parse(text)


def test_plain_http_can_be_allowed_in_so_many_words():
    assert not ConsoleUrl.parse("http://console.example", insecure_http=True).secure


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PIN, id="as is"),
        pytest.param(PIN.upper(), id="upper case"),
        pytest.param(f" sha256:{':'.join(32 * ['AB'])} ", id="as openssl prints it"),
    ],
)
def test_pins(text):
    assert parse_pin(text) == PIN


@pytest.mark.parametrize(
    "text", ["", "sha256:", PIN[:-1], PIN + "0", 32 * "ab", "sha1:" + 32 * "ab", "sha256:" + 32 * "zz"]
)
def test_pins_that_are_none(text):
    with pytest.raises(TrustError, match="64 hex digits"):
        parse_pin(text)


@contextmanager
def tls_server(context):
    """Shakes hands and notes what else comes."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as secured:
                        heard.append(secured.recv(100))
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield ConsoleUrl.parse(f"https://127.0.0.1:{listener.getsockname()[1]}"), heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def shake_hands(url, context):
    with (
        socket.create_connection((url.host, url.port)) as plain,
        context.wrap_socket(plain, server_hostname=url.host) as secured,
    ):
        secured.send(b"hello")


def test_the_pinned_certificate_is_fetched_and_nothing_is_said(tmp_path):
    certificate = make_certificate(tmp_path)
    with tls_server(certificate.context) as (url, heard):
        assert fetch_pinned(url, certificate.pin) == certificate.der
    assert [said for said in heard if said] == []


def test_another_certificate_is_refused_with_the_remedy(tmp_path):
    with tls_server(make_certificate(tmp_path).context) as (url, _), pytest.raises(TrustError, match="enrolment page"):
        fetch_pinned(url, PIN)


@pytest.mark.parametrize(
    "from_now",
    [
        pytest.param(timedelta(0), id="in its time"),
        pytest.param(timedelta(days=-400), id="expired"),
        pytest.param(timedelta(days=400), id="our clock stands at its epoch"),
    ],
)
def test_a_pinned_certificate_is_trusted_whatever_the_clock_and_the_name(tmp_path, from_now):
    certificate = make_certificate(tmp_path, from_now=from_now)
    with tls_server(certificate.context) as (url, _):
        shake_hands(url, tls_context(url, certificate.der))


def test_a_pinned_console_can_be_nobody_else(tmp_path):
    pinned = make_certificate(tmp_path)
    other = make_certificate(tmp_path, name="other")
    with tls_server(other.context) as (url, _), pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(url, tls_context(url, pinned.der))


def test_without_a_pin_a_certificate_of_its_own_is_not_enough(tmp_path):
    with tls_server(make_certificate(tmp_path).context) as (url, _), pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(url, tls_context(url, None))


def test_certificates_in_the_store():
    assert parse_certificate(dump_certificate(b"\x00der")) == b"\x00der"
    assert parse_certificate(dump_certificate(None)) is None
