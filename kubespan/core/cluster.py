"""Cluster id and secret: make, check, and the address range that follows from the id (spec/kubespan.md §1.1, §1.4)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network

KEY_BYTES = 32
"""Length of cluster id and cluster secret as made, in bytes."""

MAX_ID_BYTES = 256

_ULA_FIRST_BYTE = 0xFD
_PURPOSE_BYTE = 7


class Purpose(IntEnum):
    """What a unique local range of Talos is for."""

    UNKNOWN = 0
    BOOTSTRAP = 1
    KUBESPAN = 2
    SIDEROLINK = 3
    VIRTUAL_SIDEROLINK = 4


def make_cluster_id(random: bytes) -> str:
    """Write 32 random bytes as a cluster id: standard base64, as Talos does since 1.14."""
    return _encode(random)


def make_cluster_secret(random: bytes) -> str:
    """Write 32 random bytes as a cluster secret: standard base64."""
    return _encode(random)


def _encode(random: bytes) -> str:
    if len(random) != KEY_BYTES:
        raise ValueError(f"expected {KEY_BYTES} bytes, got {len(random)}")
    return base64.b64encode(random).decode()


def check_cluster_id(text: str) -> list[str]:
    """Say what is odd about an imported cluster id; it is kept verbatim in any case.

    The id is an opaque text: its bytes are hashed, and the same 32 bytes in base64's two alphabets are two different
    clusters. Raises ValueError when it is empty, longer than 256 bytes, or not UTF-8.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("the cluster id is not valid UTF-8") from None
    if not text:
        raise ValueError("the cluster id is required")
    if size > MAX_ID_BYTES:
        raise ValueError(f"the cluster id may have at most {MAX_ID_BYTES} bytes, this one has {size}")
    warnings = []
    if text != text.strip():
        warnings.append("the cluster id begins or ends with white space, which is part of it")
    if not text.isprintable():
        warnings.append("the cluster id has characters that cannot be seen, which are part of it")
    if _decoded_size(text) != KEY_BYTES:
        warnings.append("the cluster id is not base64 of 32 bytes, as Talos makes it; check that it is complete")
    return warnings


def _decoded_size(text: str) -> int:
    """Give the length of what the text encodes, in either alphabet of base64, or 0."""
    try:
        return len(base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True))
    except (binascii.Error, ValueError):
        return 0


def parse_cluster_secret(text: str) -> bytes:
    """Read a cluster secret: standard base64 of exactly 32 bytes, which serve as preshared key and as AES key.

    Raises ValueError; the sentence never holds any of the text.
    """
    if not text:
        raise ValueError("the cluster secret is required")
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("invalid cluster secret: not standard base64") from None
    if len(secret) != KEY_BYTES:
        raise ValueError(f"invalid cluster secret: expected {KEY_BYTES} bytes, got {len(secret)}")
    return secret


def ula_prefix(cluster_id: str, purpose: Purpose = Purpose.KUBESPAN) -> IPv6Network:
    """Give the /64 of a cluster for one purpose: a hash of the id's text, with the purpose in the eighth byte."""
    prefix = bytearray(hashlib.sha256(cluster_id.encode()).digest()[16:24])
    prefix[0] = _ULA_FIRST_BYTE
    prefix[_PURPOSE_BYTE] = purpose
    return IPv6Network((bytes(prefix) + bytes(8), 64))


def is_ula(address: IPv4Address | IPv6Address, purpose: Purpose) -> bool:
    """Say whether an address lies in the range of any cluster for this purpose."""
    if isinstance(address, IPv4Address):
        return False
    packed = address.packed
    return packed[0] == _ULA_FIRST_BYTE and packed[_PURPOSE_BYTE] == purpose


def is_kubespan_ula(address: IPv4Address | IPv6Address) -> bool:
    """Say whether an address is a KubeSpan address, of this or of another cluster."""
    return is_ula(address, Purpose.KUBESPAN)
