"""Discovery as an agent meets it: a registry of a few lines whose list the test sets, and machines with no console."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from kubespan.agent.enrol import Machine
from kubespan.agent.join import JoinWish, join
from kubespan.agent.loop import Agent, Place
from kubespan.agent.mesh import Own
from kubespan.agent.registries import Open, Standing
from kubespan.agent.standalone import Standalone
from kubespan.agent.store import DiscoveryService, Store
from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint, IPAddress
from kubespan.core.options import Options
from tests.agent.console_double import CLUSTER_ID, SECRET, FakeHost, SetClock, Someone, WatchedKernel

SERVICE = DiscoveryService(url="https://discovery.example")


def listed(one: Someone, **other: object) -> Affiliate:
    """What a machine says of itself."""
    at = ip_address(f"192.0.2.{one.index}")
    values = {
        "node_id": one.node_id,
        "nodename": one.name,
        "hostname": one.name,
        "machine_type": "worker",
        "public_key": one.keys.public_key,
        "address": one.address,
        "addresses": (at,),
        "endpoints": (Endpoint(at, 51820),),
    }
    return Affiliate(**values | other)  # type: ignore[arg-type]


@dataclass
class FakeRegistry:
    """A registry whose list is the test's."""

    affiliates: dict[str, Affiliate] | None = None
    public_addresses: tuple[IPAddress, ...] = ()
    standings: tuple[Standing, ...] = ()
    fault: str = ""
    exempt: frozenset[int] = frozenset()
    published: list[tuple[Affiliate, Mapping[str, Sequence[Endpoint]]]] = field(default_factory=list)
    opened: list[tuple[object, ...]] = field(default_factory=list)
    running: int = 0

    def open(self, *given: object) -> FakeRegistry:
        """For who asks for one."""
        self.opened.append(given)
        return self

    def list(self, *affiliates: Affiliate) -> None:
        """List just these."""
        self.affiliates = {one.node_id: one for one in affiliates}

    def listed(self) -> Mapping[str, Affiliate] | None:
        """What was set."""
        return self.affiliates

    def publish(self, affiliate: Affiliate, others: Mapping[str, Sequence[Endpoint]]) -> None:
        """Keep it."""
        self.published.append((affiliate, others))

    async def run(self) -> None:
        """Count that it runs."""
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1


@dataclass
class Lone:
    """A machine that has joined without a console."""

    directory: Path
    one: Someone
    kernel: WatchedKernel = field(default_factory=WatchedKernel)
    host: FakeHost = field(default_factory=FakeHost)
    clock: SetClock | None = None

    def __post_init__(self) -> None:
        self.store = Store(self.directory)
        if self.store.keys() is None:
            self.store.create_keys(self.one.keys)
            self.store.create_node_id(self.one.node_id)

    def join(self, options: Options | None = None, **other: object) -> None:
        """Join as `kubespan-agent join` does."""
        given = {"services": (SERVICE,), "name": self.one.name} | other
        wish = JoinWish(CLUSTER_ID, SECRET, options=options or Options(), **given)  # type: ignore[arg-type]
        mac = bytes.fromhex(self.one.mac.replace(":", ""))
        join(self.store, wish, Machine(self.one.name, "Testing Linux 1", (), mac))

    def agent(self, open_registry: Open) -> Agent:
        """An agent that starts from the store."""
        state = self.store.agent()
        assert state is not None
        assert state.enrolment is not None
        own = Own(self.one.keys, self.one.node_id, self.one.address, state.listen_port)
        place = Place(self.kernel, self.host, "kernel", state.networks)
        lead = partial(Standalone, open_registry=open_registry, name=state.name)
        return Agent(
            self.store, state.enrolment, state.signing_key, own, place, clock=self.clock, chance=lambda: 0.01, lead=lead
        )
