"""Desired states, and single passes on a machine of the laboratory, for the tests of a real kernel."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from functools import cache
from ipaddress import IPv6Interface, collapse_addresses, ip_network

import pytest

from kubespan.agent.netlink import LinuxKernel
from kubespan.agent.userspace import UserspaceWireGuard
from kubespan.agent.wireguard import KernelWireGuard, is_available
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.plan import Desired, Firewall, Link, Peer, Route, Rule, plan

SECRET = b64encode(bytes(range(32))).decode()
ADDRESS = IPv6Interface("fd7f:175a:b97c:5602:42:acff:fe11:2/64")

DATA_PLANES = ["userspace", pytest.param("kernel", marks=pytest.mark.kernel)]


def data_plane(name: str) -> type[UserspaceWireGuard | KernelWireGuard]:
    """Who does WireGuard; skips the test where this machine has not got it."""
    if name == "userspace":
        return UserspaceWireGuard
    if not asyncio.run(is_available()):
        pytest.skip("this kernel has no WireGuard; tests/vm runs this in a virtual machine")
    return KernelWireGuard


@cache  # an emulated processor takes milliseconds for each
def make_key(number: int) -> KeyPair:
    return KeyPair.make((number << 64).to_bytes(32))  # in the middle: clamping changes the first and the last byte


def make_peer(number: int, *networks: str, endpoint: str | None = None) -> Peer:
    return Peer(
        public_key=make_key(number).public_key,
        preshared_key=SECRET,
        endpoint=Endpoint.parse(endpoint) if endpoint else None,
        allowed_ips=tuple(ip_network(network) for network in networks),
    )


def make_desired(*peers: Peer, mtu: int = 1420, port: int = 51820, address: IPv6Interface = ADDRESS) -> Desired:
    networks = [network for peer in peers for network in peer.allowed_ips if network.version == 4]
    return Desired(
        link=Link(mtu=mtu, listen_port=port, private_key=make_key(1).private_key),
        address=address,
        peers={peer.public_key: peer for peer in peers},
        routes=frozenset({Route(4, mtu), Route(6, mtu)}),
        rules=frozenset({Rule(4), Rule(6)}),
        firewall=Firewall(mtu=mtu, routed=frozenset(collapse_addresses(networks))),
    )


def bring(machine, wireguard, desired):
    """One pass, by an agent that knows nothing from before; returns the changes that it made."""

    async def reconcile():
        kernel = LinuxKernel(wireguard())
        changes = plan(desired, await kernel.observe())
        await kernel.apply(changes)
        return changes

    return machine.call(reconcile)


def look(machine, wireguard):
    return machine.call(LinuxKernel(wireguard()).observe)
