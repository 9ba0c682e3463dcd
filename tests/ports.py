"""Ports for servers that are told where to listen, and may be stopped and started there again."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 10_000
_GIVEN: set[int] = set()
_CHANCE = random.SystemRandom()


def free_port() -> int:
    """A port of loopback that was free a moment ago, below those that the system hands out by itself.

    Whatever connects or listens meanwhile, on a machine that runs other tests beside, does not get it.
    """
    handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = _CHANCE.randrange(LOWEST, max(handed_out, 2 * LOWEST))
        if port in _GIVEN:
            continue
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        _GIVEN.add(port)
        return port
