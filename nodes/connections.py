"""Connections to Redis: one pool a process for synchronous code, one client a loop for coroutines."""

from __future__ import annotations

import functools
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from django.conf import settings
from redis.backoff import NoBackoff

TIMEOUT = 5.0
"""Seconds after which Redis counts as away."""

CONNECTIONS = 8
"""Of one client for coroutines."""

RETRIES = 1
"""A connection of the pool that a restart has cut is made again at once; redis-py's own patience would take seconds."""


@functools.cache
def sync_redis() -> Any:  # redis-py types each answer as if it might have to be awaited
    """The process's client for synchronous code, a `redis.Redis`; its pool is shared by all threads."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=redis.retry.Retry(NoBackoff(), RETRIES),
    )


def async_redis() -> redis.asyncio.Redis:
    """A client for commands within one event loop; whoever asks for it closes it.

    It has few connections, for which commands queue: a thousand agents that leave at once are not worth one each.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.REDIS_URL,
        max_connections=CONNECTIONS,
        timeout=TIMEOUT,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=redis.asyncio.retry.Retry(NoBackoff(), RETRIES),
    )
    return redis.asyncio.Redis.from_pool(pool)


def subscriber_redis() -> redis.asyncio.Redis:
    """A client for a subscription: it may be silent for as long as it likes, and says at once when it is cut.

    redis-py would otherwise reconnect by itself, and what was published meanwhile would be missed unnoticed.
    """
    return redis.asyncio.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=None,
        socket_connect_timeout=TIMEOUT,
        # A Unix socket knows no keepalive, nor does redis-py let one ask for it.
        **({} if settings.REDIS_URL.startswith("unix:") else {"socket_keepalive": True}),
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
    )
