"""What the agent needs of a host: to look, and to change what differs.

`Kernel` is all that the loop knows. `netlink.py` is Linux; WireGuard itself has two ways behind one small interface,
in `wireguard.py` (the kernel's) and `userspace.py` (wireguard-go).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from kubespan.core.plan import Change, Link, Observed, Peer, PeerCounters

Backend = Literal["kernel", "userspace"]
DATA_PLANES = ("auto", *get_args(Backend))
"""What an operator may choose."""


class KernelError(Exception):
    """The host refused; says what failed and what to do about it. Nothing in it is secret."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}; {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


def refusal(doing: str, code: int, remedies: Mapping[int, str] | None = None) -> KernelError:
    """Turn an errno that came of `doing` something into a sentence, with the remedy that is known for it."""
    remedy = (remedies or {}).get(code) or _REMEDIES.get(code, "")
    return KernelError(f"{doing}: {os.strerror(code)}", remedy)


_REMEDIES: Mapping[int, str] = {
    errno.EPERM: "run the agent as root, or with CAP_NET_ADMIN",
    errno.EADDRINUSE: "another program holds WireGuard's UDP port: stop it, or choose another with --listen-port",
}


@dataclass(frozen=True, slots=True)
class Device:
    """What a WireGuard device says of itself and of its peers; MTU and up-state are the link's, not its own."""

    private_key: str = field(repr=False)
    """Base64; empty where none was set."""
    listen_port: int
    fwmark: int
    peers: Mapping[str, Peer] = field(default_factory=dict)
    counters: Mapping[str, PeerCounters] = field(default_factory=dict)


class WireGuardDevice(Protocol):
    """The interface `kubespan`, whoever does the cryptography. Every method raises KernelError."""

    backend: Backend

    async def create(self) -> None:
        """Make the interface, empty and down; one of that name that is not ours to use is replaced."""

    async def delete(self) -> None:
        """Remove the interface and whatever serves it; none is no error."""

    async def configure(self, link: Link) -> None:
        """Set key, port and mark; what is so already is not set again."""

    async def set_peers(self, peers: Sequence[Peer]) -> None:
        """Add or change these peers; an endpoint of none leaves the one that is there."""

    async def set_preshared_keys(self, peers: Sequence[Peer]) -> None:
        """Give peers their preshared keys and leave all else of them alone; one that is missing is not made."""

    async def remove_peers(self, public_keys: Sequence[str]) -> None:
        """Remove these peers; a missing one is no error."""

    async def dump(self) -> Device | None:
        """Read everything; none where there is no such interface, or one that this data plane does not serve."""


class Kernel(Protocol):
    """A host's data plane."""

    async def observe(self) -> Observed:
        """Read what is there of what we look after. Raises KernelError."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes in their order; the first that fails raises KernelError, those before it stay."""
