"""The console's own certificate: made once, pinned by agents, believed by a TLS client that trusts just it."""

import hashlib
import ipaddress
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

from cryptography import x509

from nodes import certificates

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_made_once(tmp_path):
    first = certificates.ensure(tmp_path, ["console.example"], NOW)
    again = certificates.ensure(tmp_path, ["other.example"], NOW + timedelta(days=1))
    assert again == first


def test_the_key_is_its_owners_alone(tmp_path):
    made = certificates.ensure(tmp_path, [], NOW)
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert made.key.parent.stat().st_mode & 0o777 == 0o700


def test_names_and_time(tmp_path):
    made = certificates.ensure(tmp_path, ["console.example", "10.0.0.1", "[fd00::1]"], NOW)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["console.example", "localhost"]
    expected = [ipaddress.ip_address(text) for text in ("10.0.0.1", "fd00::1", "127.0.0.1", "::1")]
    assert names.get_values_for_type(x509.IPAddress) == expected
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == NOW + timedelta(days=3650)


def test_half_a_pair_is_made_anew(tmp_path):
    made = certificates.ensure(tmp_path, [], NOW)
    made.certificate.unlink()
    assert certificates.ensure(tmp_path, [], NOW).fingerprint != made.fingerprint


def test_a_client_sees_what_it_pins(tmp_path):
    made = certificates.ensure(tmp_path, [], datetime.now(UTC))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    client = ssl.create_default_context(cafile=str(made.certificate))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with server.wrap_socket(listener.accept()[0], server_side=True) as wrapped:
                wrapped.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as plain,
            client.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            seen = wrapped.getpeercert(binary_form=True)
            wrapped.send(b"x")
        thread.join()
    assert f"sha256:{hashlib.sha256(seen).hexdigest()}" == made.fingerprint
