"""Where machines find each other without a console's word: a file for each registry, with the methods of `Registry`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from kubespan.agent.store import Discovery, Enrolment
from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint, IPAddress
from kubespan.core.service_endpoint import ServiceEndpoint


class Standing(msgspec.Struct, frozen=True):
    """How it stands with one place of a registry, as `status.json` has it."""

    place: str
    since: float
    """Unix time since which it has been so."""
    fault: str = ""
    """Why there is no connection; empty while there is one."""


class Registry(Protocol):
    """Knows the machines of a cluster, and makes this one known."""

    def listed(self) -> Mapping[str, Affiliate] | None:
        """All others that it lists, by node id, as they say; none while it cannot be asked."""

    def publish(self, affiliate: Affiliate, others: Mapping[str, Sequence[Endpoint]]) -> None:
        """Make this machine known, and where it sees others, by their node ids; the same again is nothing new."""

    async def run(self) -> None:
        """Be connected whenever possible, for ever; ends only by cancellation."""

    @property
    def public_addresses(self) -> tuple[IPAddress, ...]:
        """Where it sees this machine's connections come from."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How it stands with each of its places."""

    @property
    def fault(self) -> str:
        """Why what is listed is of no use, in a sentence; empty when it is."""

    @property
    def exempt(self) -> frozenset[int]:
        """TCP ports of its places on this very machine, whose connections must stay outside the tunnel."""


def ports_here(discovery: Discovery, leads_here: Callable[[str], bool]) -> frozenset[int]:
    """The TCP ports of services on this machine."""
    found = set()
    for service in discovery.services:
        with suppress(ValueError):  # what a console says may be no URL
            endpoint = ServiceEndpoint.parse(service.url)
            if leads_here(endpoint.host):
                found.add(endpoint.port)
    return frozenset(found)


Open = Callable[[Discovery, Enrolment, str, Callable[[], None]], Registry]
"""Gives the registry of these services for a machine in its cluster, by the cluster secret; calls back on news.

May raise ValueError where that cannot be.
"""
