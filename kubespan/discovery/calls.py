"""gRPC as far as a client of the protocol needs it: calls with one answer or with many, over HTTP/2 by the library h2.

grpcio is for the service. It cannot mark its sockets, which must stay outside the tunnel, nor trust one certificate
alone, and eight builds of it are 60 MB (docs/decisions/0008-the-client-speaks-grpc-by-h2.md).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error

from kubespan.core.text import printable

MESSAGE_BYTES = 8 * 1024 * 1024
"""Of one answer: a snapshot has some 4.3 MB at most; other services send it whole."""
PING_TIMEOUT = 20.0
CLOSE_SECONDS = 2.0
"""For the farewell, TLS's too, before the connection is dropped."""
PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length."""

ALPN = "h2"
"""By which TLS agrees on HTTP/2."""

STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""By their numbers."""

Dial = Callable[[str, int], Awaitable[socket.socket]]
"""Makes a socket that is connected to a host and port. May raise OSError."""


def make_context(roots: bytes | None = None, *, besides: bool = False) -> ssl.SSLContext:
    """Check as Go does, and Talos with it: a chain to a trusted certificate, its dates and its names, and no more.

    `roots` (PEM) are trusted instead of what this machine trusts, or `besides`.
    """
    given = roots.decode() if roots else None
    context = ssl.create_default_context(cadata=None if besides else given)
    if besides and given:
        context.load_verify_locations(cadata=given)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # A certificate that is trusted itself needs no other above it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    return context


class CallError(Exception):
    """A call came to nothing; the text has the service's words and the status' name."""

    def __init__(self, details: str, status: str) -> None:
        super().__init__(f"{details} ({status})")
        self.details = details
        self.status = status


