"""A machine as preflight sees it: plain values, read by `look` and judged by `find`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any

from kubespan.core.endpoint import LISTEN_PORT, IPAddress, IPNetwork
from kubespan.core.plan import LINK_NAME


@dataclass(frozen=True, slots=True)
class Mine:
    """What the agent has here, or wants: everything else belongs to somebody else."""

    link: str = LINK_NAME
    listen_port: int = LISTEN_PORT
    data_plane: str = "auto"
    prefix: IPv6Network | None = None
    """The cluster's KubeSpan prefix; none before it is known."""
    destinations: Mapping[IPNetwork, str] = field(default_factory=dict)
    """What the mesh takes into its tunnel, and whose it is; empty before it is known."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a UDP port: a process, a service of systemd that it belongs to, or another WireGuard interface."""

    process: int = 0
    name: str = ""
    unit: str = ""
    interface: str = ""


@dataclass(frozen=True, slots=True)
class OtherPeer:
    """A peer of another WireGuard interface."""

    public_key: str
    allowed_ips: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class OtherWireGuard:
    """A WireGuard interface that is not ours."""

    name: str
    listen_port: int = 0
    peers: tuple[OtherPeer, ...] = ()


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface."""

    interface: str
    address: IPAddress
    length: int


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule of routing policy that is not ours."""

    family: int
    priority: int
    table: int
    action: str = "lookup"
    """`lookup`, or what `ip rule` calls another one; `goto` and `nop` among them."""
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    mark: int | None = None
    mask: int = 0xFFFFFFFF
    inverted: bool = False
    """`not`: it applies to what the selectors do not name."""
    incoming: str = ""
    suppress_length: int | None = None
    """Routes of no more than this length do not count (`suppress_prefixlength`)."""
    further: bool = False
    """It has a selector that is not among these."""


@dataclass(frozen=True, slots=True)
class TableRoute:
    """A route in a table that matters here and that is not ours."""

    family: int
    table: int
    destination: IPNetwork
    interface: str = ""
    gateway: str = ""
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Networkd:
    """systemd-networkd, where it runs."""

    manages_rules: bool
    manages_routes: bool
    claimed_by: str = ""
    """The `.network` file by which it would configure our link; empty for none."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. A part that could not be read is as if nothing were there."""

    mine: Mine = field(default_factory=Mine)
    reverse_path: Mapping[str, int] = field(default_factory=dict)
    """net.ipv4.conf.*.rp_filter by interface, `all` and `default` among them."""
    networkd: Networkd | None = None
    network_manager: bool = False
    """NetworkManager runs, and nothing tells it to leave our link alone."""
    ruleset: Sequence[Mapping[str, Any]] = ()
    """What `nft -j list ruleset` lists."""
    interfaces: tuple[str, ...] = ()
    """By which peers' packets come in."""
    families: tuple[int, ...] = (4,)
    """Of the addresses at which others may reach this machine."""
    port_holders: tuple[Holder, ...] = ()
    free_port: int = 0
    """Another UDP port that nobody has."""
    wireguards: tuple[OtherWireGuard, ...] = ()
    addresses: tuple[Address, ...] = ()
    rules: tuple[PolicyRule, ...] = ()
    routes: tuple[TableRoute, ...] = ()
    has_nft: bool = True
    has_wireguard: bool = True
    installer: str = "apt-get install -y"
    """The command that installs a package here; empty where it is not known."""
    has_systemd: bool = True
    skew: float | None = None
    """Seconds by which this clock is ahead of the console's; none where that is not known."""
    set_back: float = 0.0
    """Seconds by which this clock is behind a time that it showed before."""
