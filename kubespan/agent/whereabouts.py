"""Where the console or a discovery service is: what its name last led to, and whether that is this machine.

Looking a name up is libc's work, whose packets carry no mark of ours: a resolver that is reached through the mesh is
out of reach for as long as the mesh is. So the address of the last connection in which the console proved itself is
kept, and tried where no answer comes. It is no more trusted than an answer of the resolver's would be.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from kubespan.agent.sockets import AddressInfo, infos, look_up, parse_literal
from kubespan.agent.trust import ConsoleUrl
from kubespan.core.endpoint import IPAddress

log = structlog.get_logger()

LOOK_UP_SECONDS = 3.0
"""For an answer of the resolver, before the address that was good last time is tried instead."""


class Memory(Protocol):
    """Keeps a few bytes; the state directory does."""

    def read_published(self, name: str) -> bytes | None:
        """What was kept under that name."""

    def publish(self, name: str, content: bytes) -> None:
        """Keep it."""


class Place(msgspec.Struct, frozen=True):
    """Where a console was reached."""

    host: str
    address: str


CONSOLE_ADDRESS = "console-address.json"


class Whereabouts:
    """The addresses of the console, or of a discovery service."""

    def __init__(
        self,
        url: ConsoleUrl,
        memory: Memory | None = None,
        exempt: frozenset[int] = frozenset(),
        file: str = CONSOLE_ADDRESS,
    ) -> None:
        self._url = url
        self._memory = memory
        self._exempt = exempt
        self._file = file
        self._known = parse_literal(url.host) or self._recall()

    @property
    def exempt(self) -> frozenset[int]:
        """The TCP ports whose connections must stay outside the tunnel: the console's, where it is on this machine."""
        return self._exempt | {self._url.port} if self.leads_here(self._url.host) else self._exempt

    def leads_here(self, host: str) -> bool:
        """Say whether a host is this machine: an address, or the name of the one whose addresses these are."""
        address = self._known if host == self._url.host else parse_literal(host)
        return address is not None and is_here(address)

    async def find(self) -> list[AddressInfo]:
        """Give the addresses to try, those of the resolver first. Raises OSError where there is none at all."""
        url = self._url
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                found = await look_up(url.host, url.port)
        except OSError:  # TimeoutError is one
            if self._known is None:
                raise
            log.warning("a name cannot be looked up; trying the address that it last had", host=url.host)
            found = []
        known = [] if self._known is None else infos(self._known, url.port)
        return [*found, *(info for info in known if info[4][:2] not in {one[4][:2] for one in found})]

    def note(self, address: str) -> None:
        """Keep where the console has just proved itself."""
        found = parse_literal(address)
        if found is None or found == self._known:
            return
        self._known = found
        if self._memory is not None:
            # What cannot be kept is found again by the resolver.
            with suppress(Exception):
                place = Place(host=self._url.host, address=str(found))
                self._memory.publish(self._file, msgspec.json.encode(place))

    def _recall(self) -> IPAddress | None:
        if self._memory is None:
            return None
        try:
            content = self._memory.read_published(self._file)
            place = None if content is None else msgspec.json.decode(content, type=Place)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, there is a resolver
            log.warning("a last address cannot be read", file=self._file, reason=str(error))
            return None
        return parse_literal(place.address) if place is not None and place.host == self._url.host else None


def is_here(address: IPAddress) -> bool:
    """Say whether an address is this machine's own: to those the kernel answers from themselves. Nothing is sent."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return parse_literal(probe.getsockname()[0]) == address
