"""Certificates that machines are to trust, as a patch carries them."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def parse_roots(data: bytes) -> str:
    """Read certificates, PEM; whatever else is in the file, such as a private key, is left out. Raises ValueError."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ValueError("it holds no certificate in PEM form") from None
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)
