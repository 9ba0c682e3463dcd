"""One machine's data plane as it should be: link, peers, address, routes, rules, firewall (spec/kubespan.md §6)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Interface

from kubespan.core.cluster import parse_cluster_secret
from kubespan.core.endpoint import LISTEN_PORT, Endpoint
from kubespan.core.identity import SUBNET_LENGTH, KeyPair
from kubespan.core.options import Options
from kubespan.core.peer_spec import PeerSpec
from kubespan.core.peer_status import PeerStatus, routed
from kubespan.core.plan import NOTHING, Desired, Firewall, Link, Peer, Route, Rule
from kubespan.core.ranges import FAMILIES


def desired(
    *,
    keys: KeyPair,
    address: IPv6Address,
    secret: str,
    options: Options,
    specs: Mapping[str, PeerSpec],
    statuses: Mapping[str, PeerStatus],
    endpoints: Mapping[str, Endpoint | None],
    now: float,
    listen_port: int = LISTEN_PORT,
    exempt: frozenset[int] = frozenset(),
) -> Desired:
    """Say what the machine should have; nothing at all where KubeSpan is off.

    `endpoints` is what `peer_status.step` gave for each peer; a peer without one keeps what WireGuard has.
    """
    if not options.enabled:
        return NOTHING
    # WireGuard reports keys in one spelling only; the secret's may differ in bits that base64 ignores.
    preshared_key = base64.b64encode(parse_cluster_secret(secret)).decode()
    peers = {
        key: Peer(
            public_key=key, preshared_key=preshared_key, endpoint=endpoints.get(key), allowed_ips=spec.allowed_ips
        )
        for key, spec in sorted(specs.items())
        # The kernel drops a peer with the link's own key without a word, and we would add it for ever.
        if key != keys.public_key
    }
    return Desired(
        link=Link(mtu=options.mtu, listen_port=listen_port, private_key=keys.private_key),
        address=IPv6Interface((int(address), SUBNET_LENGTH)),
        peers=peers,
        routes=frozenset(Route(family=family, mtu=options.mtu) for family in FAMILIES),
        rules=frozenset(Rule(family=family) for family in FAMILIES),
        firewall=Firewall(mtu=options.mtu, routed=routed(specs, statuses, options, now), exempt=exempt),
    )
