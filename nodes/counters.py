"""Counts of what should not happen (bad frames, refused tokens …), kept in one Redis hash over all processes."""

from __future__ import annotations

from collections import Counter

import redis
import structlog

from nodes.connections import sync_redis

KEY = "kubespan:counters"

log = structlog.get_logger(__name__)


def count(name: str, by: int = 1) -> None:
    """Add to a counter from synchronous code, such as `count("enrol.token-expired")`; a lost count is no error."""
    try:
        sync_redis().hincrby(KEY, name, by)
    except redis.RedisError as error:
        log.warning("not counted", name=name, error=str(error))


def read_counters() -> dict[str, int]:
    """All counters by name; raises redis.RedisError."""
    return {name.decode(): int(value) for name, value in sync_redis().hgetall(KEY).items()}


class Tally(Counter[str]):
    """Counts of one process that wait for its next flush."""

    def move(self, pipeline: redis.asyncio.client.Pipeline) -> Tally:
        """Move all counts into a pipeline; gives them, to be added again when that fails."""
        moved = Tally(self)
        for name, by in moved.items():
            pipeline.hincrby(KEY, name, by)
        self.clear()
        return moved
