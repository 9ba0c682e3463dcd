"""Affiliates → what each peer should be: allowed IPs without overlap, endpoints to try (spec/kubespan.md §4.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import AddressFilter, Endpoint, IPNetwork, filter_addresses
from kubespan.core.identity import is_public_key
from kubespan.core.ranges import FAMILIES, Range, TakenRanges, network_range, prefixes, subtract, unite


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """What a peer should be, in WireGuard's terms."""

    public_key: str
    address: IPv6Address
    allowed_ips: tuple[IPNetwork, ...] = ()
    """Fewest prefixes, ascending, IPv4 before IPv6; none when others have them all."""
    endpoints: tuple[Endpoint, ...] = ()
    label: str = ""
    """The nodename."""


@dataclass(frozen=True, slots=True)
class PeerSpecs:
    """All peer specs by public key, and what was odd on the way."""

    specs: dict[str, PeerSpec] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def peer_specs(
    affiliates: Iterable[Affiliate], own_node_id: str, peer_endpoint_filters: Sequence[AddressFilter] = ()
) -> PeerSpecs:
    """Turn affiliates into peer specs; where addresses overlap, the earlier node id keeps them.

    Every machine of a cluster computes the same, so the outcome must not depend on the order of what comes in.
    """
    result = PeerSpecs()
    taken = {family: TakenRanges() for family in FAMILIES}
    for affiliate in sorted(affiliates, key=lambda one: one.node_id):
        if affiliate.node_id == own_node_id or not affiliate.public_key:
            continue
        name = affiliate.nodename or affiliate.node_id
        if affiliate.address is None or not is_public_key(affiliate.public_key):
            missing = "KubeSpan address" if affiliate.address is None else "valid public key"
            result.warnings.append(f"peer {name} is left out: it has no {missing}")
            continue
        if affiliate.public_key in result.specs:
            result.warnings.append(f"peer {name} has the public key of another one and takes its place")
        result.specs[affiliate.public_key] = PeerSpec(
            public_key=affiliate.public_key,
            address=affiliate.address,
            allowed_ips=_allow(affiliate, name, taken, result.warnings),
            endpoints=filter_endpoints(affiliate.endpoints, peer_endpoint_filters),
            label=affiliate.nodename,
        )
    return result


def _allow(
    affiliate: Affiliate, name: str, taken: dict[int, TakenRanges], warnings: list[str]
) -> tuple[IPNetwork, ...]:
    allowed: list[IPNetwork] = []
    others: set[str] = set()
    for family in FAMILIES:
        free: list[Range] = []
        for wanted in _address_ranges(affiliate, family):
            parts, owners = taken[family].claim(wanted, name)
            free += parts
            others |= owners
        allowed += prefixes(free, family)
    if others:
        warnings.append(f"peer address overlap: {name} goes without what {', '.join(sorted(others))} has already")
    if not allowed:
        warnings.append(f"peer {name} is left with no address at all")
    return tuple(allowed)


def _address_ranges(affiliate: Affiliate, family: int) -> list[Range]:
    """Give networks and addresses, then without the excluded ones, then with the KubeSpan address in any case."""
    wanted = [network_range(network) for network in affiliate.additional_addresses if network.version == family]
    wanted += [(int(ip), int(ip)) for ip in affiliate.addresses if ip.version == family]
    excluded = [
        network_range(network) for network in affiliate.exclude_advertised_networks if network.version == family
    ]
    kept = subtract(unite(wanted), unite(excluded))
    if affiliate.address is not None and affiliate.address.version == family:
        kept.append((int(affiliate.address), int(affiliate.address)))
    return unite(kept)


def filter_endpoints(endpoints: Sequence[Endpoint], filters: Sequence[AddressFilter]) -> tuple[Endpoint, ...]:
    """Leave the endpoints whose addresses pass the filters, in the filters' order; without filters all."""
    if not filters:
        return tuple(endpoints)
    passed = filter_addresses([endpoint.ip for endpoint in endpoints], filters)
    return tuple(endpoint for ip in passed for endpoint in endpoints if endpoint.ip == ip)
