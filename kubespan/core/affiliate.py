"""What a machine says of itself, and merging what two registries say of it (spec/kubespan.md §4.1 to §4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import TypeVar

from kubespan.core.cluster import Purpose, is_kubespan_ula, is_ula
from kubespan.core.endpoint import (
    LISTEN_PORT,
    AddressFilter,
    Endpoint,
    IPAddress,
    IPInterface,
    filter_addresses,
    parse_address,
    parse_interface,
    share,
)
from kubespan.core.messages import Member


@dataclass(frozen=True, slots=True)
class Affiliate:
    """A machine as a registry knows it; field by field the affiliate of Talos."""

    node_id: str
    addresses: tuple[IPAddress, ...] = ()
    hostname: str = ""
    nodename: str = ""
    machine_type: str = "unknown"
    operating_system: str = ""
    public_key: str = ""
    address: IPv6Address | None = None
    """The KubeSpan address."""
    additional_addresses: tuple[IPInterface, ...] = ()
    """Networks behind the machine; host bits are kept, as Talos publishes them."""
    exclude_advertised_networks: tuple[IPInterface, ...] = ()
    """Networks that others leave out of this machine's allowed IPs."""
    endpoints: tuple[Endpoint, ...] = ()
    api_server_port: int | None = None


Item = TypeVar("Item")


def _unite(base: Sequence[Item], other: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys((*base, *other)))


def merge(base: Affiliate, other: Affiliate) -> Affiliate:
    """Add what another registry says of the same machine: lists are united, names and keys overwritten."""
    return replace(
        base,
        addresses=_unite(base.addresses, other.addresses),
        additional_addresses=_unite(base.additional_addresses, other.additional_addresses),
        exclude_advertised_networks=_unite(base.exclude_advertised_networks, other.exclude_advertised_networks),
        endpoints=_unite(base.endpoints, other.endpoints),
        hostname=other.hostname or base.hostname,
        nodename=other.nodename or base.nodename,
        public_key=other.public_key or base.public_key,
        address=other.address or base.address,
        api_server_port=other.api_server_port or base.api_server_port,
        machine_type=base.machine_type if other.machine_type == "unknown" else other.machine_type,
    )


def merge_all(raw: Iterable[tuple[str, Affiliate]]) -> list[Affiliate]:
    """Merge raw affiliates, each with its resource id (`k8s/…`, `service/…`), whose order says who is the base.

    The service is the one registry here as yet (docs/architecture.md): the rule is the specification's.
    """
    merged: dict[str, Affiliate] = {}
    for _, affiliate in sorted(raw, key=lambda pair: pair[0]):
        base = merged.get(affiliate.node_id)
        merged[affiliate.node_id] = merge(base, affiliate) if base else affiliate
    return [merged[node_id] for node_id in sorted(merged)]


def members(affiliates: Iterable[Affiliate]) -> dict[str, Affiliate]:
    """Index the affiliates that have a nodename by it; of two with the same, the later node id wins."""
    named = (affiliate for affiliate in affiliates if affiliate.nodename)
    return {affiliate.nodename: affiliate for affiliate in sorted(named, key=lambda one: one.node_id)}


def from_member(member: Member) -> Affiliate:
    """Read a member of the console; raises ValueError with the first fault and the member's name."""
    try:
        address = parse_address(member.address) if member.address else None
        if address is not None and not isinstance(address, IPv6Address):
            raise ValueError(f"{member.address!r} is not an IPv6 address")  # noqa: TRY301 - named below like the others
        return Affiliate(
            node_id=member.node_id,
            addresses=tuple(map(parse_address, member.addresses)),
            hostname=member.hostname,
            nodename=member.name,
            machine_type=member.machine_type,
            operating_system=member.operating_system,
            public_key=member.public_key,
            address=address,
            additional_addresses=tuple(map(parse_interface, member.networks)),
            exclude_advertised_networks=tuple(map(parse_interface, member.excluded)),
            endpoints=tuple(share(Endpoint.parse(text)) for text in member.endpoints),
        )
    except ValueError as error:
        raise ValueError(f"member {member.name or member.node_id}: {error}") from None


def from_members(members: Iterable[Member]) -> tuple[list[Affiliate], list[str]]:
    """Read all members; one that cannot be read is left out, with a warning, and costs the others nothing."""
    affiliates = []
    warnings = []
    for member in members:
        try:
            affiliates.append(from_member(member))
        except ValueError as error:
            warnings.append(str(error))
    return affiliates, warnings


def to_member(affiliate: Affiliate, index: int) -> Member:
    """Write an affiliate as the console's member of this index; an API server's port does not travel."""
    return Member(
        index=index,
        node_id=affiliate.node_id,
        name=affiliate.nodename,
        public_key=affiliate.public_key,
        address=str(affiliate.address or ""),
        addresses=tuple(map(str, affiliate.addresses)),
        endpoints=tuple(map(str, affiliate.endpoints)),
        networks=tuple(map(str, affiliate.additional_addresses)),
        excluded=tuple(map(str, affiliate.exclude_advertised_networks)),
        hostname=affiliate.hostname,
        machine_type=affiliate.machine_type,
        operating_system=affiliate.operating_system,
    )


def is_observable(address: IPAddress) -> bool:
    """Whether an address at which somebody sees a machine can be an endpoint of it."""
    useless = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    return not useless and not is_kubespan_ula(address)


def advertise_endpoints(
    addresses: Sequence[IPAddress],
    *,
    own: IPv6Address | None,
    public_addresses: Sequence[IPAddress] = (),
    filters: Iterable[AddressFilter] = (),
    extra: Sequence[Endpoint] = (),
    port: int = LISTEN_PORT,
) -> list[Endpoint]:
    """List the endpoints that a machine announces (spec/kubespan.md §4.1).

    `own` is its KubeSpan address, which can be no endpoint of the tunnel that it lives in; `extra` have their own
    ports and pass no filter.
    """
    outside = [ip for ip in addresses if ip != own and not is_ula(ip, Purpose.SIDEROLINK)]
    candidates = _unite(outside, public_addresses)
    found = [Endpoint(ip, port) for ip in filter_addresses(candidates, filters)]
    return list(_unite(found, extra))
