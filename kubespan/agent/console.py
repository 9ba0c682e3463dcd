"""One WebSocket to the console, made outwards and made again for ever: settings in, reports out.

The conversation itself is `kubespan.core.messages`. This file knows sockets, limits and patience; what is said is the
business of a `Party`, the loop. Nothing here can stop the data plane: whatever the console sends or fails to send ends
a connection at worst, and the next one begins with the revision that is held.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from kubespan.agent.sockets import dial, explain, may_mark
from kubespan.agent.trust import Way
from kubespan.agent.whereabouts import Whereabouts
from kubespan.core.messages import (
    AGENT_PATH,
    Challenge,
    FromAgent,
    FromConsole,
    Hello,
    MessageError,
    Refused,
    Removed,
    dump,
    parse_from_console,
)

log = structlog.get_logger()

OPEN_SECONDS = 10.0
"""For connecting, for TLS and WebSocket, and for the challenge to come, each."""
PING_SECONDS = 20.0
"""Between pings, and until a connection without an answer counts as dead: NATs forget silently."""
MAX_FRAME = 8 * 1024 * 1024
"""Bytes of the largest frame that is read: a snapshot of 1,000 members with some 30 endpoints each has about 2 MB."""

BACKOFF_FIRST = 1.0
BACKOFF_GROWTH = 1.5
BACKOFF_MOST = 5.0
"""Seconds: a console that was away has its agents back in about the time that it was away, and no more than this."""
BACKOFF_LATER = 30.0
"""Seconds, instead, where it is there and says that it has no room yet: then it must not be what keeps it from us."""
SLOW_RETRY = 300.0
"""Seconds after a refusal: only an operator can change it, and there may be thousands of us."""
SETTLED = 10.0
"""Seconds that a connection must have lasted to count as a good one; else a console that hangs up is not spared."""

POLICY_VIOLATION = 1008
UNUSABLE = frozenset({1002, 1007, 1009})
"""What the library itself closes with: not the protocol, not UTF-8, more than MAX_FRAME."""
GOING_AWAY = 1001
TRY_LATER = 1013
CLOSE_REASON_BYTES = 120
"""A close frame carries at most 123 bytes of reason (RFC 6455 §5.5)."""


class Party(Protocol):
    """Who talks to the console."""

    def greet(self, challenge: Challenge) -> Hello:
        """Answer the challenge; raises MessageError when there is no common version."""

    def hear(self, message: FromConsole) -> None:
        """Take a message; raises MessageError when it does not fit what is held, which ends the connection.

        AskAgain ends it too, and nobody has made a mistake.
        """

    def speak(self) -> Iterator[FromAgent]:
        """Give what is to be said now, one after another; one that was taken has reached the socket before the next."""

    async def need(self) -> None:
        """Wait until there may be something to say."""

    def misheard(self) -> None:
        """Note that the console sent what cannot be used; the connection ends for it."""

    def left(self, reason: str) -> None:
        """Hear that there is no connection, and why."""


class AskAgain(Exception):
    """What came cannot be followed without what a new hello brings; the text says what that is."""


class RefusedError(Exception):
    """The console told us why it does not want us; the text is its own."""

    def __init__(self, message: Refused, *, at_the_door: bool) -> None:
        super().__init__(f"the console refuses this machine: {message.reason} ({message.code})")
        self.at_the_door = at_the_door
        """Refused before any welcome: who we are is not wanted, not what we said."""


def backoff(attempt: int, chance: float, *, later: bool = False) -> float:
    """Seconds to wait after so many failures in a row: exponential with full jitter, `chance` from 0 to 1.

    `later` where the console itself asks for patience.
    """
    most = BACKOFF_LATER if later else BACKOFF_MOST
    return chance * min(most, BACKOFF_FIRST * BACKOFF_GROWTH ** min(attempt, 16))


def slow_retry(chance: float) -> float:
    """Seconds to wait after a refusal: never soon, and not all at once."""
    return SLOW_RETRY * (0.5 + chance)


async def converse(way: Way, party: Party, chance: Callable[[], float], whereabouts: Whereabouts | None = None) -> None:
    """Be connected whenever possible, for ever; ends only by cancellation."""
    marked = may_mark()
    if not marked:
        log.warning(
            "connections to the console are not marked, forced routing may catch them: CAP_NET_ADMIN is missing"
        )
    whereabouts = whereabouts or Whereabouts(way.url)
    attempt = 0
    while True:
        started = time.monotonic()
        later = False
        try:
            await _connection(way, party, whereabouts, marked=marked)
            reason = "the console closed the connection"
        except RefusedError as error:
            reason = str(error)
            if error.at_the_door:
                party.left(reason)
                await asyncio.sleep(slow_retry(chance()))
                continue
        except AskAgain as error:
            reason = str(error)
        except (OSError, WebSocketException, ValueError) as error:
            # ValueError: a message that does not fit, a host name that cannot be one, a redirect.
            reason = _sentence(error)
            later = asks_for_patience(error)
            if _is_unusable(error):
                party.misheard()
        except Exception as error:
            log.exception("talking to the console failed")
            reason = f"a fault of this agent: {type(error).__name__}"
        party.left(reason)
        attempt = 0 if time.monotonic() - started > SETTLED else attempt + 1
        await asyncio.sleep(backoff(attempt, chance(), later=later))


async def visit(way: Way, party: Party, whereabouts: Whereabouts) -> None:
    """One connection, to its end; raises what ended it: OSError, WebSocketException, ValueError, RefusedError."""
    await _connection(way, party, whereabouts, marked=may_mark())


async def _connection(way: Way, party: Party, whereabouts: Whereabouts, *, marked: bool) -> None:
    """One connection from dialling to its end."""
    async with asyncio.timeout(OPEN_SECONDS):
        addresses = await whereabouts.find()
        socket = await dial(way.url.host, way.url.port, marked=marked, addresses=addresses)
    tls: dict[str, Any] = {} if way.tls is None else {"ssl": way.tls, "server_hostname": way.url.host}
    try:
        connection = await connect(
            way.url.at(AGENT_PATH, websocket=True),
            sock=socket,
            compression=None,  # 33 kB of memory a connection at the console, and frames are small
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=2,
            max_size=MAX_FRAME,
            user_agent_header=None,
            **tls,
        )
    except BaseException:
        socket.close()
        raise
    try:
        await _talk(connection, party, whereabouts)
    except MessageError as error:
        await connection.close(POLICY_VIOLATION, _close_reason(str(error)))
        raise
    except asyncio.CancelledError:
        await connection.close(GOING_AWAY)
        raise
    finally:
        await connection.close()


async def _talk(connection: ClientConnection, party: Party, whereabouts: Whereabouts) -> None:
    async with asyncio.timeout(OPEN_SECONDS):
        first = parse_from_console(await connection.recv())
    if isinstance(first, Refused):
        raise RefusedError(first, at_the_door=True)
    if not isinstance(first, Challenge):
        raise MessageError("the first frame must be a challenge")
    hello = party.greet(first)
    await _send(connection, hello)
    tasks = [
        asyncio.create_task(_listen(connection, party, hello.version, whereabouts)),
        asyncio.create_task(_speak(connection, party)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    # When both ended, what was heard last says more than that nothing can be sent any more.
    for task in tasks:
        if task in done:
            task.result()


async def _listen(connection: ClientConnection, party: Party, version: int, whereabouts: Whereabouts) -> None:
    at_the_door = True
    async for frame in connection:
        message = parse_from_console(frame, version)
        if isinstance(message, Refused):
            raise RefusedError(message, at_the_door=at_the_door)
        if at_the_door:
            whereabouts.note(connection.remote_address[0])
        party.hear(message)
        if isinstance(message, Removed):
            return
        at_the_door = False


async def _speak(connection: ClientConnection, party: Party) -> None:
    """Say what is to be said, no faster than the socket takes it: what waits is always the newest."""
    while True:
        await party.need()
        for message in party.speak():
            await _send(connection, message)


async def _send(connection: ClientConnection, message: FromAgent) -> None:
    await connection.send(dump(message), text=True)


def _is_unusable(error: BaseException) -> bool:
    if isinstance(error, ConnectionClosed):
        return error.sent is not None and not error.rcvd_then_sent and error.sent.code in UNUSABLE
    return isinstance(error, MessageError)


def asks_for_patience(error: BaseException) -> bool:
    """Whether the console itself said that it has no room yet."""
    return isinstance(error, ConnectionClosed) and error.rcvd is not None and error.rcvd.code == TRY_LATER


def _close_reason(text: str) -> str:
    return text.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")


def _sentence(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the console does not answer in time"
    if isinstance(error, ConnectionClosed):
        frame = error.rcvd or error.sent
        return f"the connection to the console ended: {frame.reason or frame.code}" if frame else "the connection broke"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the console shows a certificate that is not trusted: {error.verify_message}"
    if isinstance(error, MessageError):
        return f"what the console said cannot be used: {error}"
    detail = explain(error) if isinstance(error, OSError) else str(error)
    return f"cannot connect to the console: {detail}"
