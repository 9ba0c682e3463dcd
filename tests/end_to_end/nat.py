"""Machines behind a router that translates addresses: nobody reaches them where they say that they are."""

from __future__ import annotations

from nodes.lab import Machine
from nodes.playground import Site

TRANSLATE = """
table ip nat {{
  chain arriving {{ type filter hook input priority filter; iifname "eth0" ct state new drop; }}
  chain through {{ type filter hook forward priority filter; iifname "eth0" ct state new drop; }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" udp sport 51820 masquerade to :{port}
    oifname "eth0" masquerade
  }}
}}
"""
"""WireGuard leaves from another port than its own, one for everybody (a "cone"); what nobody asked for is dropped."""


def put_behind(site: Site, gate: str, name: str, number: int) -> Machine:
    """Make a machine whose only way out is this machine of the switch; `number` tells its network from the others'.

    It has an IPv6 default route as well, though the router carries none of it: what is for a member takes the tunnel.
    """
    router, inner = site.machines[gate], site.lab.machine(name)
    site.lab.join(router, inner, names=("lan", "eth0"), addresses=(f"10.{number}.0.1/24", f"10.{number}.0.2/24"))
    for machine, interface, host in ((router, "lan", 1), (inner, "eth0", 2)):
        machine.ip(f"address add fd00:{number}::{host}/64 dev {interface} nodad")
    inner.ip(f"route add default via 10.{number}.0.1")
    inner.ip(f"-6 route add default via fd00:{number}::1")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    router.run("nft", "-f", "-", stdin=TRANSLATE.format(port=outer_port(number)))
    return inner


def outer_port(number: int) -> int:
    """The port that WireGuard of this network leaves from."""
    return 40000 + number


def give_default_routes(site: Site, name: str) -> None:
    """Let a machine of the switch take any address for reachable, as one on the Internet does."""
    machine = site.machines[name]
    machine.ip(f"route add default via {site.host}")
    gate = site.addresses[name][1] + 200
    machine.ip(f"-6 route add default via {gate} dev eth0")
