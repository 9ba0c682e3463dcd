"""Stand-ins for what a test cannot have: a machine's kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Interface

from kubespan.core.endpoint import Endpoint, IPNetwork
from kubespan.core.plan import (
    AddAddress,
    AddRule,
    Change,
    CreateLink,
    DeleteLink,
    Firewall,
    Link,
    Observed,
    Peer,
    PeerCounters,
    RemoveAddress,
    RemovePeers,
    RemoveRoute,
    RemoveRule,
    Route,
    Rule,
    SetFirewall,
    SetLink,
    SetPeers,
    SetPresharedKeys,
    SetRoute,
)


@dataclass
class FakeKernel:
    """A machine's data plane as a few dictionaries, with the two methods of `kubespan.agent.kernel.Kernel`.

    It has Linux's manners: an allowed IP belongs to one peer, an endpoint of none leaves the present one, and
    address, routes and peers go with the link. `applied` keeps every change in order; a test may set any state
    by hand (drift), count a peer's handshake with `shake`, and make the next passes fail with `fault`.
    """

    link: Link | None = None
    addresses: set[IPv6Interface] = field(default_factory=set)
    peers: dict[str, Peer] = field(default_factory=dict)
    counters: dict[str, PeerCounters] = field(default_factory=dict)
    routes: set[Route] = field(default_factory=set)
    rules: set[Rule] = field(default_factory=set)
    firewall: Firewall | None = None
    applied: list[Change] = field(default_factory=list)
    fault: Exception | None = None

    async def observe(self) -> Observed:
        """Copy what there is."""
        if self.fault is not None:
            raise self.fault
        return self.look()

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes one after another."""
        if self.fault is not None:
            raise self.fault
        self.make(changes)

    def look(self) -> Observed:
        """`observe` for tests that have no event loop."""
        return Observed(
            link=self.link,
            addresses=frozenset(self.addresses),
            peers=dict(self.peers),
            counters=dict(self.counters),
            routes=frozenset(self.routes),
            rules=frozenset(self.rules),
            firewall=self.firewall,
        )

    def make(self, changes: Iterable[Change]) -> None:
        """`apply` for tests that have no event loop."""
        for change in changes:
            self._make(change)
            self.applied.append(change)

    def shake(self, public_key: str, when: float, endpoint: Endpoint | None = None) -> None:
        """Let a peer's handshake succeed at the wall-clock time `when`; it may come from another endpoint."""
        before = self.counters.get(public_key, PeerCounters())
        self.counters[public_key] = PeerCounters(when, before.received + 148, before.sent + 92)
        if endpoint is not None:
            self.peers[public_key] = replace(self.peers[public_key], endpoint=endpoint)

    def _make(self, change: Change) -> None:  # noqa: C901, PLR0912 - a table of all changes
        match change:
            case CreateLink():
                if self.link is not None:
                    raise AssertionError("the link exists already")
                self.link = Link(mtu=1420, listen_port=0, private_key="", fwmark=0, up=False)
            case DeleteLink():
                self.delete_link()
            case SetLink(link):
                self._need_link()
                self.link = link
            case SetPeers(peers):
                self._need_link()
                for peer in peers:
                    self._set_peer(peer)
            case SetPresharedKeys(peers):
                for peer in peers:
                    present = self.peers[peer.public_key]
                    self.peers[peer.public_key] = replace(present, preshared_key=peer.preshared_key)
            case RemovePeers(public_keys):
                for key in public_keys:
                    del self.peers[key]
                    self.counters.pop(key, None)
            case AddAddress(address):
                self._need_link()
                self.addresses.add(address)
            case RemoveAddress(address):
                self.addresses.remove(address)
            case SetRoute(route):
                self._need_link()
                self.routes = {other for other in self.routes if other.family != route.family} | {route}
            case RemoveRoute(route):
                self.routes.remove(route)
            case AddRule(rule):
                if rule in self.rules:
                    raise AssertionError(f"the rule exists already: {rule}")
                self.rules.add(rule)
            case RemoveRule(rule):
                self.rules.remove(rule)
            case SetFirewall(firewall):
                self.firewall = firewall

    def delete_link(self) -> None:
        """Remove the link and what goes with it, as `ip link del kubespan` would."""
        self.link = None
        self.addresses.clear()
        self.peers.clear()
        self.counters.clear()
        self.routes.clear()

    def _need_link(self) -> None:
        if self.link is None:
            raise AssertionError("there is no link")

    def _set_peer(self, peer: Peer) -> None:
        endpoint = peer.endpoint
        if endpoint is None and peer.public_key in self.peers:
            endpoint = self.peers[peer.public_key].endpoint
        taken: set[IPNetwork] = set(peer.allowed_ips)
        for key, other in self.peers.items():
            if key != peer.public_key and not taken.isdisjoint(other.allowed_ips):
                left = tuple(network for network in other.allowed_ips if network not in taken)
                self.peers[key] = replace(other, allowed_ips=left)
        self.peers[peer.public_key] = replace(peer, endpoint=endpoint)
        self.counters.setdefault(peer.public_key, PeerCounters())
