"""What all web processes count together: guesses at the door. While Redis is away nobody counts, and all goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import redis
import structlog
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache

log = structlog.get_logger(__name__)

T = TypeVar("T")


def _ask(ask: Callable[[], T], *, otherwise: T) -> T:
    try:
        return ask()
    except redis.RedisError as error:
        log.warning("the cache is away", error=str(error))
        return otherwise


class ForgetfulCache(RedisCache):
    """Redis, or while it is away a cache that holds nothing: whoever has the password gets in all the same."""

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """What is kept, or the default."""
        return _ask(lambda: super(ForgetfulCache, self).get(key, default, version), otherwise=default)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Keep it where nothing is kept; that is so while Redis is away."""
        return _ask(lambda: super(ForgetfulCache, self).add(key, value, timeout, version), otherwise=True)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Keep it, if anything can be kept."""
        _ask(lambda: super(ForgetfulCache, self).set(key, value, timeout, version), otherwise=None)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Count it up; ValueError where nothing is kept."""
        return _ask(lambda: super(ForgetfulCache, self).incr(key, delta, version), otherwise=delta)

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Forget it; whether there was anything."""
        return _ask(lambda: super(ForgetfulCache, self).delete(key, version), otherwise=False)
