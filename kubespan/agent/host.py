"""What the agent reads of its host: interfaces, addresses, names, events, and which WireGuard it has."""

from __future__ import annotations

import asyncio
import errno
import platform
import shutil
import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, Self

from kubespan.agent.kernel import DATA_PLANES, KernelError, WireGuardDevice, refusal
from kubespan.agent.netlink import route_socket
from kubespan.agent.userspace import PROGRAM, UserspaceWireGuard
from kubespan.agent.wireguard import KernelWireGuard, is_available
from kubespan.core.endpoint import IPAddress
from kubespan.core.plan import ROUTE_TABLE

LINK_TYPES: Mapping[int, str] = {1: "ether", 772: "loopback", 65534: "none"}
"""ARPHRD_* of linux/if_arp.h, in Talos' words; others are given by their number."""

UNUSABLE = 0x08 | 0x40
"""IFA_F_DADFAILED and IFA_F_TENTATIVE: another machine has the address, or may have."""
SCOPE_LINK = 253
"""RT_SCOPE_LINK; host and nowhere are above it (linux/rtnetlink.h)."""

OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))

MOST_ADDRESSES = 200
"""A claim of more would not fit into the 16 KiB of a frame; the console believes 128 of them."""

RECEIVE_BYTES = 1 << 16
BUFFER_BYTES = 1 << 20


class Interface(NamedTuple):
    """A network interface; `kind` is empty for a physical one (spec/kubespan.md §1.5)."""

    name: str
    type: str
    kind: str
    mac: bytes


async def read_interfaces() -> list[Interface]:
    """List the host's interfaces. Raises KernelError."""
    async with route_socket() as ip:
        return [_interface(message) async for message in await ip.link("dump")]


def _interface(message: Any) -> Interface:
    information = message.get_attr("IFLA_LINKINFO")
    mac = message.get_attr("IFLA_ADDRESS") or ""
    return Interface(
        name=message.get_attr("IFLA_IFNAME"),
        type=LINK_TYPES.get(message["ifi_type"], str(message["ifi_type"])),
        kind=(information.get_attr("IFLA_INFO_KIND") if information else None) or "",
        mac=bytes.fromhex(mac.replace(":", "")),
    )


async def read_addresses() -> list[IPAddress]:
    """List the addresses that others may reach this host by, in order (spec/kubespan.md §4.1).

    Left out are loopback, multicast and link-local ones, what is not of global scope, and what is on links that are
    not up, and what is beyond MOST_ADDRESSES. The KubeSpan address is among them once it is configured.
    Raises KernelError.
    """
    async with route_socket() as ip:
        up = {message["index"] async for message in await ip.link("dump") if _is_up(message)}
        found = {
            (address, message["prefixlen"])
            async for message in await ip.addr("dump")
            if message["index"] in up and (address := _usable_address(message)) is not None
        }
    ordered = sorted(found, key=lambda entry: (entry[0].version, int(entry[0]), entry[1]))
    return list(dict.fromkeys(address for address, _ in ordered))[:MOST_ADDRESSES]


def _is_up(message: Any) -> bool:
    if message.get_attr("IFLA_OPERSTATE") not in {"UP", "UNKNOWN"}:
        return False
    link = _interface(message)
    physical = link.type == "ether" and not link.kind
    return bool(message.get_attr("IFLA_CARRIER")) or not physical


def _usable_address(message: Any) -> IPAddress | None:
    address = ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    hidden = address.is_loopback or address.is_multicast or address.is_link_local
    return None if hidden or flags & UNUSABLE or message["scope"] >= SCOPE_LINK else address


def read_hostname() -> str:
    """The machine's own name, with its domain where it has one."""
    return platform.node()


def read_operating_system() -> str:
    """The system's name and version as its makers write them."""
    for path in OS_RELEASE:
        try:
            values = dict(line.partition("=")[::2] for line in path.read_text().splitlines())
        except OSError:
            continue
        if name := values.get("PRETTY_NAME", "").strip("\"'"):
            return name
    return platform.system()


