"""The console's own TLS certificate, for consoles that have none of their operator's; agents pin its fingerprint."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodes.embedded import make_private

VALID = timedelta(days=3650)
CLOCK_SKEW = timedelta(days=1)
"""A machine whose clock is behind must be able to enrol."""

ALWAYS = ("localhost", "127.0.0.1", "::1")


class Certificate(NamedTuple):
    """Where a certificate and its key are, and what agents pin."""

    certificate: Path
    key: Path
    fingerprint: str


def fingerprint(pem: bytes) -> str:
    """Name a certificate by the SHA-256 of its DER form: `sha256:` and 64 hexadecimal digits."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def ensure(data: Path, hosts: Iterable[str], now: datetime) -> Certificate:
    """Make the certificate of a data directory, or find it. One that is there is kept for good: agents pinned it.

    New names make no new certificate: agents compare the fingerprint, not the name.
    """
    directory = make_private(data / "tls")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    if not (certificate.exists() and key.exists()):
        made, private = _make(list(dict.fromkeys([*hosts, *ALWAYS])), now)
        _write(key, private)
        _write(certificate, made)  # last: without it, the next start makes both again
    return Certificate(certificate, key, fingerprint(certificate.read_bytes()))


def _make(hosts: list[str], now: datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubespan-web")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return (
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).rename(path)
