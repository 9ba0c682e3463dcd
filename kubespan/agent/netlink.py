"""The data plane on Linux: link, addresses, routes and rules by rtnetlink; peers and firewall by their own files.

Netlink is opened for each pass and closed after it: nothing is remembered, so nothing can be remembered wrong, and
the library's sockets do not grow with the agent's age. What is read back is only what the agent manages, in the
words of `kubespan.core.plan`: what the kernel adds of its own (address flags, link-local addresses) is left out.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv6Address, IPv6Interface
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kubespan.agent import firewall
from kubespan.agent.kernel import Device, KernelError, WireGuardDevice, refusal
from kubespan.core.plan import (
    LINK_NAME,
    MARK_MASK,
    ROUTE_TABLE,
    TO_WIREGUARD,
    AddAddress,
    AddRule,
    Change,
    CreateLink,
    DeleteLink,
    Link,
    Observed,
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

FAMILIES: Mapping[int, int] = {4: AF_INET, 6: AF_INET6}
EVERYWHERE: Mapping[int, str] = {4: "0.0.0.0/0", 6: "::/0"}
ROUTE_PRIORITY = 1
PROTOCOL_STATIC = 4
"""RTPROT_STATIC: set by an administrator, to the kernel; routing daemons leave such routes alone."""
PROTOCOL_KERNEL = 2
"""RTPROT_KERNEL, for the rules: systemd-networkd, each time it starts, removes those that say anything else, and
until they are back traffic would leave unencrypted."""
SCOPE_GLOBAL = 0
UNICAST = 1
TO_TABLE = 1
"""FR_ACT_TO_TBL."""
IFF_UP = 1

Message = Any
"""A decoded netlink message of pyroute2, which has no types."""


@asynccontextmanager
async def route_socket() -> AsyncIterator[AsyncIPRoute]:
    """Open rtnetlink; an error of the socket itself becomes a KernelError."""
    try:
        async with AsyncIPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise refusal("asking the kernel", error.code) from None
    except OSError as error:
        raise refusal("asking the kernel", error.errno or errno.EIO) from None


async def find_link(ip: AsyncIPRoute, name: str) -> Message | None:
    """Look an interface up by name."""
    try:
        found: list[Message] = await ip.link("get", ifname=name)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise
    return found[0]


async def create_link(name: str, *, kind: str) -> None:
    """Make an interface, down; raises KernelError."""
    async with route_socket() as ip:
        try:
            await ip.link("add", ifname=name, kind=kind)
        except NetlinkError as error:
            remedy = "use --data-plane userspace, or a kernel with the wireguard module"
            raise refusal(f"making the interface {name}", error.code, {errno.EOPNOTSUPP: remedy}) from None


async def delete_link(name: str) -> None:
    """Remove an interface of whatever kind; none is no error."""
    async with route_socket() as ip:
        link = await find_link(ip, name)
        if link is None:
            return
        try:
            await ip.link("del", index=link["index"])
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise refusal(f"removing the interface {name}", error.code) from None


class LinuxKernel:
    """This host, in the network namespace that the agent runs in."""

    def __init__(self, wireguard: WireGuardDevice, name: str = LINK_NAME) -> None:
        self.wireguard = wireguard
        self._name = name

    async def observe(self) -> Observed:
        """Read the link, its addresses and peers, our routes and rules, and our nftables table."""
        device = await self.wireguard.dump()
        async with route_socket() as ip:
            rules = await _read_rules(ip)
            found = await find_link(ip, self._name) if device else None
            index = found["index"] if found else 0
            addresses = await _read_addresses(ip, index) if found else frozenset()
            routes = await _read_routes(ip, index) if found else frozenset()
        table = await firewall.observe()
        if device is None or found is None:
            return Observed(rules=rules, firewall=table)
        return Observed(
            link=_link(device, found),
            addresses=addresses,
            peers=device.peers,
            counters=device.counters,
            routes=routes,
            rules=rules,
            firewall=table,
        )

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes in their order; the first that fails ends it with a KernelError."""
        for change in changes:
            await self._apply_one(change)

    async def _apply_one(self, change: Change) -> None:
        match change:
            case AddAddress(address):
                await self._change_address("add", address)
            case RemoveAddress(address):
                await self._change_address("del", address)
            case SetRoute(route):
                await self._change_route("replace", route)
            case RemoveRoute(route):
                await self._change_route("del", route)
            case AddRule(rule):
                await self._change_rule("add", rule)
            case RemoveRule(rule):
                await self._change_rule("del", rule)
            case SetFirewall(table):
                await firewall.apply(table)
            case _:
                await self._change_device(change)

    async def _change_device(
        self, change: CreateLink | DeleteLink | SetLink | SetPeers | SetPresharedKeys | RemovePeers
    ) -> None:
        match change:
            case CreateLink():
                await self.wireguard.create()
                _allow_ipv6(self._name)
            case DeleteLink():
                await self.wireguard.delete()
            case SetLink(link):
                await self._set_link(link)
            case SetPeers(peers):
                await self.wireguard.set_peers(peers)
            case SetPresharedKeys(peers):
                await self.wireguard.set_preshared_keys(peers)
            case RemovePeers(keys):
                await self.wireguard.remove_peers(keys)

    async def _set_link(self, link: Link) -> None:
        # The kernel's device opens its socket when it comes up, and only then finds that the port is taken;
        # wireguard-go does as soon as it is told the port.
        await self.wireguard.configure(link)
        state = "up" if link.up else "down"
        await self._with_link(
            f"setting {self._name} {state} with an MTU of {link.mtu}",
            lambda ip, index: ip.link("set", index=index, mtu=link.mtu, state=state),
        )
        if link.any_path:
            _accept_any_path(self._name)

    async def _change_address(self, command: str, address: IPv6Interface) -> None:
        await self._with_link(
            f"{_DOING[command]} the address {address}",
            lambda ip, index: ip.addr(
                command, index=index, address=str(address.ip), prefixlen=address.network.prefixlen, family=AF_INET6
            ),
            settled=_SETTLED[command],
        )

    async def _change_route(self, command: str, route: Route) -> None:
        await self._with_link(
            f"{_DOING[command]} the IPv{route.family} default route of table {route.table}",
            lambda ip, index: ip.route(command, **_route_request(route, index)),
            settled=_SETTLED[command],
        )

    async def _change_rule(self, command: str, rule: Rule) -> None:
        doing = f"{_DOING[command]} the IPv{rule.family} rule for table {rule.table}"
        async with route_socket() as ip:
            await _attempt(doing, lambda: ip.rule(command, **_rule_request(rule)), _SETTLED[command])

    async def _with_link(
        self,
        doing: str,
        request: Callable[[AsyncIPRoute, int], Awaitable[object]],
        settled: frozenset[int] = frozenset(),
    ) -> None:
        async with route_socket() as ip:
            link = await find_link(ip, self._name)
            if link is None:
                raise KernelError(f"{doing}: the interface {self._name} has vanished")
            await _attempt(doing, lambda: request(ip, link["index"]), settled)


