"""Enrolment in a web process: the same answer as `nodes.api` gives, without a thread and a connection of its own.

Django serves each request in a new thread, with a new connection to the database. A thousand machines that enrol at
once would be a thousand of each; here they wait for a few that last (`nodes.agents.rows`).
"""

from __future__ import annotations

from typing import Any

import structlog

from kubespan.core.messages import Refusal, dump
from nodes import api
from nodes.agents.conversation import Receive, Send, peer_address
from nodes.agents.rows import AWAY, at_door

log = structlog.get_logger(__name__)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one POST."""
    body = await _read(receive)
    if body is None:
        return  # it went away
    try:
        status, answer = await at_door(api.answer_enrolment, body, peer_address(scope))
    except AWAY as error:
        log.warning("nobody can enrol", error=str(error))
        status, answer = 503, dump(Refusal(code="later", reason="The console's database is away; try again soon."))
    except Exception:
        log.exception("an enrolment failed")
        status, answer = 500, dump(Refusal(code="fault", reason="The console met a fault of its own; its log has it."))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _read(receive: Receive) -> bytes | None:
    """The body, or as much of it as tells that it is too long."""
    body = b""
    while len(body) <= api.BODY_LIMIT:
        event = await receive()
        if event["type"] != "http.request":
            return None
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    return body
