"""The agent's own connections, marked as WireGuard's own packets are, so that they never enter the tunnel.

Without the mark, forced routing would send the way to the console through a tunnel that may be down (spec/kubespan.md
§6.4, first rule of both chains). Setting it takes CAP_NET_ADMIN, which an agent that makes links has anyway.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import aiohappyeyeballs

from kubespan.core.plan import FROM_WIREGUARD

HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds until the next address is tried beside the one before (RFC 8305 §5)."""

MARK = (socket.SOL_SOCKET, socket.SO_MARK, FROM_WIREGUARD)


def may_mark() -> bool:
    """Say whether this process may mark its sockets."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(*MARK)
        except PermissionError:
            return False
    return True


async def dial(host: str, port: int, *, marked: bool) -> socket.socket:
    """Connect to the first address of the host that answers; raises OSError."""

    def make(address: aiohappyeyeballs.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.settimeout(0)
        if marked:
            made.setsockopt(*MARK)
        return made

    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await aiohappyeyeballs.start_connection(
        addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, socket_factory=make
    )


def explain(error: OSError) -> str:
    """Say why there is no connection, in words alone: `Connection refused`."""
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason.replace('_', ' ').lower()}" if error.reason else str(error)
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
