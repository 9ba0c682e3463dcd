"""The parts of the console, and how each stands: looked at, never asked to do anything."""

from __future__ import annotations

import platform
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Literal

import django
import redis
import structlog
from django.db import DatabaseError, connection

from nodes.connections import sync_redis
from nodes.health import WORKER_KEY, check_database, ping_database
from nodes.models import DiscoveryClock
from nodes.services.discovery import DOWNTIME_AFTER
from nodes.vitals import workers
from nodes.words import count

QUEUE_KEY = "kubespan:celery:celery"
"""Tasks that no worker has taken yet; Celery's own list, behind our prefix."""
TAKEN_KEY = "kubespan:celery:unacked"
"""Tasks that a worker has taken and not finished."""

LONG_QUEUE = 1000
"""Tasks that wait, above which workers are not keeping up."""

State = Literal["up", "unknown", "down", "none"]
"""None of them stands for a part that nobody has asked for."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Part:
    """One part: its name, its state, what it is, what can be said of it, and when it was last heard."""

    key: str
    name: str
    state: State
    what: str
    text: str
    heard: datetime | None = None


@dataclass(frozen=True)
class Vitals:
    """All parts at one time."""

    parts: tuple[Part, ...]
    queued: int | None
    taken: int | None

    @property
    def worst(self) -> State:
        """The state of the part that is worst off."""
        states = {part.state for part in self.parts}
        return "down" if "down" in states else "unknown" if "unknown" in states else "up"

    @property
    def standing(self) -> tuple[object, ...]:
        """What a page would show differently."""
        return self.parts, self.queued, self.taken


@dataclass(frozen=True)
class InRedis:
    """What Redis said in one call."""

    version: str
    memory: int
    """Bytes."""
    tick: datetime | None
    """When a worker last took the timetable's beat."""
    workers: Sequence[tuple[str, datetime]]
    queued: int
    taken: int


def read_vitals(now: datetime) -> Vitals:
    """Look at every part: two or three queries, and one call to Redis."""
    found = _ask_redis()
    said = found if isinstance(found, InRedis) else None
    parts = (
        _database(),
        _redis(found),
        workers_part(said.workers if said else None, now),
        beat_part(said, now),
        _discovery(now),
        *([queue_part(said.queued, said.taken)] if said else []),
    )
    return Vitals(parts, said.queued if said else None, said.taken if said else None)


def versions() -> list[tuple[str, str]]:
    """What runs here: name and version."""
    return [
        ("KubeSpan console", version("kubespan-web")),
        ("Django", django.get_version()),
        ("Python", platform.python_version()),
        ("Database", database_version()),
    ]


def database_version() -> str:
    """SQLite or PostgreSQL, and which; without a version where it cannot be asked."""
    if connection.vendor == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            return f"PostgreSQL {cursor.fetchone()[0].partition(' ')[0]}"
    except DatabaseError:
        return "PostgreSQL"


_migrated = threading.Event()
"""Set once nothing was left to migrate: a process knows its own release's migrations alone, so nothing is later."""


def _database() -> Part:
    what = database_version()
    found = ping_database() if _migrated.is_set() else check_database()
    if found == "ok":
        _migrated.set()
        return Part("database", "Database", "up", what, "answers, and its tables are up to date")
    return Part("database", "Database", "down", what, found)


def _ask_redis() -> InRedis | redis.RedisError:
    try:
        pipeline = sync_redis().pipeline(transaction=False)
        pipeline.info()
        pipeline.get(WORKER_KEY)
        pipeline.zrange(workers.KEY, 0, -1, withscores=True)
        pipeline.llen(QUEUE_KEY)
        pipeline.hlen(TAKEN_KEY)
        info, tick, marks, queued, taken = pipeline.execute()
    except redis.RedisError as error:
        log.warning("Redis cannot be looked at", error=str(error))
        return error
    return InRedis(server_version(info), int(info["used_memory"]), _time(tick), workers.heard(marks), queued, taken)


def server_version(info: dict[str, Any]) -> str:
    """What answers at the address of Redis: it may be Valkey, which says so beside the version that it feigns."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '')}".strip()


def _time(text: bytes | None) -> datetime | None:
    return datetime.fromtimestamp(float(text), UTC) if text else None


def _redis(found: InRedis | redis.RedisError) -> Part:
    if isinstance(found, InRedis):
        return Part("redis", "Redis", "up", found.version, f"answers, and holds {found.memory / 1024 / 1024:,.0f} MiB")
    return Part("redis", "Redis", "down", "Redis", f"cannot connect: {type(found).__name__}")


def workers_part(marks: Sequence[tuple[str, datetime]] | None, now: datetime) -> Part:
    """Whether anybody takes tasks; `marks` is none where Redis could not say."""
    if marks is None:
        return Part("workers", "Workers", "unknown", "Celery", "not known while Redis is away")
    alive = [name for name, at in marks if now - at < timedelta(seconds=workers.ALIVE_SECONDS)]
    latest = marks[0][1] if marks else None
    if not alive:
        return Part("workers", "Workers", "down", "Celery", "none is heard: nothing is pushed or expired", latest)
    gone = len(marks) - len(alive)
    text = f"{count(len(alive), 'worker')} {'lives' if len(alive) == 1 else 'live'}"
    return Part("workers", "Workers", "up", "Celery", text + (f", {gone} no longer heard" if gone else ""), latest)


def beat_part(said: InRedis | None, now: datetime) -> Part:
    """Whether the timetable is kept: its beat comes every ten seconds, and needs a worker to be seen."""
    if said is None:
        return Part("beat", "Timetable", "unknown", "Celery beat", "not known while Redis is away")
    if said.tick is not None:
        return Part("beat", "Timetable", "up", "Celery beat", "is kept", said.tick)
    if workers_part(said.workers, now).state == "up":
        return Part("beat", "Timetable", "down", "Celery beat", "workers live, but nobody sends them what is due")
    return Part("beat", "Timetable", "unknown", "Celery beat", "not known while no worker is heard")


def _discovery(now: datetime) -> Part:
    try:
        seen = DiscoveryClock.objects.values_list("seen", flat=True).first()
    except DatabaseError:
        return Part("discovery", "Discovery", "unknown", "gRPC service", "not known while the database is away")
    if seen is None:
        return Part(
            "discovery", "Discovery", "none", "gRPC service", "has never been started; Linux machines need none"
        )
    at = datetime.fromtimestamp(seen, UTC)
    if now - at < timedelta(seconds=DOWNTIME_AFTER):
        return Part("discovery", "Discovery", "up", "gRPC service", "serves", at)
    return Part("discovery", "Discovery", "down", "gRPC service", "nobody serves: Talos machines find no new peers", at)


def queue_part(queued: int, taken: int) -> Part:
    """Whether workers keep up with what is asked of them."""
    text = f"{count(queued, 'task')} {'waits' if queued == 1 else 'wait'}, {taken:,} under way"
    if queued > LONG_QUEUE:
        return Part("queue", "Queue", "unknown", "Tasks", f"{text}: workers do not keep up")
    return Part("queue", "Queue", "up", "Tasks", text)