_DOING: Mapping[str, str] = {"add": "adding", "del": "removing", "replace": "setting"}
_SETTLED: Mapping[str, frozenset[int]] = {
    "add": frozenset({errno.EEXIST}),
    "replace": frozenset(),
    "del": frozenset({errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL}),
}
"""Errors that mean: it is so already."""


async def _attempt(doing: str, request: Callable[[], Awaitable[object]], settled: frozenset[int]) -> None:
    try:
        await request()
    except NetlinkError as error:
        if error.code not in settled:
            raise refusal(doing, error.code) from None


def _allow_ipv6(name: str) -> None:
    """Undo `disable_ipv6` for our own link, where the host's default has it: the mesh's addresses are IPv6."""
    switch = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    try:
        if switch.read_text().strip() != "0":
            switch.write_text("0")
    except FileNotFoundError:
        raise KernelError("this kernel has no IPv6", "start it without ipv6.disable=1") from None
    except OSError as error:
        raise refusal(f"allowing IPv6 on {name}", error.errno or errno.EIO) from None


def _reverse_path(name: str) -> Path:
    return Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter")


def _accept_any_path(name: str) -> None:
    """Turn the reverse path check off for our own link; systemd turns it on for every link that appears.

    Strict or loose, it asks for a way back through the same link, for a link without an IPv4 address has no other
    (fib_validate_source in Linux' net/ipv4/fib_frontend.c). Where it cannot be turned off preflight says so.
    """
    with suppress(OSError):
        _reverse_path(name).write_text("0")


