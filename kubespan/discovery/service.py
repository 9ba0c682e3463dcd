"""The gRPC service's methods by name and the reading of its messages, without the code that a compiler would generate.

Answers are bytes that were encoded before: what a thousand watchers hear is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError

SERVICE = "sidero.discovery.server.Cluster"
HELLO = f"/{SERVICE}/Hello"
AFFILIATE_UPDATE = f"/{SERVICE}/AffiliateUpdate"
AFFILIATE_DELETE = f"/{SERVICE}/AffiliateDelete"
LIST = f"/{SERVICE}/List"
WATCH = f"/{SERVICE}/Watch"

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # Watches are quiet for long, and clients ping them every 3 min, or every 10 s (spec/discovery-protocol.md §7, 1).
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # A second process that took the same port by accident would share its connections unnoticed.
    ("grpc.so_reuseport", 0),
)

Message = TypeVar("Message")


class Unreadable(ValueError):
    """What came is no message of the protocol."""


def read(parse: Callable[[bytes], Message], raw: bytes, what: str) -> Message:
    """Read a message by its class' `FromString`; raises Unreadable with a sentence about `what` came."""
    try:
        return parse(raw)
    except (DecodeError, UnicodeDecodeError):
        raise Unreadable(f"{what} is no message of the protocol") from None
