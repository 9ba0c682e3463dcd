"""Discovery services as a registry; with it come gRPC and protobuf, so only who uses one imports this."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ssl import SSLContext

from kubespan import __version__
from kubespan.agent.registries import Standing
from kubespan.agent.sockets import dial, explain, may_mark
from kubespan.agent.trust import ConsoleUrl
from kubespan.agent.whereabouts import Memory, Whereabouts
from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import parse_cluster_secret
from kubespan.core.endpoint import Endpoint, IPAddress
from kubespan.core.service_endpoint import ServiceEndpoint
from kubespan.discovery.client import NOT_YET, Client, Place
from kubespan.discovery.limits import DATA_BYTES, ENDPOINTS
from kubespan.discovery.sealing import NONCE_BYTES, TAG_BYTES, dump_affiliate

OWN_ENDPOINTS = ENDPOINTS // 2
"""A service keeps 64 of a machine, those that others saw it at too, and refuses all of an update with one more."""
PLAIN_BYTES = DATA_BYTES - NONCE_BYTES - TAG_BYTES
"""Of what a machine says of itself, before it is sealed."""
ASK_SECONDS = 20.0
"""For a first connection to each service."""
NOTHING_OPENS = (
    "the cluster secret is not the one of this cluster: nothing that discovery lists can be opened; join again with "
    "the right one"
)


@dataclass(frozen=True, slots=True)
class Where:
    """A discovery service, and how it is known."""

    endpoint: ServiceEndpoint
    roots: bytes | None = None
    pinned: SSLContext | None = field(default=None, repr=False)


class ServiceRegistry:
    """One or more discovery services; what any of them lists is listed."""

    def __init__(
        self,
        places: Sequence[Where],
        *,
        cluster_id: str,
        node_id: str,
        secret: str,
        news: Callable[[], None],
        memory: Memory | None = None,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        raw = parse_cluster_secret(secret)
        self._heard = asyncio.Event()

        def hear() -> None:
            self._heard.set()
            news()

        self._services = [
            _Service(place, f"discovery-address-{number}.json", memory, hear, wall)
            for number, place in enumerate(places)
        ]
        for service in self._services:
            service.client = Client(
                service.place, cluster_id=cluster_id, affiliate_id=node_id, secret=raw, version=f"v{__version__}",
                news=service.hear, chance=chance, dial=service.dial, explain=explain,
            )  # fmt: skip

    def listed(self) -> Mapping[str, Affiliate] | None:
        """See Registry; of what services say differently, one that is connected counts, and of those a later one."""
        if all(service.client.fault for service in self._services):
            return None
        found: dict[str, Affiliate] = {}
        for service in sorted(self._services, key=lambda one: not one.client.fault):
            found |= service.client.known.affiliates
        return found

    def publish(self, affiliate: Affiliate, others: Mapping[str, Sequence[Endpoint]]) -> None:
        """See Registry."""
        fitting = fit(affiliate)
        for service in self._services:
            service.client.publish(fitting, affiliate.endpoints[:OWN_ENDPOINTS], others)

    async def run(self) -> None:
        """See Registry."""
        await asyncio.gather(*(service.client.run() for service in self._services))

    async def ask(self) -> None:
        """Connect once to each service, or find out why that is not possible."""
        talking = asyncio.create_task(self.run())
        try:
            async with asyncio.timeout(ASK_SECONDS):
                while any(service.client.fault == NOT_YET for service in self._services):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)

    async def leave(self) -> list[str]:
        """Have this machine forgotten now; says in sentences where that did not succeed."""
        outcomes = await asyncio.gather(*(service.client.leave() for service in self._services), return_exceptions=True)
        return [
            f"{service.name} cannot be told: {explain(outcome) if isinstance(outcome, OSError) else outcome}"
            for service, outcome in zip(self._services, outcomes, strict=True)
            if isinstance(outcome, BaseException)
        ]

    @property
    def public_addresses(self) -> tuple[IPAddress, ...]:
        """See Registry."""
        found = (service.client.public_address for service in self._services)
        return tuple(dict.fromkeys(address for address in found if address is not None))

    @property
    def standings(self) -> tuple[Standing, ...]:
        """See Registry."""
        return tuple(Standing(one.name, one.since, one.client.fault) for one in self._services)

    @property
    def fault(self) -> str:
        """See Registry."""
        connected = [service.client for service in self._services if not service.client.fault]
        return NOTHING_OPENS if any(client.known.wrong_secret for client in connected) else ""

    @property
    def exempt(self) -> frozenset[int]:
        """See Registry."""
        return frozenset().union(*(service.whereabouts.exempt for service in self._services))


class _Service:
    """One discovery service: its client, and where it is."""

    client: Client

    def __init__(
        self, place: Where, file: str, memory: Memory | None, news: Callable[[], None], wall: Callable[[], float]
    ) -> None:
        endpoint = place.endpoint
        self.place = Place(endpoint.target, endpoint.insecure, place.roots, place.pinned)
        self.name = endpoint.target
        self.since = wall()
        self._url = ConsoleUrl(not endpoint.insecure, endpoint.host, endpoint.port, "")
        self.whereabouts = Whereabouts(self._url, memory, file=file)
        self._news = news
        self._wall = wall
        self._connected = False
        self._address = ""

    async def dial(self, host: str, port: int) -> socket.socket:
        """Connect outside the tunnel; to where the service last was, where its name leads nowhere now."""
        own = (host, port) == (self._url.host, self._url.port)
        made = await dial(host, port, marked=may_mark(), addresses=await self.whereabouts.find() if own else None)
        self._address = str(made.getpeername()[0]) if own else ""
        return made

    def hear(self) -> None:
        """Note when it came and went, and pass the news on."""
        connected = not self.client.fault
        if connected != self._connected:
            self._connected, self.since = connected, self._wall()
            if connected and self._address:
                self.whereabouts.note(self._address)
        self._news()


def fit(affiliate: Affiliate) -> Affiliate:
    """Leave out what a service has no room for, addresses first; endpoints travel beside it."""
    fitting = replace(affiliate, endpoints=())
    for name in ("addresses", "additional_addresses", "exclude_advertised_networks"):
        while len(dump_affiliate(fitting)) > PLAIN_BYTES and (values := getattr(fitting, name)):
            fitting = replace(fitting, **{name: values[:-1]})
    return fitting
