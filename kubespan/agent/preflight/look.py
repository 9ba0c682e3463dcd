"""Reads a machine into `Facts`: netlink, /proc, nft, and the files of those who configure networks."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from itertools import chain
from pathlib import Path
from typing import Any

import structlog

from kubespan.agent import firewall
from kubespan.agent.host import read_interfaces
from kubespan.agent.kernel import Device, KernelError
from kubespan.agent.netlink import FAMILIES, PROTOCOL_KERNEL, Message, route_socket
from kubespan.agent.preflight.configuration import claiming_network, leaves_alone, manages_foreign
from kubespan.agent.preflight.facts import (
    Address,
    Facts,
    Holder,
    Mine,
    Networkd,
    OtherPeer,
    OtherWireGuard,
    PolicyRule,
    TableRoute,
)
from kubespan.agent.preflight.find import TABLE_LOCAL, TABLE_MAIN
from kubespan.agent.preflight.rulesets import HOOKS
from kubespan.agent.userspace import PROGRAM, SOCKETS, SYSTEMD, UserspaceWireGuard
from kubespan.agent.wireguard import KernelWireGuard, is_available
from kubespan.core.plan import MARK_MASK, ROUTE_TABLE, RULE_PRIORITY, TO_WIREGUARD

log = structlog.get_logger()

PROC = Path("/proc")
SYSCTL = Path("/proc/sys/net/ipv4/conf")
NETWORK = Path("/proc/thread-self/net")
"""Of the thread's own network namespace; /proc/net is the main thread's."""

INSTALLERS: Mapping[str, str] = {
    "apt-get": "apt-get install -y",
    "dnf": "dnf install -y",
    "yum": "yum install -y",
    "zypper": "zypper --non-interactive install",
    "pacman": "pacman -S --noconfirm",
    "apk": "apk add",
}
PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

LISTING_LIMIT = 8 * 1024 * 1024
"""Characters of one table's listing; a larger one, such as a cluster's with thousands of services, is not read."""

NETWORKD, NETWORK_MANAGER = "systemd-network", "NetworkManager"
"""The first 15 letters of the programs' names, as the kernel keeps them."""

INVERT = 2
"""FIB_RULE_INVERT of linux/fib_rules.h."""
ACTIONS: Mapping[int, str] = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
FURTHER = ("FRA_UID_RANGE", "FRA_IP_PROTO", "FRA_SPORT_RANGE", "FRA_DPORT_RANGE", "FRA_TUN_ID", "FRA_GOTO", "FRA_FLOW")
NO_SUPPRESSION = 0xFFFFFFFF
ROUTE_UNICAST = 1


async def look(
    mine: Mine, *, wall: float, skew: float | None = None, state: Path | None = None, root: Path = Path("/")
) -> Facts:
    """Read everything that preflight judges. Raises KernelError where not even links can be listed.

    `wall` is Unix time now, `state` the directory whose files tell what the clock showed before.
    """
    links = {link.name: link.kind for link in await read_interfaces()}
    names, addresses, defaults = await _read_links(mine)
    rules = await _read_rules()
    present = _read_processes()
    wireguards = await _read_wireguards(mine, links)
    used = {rule.table for rule in rules if rule.priority <= RULE_PRIORITY and rule.action == "lookup"}
    reachable = [one for one in addresses if _is_reachable(one) and one.interface != mine.link]
    has_nft = shutil.which("nft", path=PROGRAMS) is not None
    return Facts(
        mine=mine,
        reverse_path=_read_reverse_path(),
        networkd=_read_networkd(root, mine.link) if NETWORKD in present else None,
        network_manager=NETWORK_MANAGER in present and not leaves_alone(root, mine.link),
        ruleset=await _read_ruleset() if has_nft else (),
        interfaces=defaults or tuple(dict.fromkeys(one.interface for one in reachable)),
        families=tuple(sorted({one.address.version for one in reachable})) or (4,),
        port_holders=await _read_holders(mine, wireguards),
        free_port=_find_free_port(mine.listen_port),
        wireguards=wireguards,
        addresses=addresses,
        rules=rules,
        routes=await _read_routes(names, {ROUTE_TABLE, *used} - {TABLE_LOCAL}),
        has_nft=has_nft,
        has_wireguard=await _has_wireguard(mine),
        installer=next((line for name, line in INSTALLERS.items() if shutil.which(name, path=PROGRAMS)), ""),
        has_systemd=(root / "run/systemd/system").is_dir(),  # sd_booted(3)
        skew=skew,
        set_back=_read_set_back(state, wall),
    )


def _is_reachable(one: Address) -> bool:
    return not (one.address.is_loopback or one.address.is_link_local or one.address.is_multicast)


# ---------------------------------------------------------------------------------------------------------- netlink


