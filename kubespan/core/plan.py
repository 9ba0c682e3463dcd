"""Desired and observed state of one machine's data plane → the changes between them.

Only differences come out: a peer that agrees is not touched, so its session goes on; a second plan is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Interface
from typing import TypeVar

from kubespan.core.endpoint import Endpoint, IPNetwork

LINK_NAME = "kubespan"
FROM_WIREGUARD = 0x20
"""Mark of WireGuard's own packets, and of the agent's own connections: they never enter the tunnel."""
TO_WIREGUARD = 0x40
"""Mark of what nftables forces into the tunnel."""
MARK_MASK = 0x60
ROUTE_TABLE = 180
RULE_PRIORITY = 32500
KEEPALIVE = 25
"""Seconds between persistent keepalives (spec/kubespan.md §0)."""


@dataclass(frozen=True, slots=True)
class Link:
    """The WireGuard interface and the device's own settings (spec/kubespan.md §6.2)."""

    mtu: int
    listen_port: int
    private_key: str = field(repr=False)
    fwmark: int = FROM_WIREGUARD
    up: bool = True
    any_path: bool = True
    """No reverse path check: peers' own IPv4 addresses come out of a link that has none (docs/decisions/0007)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as WireGuard is told it. An endpoint of none in a desired peer means: leave what is there."""

    public_key: str
    preshared_key: str = field(repr=False)
    endpoint: Endpoint | None
    allowed_ips: tuple[IPNetwork, ...]
    keepalive: int = KEEPALIVE


@dataclass(frozen=True, slots=True)
class PeerCounters:
    """What WireGuard counts of a peer; the handshake is wall-clock Unix time in seconds, 0.0 for never."""

    last_handshake: float = 0.0
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """A default route of table 180 into the link, for one family (spec/kubespan.md §6.3)."""

    family: int
    """4 or 6."""
    mtu: int
    table: int = ROUTE_TABLE


@dataclass(frozen=True, slots=True)
class Rule:
    """`fwmark 0x40/0x60 lookup 180`, for one family."""

    family: int
    priority: int = RULE_PRIORITY
    mark: int = TO_WIREGUARD
    mask: int = MARK_MASK
    table: int = ROUTE_TABLE


@dataclass(frozen=True, slots=True)
class Firewall:
    """Content of the agent's own nftables table (spec/kubespan.md §6.4): what is marked, and the MSS clamp's base."""

    mtu: int
    routed: frozenset[IPNetwork]
    """Destinations forced into the tunnel; without members no marking rule exists at all."""
    exempt: frozenset[int] = frozenset()
    """TCP ports served here whose connections stay outside: a console's must be reached while a link is down."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What a machine's data plane should be; `link=None` means: nothing of ours at all."""

    link: Link | None
    address: IPv6Interface | None = None
    peers: Mapping[str, Peer] = field(default_factory=dict)
    """By public key."""
    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    firewall: Firewall | None = None


NOTHING = Desired(link=None)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the machine has now, of what we look after."""

    link: Link | None = None
    addresses: frozenset[IPv6Interface] = frozenset()
    """Global IPv6 addresses of the link; link-local ones are the kernel's own business."""
    peers: Mapping[str, Peer] = field(default_factory=dict)
    counters: Mapping[str, PeerCounters] = field(default_factory=dict)
    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    firewall: Firewall | None = None


@dataclass(frozen=True, slots=True)
class CreateLink:
    """Make the interface, down and empty."""


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Remove the interface; address and routes go with it."""


@dataclass(frozen=True, slots=True)
class SetLink:
    """Set MTU, key, port, mark and up-state, all of them: they are few."""

    link: Link


@dataclass(frozen=True, slots=True)
class SetPeers:
    """Add or change these peers, replacing their allowed IPs, and nobody else."""

    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class SetPresharedKeys:
    """Give these peers, which are there, their preshared keys, and touch nothing else of them.

    Sessions go on, for the key goes into the next handshake; replacing allowed IPs would lose what passes meanwhile.
    """

    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class RemovePeers:
    """Remove these peers, by public key."""

    public_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Put an address on the link."""

    address: IPv6Interface


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Take an address off the link."""

    address: IPv6Interface


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Add or replace a route."""

    route: Route


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    """Remove a route."""

    route: Route


