"""One WebSocket, read and written without a task of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from kubespan.agent.console import MAX_FRAME, OPEN_SECONDS, PING_SECONDS
from kubespan.core.messages import dump

if TYPE_CHECKING:
    from tests.crowd.caller import Caller


class Wire(asyncio.Protocol):
    """One WebSocket, without a task of its own: what arrives is stamped, and read now or after some thought."""

    def __init__(self, owner: Caller, url: str) -> None:
        self._owner = owner
        self._crowd = owner.crowd
        self._url = url
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._pieces: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self.slow = False

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._protocol = ClientProtocol(parse_uri(self._url), max_size=MAX_FRAME)
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        self._timer = self._crowd.loop.call_later(OPEN_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        think = self._crowd.think
        if not (self._waiting or (self.slow and think)):
            self._read(now, data)
            return
        self._waiting.append((now, data))
        if len(self._waiting) == 1:
            self._crowd.loop.call_later(random.uniform(*think), self._think)

    def _think(self) -> None:
        while self._waiting:
            self._read(*self._waiting.popleft())

    def _read(self, at: float, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event, at)
            elif self._protocol.handshake_exc is None:
                self._timer.cancel()
                self._timer = self._crowd.loop.call_later(random.uniform(0.5, 1) * PING_SECONDS, self._ping)
                self._owner.opened()
        self._flush()

    def _take(self, frame: Frame, at: float) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._pieces.append(bytes(frame.data))
            if frame.fin:
                whole, self._pieces = b"".join(self._pieces), []
                self._owner.heard(whole, at)
        elif frame.opcode is Opcode.PONG:
            self._timer.cancel()
            self._timer = self._crowd.loop.call_later(PING_SECONDS, self._ping)

    def _ping(self) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._flush()
        self._timer = self._crowd.loop.call_later(PING_SECONDS, self._transport.abort)

    def say(self, message: msgspec.Struct) -> int:
        """Send a message; its size."""
        return self.send(dump(message))

    def send(self, raw: bytes) -> int:
        """Send a frame; its size."""
        if self._protocol.state is not OPEN:
            return 0
        self._protocol.send_text(raw)
        self._flush()
        self._crowd.counts["bytes_sent"] += len(raw)
        return len(raw)

    def close(self, code: int | None) -> None:
        """Close, or cut without a word."""
        if code is not None and self._protocol.state is OPEN:
            self._protocol.send_close(code)
            self._flush()
        else:
            self._transport.abort()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    def eof_received(self) -> None:
        self._think()
        if not self._over:
            self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self._waiting.clear()  # what came after a cut was not heard
        if self._timer:
            self._timer.cancel()
        self._owner.closed(self._protocol.close_code)