async def _read_links(mine: Mine) -> tuple[dict[int, str], tuple[Address, ...], tuple[str, ...]]:
    """Give the names of all links, all addresses, and the links that default routes lead to."""
    async with route_socket() as ip:
        names = {message["index"]: message.get_attr("IFLA_IFNAME") async for message in await ip.link("dump")}
        addresses = tuple([_address(message, names) async for message in await ip.addr("dump")])
        found = {
            names.get(message.get_attr("RTA_OIF"), "")
            for family in FAMILIES.values()
            async for message in await ip.route("dump", family=family, table=TABLE_MAIN)
            if message.get_attr("RTA_TABLE") == TABLE_MAIN and not message["dst_len"]
        }
    return names, addresses, tuple(sorted(found - {"", mine.link, "lo"}))


def _address(message: Message, names: Mapping[int, str]) -> Address:
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return Address(names.get(message["index"], ""), ip_address(address), message["prefixlen"])


async def _read_rules() -> tuple[PolicyRule, ...]:
    async with route_socket() as ip:
        return tuple(
            [
                _rule(message, family)
                for family, number in FAMILIES.items()
                async for message in await ip.rule("dump", family=number)
                if not _is_ours(message) and not message.get_attr("FRA_L3MDEV") and not message.get_attr("FRA_OIFNAME")
            ]
        )


def _is_ours(message: Message) -> bool:
    mark = (message.get_attr("FRA_FWMARK"), message.get_attr("FRA_FWMASK"))
    return (
        mark == (TO_WIREGUARD, MARK_MASK)
        and message.get_attr("FRA_TABLE") == ROUTE_TABLE
        and message.get_attr("FRA_PROTOCOL") == PROTOCOL_KERNEL
    )


def _rule(message: Message, family: int) -> PolicyRule:
    suppressed = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    return PolicyRule(
        family=family,
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        action=ACTIONS.get(message["action"], "other"),
        source=_network(message.get_attr("FRA_SRC"), message["src_len"]),
        destination=_network(message.get_attr("FRA_DST"), message["dst_len"]),
        mark=message.get_attr("FRA_FWMARK"),
        mask=message.get_attr("FRA_FWMASK") or 0xFFFFFFFF,
        inverted=bool(message["flags"] & INVERT),
        incoming=message.get_attr("FRA_IIFNAME") or "",
        suppress_length=None if suppressed in {None, NO_SUPPRESSION, -1} else suppressed,
        further=bool(message["tos"]) or any(message.get_attr(name) is not None for name in FURTHER),
    )


def _network(address: str | None, length: int) -> Any:
    return ip_network(f"{address}/{length}") if address else None


async def _read_routes(names: Mapping[int, str], tables: Iterable[int]) -> tuple[TableRoute, ...]:
    found: list[TableRoute] = []
    async with route_socket() as ip:
        for table in sorted(tables):
            for family, number in FAMILIES.items():
                found += [
                    _route(message, family, table, names)
                    async for message in await ip.route("dump", family=number, table=table)
                    if message.get_attr("RTA_TABLE") == table and message["type"] == ROUTE_UNICAST
                ]
    return tuple(found)


def _route(message: Message, family: int, table: int, names: Mapping[int, str]) -> TableRoute:
    nowhere = "0.0.0.0" if family == 4 else "::"  # noqa: PLR2004, S104 - IPv4; the beginning of the default route
    return TableRoute(
        family=family,
        table=table,
        destination=_network(message.get_attr("RTA_DST") or nowhere, message["dst_len"]),
        interface=names.get(message.get_attr("RTA_OIF"), ""),
        gateway=message.get_attr("RTA_GATEWAY") or "",
        metric=message.get_attr("RTA_PRIORITY") or 0,
    )


# -------------------------------------------------------------------------------------------------------- WireGuard


async def _has_wireguard(mine: Mine) -> bool:
    program = shutil.which(PROGRAM) is not None
    match mine.data_plane:
        case "kernel":
            return await is_available()
        case "userspace":
            return program
    return program or await is_available()


async def _read_device(name: str) -> Device | None:
    """Ask whoever serves an interface; none where it is no WireGuard's."""
    devices = [UserspaceWireGuard(name)] if (SOCKETS / f"{name}.sock").exists() else [KernelWireGuard(name)]
    for device in devices:
        with suppress(KernelError):
            return await device.dump()
    return None


async def _read_wireguards(mine: Mine, links: Mapping[str, str]) -> tuple[OtherWireGuard, ...]:
    served = {path.stem for path in SOCKETS.glob("*.sock")} if SOCKETS.is_dir() else set()
    found = []
    for name, kind in links.items():
        if name == mine.link or (kind != "wireguard" and name not in served):
            continue
        device = await _read_device(name)
        if device is not None:
            peers = tuple(OtherPeer(peer.public_key, peer.allowed_ips) for peer in device.peers.values())
            found.append(OtherWireGuard(name, device.listen_port, peers))
    return tuple(found)