@dataclass(frozen=True, slots=True)
class AddRule:
    """Add a policy rule."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class RemoveRule:
    """Remove a policy rule."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class SetFirewall:
    """Replace the whole table in one transaction; none removes it."""

    firewall: Firewall | None


Change = (
    CreateLink
    | DeleteLink
    | SetLink
    | SetPeers
    | SetPresharedKeys
    | RemovePeers
    | AddAddress
    | RemoveAddress
    | SetRoute
    | RemoveRoute
    | AddRule
    | RemoveRule
    | SetFirewall
)


def plan(desired: Desired, observed: Observed) -> list[Change]:
    """List the changes, in the order to make them; none when both agree.

    A tunnel is complete before traffic is forced into it, and traffic is let go before its tunnel is taken away.
    """
    if desired.link is None:
        return _plan_teardown(observed)
    return [
        *_plan_link(desired.link, observed.link),
        *_plan_addresses(desired, observed),
        *_plan_peers(desired.peers, observed.peers if observed.link else {}),
        *_plan_routes(desired, observed),
        *_plan_rules(desired, observed),
        *([SetFirewall(desired.firewall)] if desired.firewall != observed.firewall else []),
    ]


def _plan_teardown(observed: Observed) -> list[Change]:
    changes: list[Change] = []
    if observed.firewall is not None:
        changes.append(SetFirewall(None))
    changes += [RemoveRule(rule) for rule in _ordered(observed.rules)]
    changes += [RemoveRoute(route) for route in _ordered(observed.routes)]
    if observed.link is not None:
        changes.append(DeleteLink())
    return changes


def _plan_link(desired: Link, observed: Link | None) -> list[Change]:
    if observed is None:
        return [CreateLink(), SetLink(desired)]
    return [SetLink(desired)] if observed != desired else []


def _plan_addresses(desired: Desired, observed: Observed) -> list[Change]:
    wanted = {desired.address} if desired.address else set()
    present = set(observed.addresses) if observed.link else set()
    removed: list[Change] = [RemoveAddress(address) for address in sorted(present - wanted)]
    return removed + [AddAddress(address) for address in sorted(wanted - present)]


def _plan_peers(desired: Mapping[str, Peer], observed: Mapping[str, Peer]) -> list[Change]:
    changes: list[Change] = []
    # Removed first: an address that moves from one peer to another is then free.
    if gone := sorted(observed.keys() - desired.keys()):
        changes.append(RemovePeers(tuple(gone)))
    differing = [peer for _, peer in sorted(desired.items()) if not _agrees(peer, observed.get(peer.public_key))]
    rekeyed: list[Peer] = []
    others: list[Peer] = []
    for peer in differing:
        (rekeyed if _agrees_but_for_key(peer, observed.get(peer.public_key)) else others).append(peer)
    if others:
        changes.append(SetPeers(tuple(others)))
    if rekeyed:
        changes.append(SetPresharedKeys(tuple(rekeyed)))
    return changes


def _agrees_but_for_key(desired: Peer, observed: Peer | None) -> bool:
    return observed is not None and _agrees(desired, replace(observed, preshared_key=desired.preshared_key))


def _agrees(desired: Peer, observed: Peer | None) -> bool:
    if observed is None or desired.preshared_key != observed.preshared_key or desired.keepalive != observed.keepalive:
        return False
    if desired.endpoint is not None and desired.endpoint != observed.endpoint:
        return False
    return set(desired.allowed_ips) == set(observed.allowed_ips)


def _plan_routes(desired: Desired, observed: Observed) -> list[Change]:
    present = observed.routes if observed.link else frozenset()
    families = {route.family for route in desired.routes}
    gone: list[Change] = [RemoveRoute(route) for route in _ordered(present) if route.family not in families]
    return gone + [SetRoute(route) for route in _ordered(desired.routes - present)]


def _plan_rules(desired: Desired, observed: Observed) -> list[Change]:
    gone: list[Change] = [RemoveRule(rule) for rule in _ordered(observed.rules - desired.rules)]
    return gone + [AddRule(rule) for rule in _ordered(desired.rules - observed.rules)]


Placed = TypeVar("Placed", Route, Rule)


def _ordered(items: Iterable[Placed]) -> list[Placed]:
    return sorted(items, key=lambda item: (item.family, repr(item)))
