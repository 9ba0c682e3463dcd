"""Structured logs: one line an event, JSON or for a person, with whatever is named like a secret blotted out."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog
from django.http import HttpRequest
from django.utils.encoding import escape_uri_path

SECRET_NAME = re.compile(
    r"token|secret|private|password|passwd|psk|preshared|cookie|authorization|session_?key", re.IGNORECASE
)
SECRET_PATH = re.compile(r"(/invitation/)[^/?\s]+")
"""Pages whose very address lets somebody in; of routes with a part named as above, a test finds one that is missing."""
BLOT = "[redacted]"

Event = structlog.typing.EventDict


def redact(_logger: Any, _method: str, event: Event) -> Event:
    """Blot out every value, at any depth, whose name says that it is a secret, and addresses that are one."""
    for name in event:
        event[name] = _clean(name, event[name])
    return event


def _clean(name: str, value: Any) -> Any:
    if SECRET_NAME.search(name) and value not in (None, "", 0):
        return BLOT
    if isinstance(value, dict):
        return {key: _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", item) for item in value]
    if isinstance(value, HttpRequest):  # Django tells it beside its own words, to show it with its query
        value = describe_request(value)
    return SECRET_PATH.sub(rf"\1{BLOT}", value) if isinstance(value, str) else value


def describe_request(request: HttpRequest) -> str:
    """Name a request without its query: a provider sends whoever signs in back with a code in it."""
    return f"{request.method} {escape_uri_path(request.path)}"


_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.stdlib.ExtraAdder(),
    redact,
]


class Stderr(logging.Handler):
    """Writes to whatever standard error is at that moment; it may be replaced after the start."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - a log line must never stop what it speaks of; logging has a way to say so
            self.handleError(record)


def configure(form: str, level: str) -> dict[str, Any]:
    """Set structlog up, and return the LOGGING that sends the standard library's loggers the same way."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            # ExtraAdder is for records of the standard library only.
            *(step for step in _SHARED if not isinstance(step, structlog.stdlib.ExtraAdder)),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),  # the level is the standard library's
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if form == "json"
        # Not what it would take where it is installed: a traceback with the values of all that a function holds.
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    quiet = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
                "foreign_pre_chain": _SHARED,
            }
        },
        "handlers": {"stderr": {"()": Stderr, "formatter": "structured"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Servers bring handlers of their own; theirs give way to ours.
            "uvicorn": quiet,
            "uvicorn.error": quiet,
            "uvicorn.access": {**quiet, "level": "WARNING"},
            "django": quiet,
            "django.server": quiet,
            # django_structlog writes a line a request already.
            "django.request": {**quiet, "level": "ERROR"},
            # A task that comes every few seconds is news only when it fails.
            "celery": {**quiet, "level": "WARNING"},
            "django_structlog.celery": {**quiet, "level": "WARNING"},
        },
    }