class _Answer:
    """What has come of one call's answer."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        """None at the end."""
        self.fault: Exception | None = None
        self._headers: dict[str, str] = {}
        self._data = bytearray()
        self.ended = False

    def hear(self, event: Event) -> None:
        """Take what belongs to this call."""
        match event:
            case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
                # Where a call fails at once, its headers are its trailers.
                self._headers |= {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
            case DataReceived(data=data) if not self.ended:
                self._data += data
                self._divide()
            case StreamEnded():
                self.end(self._verdict())
            case StreamReset(error_code=code):
                self.end(CallError(f"the service broke off the call, HTTP/2 error {int(code)}", "UNAVAILABLE"))

    def _divide(self) -> None:
        """Give the messages that are whole by now."""
        while len(self._data) >= PREFIX_BYTES:
            end = PREFIX_BYTES + int.from_bytes(self._data[1:PREFIX_BYTES], "big")
            if self._data[0] or end > MESSAGE_BYTES:
                reason = "is compressed, which nobody asked for" if self._data[0] else f"has over {MESSAGE_BYTES} bytes"
                self.end(CallError(f"an answer of the service {reason}", "INTERNAL"))
                return
            if len(self._data) < end:
                return
            self.messages.put_nowait(bytes(self._data[PREFIX_BYTES:end]))
            del self._data[:end]

    def end(self, fault: Exception | None) -> None:
        """Note that nothing more comes; the first word on why counts."""
        if not self.ended:
            self.ended = True
            self.fault = fault
            self.messages.put_nowait(None)

    def _verdict(self) -> Exception | None:
        """What the service itself says of the call once it has ended."""
        http = self._headers.get(":status", "")
        if http != "200":
            return CallError(f"the answer is HTTP status {http or 'missing'}", "UNAVAILABLE")
        if not self._headers.get("content-type", "").startswith("application/grpc"):
            return CallError("what answers is no gRPC service", "UNIMPLEMENTED")
        code = self._headers.get("grpc-status", "")
        status = STATUSES[int(code)] if code.isdecimal() and int(code) < len(STATUSES) else "UNKNOWN"
        if status == "OK":
            return CallError("an answer of the service is cut off", "DATA_LOSS") if self._data else None
        details = printable(unquote(self._headers.get("grpc-message", "")))
        return CallError(details or "the service gives no reason", status)


class Connection(asyncio.Protocol):
    """One connection to a service."""

    def __init__(self, authority: str, *, secure: bool, ping_every: float) -> None:
        self._head = [
            (":method", "POST"),
            (":scheme", "https" if secure else "http"),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._ping_every = ping_every
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._answers: dict[int, _Answer] = {}
        self._fault: OSError | None = None
        self._room = asyncio.Event()
        """Set when the service may take more than it did."""
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None

    async def call(self, path: str, request: bytes, seconds: float) -> bytes:
        """Ask for one answer. Raises CallError, and OSError where there is no answer (TimeoutError is one)."""
        async with asyncio.timeout(seconds), aclosing(self.stream(path, request, seconds)) as answers:
            found = [answer async for answer in answers]
        if len(found) != 1:
            raise CallError(f"the service gives {len(found)} answers to one question", "INTERNAL")
        return found[0]

    async def stream(self, path: str, request: bytes, seconds: float | None = None) -> AsyncGenerator[bytes]:
        """Ask, and give answers as they come, until the service ends them. Raises CallError and OSError."""
        # A service that makes those wait who ask too often must know for how long they will.
        deadline = [] if seconds is None else [("grpc-timeout", f"{int(seconds * 1000)}m")]
        answer = _Answer()
        with _as_os_error():
            number = self._begin([(":path", path), *self._head, *deadline], answer)
            try:
                await self._send(number, bytes(1) + len(request).to_bytes(4, "big") + request)
                while (message := await answer.messages.get()) is not None:
                    yield message
                if answer.fault is not None:
                    raise answer.fault
            finally:
                self._forget(number)

    async def close(self) -> None:
        """Say farewell, and wait until the connection has ended."""
        if self._fault is None:
            self._h2.close_connection()
            self._flush()
        self._end("the connection was closed")
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to speak HTTP/2."""
        self._transport = transport  # type: ignore[assignment] # of a stream socket
        self._h2.initiate_connection()
        self._flush()
        self._timer = asyncio.get_running_loop().call_later(self._ping_every, self._ping)

    def data_received(self, data: bytes) -> None:
        """Hear what the service sends."""
        try:
            for event in self._h2.receive_data(data):
                self._hear(event)
            self._flush()
        except H2Error as error:
            self._flush()  # h2 has put down what it thinks of this
            self._end(f"what answers does not speak gRPC: {error or type(error).__name__}")

    def connection_lost(self, error: Exception | None) -> None:
        """Hear that there is no connection any more."""
        # What is being said at that moment hears of it as a broken pipe, or as a reset.
        closed = error is None or isinstance(error, BrokenPipeError | ConnectionResetError)
        self._end("the service closed the connection" if closed else str(error))
        self._gone.set()

    # How it is done.

    def _begin(self, headers: list[tuple[str, str]], answer: _Answer) -> int:
        if self._fault is not None:
            raise self._fault
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, headers)
        self._answers[number] = answer
        self._flush()
        return number

    async def _send(self, number: int, data: bytes) -> None:
        """Send the whole of a request, as the service makes room for it."""
        while self._fault is None and not self._answers[number].ended:
            size = min(len(data), self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if size > 0:
                self._h2.send_data(number, data[:size], end_stream=size == len(data))
                self._flush()
                data = data[size:]
                if not data:
                    return
            else:
                self._room.clear()
                await self._room.wait()

    def _forget(self, number: int) -> None:
        """Let go of a call, and tell the service where it has not ended by itself."""
        if self._answers.pop(number, None) is None or self._fault is not None:
            return
        with suppress(H2Error):  # it ended
            self._h2.reset_stream(number, ErrorCodes.CANCEL)
        self._flush()

    def _hear(self, event: Event) -> None:
        match event:
            case WindowUpdated() | RemoteSettingsChanged():
                self._room.set()
            case PingAckReceived():
                self._stop_waiting()
            case ConnectionTerminated():
                self._end("the service closes the connection")
            case DataReceived(stream_id=number, flow_controlled_length=length):
                # At once, for an answer may be larger than the window.
                self._h2.acknowledge_received_data(length, number)
        if (answer := self._answers.get(getattr(event, "stream_id", 0))) is not None:
            answer.hear(event)
            self._room.set()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _ping(self) -> None:
        """See that somebody is there: who forwards packets may forget a quiet connection without a word."""
        if self._fault is not None:
            return
        self._h2.ping(b"kubespan")
        self._flush()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._ping_every, self._ping)
        if self._patience is None:
            self._patience = loop.call_later(PING_TIMEOUT, self._give_up)

    def _give_up(self) -> None:
        self._end("the service does not answer any more")
        self._transport.abort()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _end(self, reason: str) -> None:
        if self._fault is not None:
            return
        self._fault = ConnectionError(reason)
        self._stop_waiting()
        if self._timer is not None:
            self._timer.cancel()
        for answer in self._answers.values():
            answer.end(self._fault)
        self._answers.clear()
        self._room.set()
        self._transport.close()


@asynccontextmanager
async def connect(
    host: str, port: int, *, tls: ssl.SSLContext | None, ping_every: float, dial: Dial | None = None, seconds: float
) -> AsyncIterator[Connection]:
    """Be connected to a service for the block, by TLS unless there is none. Raises OSError."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    made = Connection(authority, secure=tls is not None, ping_every=ping_every)
    async with asyncio.timeout(seconds):
        where: dict[str, Any] = {"host": host, "port": port} if dial is None else {"sock": await dial(host, port)}
        if tls is not None:
            where |= {"ssl": tls, "server_hostname": host, "ssl_shutdown_timeout": CLOSE_SECONDS}
        transport, connection = await asyncio.get_running_loop().create_connection(lambda: made, **where)
    try:
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != ALPN:
            raise ConnectionError("what answers does not offer HTTP/2 (ALPN h2), which gRPC needs")
        yield connection
    finally:
        await connection.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise what h2 refuses to do, as on a connection that has just ended, as an OSError."""
    try:
        yield
    except H2Error as error:
        raise ConnectionError(str(error) or type(error).__name__) from None