def _accepts_any_path(name: str) -> bool:
    """Whether it is off, or is not ours to turn off."""
    switch = _reverse_path(name)
    try:
        return switch.read_text().strip() == "0" or not os.access(switch, os.W_OK)
    except OSError:
        return True


def _link(device: Device, message: Message) -> Link:
    return Link(
        mtu=message.get_attr("IFLA_MTU"),
        listen_port=device.listen_port,
        private_key=device.private_key,
        fwmark=device.fwmark,
        up=bool(message["flags"] & IFF_UP),
        any_path=_accepts_any_path(message.get_attr("IFLA_IFNAME")),
    )


async def _read_addresses(ip: AsyncIPRoute, index: int) -> frozenset[IPv6Interface]:
    found = set()
    async for message in await ip.addr("dump", family=AF_INET6, index=index):
        address = IPv6Address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
        # Not every kernel filters a dump by interface.
        if message["index"] == index and not address.is_link_local:
            found.add(IPv6Interface((address, message["prefixlen"])))
    return frozenset(found)


def _route_request(route: Route, index: int) -> dict[str, Any]:
    return {
        "family": FAMILIES[route.family],
        "dst": EVERYWHERE[route.family],
        "oif": index,
        "table": route.table,
        "priority": ROUTE_PRIORITY,
        "metrics": {"mtu": route.mtu},
        "proto": PROTOCOL_STATIC,
        "scope": SCOPE_GLOBAL,
        "type": UNICAST,
    }


async def _read_routes(ip: AsyncIPRoute, index: int) -> frozenset[Route]:
    found = set()
    for family, number in FAMILIES.items():
        async for message in await ip.route("dump", family=number, table=ROUTE_TABLE):
            if _is_our_route(message, index):
                metrics = message.get_attr("RTA_METRICS")
                found.add(Route(family=family, mtu=(metrics.get_attr("RTAX_MTU") if metrics else None) or 0))
    return frozenset(found)


def _is_our_route(message: Message, index: int) -> bool:
    return (
        message.get_attr("RTA_TABLE") == ROUTE_TABLE
        and message.get_attr("RTA_OIF") == index
        and message.get_attr("RTA_PRIORITY") == ROUTE_PRIORITY
        and message.get_attr("RTA_GATEWAY") is None
        and (message["dst_len"], message["type"], message["proto"]) == (0, UNICAST, PROTOCOL_STATIC)
    )


def _rule_request(rule: Rule) -> dict[str, Any]:
    return {
        "family": FAMILIES[rule.family],
        "priority": rule.priority,
        "table": rule.table,
        "fwmark": rule.mark,
        "fwmask": rule.mask,
        "action": TO_TABLE,
        "protocol": PROTOCOL_KERNEL,
    }


async def _read_rules(ip: AsyncIPRoute) -> frozenset[Rule]:
    """Find the rules that send our mark to our table, at whatever priority: one elsewhere is a stray of ours."""
    found = set()
    for family, number in FAMILIES.items():
        async for message in await ip.rule("dump", family=number):
            if _is_our_rule(message):
                found.add(Rule(family=family, priority=message.get_attr("FRA_PRIORITY") or 0))
    return frozenset(found)


def _is_our_rule(message: Message) -> bool:
    mark = (message.get_attr("FRA_FWMARK"), message.get_attr("FRA_FWMASK"))
    return (
        mark == (TO_WIREGUARD, MARK_MASK)
        and message.get_attr("FRA_TABLE") == ROUTE_TABLE
        and message.get_attr("FRA_PROTOCOL") == PROTOCOL_KERNEL
        and message["action"] == TO_TABLE
        and (message["src_len"], message["dst_len"]) == (0, 0)
    )
