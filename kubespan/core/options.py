"""A cluster's KubeSpan options (spec/kubespan.md §3), the same for all its machines."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kubespan.core.endpoint import AddressFilter, Endpoint, parse_network

DEFAULT_MTU = 1420
MINIMUM_MTU = 1280
MAXIMUM_MTU = 65535 - 80
"""Talos has none. The longest packet of IP, less the tunnel's own (spec/kubespan.md §3.1): a longer one could not be
sent sealed. Linux cuts the MTU of a route at 65,520, so with a larger one the agent would see drift for ever."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The switches of a cluster; field names follow KubeSpanConfig, in snake case.

    A switch that is as it is by default does not travel: a release that does not know it needs it only where it is set.
    """

    enabled: bool = True
    mtu: int = DEFAULT_MTU
    allow_down_peer_bypass: bool = False
    """False forces traffic for a peer into the tunnel even while the peer is not `up`: it fails closed."""
    force_from_start: bool = False
    """True forces it even before the peer's first handshake, as KubeSpan does; False locks nobody out at the join."""
    harvest_extra_endpoints: bool = False
    advertise_kubernetes_networks: bool = False
    endpoint_filters: tuple[str, ...] = ()
    """Which of its addresses a machine advertises, in order."""
    peer_endpoint_filters: tuple[str, ...] = ()
    """Which of a peer's endpoints a machine tries."""
    exclude_advertised_networks: tuple[str, ...] = ()
    """Networks that others leave out of a machine's allowed IPs."""
    probes: bool = True
    """Whether machines measure round trip and loss of their links, by a small packet through the tunnel."""

    def check(self) -> None:
        """Raise ValueError with every fault in one sentence each, separated by `; `."""
        faults = []
        if self.mtu < MINIMUM_MTU:
            faults.append(f"KubeSpan link MTU must be at least {MINIMUM_MTU}")
        if self.mtu > MAXIMUM_MTU:
            faults.append(f"KubeSpan link MTU must be at most {MAXIMUM_MTU}")
        for entry in (*self.endpoint_filters, *self.peer_endpoint_filters):
            faults += _fault(AddressFilter.parse, entry)
        for entry in self.exclude_advertised_networks:
            faults += _fault(parse_network, entry)
        faults += self._further_faults()
        if faults:
            raise ValueError("; ".join(faults))

    def _further_faults(self) -> list[str]:
        return []


class ClusterOptions(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All options of a cluster: those that its machines act on, and those that the console acts on for them."""

    extra_endpoints: tuple[str, ...] = ()
    """Endpoints that every machine is offered at besides its own (spec/kubespan.md §3.2), such as a forwarded port."""
    approved_networks: tuple[str, ...] = ()
    """Ranges: a network within one of them that a machine claims is advertised without a further yes."""
    discovery: bool = True
    """Whether the discovery service serves the cluster: KubeSpan's service registry (spec/kubespan.md §3.4)."""

    def for_machines(self) -> Options:
        """What travels: a machine knows no more than it acts on."""
        return Options(**{name: getattr(self, name) for name in Options.__struct_fields__})

    def to_row(self) -> dict[str, object]:
        """What a database keeps: without what the release before does not know, as long as nobody has set it.

        That release's processes read the rows too while a console is upgraded, and are strict.
        """
        given, plain = msgspec.structs.asdict(self), msgspec.structs.asdict(type(self)())
        later = ("probes", *(name for name in given if name not in Options.__struct_fields__))
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if name not in later or value != plain[name]
        }

    def _further_faults(self) -> list[str]:
        faults = []
        for entry in self.extra_endpoints:
            faults += _fault(Endpoint.parse, entry)
        for entry in self.approved_networks:
            faults += _fault(parse_network, entry)
        return faults


def _fault(parse: Callable[[str], object], entry: str) -> list[str]:
    try:
        parse(entry)
    except ValueError as error:
        return [str(error)]
    return []
