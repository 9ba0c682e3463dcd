"""JSON for programs, signed, so that whoever gets it knows from whom, and that it is not an old one again."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

SIGNATURE = "X-KubeSpan-Signature"
TIMESTAMP = "X-KubeSpan-Timestamp"


def encode(event: Mapping[str, Any], delivery: str) -> bytes:
    """The body: the event, and the id of its delivery, which is the same at each attempt."""
    return json.dumps({"id": delivery, **event}, ensure_ascii=False, separators=(",", ":")).encode()


def headers(body: bytes, secret: str, now: int) -> dict[str, str]:
    """What goes with a body that is sent at `now`, seconds since 1970."""
    return {TIMESTAMP: str(now), SIGNATURE: f"sha256={sign(body, secret, str(now))}"}


def sign(body: bytes, secret: str, timestamp: str) -> str:
    """HMAC-SHA256 over timestamp, a full stop, and the body; hexadecimal."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
