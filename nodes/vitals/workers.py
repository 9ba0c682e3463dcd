"""Which workers live: each leaves a mark in Redis as it goes, so that looking costs one call and asks nobody."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import redis
import structlog

from nodes.connections import sync_redis

KEY = "kubespan:workers"
"""A sorted set: a worker's name, and when it was last heard (seconds since 1970)."""

BEAT_SECONDS = 5.0
"""A worker leaves its mark this often; Celery itself beats every two seconds."""

ALIVE_SECONDS = 30.0
"""A worker that was not heard for longer counts as gone."""

FORGET_SECONDS = 3600.0
"""A worker that was not heard for longer is not mentioned any more; one that is replaced comes by another name."""

log = structlog.get_logger(__name__)

_marked: dict[str, float] = {}


def mark(name: str, clock: float, wall: float) -> bool:
    """Note that a worker lives, if its last mark is old enough by the monotonic `clock`; whether it was noted."""
    if clock - _marked.get(name, -BEAT_SECONDS) < BEAT_SECONDS:
        return False
    _marked[name] = clock
    try:
        pipeline = sync_redis().pipeline(transaction=False)
        pipeline.zadd(KEY, {name: wall})
        pipeline.zremrangebyscore(KEY, 0, wall - FORGET_SECONDS)
        pipeline.execute()
    except redis.RedisError as error:
        log.warning("worker not marked", worker=name, error=str(error))
        return False
    return True


def note_worker(sender: object = None, **_signal: object) -> None:
    """Celery's signal, each time that a worker beats; its `sender` is that worker's heart."""
    eventer = getattr(sender, "eventer", None)
    mark(str(getattr(eventer, "hostname", "worker")), time.monotonic(), time.time())


def heard(found: list[tuple[bytes, float]]) -> list[tuple[str, datetime]]:
    """What the set holds, as names and times; the latest first."""
    return sorted(
        ((name.decode(), datetime.fromtimestamp(at, UTC)) for name, at in found), key=lambda row: row[1], reverse=True
    )
