"""The connection itself: patience, refusals, TLS, and who may hear what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from kubespan.agent.console import (
    BACKOFF_MOST,
    SLOW_RETRY,
    Way,
    asks_for_patience,
    backoff,
    converse,
    slow_retry,
)
from kubespan.agent.sockets import MARK, dial, may_mark
from kubespan.agent.trust import ConsoleUrl, tls_context
from kubespan.core.messages import Applied, Challenge, Hello, Notice, Refused, Revision, Welcome, dump
from tests.agent.certificates import make_certificate
from tests.agent.console_double import Bench, ConsoleDouble, running, sealed_secret, snapshot


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_is_bounded_and_jittered_down_to_nothing(attempt, chance):
    assert 0 <= backoff(attempt, chance) <= BACKOFF_MOST
    assert backoff(attempt, 0.0) == 0.0


def test_backoff_grows_to_what_has_everybody_back_within_seconds():
    assert [round(backoff(attempt, 1.0)) for attempt in range(7)] == [1, 2, 2, 3, 5, 5, 5]


def test_a_console_that_asks_for_patience_has_it():
    assert [round(backoff(attempt, 1.0, later=True)) for attempt in range(10)] == [1, 2, 2, 3, 5, 8, 11, 17, 26, 30]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ConnectionClosedError(Close(1013, ""), None), True, id="it says so"),
        pytest.param(ConnectionClosedError(Close(1012, ""), None), False, id="it restarts"),
        pytest.param(ConnectionClosedError(None, Close(1013, "")), False, id="we said so"),
        pytest.param(ConnectionClosedError(None, None), False, id="nobody said anything"),
        pytest.param(ConnectionRefusedError(), False, id="it is not there"),
    ],
)
def test_patience_is_for_a_console_that_asks_for_it(error, expected):
    assert asks_for_patience(error) == expected


@given(st.floats(0, 1))
def test_after_a_refusal_it_is_never_soon(chance):
    assert SLOW_RETRY / 2 <= slow_retry(chance) <= SLOW_RETRY * 1.5


class Listener:
    """A party that notes how connections ended."""

    def __init__(self) -> None:
        self.reasons: asyncio.Queue[str] = asyncio.Queue()

    def greet(self, challenge: Challenge) -> Hello:
        return Hello(version=1, cluster="c", node_id="n", signature="s")

    def hear(self, message: object) -> None:
        """Hear it."""

    def speak(self) -> Iterator[Notice]:
        yield from ()

    async def need(self) -> None:
        await asyncio.Event().wait()

    def misheard(self) -> None:
        """Note it."""

    def left(self, reason: str) -> None:
        self.reasons.put_nowait(reason)


@contextlib.asynccontextmanager
async def talking(way, party, waits=None):
    """Converse in the background; `waits` notes that the agent is about to wait."""

    def chance() -> float:
        if waits is not None:
            waits.append(1)
        return 0.0

    task = asyncio.create_task(converse(way, party, chance))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def way_to(server, scheme="http", tls=None):
    return Way(ConsoleUrl.parse(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"), tls)


async def first_reason(way):
    party = Listener()
    async with talking(way, party):
        return await party.reasons.get()


async def test_nobody_there_is_a_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        way = Way(ConsoleUrl.parse(f"http://127.0.0.1:{free.getsockname()[1]}"), None)
        assert await first_reason(way) == "cannot connect to the console: Connection refused"


async def test_a_name_that_cannot_be_one_is_survived():
    assert await first_reason(Way(ConsoleUrl(secure=False, host="a..b", port=80, path=""), None))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404", id="not found"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", "cannot", id="redirect"),
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n", "cannot", id="another protocol"),
        pytest.param(b"", "cannot", id="nothing"),
    ],
)
async def test_something_else_that_answers_is_survived(answer, sentence):
    async def answer_and_close(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer_and_close, "127.0.0.1", 0) as server:
        assert sentence in await first_reason(way_to(server))


async def test_a_refusal_at_the_door_is_told_and_taken_for_lasting():
    async def refuse(connection):
        await connection.send(dump(Refused(code="node-unknown", reason="Enrol it.")).decode())

    party, waits = Listener(), []
    async with serve(refuse, "127.0.0.1", 0) as server, talking(way_to(server), party, waits):
        assert await party.reasons.get() == "the console refuses this machine: Enrol it. (node-unknown)"
        # With a chance of nought an ordinary wait is over at once; after a refusal it is minutes.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await party.reasons.get()


async def test_a_refusal_of_what_was_said_is_tried_again_soon():
    async def refuse_later(connection):
        await connection.send(dump(Challenge(nonce="x", versions=(1,))).decode())
        await connection.recv()
        await connection.send(dump(Welcome(version=1, status="approved", console_time=0.0)).decode())
        await connection.send(dump(Refused(code="too-large", reason="Too much.")).decode())

    party = Listener()
    async with serve(refuse_later, "127.0.0.1", 0) as server, talking(way_to(server), party):
        assert [await party.reasons.get() for _ in range(2)] == 2 * [
            "the console refuses this machine: Too much. (too-large)"
        ]


async def test_a_fault_of_our_own_ends_one_connection():
    async def provoke(connection):
        await connection.send(dump(Challenge(nonce="x", versions=(1,))).decode())
        await connection.recv()
        await connection.send('{"type":"welcome","version":1,"status":"approved","console_time":0}')
        await connection.wait_closed()

    class Broken(Listener):
        def hear(self, message):
            raise RuntimeError("unforeseen")

    party = Broken()
    async with serve(provoke, "127.0.0.1", 0) as server, talking(way_to(server), party):
        assert [await party.reasons.get() for _ in range(2)] == 2 * ["a fault of this agent: RuntimeError"]


async def test_a_certificate_that_is_pinned_is_trusted_and_no_other(tmp_path):
    good, evil = make_certificate(tmp_path), make_certificate(tmp_path, name="evil")
    said = []

    async def listen(connection):
        await connection.send(dump(Challenge(nonce="x", versions=(1,))).decode())
        said.append(await connection.recv())

    url = ConsoleUrl.parse("https://127.0.0.1")
    async with serve(listen, "127.0.0.1", 0, ssl=evil.context) as server:
        assert "not trusted" in await first_reason(way_to(server, "https", tls_context(url, good.der)))
    assert said == []
    async with serve(listen, "127.0.0.1", 0, ssl=good.context) as server:
        assert "closed" in await first_reason(way_to(server, "https", tls_context(url, good.der)))
    assert len(said) == 1


async def test_an_agent_meshes_over_tls(tmp_path):
    certificate = make_certificate(tmp_path)
    double = ConsoleDouble()
    async with serve(double.serve, "127.0.0.1", 0, ssl=certificate.context, compression=None) as server:
        way = way_to(server, "https", tls_context(ConsoleUrl.parse("https://127.0.0.1"), certificate.der))
        async with running(Bench(tmp_path / "state").agent(), way):
            line = await double.line()
            await line.let_in(sealed_secret(), snapshot())
            assert (await line.hear(Applied)).revision == Revision(1, 1)


async def test_a_socket_that_takes_nothing_holds_up_no_look(tmp_path):
    """The console reads no more; the machine goes on meshing, and does not pile up what it would say."""
    bench = Bench(tmp_path / "state")
    async with ConsoleDouble().listening() as console, running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        line.socket.transport.pause_reading()
        for number in range(3):
            bench.kernel.delete_link()
            bench.host.events.put_nowait(f"link {number}")
            await bench.kernel.until(lambda: len(bench.kernel.peers) == 2)
        line.socket.transport.resume_reading()


async def test_both_families_are_tried():
    """`localhost` has an IPv6 address on most machines; the listener is on IPv4 alone."""

    async def hang_up(reader, writer):
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        made = await dial("localhost", server.sockets[0].getsockname()[1], marked=False)
        assert made.family == socket.AF_INET
        made.close()


@pytest.mark.root
@pytest.mark.skipif(not may_mark(), reason="marking a socket takes CAP_NET_ADMIN")
async def test_connections_carry_wireguards_own_mark():
    async def hang_up(reader, writer):
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        made = await dial("127.0.0.1", server.sockets[0].getsockname()[1], marked=True)
        assert made.getsockopt(*MARK[:2]) == 0x20
        made.close()


def test_plain_http_has_no_tls_and_https_is_modern():
    assert tls_context(ConsoleUrl.parse("http://localhost"), None) is None
    context = tls_context(ConsoleUrl.parse("https://console.example"), None)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
