"""ICMPv6 echoes through the tunnel: any kernel answers them, a Talos machine's too, and nobody listens on a port.

One raw socket for all peers, bound to the link: what it sends goes through the tunnel or nowhere, whatever the routes
say. WireGuard itself takes an answer only from the peer that the address belongs to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Container, Iterable, Mapping
from ipaddress import IPv6Address
from typing import NamedTuple, Protocol

import structlog

from kubespan.agent.clock import Clock
from kubespan.core.history import Histories
from kubespan.core.plan import LINK_NAME
from kubespan.core.probe import Outcome, Prober

log = structlog.get_logger()

RETRY_SECONDS = 10.0
"""Until a socket that could not be opened, or that lost its link, is opened anew."""
LINK_IS_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENETDOWN, errno.ENETUNREACH, errno.EADDRNOTAVAIL})
MOST_AT_ONCE = 256
"""Answers read before anybody else gets a turn."""
BYTES = 2048

ECHO_REQUEST, ECHO_REPLY = 128, 129
_ECHO = struct.Struct("!BBHHHQ")  # type, code, checksum (the kernel's), identifier, sequence, our cookie
_STAMP = struct.Struct("@ll")
_SO_TIMESTAMPNS = 35
_ICMPV6_FILTER = 1


class Answer(NamedTuple):
    """An echo that came back."""

    cookie: int
    address: IPv6Address
    waited: float
    """Seconds that it lay here before it was read: the loop may have been busy."""


class Echo(Protocol):
    """A socket for echoes. Every method may raise OSError."""

    def fileno(self) -> int:
        """For the event loop, which says when there is something to read."""

    def ask(self, address: IPv6Address, cookie: int) -> None:
        """Send one; without waiting."""

    def read(self) -> list[Answer]:
        """Give what has come, without waiting."""

    def close(self) -> None:
        """Let go of it."""


class LinkEcho:
    """Echoes through one link."""

    def __init__(self, link: str = LINK_NAME) -> None:
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
            # Nobody forwards them either: the peer itself is meant.
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _only(ECHO_REPLY))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def ask(self, address: IPv6Address, cookie: int) -> None:
        """Send one echo; raises OSError."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        packet = _ECHO.pack(ECHO_REQUEST, 0, 0, self._identifier, self._sequence, cookie)
        self._socket.sendto(packet, (str(address), 0))

    def read(self) -> list[Answer]:
        """Give the echoes that came back, and leave out what is none of ours; raises OSError."""
        found = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(MOST_AT_ONCE):
                packet, ancillary, _, origin = self._socket.recvmsg(BYTES, socket.CMSG_SPACE(_STAMP.size))
                if len(packet) == _ECHO.size:
                    *_, cookie = _ECHO.unpack(packet)
                    found.append(Answer(cookie, IPv6Address(origin[0].partition("%")[0]), _waited(ancillary)))
        return found

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


def _only(kind: int) -> bytes:
    """A filter that lets one type of ICMPv6 message in; a bit that is set keeps its type out."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31)) & 0xFFFFFFFF
    return struct.pack("@8I", *words)


def _waited(ancillary: Iterable[tuple[int, int, bytes]]) -> float:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack_from(data)
            stamp: int = seconds * 1_000_000_000 + nanoseconds
            return max(0.0, (time.time_ns() - stamp) / 1_000_000_000)
    return 0.0


class Probes:
    """Asks who is due, hears answers, and leaves the outcomes with the history."""

    def __init__(self, clock: Clock, history: Histories, open_echo: Callable[[], Echo] | None) -> None:
        self.prober = Prober()
        self._clock = clock
        self._history = history
        self._open = open_echo
        self._echo: Echo | None = None
        self._retry_at = float("-inf")
        self._fault = ""
        self._news = asyncio.Event()

    def aim(self, targets: Mapping[int, IPv6Address], members: Container[int]) -> None:
        """Ask these from now on, by member index."""
        if self._open is not None:
            self.prober.aim(targets, members)
            self._news.set()

    def quicken(self, seconds: float, until: float) -> None:
        """Ask every so many seconds until then."""
        self.prober.quicken(seconds, until)
        self._news.set()

    async def run(self) -> None:
        """Ask for ever; ends only by cancellation."""
        try:
            while True:
                self._news.clear()
                wait = self._turn()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == float("inf") else wait):
                        await self._news.wait()
        finally:
            self._close()

    def _turn(self) -> float:
        """Do what is due; gives the seconds until there is more."""
        now = self._clock.now()
        self._note(self.prober.expire(now))
        for member, address in self.prober.due(now):
            echo = self._echo or self._reopen(now)
            if echo is None:
                break
            cookie = secrets.randbits(64)
            try:
                echo.ask(address, cookie)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in LINK_IS_GONE:
                    self._lose(error, now)
                    break
                # A firewall of this machine keeps it from that peer: it was asked, and will not answer.
            self.prober.sent(cookie, member, self._clock.now())
        return self.prober.patience(now)

    def _reopen(self, now: float) -> Echo | None:
        if self._open is None or now < self._retry_at:
            return None
        try:
            self._echo = self._open()
        except OSError as error:
            self._lose(error, now)
            return None
        self._fault = ""
        asyncio.get_running_loop().add_reader(self._echo.fileno(), self._hear, self._echo)
        return self._echo

    def _hear(self, echo: Echo) -> None:
        try:
            answers = echo.read()
        except OSError as error:
            self._lose(error, self._clock.now())
            return
        now = self._clock.now()
        for answer in answers:
            asked = self.prober.asked_at(answer.cookie)
            if asked is None:
                continue
            elapsed = now - asked
            # The wall clock may have been set meanwhile; the machine's own timeline has the last word.
            outcome = self.prober.answered(answer.cookie, answer.address, elapsed - min(answer.waited, elapsed))
            if outcome is not None:
                self._note([outcome])

    def _note(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._history.probed(outcome.member, outcome.rtt)

    def _lose(self, error: OSError, now: float) -> None:
        """The link is gone or another one now, or this machine lets nobody ask: try again later."""
        self._close()
        self._retry_at = now + RETRY_SECONDS
        reason = error.strerror or str(error)
        if reason != self._fault:
            self._fault = reason
            log.warning("round trips cannot be measured", reason=reason)

    def _close(self) -> None:
        if self._echo is not None:
            asyncio.get_running_loop().remove_reader(self._echo.fileno())
            self._echo.close()
            self._echo = None
