"""The reference of `fanout`: sockets of the same server, and a broadcast to them, with nothing of ours in between.

Run as `uvicorn tests.bench.bare:application` with the console's own flags; a POST's body is the frame.
"""

from __future__ import annotations

import gc
import json
import time

sockets = set()


async def application(scope, receive, send):
    """Serve listeners; send all of them what is posted."""
    match scope["type"]:
        case "websocket":
            await _listen(receive, send)
        case "http":
            await _broadcast(receive, send)
        case _:
            await _live(receive, send)


async def _live(receive, send):
    await receive()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)  # as the console's
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _listen(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    sockets.add(send)
    try:
        while (await receive())["type"] != "websocket.disconnect":
            pass
    finally:
        sockets.discard(send)


async def _broadcast(receive, send):
    body = b""
    more = True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    message = {"type": "websocket.send", "text": body.decode()}
    started = time.monotonic()
    for deliver in list(sockets):
        await deliver(message)
    answer = json.dumps({"started": started, "sockets": len(sockets)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer})
