"""The protocol's limits, named (spec/discovery-protocol.md §5.1, §5.6), and what is said when one is exceeded."""

from __future__ import annotations

from collections.abc import Iterable

ID_BYTES = 256
"""Of a cluster id or an affiliate id, in UTF-8."""
DATA_BYTES = 2048
"""Of an affiliate's sealed data."""
ENDPOINT_BYTES = 32
"""Of one sealed endpoint: an IPv6 endpoint is two blocks of AES."""
TTL_SECONDS = 30 * 60
"""The longest time for which an affiliate is kept without being renewed."""
AFFILIATES = 1024
"""In one cluster."""
ENDPOINTS = 64
"""Of one affiliate."""

RATE = 15.0
"""Requests a second from one address in the long run."""
BURST = 60
"""Requests at once from an address that was quiet."""

FIRST_MESSAGE_BYTES = 3_500_000
"""What a message may have: Go's clients take 4 MiB (spec §7, 13)."""


class InvalidRequest(ValueError):
    """A request holds what it must not; the words are the protocol's."""


class Exhausted(Exception):
    """There is no room for what was asked; the words are the protocol's."""


def check_cluster_id(cluster_id: str) -> None:
    """Raises InvalidRequest."""
    _check_id(cluster_id, "cluster")


def check_affiliate_id(affiliate_id: str) -> None:
    """Raises InvalidRequest."""
    _check_id(affiliate_id, "affiliate")


def _check_id(text: str, whose: str) -> None:
    if not text:
        raise InvalidRequest(f"{whose} ID can't be empty")
    if len(text.encode()) > ID_BYTES:
        raise InvalidRequest(f"{whose} ID is too long")
    if "\x00" in text:  # the one character that PostgreSQL cannot keep
        raise InvalidRequest(f"{whose} ID holds a NUL character")


def check_contents(data: bytes, endpoints: Iterable[bytes], ttl_nanoseconds: int) -> None:
    """Check what an update brings, in the order that the protocol has. Raises InvalidRequest.

    An endpoint without a byte is refused too, though upstream's service takes it: it makes Go's clients fall over
    (spec §6.3).
    """
    if len(data) > DATA_BYTES:
        raise InvalidRequest("affiliate data is too big")
    for endpoint in endpoints:
        if len(endpoint) > ENDPOINT_BYTES:
            raise InvalidRequest("affiliate endpoint is too big")
        if not endpoint:
            raise InvalidRequest("affiliate endpoint can't be empty")
    if ttl_nanoseconds > TTL_SECONDS * 1_000_000_000:
        raise InvalidRequest("ttl is too large")
