"""Whether this process lives (/healthz) and whether the console can serve (/readyz), for probes and for people."""

from __future__ import annotations

from collections.abc import Callable

import redis
import structlog
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse

WORKER_KEY = "kubespan:worker"
"""Kept in Redis by the task `heartbeat`, which only runs while both beat and a worker do."""

REDIS_SECONDS = 2.0

log = structlog.get_logger(__name__)


def middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer the probes before anything else looks at the request: they come by address and without TLS."""

    def answer(request: HttpRequest) -> HttpResponse:
        match request.path:
            case "/healthz":
                return HttpResponse("ok", content_type="text/plain")
            case "/readyz":
                checks = check_all()
                ready = all(found == "ok" for found in checks.values())
                return JsonResponse({"ready": ready, "checks": checks}, status=200 if ready else 503)
            case _:
                return get_response(request)

    return answer


def check_all() -> dict[str, str]:
    """Look at each part that the console needs: `ok`, or what is wrong in a few words that anybody may read."""
    return {"database": _check_database(), **_check_redis()}


def _check_database() -> str:
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        return _cannot_connect("database", error)
    return f"{len(missing)} migrations are not applied" if missing else "ok"


def _check_redis() -> dict[str, str]:
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        ) as client:
            seen = client.exists(WORKER_KEY)
    except redis.RedisError as error:
        return {"redis": _cannot_connect("redis", error), "worker": "unknown while Redis is away"}
    return {"redis": "ok", "worker": "ok" if seen else "none seen lately (worker or beat is not running)"}


def _cannot_connect(part: str, error: Exception) -> str:
    # The error's own words may name hosts and users: those are for the log.
    log.warning("not ready", part=part, error=str(error))
    return f"cannot connect: {type(error).__name__}"