class Watch:
    """What the kernel announces of links, addresses, and our routes and rules: each step says which changed.

    Announcements queue from the moment this is made. Many in a row are one step. What the agent itself changes is
    announced like everything else: its next pass finds nothing to do.
    """

    SETTLE_SECONDS = 0.1
    """How long to collect what follows a first announcement."""

    _KINDS: Mapping[int, str] = {
        **dict.fromkeys((16, 17), "link"),
        **dict.fromkeys((20, 21), "address"),
        **dict.fromkeys((24, 25), "route"),
        **dict.fromkeys((32, 33), "rule"),
    }
    """RTM_NEW* and RTM_DEL* of linux/rtnetlink.h."""
    _GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
    """RTMGRP_LINK, then address, route and rule of IPv4, and of IPv6."""
    _EVERYTHING = frozenset({"link", "address", "route", "rule"})
    _MESSAGE = struct.Struct("=IHHII")
    _TABLE = _MESSAGE.size + 4
    """Where a route's message has its table."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self._socket.bind((0, self._GROUPS))
        except OSError as error:
            self._socket.close()
            raise refusal("listening to the kernel", error.errno or errno.EIO) from None

    def close(self) -> None:
        """Stop listening; iteration ends."""
        self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> frozenset[str]:
        loop = asyncio.get_running_loop()
        try:
            kinds: frozenset[str] = frozenset()
            while not kinds:
                if self._socket.fileno() < 0:
                    raise StopAsyncIteration
                readable = asyncio.Event()
                loop.add_reader(self._socket, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(self._socket)
                kinds = self._drain()
            await asyncio.sleep(self.SETTLE_SECONDS)
        except asyncio.CancelledError:
            self.close()
            raise
        return kinds | self._drain()

    def _drain(self) -> frozenset[str]:
        """Read all that is there; where the kernel had to drop some, it may have been anything."""
        kinds: frozenset[str] = frozenset()
        while True:
            try:
                kinds |= frozenset(self._read(self._socket.recv(RECEIVE_BYTES)))
            except BlockingIOError:
                return kinds
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise refusal("listening to the kernel", error.errno or errno.EIO) from None
                kinds = self._EVERYTHING

    def _read(self, data: bytes) -> Iterator[str]:
        offset = 0
        while offset + self._MESSAGE.size <= len(data):
            length, number, *_ = self._MESSAGE.unpack_from(data, offset)
            kind = self._KINDS.get(number)
            # Of routes only our table's are news: a router's main table may change many times a second.
            if kind and (kind != "route" or data[offset + self._TABLE] == ROUTE_TABLE):
                yield kind
            offset += max((length + 3) & ~3, self._MESSAGE.size)


def watch() -> Watch:
    """Listen to the kernel from now on."""
    return Watch()


async def choose_data_plane(option: str = "auto") -> WireGuardDevice:
    """Choose who does WireGuard here; `auto` adopts a running wireguard-go, else prefers the kernel.

    Raises KernelError where the host does not have what is asked for, ValueError for an unknown option.
    """
    if option not in DATA_PLANES:
        raise ValueError(f"{option!r} is no data plane: choose one of {', '.join(DATA_PLANES)}")
    userspace = UserspaceWireGuard()
    if option != "kernel" and await userspace.dump() is not None:
        return userspace
    if option != "userspace" and await is_available():
        return KernelWireGuard()
    if option != "kernel" and shutil.which(PROGRAM):
        return userspace
    raise KernelError(*_LACKING[option])


_LACKING: Mapping[str, tuple[str, str]] = {
    "auto": ("this machine has no WireGuard", f"install {PROGRAM}, or a kernel with the wireguard module"),
    "kernel": ("this kernel has no WireGuard", f"load the module wireguard, or use {PROGRAM}: --data-plane userspace"),
    "userspace": (f"{PROGRAM} is not installed", f"install the package {PROGRAM}"),
}
