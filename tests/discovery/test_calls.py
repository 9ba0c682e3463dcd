"""gRPC by h2: a service that does what it should not, and any bytes at all. What it should do is in test_client.py."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass, field

import h2.connection
import h2.events
import pytest
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from kubespan.discovery import calls
from kubespan.discovery.calls import MESSAGE_BYTES, CallError, Connection, connect

PATIENCE = 60.0
OK = [(":status", "200"), ("content-type", "application/grpc")]


def framed(message, *, compressed=False):
    return struct.pack(">?I", compressed, len(message)) + message


@dataclass
class Answer:
    """What the service says to a call: headers, pieces of a body, trailers; without them it says nothing more."""

    headers: list[tuple[str, str]] = field(default_factory=lambda: OK)
    body: tuple[bytes, ...] = ()
    trailers: list[tuple[str, str]] | None = None
    reset: bool = False
    leave: bool = False


class Double:
    """A service of HTTP/2 that answers all calls in one way."""

    def __init__(self, answer, window=65_535):
        self.answer = answer
        self.window = window
        self.requests: dict[int, bytearray] = {}
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.given_up = asyncio.Event()
        self.pinged = asyncio.Event()
        self.silent = False

    async def serve(self, reader, writer):
        speaking = h2.connection.H2Connection(H2Configuration(client_side=False))
        speaking.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = self.window
        speaking.initiate_connection()
        writer.write(speaking.data_to_send())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if self.silent:
                    continue
                for event in speaking.receive_data(data):
                    self.hear(speaking, event)
                writer.write(speaking.data_to_send())
                await writer.drain()
        writer.close()

    def hear(self, speaking, event):
        match event:
            case h2.events.RequestReceived(stream_id=number, headers=headers):
                self.headers[number], self.requests[number] = dict(headers), bytearray()
            case h2.events.DataReceived(stream_id=number, data=data, flow_controlled_length=length):
                self.requests[number] += data
                speaking.acknowledge_received_data(length, number)
            case h2.events.StreamEnded(stream_id=number):
                self.say(speaking, number)
            case h2.events.StreamReset(error_code=ErrorCodes.CANCEL):
                self.given_up.set()
            case h2.events.PingReceived():
                self.pinged.set()

    def say(self, speaking, number):
        answer = self.answer
        speaking.send_headers(
            number, answer.headers, end_stream=answer.trailers is None and "grpc-status" in dict(answer.headers)
        )
        for piece in answer.body:
            speaking.send_data(number, piece)
        if answer.trailers is not None:
            speaking.send_headers(number, answer.trailers, end_stream=True)
        if answer.reset:
            speaking.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
        if answer.leave:
            speaking.close_connection()


@contextlib.asynccontextmanager
async def connected(double, ping_every=3600.0):
    server = await asyncio.start_server(double.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with connect("127.0.0.1", port, tls=None, ping_every=ping_every, seconds=PATIENCE) as connection:
            yield connection
    finally:
        server.close()


DONE = [("grpc-status", "0")]


async def test_a_request_is_what_a_service_of_grpc_expects():
    double = Double(Answer(body=(framed(b"yes"),), trailers=DONE))
    async with connected(double) as connection:
        assert await connection.call("/service/Call", b"question", PATIENCE) == b"yes"
    assert double.requests[1] == framed(b"question")
    assert double.headers[1] == {
        b":method": b"POST", b":scheme": b"http", b":path": b"/service/Call", b"te": b"trailers",
        b":authority": double.headers[1][b":authority"], b"content-type": b"application/grpc",
        b"grpc-timeout": b"60000m",
    }  # fmt: skip
    assert double.headers[1][b":authority"].startswith(b"127.0.0.1:")


async def test_answers_in_pieces_and_several_in_one():
    whole = framed(b"first") + framed(b"") + framed(b"third" * 1000)
    pieces = tuple(whole[start : start + 7] for start in range(0, len(whole), 7))
    async with connected(Double(Answer(body=pieces, trailers=DONE))) as connection:
        found = [answer async for answer in connection.stream("/s/Watch", b"")]
    assert found == [b"first", b"", b"third" * 1000]


async def test_a_request_waits_for_the_room_that_a_service_gives():
    double = Double(Answer(body=(framed(b"yes"),), trailers=DONE), window=10)
    async with connected(double) as connection:
        assert await connection.call("/s/Call", bytes(5000), PATIENCE) == b"yes"
    assert double.requests[1] == framed(bytes(5000))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(Answer(headers=[*OK, ("grpc-status", "5"), ("grpc-message", "no such%20cluster")]),
                     "no such cluster (NOT_FOUND)", id="at once, its words quoted for the way"),
        pytest.param(Answer(trailers=[("grpc-status", "14")]), "the service gives no reason (UNAVAILABLE)",
                     id="without a reason"),
        pytest.param(Answer(trailers=[("grpc-status", "13"), ("grpc-message", "%1B[2Jbad" + "x" * 999)]),
                     "[2Jbad" + "x" * 250 + " (INTERNAL)", id="words that a terminal would obey, and very many"),
        pytest.param(Answer(trailers=[("grpc-status", "99")]), "no reason (UNKNOWN)", id="a status that there is not"),
        pytest.param(Answer(trailers=[("grpc-status", "one")]), "no reason (UNKNOWN)", id="a status that is no number"),
        pytest.param(Answer(trailers=[("x", "y")]), "no reason (UNKNOWN)", id="no status"),
        pytest.param(Answer(trailers=DONE), "0 answers to one question", id="no answer"),
        pytest.param(Answer(body=(framed(b"1"), framed(b"2")), trailers=DONE), "2 answers to one question", id="two"),
        pytest.param(Answer(body=(framed(b"12345")[:-1],), trailers=DONE), "cut off (DATA_LOSS)", id="half an answer"),
        pytest.param(Answer(body=(framed(b"", compressed=True),)), "compressed", id="a compressed one"),
        pytest.param(Answer(body=(struct.pack(">?I", False, MESSAGE_BYTES),)), f"over {MESSAGE_BYTES} bytes",
                     id="one that would fill the memory"),
        pytest.param(Answer(headers=[(":status", "502")], trailers=[("x", "y")]), "HTTP status 502 (UNAVAILABLE)",
                     id="a proxy in front of nothing"),
        pytest.param(Answer(headers=[(":status", "200"), ("content-type", "text/html")], trailers=[("x", "y")]),
                     "no gRPC service", id="a web server"),
        pytest.param(Answer(reset=True), "broke off the call, HTTP/2 error 2 (UNAVAILABLE)", id="broken off"),
    ],
)  # fmt: skip
async def test_what_a_service_says_of_a_failure(answer, sentence):
    async with connected(Double(answer)) as connection:
        with pytest.raises(CallError) as error:
            await connection.call("/s/Call", b"", PATIENCE)
    assert str(error.value).endswith(sentence) or sentence in str(error.value)


async def test_a_service_that_leaves_ends_what_is_under_way_and_what_comes():
    async with connected(Double(Answer(body=(framed(b"first"),), leave=True))) as connection:
        watch = connection.stream("/s/Watch", b"")
        assert await anext(watch) == b"first"
        for asking in (anext(watch), connection.call("/s/Call", b"", PATIENCE)):
            with pytest.raises(OSError, match="closes the connection"):
                await asking


async def test_a_call_that_is_given_up_is_taken_back_and_others_go_on():
    double = Double(Answer(body=(framed(b"first"),)))
    async with connected(double) as connection:
        with pytest.raises(TimeoutError):
            await connection.call("/s/Call", b"", 0.1)
        async with asyncio.timeout(PATIENCE):
            await double.given_up.wait()
        watch = connection.stream("/s/Watch", b"")
        assert await anext(watch) == b"first"
        await watch.aclose()


async def test_a_service_that_is_silent_is_found_out_by_pings(monkeypatch):
    monkeypatch.setattr(calls, "PING_TIMEOUT", 3.0)  # nor is it found out before, on a busy machine
    double = Double(Answer(body=(framed(b"first"),)))
    async with connected(double, ping_every=0.05) as connection:
        watch = connection.stream("/s/Watch", b"")
        assert await anext(watch) == b"first"
        async with asyncio.timeout(PATIENCE):
            await double.pinged.wait()
            double.silent = True
            with pytest.raises(OSError, match="does not answer any more"):
                await anext(watch)


async def test_nobody_listens_and_nobody_answers(unused_tcp_port_factory):
    with pytest.raises(ConnectionRefusedError):
        async with connect(
            "127.0.0.1", unused_tcp_port_factory(), tls=None, ping_every=1.0, seconds=PATIENCE
        ):  # fmt: skip
            pass

    async def never(host, port):
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with connect("127.0.0.1", 1, tls=None, ping_every=1.0, dial=never, seconds=0.05):
            pass


class Wire:
    """A transport without a wire."""

    def __init__(self):
        self.closed = False

    def write(self, data):
        pass

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    abort = close


def begin():
    connection = Connection("c:1", secure=False, ping_every=3600.0)
    connection.connection_made(Wire())
    return connection


def answer_bytes():
    """What a service sends as answer to the first call."""
    service = h2.connection.H2Connection(H2Configuration(client_side=False))
    service.initiate_connection()
    client = h2.connection.H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":authority", "c"), (":path", "/")])
    service.receive_data(client.data_to_send())
    service.send_headers(1, OK)
    service.send_data(1, framed(b"answer"))
    service.send_headers(1, DONE, end_stream=True)
    return service.data_to_send()


@pytest.mark.parametrize(
    "error", [None, BrokenPipeError(32, "Broken pipe"), ConnectionResetError(104, "reset by peer")]
)
async def test_however_one_hears_that_a_service_went_it_is_told_in_one_way(error):
    connection = begin()
    connection.connection_lost(error)
    with pytest.raises(OSError, match="the service closed the connection"):
        await connection.call("/s/Call", b"", PATIENCE)


@given(data=st.binary(max_size=600), place=st.integers(0, 200), keep=st.integers(0, 200))
async def test_no_bytes_whatever_do_more_than_end_the_connection(data, place, keep):
    whole = answer_bytes()
    for sent in (data, whole[:place] + data + whole[place + keep :]):
        connection = begin()
        watch = connection.stream("/s/Watch", b"")
        asking = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        connection.data_received(sent)
        connection.connection_lost(None)
        with contextlib.suppress(CallError, OSError, StopAsyncIteration):
            await asking
        await watch.aclose()
