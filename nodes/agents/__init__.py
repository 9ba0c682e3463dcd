"""The ASGI end of agents' sockets, mounted before Channels' router: no consumer, no group, no layer in its way.

One `End` a process and event loop holds what its sockets share: the hub that frames come through (`hub`), the reports
on their way to Redis and pages (`reports`), and what waits to become rows (`ledger`). A `Conversation` is one
connection. The `End` is made by the first connection, or by the server's start, and closed by its stop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nodes.agents.conversation import Conversation, End, Receive, Send, peer_address

__all__ = ["application", "lifespan", "peer_address", "running_end", "stop_end"]

_end: End | None = None


def running_end() -> End:
    """The end of this process and event loop, started if it is not yet."""
    global _end  # noqa: PLW0603 - one a process is what it is
    if _end is None or _end.loop is not asyncio.get_running_loop():
        _end = End()
        _end.start()
    return _end


async def stop_end() -> None:
    """Close what is open; the next connection would begin anew."""
    global _end
    end, _end = _end, None
    if end is not None and end.loop is asyncio.get_running_loop():
        await end.stop()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Serve one agent's WebSocket."""
    end = running_end()
    with end.serving():
        await Conversation(end, scope, receive, send).run()


async def lifespan(_scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Start with the server, stop with it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            running_end()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await stop_end()
            await send({"type": "lifespan.shutdown.complete"})
            return
