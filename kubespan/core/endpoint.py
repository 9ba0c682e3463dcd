"""An address and port at which a peer may be reached: parse, order, filter."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from typing import Any, TypeVar

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface

Shared = TypeVar("Shared", bound=Hashable)


def share(value: Shared) -> Shared:
    """Give the first of equal values: networks and endpoints of a thousand peers are known in several places at once,
    and read again and again.
    """
    first: Shared = _first(value)
    return first


@lru_cache(maxsize=16384)
def _first(value: Hashable) -> Any:
    return value


LISTEN_PORT = 51820
"""UDP port of a KubeSpan machine (spec/kubespan.md §0)."""

MAX_PORT = 65535


def parse_address(text: str) -> IPAddress:
    """Read an IP address; an IPv4-mapped IPv6 one is the IPv4 address that it carries, a zone is refused.

    Raises ValueError with a sentence that quotes the text.
    """
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} names an interface; write the address without what follows %")
        return address.ipv4_mapped or address
    return address


def parse_network(text: str) -> IPNetwork:
    """Read a CIDR, with host bits set or not, or a single address; host bits are masked away."""
    return parse_interface(text).network


def parse_interface(text: str) -> IPInterface:
    """Read a CIDR and keep its host bits; a single address is one of full length.

    The length must be a plain number: other implementations know no netmasks. Raises ValueError that quotes the text.
    """
    address, slash, length = text.partition("/")
    try:
        if slash and not (length.isascii() and length.isdigit()):
            raise ValueError  # noqa: TRY301 - one sentence for all faults
        if "%" in address:
            raise ValueError  # noqa: TRY301 - a zone has no meaning on another machine
        return ip_interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a network in CIDR form, such as 10.0.0.0/8") from None


@dataclass(frozen=True, order=False, slots=True)
class Endpoint:
    """Address and UDP port, written `192.0.2.1:51820` or `[2001:db8::1]:51820`."""

    ip: IPAddress
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read the text form; raises ValueError that says which half is wrong."""
        host, separator, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not separator or (":" in host and not bracketed):
            raise ValueError(f"{text!r} is not an endpoint: write 192.0.2.1:51820 or [2001:db8::1]:51820")
        if not (port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT)) and 0 < int(port) <= MAX_PORT):
            raise ValueError(f"{text!r}: the port must be a number from 1 to {MAX_PORT}")
        return cls(parse_address(host[1:-1] if bracketed else host), int(port))

    def __str__(self) -> str:
        host = f"[{self.ip}]" if isinstance(self.ip, IPv6Address) else str(self.ip)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AddressFilter:
    """One entry of an endpoint filter: a network whose addresses are taken, or with `!` left out."""

    network: IPNetwork
    excludes: bool

    @classmethod
    def parse(cls, text: str) -> AddressFilter:
        """Read `CIDR`, `IP`, `!CIDR` or `!IP` (spec/kubespan.md §3.1)."""
        excludes = text.startswith("!")
        value = text.removeprefix("!")
        try:
            return cls(parse_network(value), excludes)
        except ValueError:
            raise ValueError(f'KubeSpan endpoint filter is not valid: "{value}"') from None

    def matches(self, address: IPAddress) -> bool:
        """Say whether the address lies in the network; another family never does."""
        return address in self.network


def filter_addresses(addresses: Sequence[IPAddress], filters: Iterable[AddressFilter]) -> list[IPAddress]:
    """Apply filters in their order, which also orders the result (spec/kubespan.md §4.1).

    Without any filter every address stays; with only negative ones none does.
    """
    filters = list(filters)
    if not filters:
        return list(addresses)
    taken: dict[IPAddress, None] = {}
    for entry in filters:
        if entry.excludes:
            taken = {address: None for address in taken if not entry.matches(address)}
        else:
            taken.update({address: None for address in addresses if entry.matches(address) and address not in taken})
    return list(taken)
