"""Ports for servers that tests start."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """A port of loopback that nobody has, and nobody else is given while this process runs.

    It stays bound without listening. That hinders no server that reuses addresses, as all of ours do, and whoever
    connects is refused until one listens, also while a server is started again.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return holder.getsockname()[1]
