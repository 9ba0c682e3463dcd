"""What a Talos machine decides, written from spec/kubespan.md alone: nothing of the agent's own code is in it.

So that both sides of a mixed mesh agree only where both follow the specification. Affiliates are as the Go program
under tests/interop/discovery prints them; times are seconds on any one timeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Any

Network = IPv4Network | IPv6Network

PORT = 51820
KUBESPAN = 2
"""The purpose byte of a KubeSpan prefix (§1.4)."""
CONNECT_TIMEOUT = 15.0
PEER_DOWN_AFTER = 275.0
NEVER = float("-inf")


def kubespan_address(cluster_id: str, mac: str) -> IPv6Address:
    """The address that follows from a cluster and a hardware address (§1.4, §1.5)."""
    prefix = bytearray(hashlib.sha256(cluster_id.encode()).digest()[16:24])
    prefix[0], prefix[7] = 0xFD, KUBESPAN
    hardware = bytes.fromhex(mac.replace(":", ""))
    return IPv6Address(
        bytes([*prefix, hardware[0] ^ 2, *hardware[1:3], 0xFF, 0xFE, *hardware[3:]]),
    )


def is_kubespan(network: Network) -> bool:
    """Whether a network lies in somebody's KubeSpan prefix (§1.4); the link itself routes those."""
    packed = network.network_address.packed
    return network.version == 6 and packed[0] == 0xFD and packed[7] == KUBESPAN


def own_endpoints(addresses: Iterable[str], public: str, filters: Sequence[str]) -> list[str]:
    """What a machine offers: its addresses and where the service saw it, through `filters.endpoints` (§4.1)."""
    known = list(dict.fromkeys([*addresses, *([public] if public else [])]))
    if filters:
        ranges = [ip_network(text) for text in filters]
        known = [ip for within in ranges for ip in known if ip_address(ip) in within]
    return [f"[{ip}]:{PORT}" if ":" in ip else f"{ip}:{PORT}" for ip in known]


@dataclass(frozen=True)
class PeerSpec:
    """What a peer should be (§4.4)."""

    node_id: str
    label: str
    allowed_ips: tuple[Network, ...]
    endpoints: tuple[str, ...]


def peer_specs(affiliates: Iterable[Mapping[str, Any]], own_id: str) -> dict[str, PeerSpec]:
    """Make peers of affiliates, by public key; of overlapping addresses the lowest node id keeps them (§4.4)."""
    specs: dict[str, PeerSpec] = {}
    taken: list[Network] = []
    for one in sorted(affiliates, key=lambda one: str(one["id"])):
        if one["id"] == own_id or not one.get("public_key"):
            continue
        given = [ip_network(text, strict=False) for text in (*one.get("additional", ()), *one.get("addresses", ()))]
        left = _subtract(given, [ip_network(text, strict=False) for text in one.get("excluded", ())])
        left = _subtract([*left, ip_network(one["address"])], taken)
        taken += left
        label, endpoints = one.get("nodename", ""), tuple(one.get("endpoints", ()))
        specs[one["public_key"]] = PeerSpec(one["id"], label, _normal(left), endpoints)
    return specs


def _subtract(networks: Iterable[Network], holes: Iterable[Network]) -> list[Network]:
    left = list(networks)
    for hole in holes:
        left = [part for network in left for part in _without(network, hole)]
    return left


def _without(network: Any, hole: Any) -> list[Network]:
    if network.version != hole.version or not network.overlaps(hole):
        return [network]
    return [] if network.subnet_of(hole) else list(network.address_exclude(hole))


def _normal(networks: Iterable[Network]) -> tuple[Network, ...]:
    networks = list(networks)
    v4 = collapse_addresses(one for one in networks if isinstance(one, IPv4Network))
    v6 = collapse_addresses(one for one in networks if isinstance(one, IPv6Network))
    return (*v4, *v6)


@dataclass(frozen=True)
class PeerStatus:
    """What a peer is (§7)."""

    endpoint: str = ""
    """As WireGuard has it."""
    last_used: str = ""
    """As it was last given."""
    changed: float = NEVER
    handshake: float = NEVER

    def state(self, now: float) -> str:
        """§7.1."""
        if now - self.changed > PEER_DOWN_AFTER:
            up = now - self.handshake < PEER_DOWN_AFTER
        else:
            up = self.handshake > self.changed
        if up:
            return "up"
        return "down" if self.last_used and now - self.changed >= CONNECT_TIMEOUT else "unknown"

    def next_endpoint(self, endpoints: Sequence[str], now: float) -> str:
        """The endpoint to give it now; empty for none (§7.2, §7.3)."""
        if not endpoints or (self.last_used and self.state(now) != "down"):
            return ""
        if self.last_used not in endpoints:
            return endpoints[0]
        if len(endpoints) == 1 and self.endpoint == self.last_used:
            return ""
        return endpoints[(endpoints.index(self.last_used) + 1) % len(endpoints)]

    def given(self, endpoint: str, now: float) -> PeerStatus:
        """§7.4."""
        return replace(self, endpoint=endpoint, last_used=endpoint, changed=now)


def ruleset(peers: Iterable[PeerSpec]) -> str:
    """The nftables rules that send what is for peers into the tunnel, as one transaction (§6.4); it fails closed."""
    routed = [one for peer in peers for one in peer.allowed_ips if not is_kubespan(one)]
    marks, clamps = "", ""
    for family, version, mss in (("ip", 4, 1368), ("ip6", 6, 1348)):
        if members := ", ".join(str(one) for one in routed if one.version == version):
            to = f"{family} daddr {{ {members} }}"
            clamps += f"{to} tcp flags & (syn | rst) == syn tcp option maxseg size > {mss} "
            clamps += f"tcp option maxseg size set {mss}\n"
            marks += f"{to} meta mark set meta mark & 0xffffffdf | 0x40 accept\n"
    return f"""
table inet talos
delete table inet talos
table inet talos {{
  chain kubespan_prerouting {{
    type filter hook prerouting priority filter; policy accept;
    meta mark & 0x60 == 0x20 accept
    {marks}
  }}
  chain kubespan_outgoing {{
    type route hook output priority filter; policy accept;
    meta mark & 0x60 == 0x20 accept
    oifname "lo" accept
    {clamps}
    {marks}
  }}
}}
"""
