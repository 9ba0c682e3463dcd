"""Waiting for an answer through a tunnel; in the virtual machine too, which has none of the console's packages."""

from __future__ import annotations

import time

from nodes.lab import Machine

SECONDS = 60.0


def await_answer(machine: Machine, address: str) -> None:
    """Wait until a peer that is `up` answers.

    Two that begin a handshake at the same moment may both be done with it while one lacks the other's session: of more
    than 250 such beginnings of two wireguard-go 0.0.20220316, by `wg set` alone, six were silent until WireGuard's own
    next handshake, 15 seconds later.
    """
    deadline = time.monotonic() + SECONDS
    while machine.execute("ping", "-n", "-c", "1", "-W", "1", address).returncode:
        assert time.monotonic() < deadline, f"{machine.name}: no answer from {address} in {SECONDS:.0f} s"
