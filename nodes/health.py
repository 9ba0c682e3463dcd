"""Whether this process lives (/healthz) and whether the console can serve (/readyz), for probes and for people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import redis
import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django_structlog.middlewares import RequestMiddleware

from kubespan_web.logs import describe_request

WORKER_KEY = "kubespan:worker"
"""Kept in Redis by the task `heartbeat`, which only runs while both beat and a worker do."""

REDIS_SECONDS = 2.0

RETRY_SECONDS = 5
"""When a page that met no database should be asked for again."""

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


class RequestLog(RequestMiddleware):
    """Logs requests without their queries, also where no database can tell who makes them."""

    format_request = staticmethod(describe_request)

    @staticmethod
    def bind_user_id(request: HttpRequest) -> None:
        """Name the person, if that can be."""
        with contextlib.suppress(OperationalError, InterfaceError):
            RequestMiddleware.bind_user_id(request)


class DatabaseAway:
    """Answers for a view that met no database: that is nobody's fault, and over in a moment."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass on."""
        return self._get_response(request)

    def process_exception(self, _request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Say so; whatever else it is goes its way."""
        if not isinstance(error, OperationalError | InterfaceError):
            return None
        log.warning("a page met no database", error=str(error))
        # Without the request: who is signed in would be asked of the database.
        page = loader.get_template("503.html").render()
        return HttpResponse(page, status=503, headers={"Retry-After": str(RETRY_SECONDS)})


def check_all() -> dict[str, str]:
    """Look at each part that the console needs: `ok`, or what is wrong in a few words that anybody may read."""
    return {"database": check_database(), **_check_redis()}


def check_database() -> str:
    """Whether it answers and its tables are up to date: `ok`, or what is wrong in a few words."""
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        return _cannot_connect("database", error)
    return f"{len(missing)} migrations are not applied" if missing else "ok"


def ping_database() -> str:
    """Whether it answers, whatever its tables are like: `ok`, or what is wrong in a few words."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return _cannot_connect("database", error)
    return "ok"


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
