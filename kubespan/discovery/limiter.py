"""Who asks too often waits (spec/discovery-protocol.md §5.6): a token bucket for each address.

`Limiter` is pure: time is an argument, in seconds on one timeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kubespan.discovery.limits import BURST, RATE


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Limiter:
    """The buckets of all addresses."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[bytes, _Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def reserve(self, address: bytes, now: float, patience: float | None) -> float | None:
        """Take a token: seconds to wait until it is there, or none where that is longer than `patience` seconds.

        What is refused takes nothing; without a `patience` the wait may be any.
        """
        bucket = self._buckets.setdefault(address, _Bucket(self._burst, now))
        tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        wait = max(0.0, (1.0 - tokens) / self._rate)
        if patience is not None and wait > patience:
            return None
        bucket.tokens, bucket.at = tokens - 1.0, now
        return wait

    def restore(self, address: bytes) -> None:
        """Give a token back that was not used after all: who asked went away while waiting."""
        if (bucket := self._buckets.get(address)) is not None:
            bucket.tokens = min(self._burst, bucket.tokens + 1.0)

    def collect(self, now: float) -> None:
        """Forget buckets that are full again."""
        full = [
            address
            for address, bucket in self._buckets.items()
            if bucket.tokens + (now - bucket.at) * self._rate >= self._burst
        ]
        for address in full:
            del self._buckets[address]


class RateLimit(Protocol):
    """The buckets as the service asks them, wherever they are kept."""

    async def reserve(self, address: bytes, patience: float | None) -> float | None:
        """See Limiter."""

    async def restore(self, address: bytes) -> None:
        """See Limiter."""

    def forget_quiet(self) -> None:
        """Let go of what is remembered of who has not asked for a while."""


class OwnRateLimit:
    """The buckets of one process."""

    def __init__(self, rate: float = RATE, burst: int = BURST, now: Callable[[], float] = time.monotonic) -> None:
        self._limiter = Limiter(rate, burst)
        self._now = now

    async def reserve(self, address: bytes, patience: float | None) -> float | None:
        """See Limiter."""
        return self._limiter.reserve(address, self._now(), patience)

    async def restore(self, address: bytes) -> None:
        """See Limiter."""
        self._limiter.restore(address)

    def forget_quiet(self) -> None:
        """See RateLimit."""
        self._limiter.collect(self._now())
