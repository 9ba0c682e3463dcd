"""Enrolment in a web process: the same answer as `nodes.api` gives, without a thread and a connection of its own.

Django serves each request in a new thread, with a new connection to the database. A thousand machines that enrol at
once would be a thousand of each; here they wait for a few that last (`nodes.agents.rows`). An agent whose patience ends
asks again: a request that nobody waits for any more is let go, so that those who do wait are answered in time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from kubespan.core.endpoint import IPAddress
from kubespan.core.messages import Refusal, dump
from nodes import api
from nodes.agents.conversation import Receive, Send, peer_address
from nodes.agents.rows import AWAY, at_door
from nodes.counters import count

log = structlog.get_logger(__name__)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one POST."""
    body = await _read(receive)
    if body is None:
        return  # it went away
    gone = asyncio.create_task(_wait_gone(receive))
    try:
        status, answer = await at_door(_answer, body, peer_address(scope), gone)
    except _Gone:
        log.info("who asked to enrol has gone")
        return
    except AWAY as error:
        log.warning("nobody can enrol", error=str(error))
        status, answer = 503, dump(Refusal(code="later", reason="The console's database is away; try again soon."))
    except Exception:
        log.exception("an enrolment failed")
        status, answer = 500, dump(Refusal(code="fault", reason="The console met a fault of its own; its log has it."))
    finally:
        gone.cancel()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class _Gone(Exception):
    """Nobody waits for the answer."""


def _answer(body: bytes, peer: IPAddress | None, gone: asyncio.Task[None]) -> tuple[int, bytes]:
    """Answer it, in a thread, when its turn has come; raises _Gone."""
    if gone.done():
        count("enrol.gone")
        raise _Gone
    return api.answer_enrolment(body, peer)


async def _wait_gone(receive: Receive) -> None:
    """Wait until the connection is closed: after the body there is nothing else to come."""
    while (await receive())["type"] != "http.disconnect":
        pass


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
