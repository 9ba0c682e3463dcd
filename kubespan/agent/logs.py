"""The agent's log: one line an event on standard error, for people or, with LOG_FORMAT=json, for programs."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def set_up_logs() -> None:
    """Apply LOG_FORMAT (console, json) and LOG_LEVEL (debug, info, warning, error)."""
    level = getattr(logging, os.environ.get("LOG_LEVEL", "info").upper(), logging.INFO)
    # Tracebacks without local variables: those hold keys.
    if os.environ.get("LOG_FORMAT") == "json":
        render: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        render = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # whatever was configured before
    )
