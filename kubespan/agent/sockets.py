"""The agent's own connections, marked as WireGuard's own packets are, so that they never enter the tunnel.

Without the mark, forced routing would send the way to the console through a tunnel that may be down (spec/kubespan.md
§6.4, first rule of both chains). Setting it takes CAP_NET_ADMIN, which an agent that makes links has anyway.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

import aiohappyeyeballs

from kubespan.core.endpoint import IPAddress
from kubespan.core.plan import FROM_WIREGUARD

HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds until the next address is tried beside the one before (RFC 8305 §5)."""

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
"""What `getaddrinfo` gives."""

MARK = (socket.SOL_SOCKET, socket.SO_MARK, FROM_WIREGUARD)


def may_mark() -> bool:
    """Say whether this process may mark its sockets."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(*MARK)
        except PermissionError:
            return False
    return True


async def dial(host: str, port: int, *, marked: bool, addresses: Sequence[AddressInfo] | None = None) -> socket.socket:
    """Connect to the first address that answers, of those given or else the host's; raises OSError."""

    def make(address: aiohappyeyeballs.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.settimeout(0)
        if marked:
            made.setsockopt(*MARK)
        return made

    if addresses is None:
        addresses = await look_up(host, port)
    return await aiohappyeyeballs.start_connection(
        addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, socket_factory=make
    )


async def look_up(host: str, port: int) -> list[AddressInfo]:
    """Ask the resolver, in a thread that nobody waits for: an unanswered question must not hold up the agent's end."""
    if (literal := parse_literal(host)) is not None:
        return infos(literal, port)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[AddressInfo]] = loop.create_future()

    def give(found: list[AddressInfo], error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def ask() -> None:
        found: list[AddressInfo] = []
        failure: OSError | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[assignment]
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
            failure = error if isinstance(error, OSError) else OSError(str(error))
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(give, found, failure)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return await answer


def parse_literal(text: str) -> IPAddress | None:
    """Read an IP address; none where it is a name."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if address.version == 6 else address  # noqa: PLR2004 - IPv6


def infos(address: IPAddress, port: int) -> list[AddressInfo]:
    """What `getaddrinfo` would give for one address."""
    if address.version == 4:  # noqa: PLR2004 - IPv4
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port))]
    return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port, 0, 0))]


def explain(error: OSError) -> str:
    """Say why there is no connection, in words alone: `Connection refused`."""
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason.replace('_', ' ').lower()}" if error.reason else str(error)
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
