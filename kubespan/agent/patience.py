"""How often a console is asked to let this machine in: one that is away soon no more, one that is busy for minutes."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

import structlog
import urllib3

ATTEMPTS = 4
"""Of one that cannot be reached, hangs up, or restarts behind its front."""
LATE_ATTEMPTS = 20
"""Of one that takes the request and does not answer in time, as where thousands of machines enrol at once."""

_PASSING = (502, 503, 504)
"""What a front says while the console behind it restarts."""

log = structlog.get_logger()
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it says the same, in words of its own


class Patience(urllib3.Retry):
    """Counts late answers apart, and says each time that it asks again."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: urllib3.connectionpool.ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """As its base, which raises what it met where that was often enough."""
        late = is_late(error)
        left = self.new(total=int(self.total or 0) + 1) if late else self
        following = super(Patience, left).increment(method, url, response, error, _pool, _stacktrace)
        log.warning("asking the console again", reason="no answer yet" if late else "it cannot be reached yet")
        return following

    def get_backoff_time(self) -> float:
        """Seconds until it is asked again: none after a late answer, which has been waited for already."""
        return 0.0 if self.history and is_late(self.history[-1].error) else super().get_backoff_time()


def is_late(error: Exception | None) -> bool:
    """Whether the request was taken and not answered in time."""
    return isinstance(error, urllib3.exceptions.ReadTimeoutError)


def make_patience() -> Patience:
    """For one enrolment.

    A lost reply is asked for again; a redirect is not followed, for the token is meant for this console alone.
    """
    return Patience(
        total=ATTEMPTS - 1,
        read=LATE_ATTEMPTS - 1,
        redirect=False,
        other=0,  # a certificate that is not trusted will not be so the next time
        allowed_methods=None,
        status_forcelist=_PASSING,
        backoff_factor=0.25,
        backoff_jitter=0.25,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
