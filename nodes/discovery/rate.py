"""Who asks too often waits, whichever discovery process is asked: the buckets of all of them are in Redis.

Without Redis each process goes by buckets of its own, and looks for Redis again after a while.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import redis
import structlog
from redis.commands.core import AsyncScript

from kubespan.discovery.limiter import OwnRateLimit
from kubespan.discovery.limits import BURST, RATE
from nodes.connections import async_redis

PREFIX = "kubespan:discovery:rate:"
PATIENCE_SECONDS = 0.5
"""For an answer of Redis; no client waits longer for what only guards against clients."""
AWAY_SECONDS = 5.0
"""How long Redis is left alone after it did not answer."""

RESERVE = """
local rate, burst, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = burst
if bucket[1] then
    tokens = math.min(burst, bucket[1] + math.max(0, now - bucket[2]) * rate)
end
local wait = math.max(0, (1 - tokens) / rate)
if wait > patience then
    return ''
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.9f', tokens - 1), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens + 1) / rate * 1000))
return string.format('%.9f', wait)
"""
"""`Limiter.reserve`, by the clock of Redis; a bucket that is full again is none. Empty for a refusal."""

RESTORE = """
if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HINCRBYFLOAT', KEYS[1], 'tokens', 1)
end
return ''
"""

log = structlog.get_logger(__name__)


class SharedRateLimit:
    """See kubespan.discovery.limiter.RateLimit."""

    def __init__(self, rate: float = RATE, burst: int = BURST, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._own = OwnRateLimit(rate, burst, now)
        self._away_until = -math.inf
        self._redis = async_redis()
        self._reserve = self._redis.register_script(RESERVE)
        self._restore = self._redis.register_script(RESTORE)

    async def reserve(self, address: bytes, patience: float | None) -> float | None:
        """See Limiter."""
        # Its own bucket first: one that is empty here is empty for all, and a flood is not carried on to Redis.
        own = await self._own.reserve(address, patience)
        if own is None:
            return None
        most = "1e300" if patience is None else repr(patience)
        try:
            answer = await self._ask(self._reserve, address, self._rate, self._burst, most)
        except asyncio.CancelledError:
            await self._own.restore(address)
            raise
        if answer is None:
            return own
        if not answer:
            await self._own.restore(address)
            return None
        return max(own, float(answer))

    async def restore(self, address: bytes) -> None:
        """See Limiter."""
        await self._own.restore(address)
        await self._ask(self._restore, address)

    def forget_quiet(self) -> None:
        """See RateLimit; what is in Redis goes by itself."""
        self._own.forget_quiet()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()

    async def _ask(self, script: AsyncScript, address: bytes, *arguments: str | float) -> bytes | None:
        """What Redis says; none where it says nothing."""
        if self._now() < self._away_until:
            return None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer: bytes = await script(keys=[PREFIX + address.hex()], args=arguments)
        except (redis.RedisError, OSError) as error:  # among them: in time there was no answer
            if self._now() >= self._away_until:
                log.warning("each discovery process limits for itself", error=str(error) or type(error).__name__)
                self._away_until = self._now() + AWAY_SECONDS
            return None
        return answer