# ------------------------------------------------------------------------------------------------------------ ports


async def _read_holders(mine: Mine, wireguards: Sequence[OtherWireGuard]) -> tuple[Holder, ...]:
    """Who has our port; nobody where our own link has it."""
    inodes = _udp_sockets(mine.listen_port)
    if not inodes:
        return ()
    own = await _read_device(mine.link)
    if own is not None and own.listen_port == mine.listen_port:
        return ()
    interfaces = [Holder(interface=other.name) for other in wireguards if other.listen_port == mine.listen_port]
    if interfaces:
        return tuple(interfaces)
    return tuple(dict.fromkeys(find_holders(inodes))) or (Holder(),)


def _udp_sockets(port: int) -> set[str]:
    """The inodes of the UDP sockets on a port; the kernel's own are 0."""
    found = set()
    for name in ("udp", "udp6"):
        for fields in read_table(NETWORK / name):
            if int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found


def read_table(path: Path) -> list[list[str]]:
    """Read a table of /proc/net, split into fields; without its heading."""
    try:
        return [line.split() for line in path.read_text().splitlines()[1:]]
    except OSError:
        return []


def find_holders(inodes: Iterable[str]) -> Iterator[Holder]:
    """Find the processes that have these sockets, as far as we may see."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in _processes():
        try:
            if any(_read_link(process / "fd" / name) in wanted for name in os.listdir(process / "fd")):
                yield Holder(int(process.name), (process / "comm").read_text().strip(), _unit(process))
        except OSError:
            continue  # it ended meanwhile, or is not ours to look at


def _read_link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # closed meanwhile


def _processes() -> Iterator[Path]:
    return (path for path in PROC.iterdir() if path.name.isdecimal())


def _unit(process: Path) -> str:
    """The service of systemd that a process belongs to; empty for none."""
    if not SYSTEMD.is_dir():
        return ""
    found = re.search(r"/system\.slice/(?:.*/)?([^/]+\.service)$", (process / "cgroup").read_text(), re.MULTILINE)
    return found[1] if found else ""


def _find_free_port(port: int) -> int:
    for candidate in chain(range(port + 1, 65536), range(1024, port)):
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                probe.bind(("::", candidate))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
        return candidate
    return 0


# ------------------------------------------------------------------------------------------------ /proc, nft, files


def _read_reverse_path() -> dict[str, int]:
    found = {}
    for path in sorted(SYSCTL.glob("*/rp_filter")):
        with suppress(OSError, ValueError):
            found[path.parent.name] = int(path.read_text())
    return found


def _read_processes() -> set[str]:
    """The names of what runs in this network namespace, of what matters here."""
    found = set()
    for process in _processes():
        with suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name in {NETWORKD, NETWORK_MANAGER} and _shares_network(process):
                found.add(name)
    return found


def _shares_network(process: Path) -> bool:
    return os.readlink(process / "ns/net") == os.readlink(PROC / "thread-self/ns/net")


def _read_networkd(root: Path, link: str) -> Networkd:
    rules, routes = manages_foreign(root)
    return Networkd(rules, routes, claiming_network(root, link))


async def _read_ruleset() -> list[Mapping[str, Any]]:
    """List the tables that have a filter where peers' packets come in, each for itself: some are huge."""
    found: list[Mapping[str, Any]] = []
    try:
        bases = [item["chain"] for item in await _list("chains") if "chain" in item]
        met = [base for base in bases if base.get("hook") in HOOKS and base.get("type") == "filter"]
        for family, table in dict.fromkeys((base["family"], base["table"]) for base in met):
            if (family, table) != ("inet", firewall.TABLE):
                found += await _list("table", family, table)
    except (KernelError, LookupError, ValueError) as error:
        log.warning("the firewall's rules cannot be read", reason=str(error))
    return found


async def _list(*what: str) -> list[Mapping[str, Any]]:
    code, output, error = await firewall.run_nft("-j", "list", *what)
    if code != 0:
        raise KernelError(f"nft cannot list {' '.join(what)}: {error.strip().partition(chr(10))[0]}")
    if len(output) > LISTING_LIMIT:
        log.warning("a firewall's table is too large to be judged", table=" ".join(what))
        return []
    listed: list[Mapping[str, Any]] = json.loads(output)["nftables"]
    return listed


def _read_set_back(state: Path | None, wall: float) -> float:
    """By how much the clock is behind the newest file that we wrote ourselves."""
    newest = wall
    for path in state.glob("*") if state is not None else ():
        with suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest - wall
