"""The reference: sockets of the same server, with nothing of ours in between.

Run as `uvicorn tests.bench.bare:application` with the console's own flags. What a socket says is counted and forgotten.
A POST to `/` sends its body to all sockets, one to `/heard` also waits until each has answered; any other is answered.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time


class Room:
    """All sockets, and how much they have said."""

    def __init__(self):
        self.sockets = set()
        self.said = 0
        self._more = asyncio.Event()

    def hear(self):
        """Count what one says."""
        self.said += 1
        self._more.set()

    async def wait(self, said):
        """Wait until they have said so much."""
        while self.said < said:
            self._more.clear()
            await self._more.wait()


room = Room()


async def application(scope, receive, send):
    """Serve listeners; send all of them what is posted."""
    match scope["type"]:
        case "websocket":
            await _listen(receive, send)
        case "http":
            await _answer(scope["path"], receive, send)
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
    room.sockets.add(send)
    try:
        while (await receive())["type"] != "websocket.disconnect":
            room.hear()
    finally:
        room.sockets.discard(send)


async def _answer(path, receive, send):
    body = b""
    unfinished = True
    while unfinished:
        part = await receive()
        body += part.get("body", b"")
        unfinished = part.get("more_body", False)
    told = {}
    if path in ("/", "/heard"):
        told = await _broadcast(body.decode(), wait=path == "/heard")
    answer = json.dumps(told).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer})


async def _broadcast(text, *, wait):
    message = {"type": "websocket.send", "text": text}
    everybody, said = list(room.sockets), room.said
    started = time.monotonic()
    for deliver in everybody:
        await deliver(message)
    if wait:
        await room.wait(said + len(everybody))
    return {"started": started, "sockets": len(everybody), "heard": time.monotonic()}
