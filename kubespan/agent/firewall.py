"""What is forced into the tunnel: the agent's own nftables table, written and read back (spec/kubespan.md §6.4).

There is one description of the table, `chains`: a list of steps for each chain. `render` writes it for nft, and
`read` turns nft's listing back into steps. A listing is understood by what its rules do, not by how nft spells them
(it simplifies masks, merges ranges and drops what follows from the rest, differently from version to version), so
that a restarted or upgraded agent finds equality, and a changed or lost rule is seen.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Any

from kubespan.agent.kernel import KernelError
from kubespan.core.endpoint import IPNetwork, share
from kubespan.core.plan import FROM_WIREGUARD, MARK_MASK, TO_WIREGUARD, Firewall

TABLE = "kubespan"
PREROUTING = "kubespan_prerouting"
OUTGOING = "kubespan_outgoing"
HOOKS: Mapping[str, tuple[str, str]] = {PREROUTING: ("filter", "prerouting"), OUTGOING: ("route", "output")}
"""Type and hook of each chain; both have the priority `filter` (0) and the policy accept."""

CLEAR = 0xFFFFFFFF ^ MARK_MASK
HEADERS: Mapping[int, int] = {4: 52, 6: 72}
"""Bytes of IP (20 or 40) and TCP (20) headers with options (12), which the MSS leaves out."""
EVERYTHING: Mapping[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}

NEIGHBOUR_DISCOVERY = (
    "nd-router-solicit",
    "nd-router-advert",
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "nd-redirect",
)
"""The ICMPv6 types of RFC 4861, none of which a router ever forwards."""

PROTOCOLS: Mapping[int, str] = {4: "ip", 6: "ip6"}

ALTERED = Firewall(mtu=0, routed=frozenset())
"""A table that is there but not as the agent writes it; equal to none that anybody wants."""

TIMEOUT = 30.0
"""Seconds for one run of nft; it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class PassOwn:
    """Accept WireGuard's own packets; the comment on it keeps the MTU where no other rule speaks of it."""

    mtu: int


@dataclass(frozen=True, slots=True)
class PassLoopback:
    """Accept what stays on this machine."""


@dataclass(frozen=True, slots=True)
class PassNeighbours:
    """Accept IPv6 neighbour discovery: it finds the machines that share the wire, which the tunnel itself needs.

    Not in KubeSpan (docs/decisions/0005): an advertisement sent to a peer's own address would enter the tunnel, its
    sender never learn the link-layer address, and the tunnel's packets to it stop.
    """


@dataclass(frozen=True, slots=True)
class PassServed:
    """Accept what a port of this machine answers: the console's, which must be reached while a link is down.

    Not in KubeSpan, and only on the machine that carries the console.
    """

    port: int


@dataclass(frozen=True, slots=True)
class PassPublished:
    """Accept, both ways, the connections to such a port that are handed on, as a container's published port is."""

    port: int


@dataclass(frozen=True, slots=True)
class Clamp:
    """Lower the MSS of connections to these networks to what fits into the tunnel."""

    family: int
    networks: frozenset[IPNetwork]
    mss: int


@dataclass(frozen=True, slots=True)
class Force:
    """Mark packets to these networks for the tunnel's routing table, and accept them."""

    family: int
    networks: frozenset[IPNetwork]


Step = PassOwn | PassLoopback | PassNeighbours | PassServed | PassPublished | Clamp | Force


def chains(firewall: Firewall) -> dict[str, list[Step]]:
    """List what each chain does. A family without members gets no step at all, never one that matches everything."""
    by_family = {family: _of_family(firewall.routed, family) for family in HEADERS}
    present = [(family, networks) for family, networks in by_family.items() if networks]
    mtu = firewall.mtu & 0xFFFF
    force: list[Step] = [Force(family, networks) for family, networks in present]
    clamp: list[Step] = [Clamp(family, networks, mtu - HEADERS[family]) for family, networks in present]
    ports = sorted(firewall.exempt)
    published: list[Step] = [PassPublished(port) for port in ports]
    served: list[Step] = [PassServed(port) for port in ports]
    return {
        PREROUTING: [PassOwn(firewall.mtu), *published, *force],
        OUTGOING: [PassOwn(firewall.mtu), PassLoopback(), PassNeighbours(), *served, *clamp, *force],
    }


def _of_family(networks: Iterable[IPNetwork], family: int) -> frozenset[IPNetwork]:
    return frozenset(network for network in networks if network.version == family)


# ---------------------------------------------------------------------------------------------------------- writing


def render(firewall: Firewall | None) -> str:
    """Write the transaction that replaces the table, or that removes it."""
    # A table that is first named is sure to be there to be deleted; all of this is one transaction.
    script = [f"table inet {TABLE}", f"delete table inet {TABLE}"]
    if firewall is not None:
        script.append(f"table inet {TABLE} {{")
        for name, steps in chains(firewall).items():
            kind, hook = HOOKS[name]
            script += [f"chain {name} {{", f"type {kind} hook {hook} priority filter; policy accept;"]
            script += [f"{_write(step)};" for step in steps]
            script.append("}")
        script.append("}")
    return "\n".join(script) + "\n"


def _write(step: Step) -> str:
    match step:
        case PassOwn(mtu):
            return f'meta mark & {MARK_MASK:#x} == {FROM_WIREGUARD:#x} accept comment "mtu {mtu}"'
        case PassLoopback():
            return 'oifname "lo" accept'
        case PassNeighbours():
            return f"icmpv6 type {{ {', '.join(NEIGHBOUR_DISCOVERY)} }} accept"
        case PassServed(port):
            return f"tcp sport {port} accept"
        case PassPublished(port):
            return f"meta l4proto tcp ct status dnat ct original proto-dst {port} accept"
        case Clamp(family, networks, mss):
            tcp = f"tcp flags & (syn | rst) == syn tcp option maxseg size > {mss} tcp option maxseg size set {mss}"
            return f"{_write_destination(family, networks)} {tcp}"
        case Force(family, networks):
            mark = f"meta mark set meta mark & {CLEAR:#x} ^ {TO_WIREGUARD:#x}"
            return f"{_write_destination(family, networks)} {mark} accept"


def _write_destination(family: int, networks: frozenset[IPNetwork]) -> str:
    protocol = f"meta nfproto ipv{family}"
    if EVERYTHING[family] in networks:
        return protocol
    members = ", ".join(str(network) for network in sorted(networks, key=lambda network: network.network_address))
    return f"{protocol} {PROTOCOLS[family]} daddr {{ {members} }}"


# ---------------------------------------------------------------------------------------------------------- reading


class _Altered(Exception):
    """The listing has something that the agent never writes."""


@lru_cache(maxsize=1)  # of a thousand networks it takes longer to understand than to get, and rarely changes
def read(listing: str) -> Firewall:
    """Understand nft's JSON listing of the table; `ALTERED` where anything in it is not as the agent writes it."""
    try:
        found = _read_chains(json.loads(listing)["nftables"])
        mtu = next(step.mtu for step in found[OUTGOING] if isinstance(step, PassOwn))
        routed = frozenset(n for step in found[PREROUTING] if isinstance(step, Force) for n in step.networks)
        exempt = frozenset(step.port for step in found[OUTGOING] if isinstance(step, PassServed))
        firewall = Firewall(mtu=mtu, routed=routed, exempt=exempt)
    except (_Altered, LookupError, TypeError, ValueError, AttributeError, StopIteration):
        return ALTERED
    return firewall if chains(firewall) == found else ALTERED


def _read_chains(objects: Sequence[Mapping[str, Any]]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for item in objects:
        ((kind, content),) = item.items()
        match kind:
            case "metainfo":
                pass
            case "table":
                _require("flags" not in content)  # such as dormant
            case "chain":
                base = (content["type"], content["hook"], content["prio"], content["policy"])
                _require(base == (*HOOKS[content["name"]], 0, "accept"))
                found[content["name"]] = []
            case "rule":
                found[content["chain"]].append(_read_rule(content["expr"], content.get("comment", "")))
            case _:
                raise _Altered
    return found


def _read_rule(statements: Sequence[Mapping[str, Any]], comment: str) -> Step:
    matches = _Matches()
    actions: list[tuple[str, Any]] = []
    for statement in statements:
        ((kind, content),) = statement.items()
        if kind == "match":
            _require(not actions)  # a condition after an action would make the action unconditional
            matches.take(content)
        else:
            actions.append((kind, content))
    match actions:
        case [("accept", _)] if matches.only("own"):
            number = re.fullmatch(r"mtu (\d+)", comment)
            _require(number is not None)
            return PassOwn(int(comment.removeprefix("mtu ")))
        case [("accept", _)] if matches.only("loopback"):
            return PassLoopback()
        case [("accept", _)] if matches.only("neighbours"):
            return PassNeighbours()
        case [("accept", _)] if matches.only("served"):
            return PassServed(matches.port)
        case [("accept", _)] if matches.only("published", "handed on"):
            return PassPublished(matches.port)
        case [("mangle", mangle), ("accept", _)] if matches.only("destination") and _forces(mangle):
            return Force(*matches.destination())
        case [("mangle", mangle)] if matches.only("destination", "syn", "mss"):
            _require(mangle["key"] == _MSS and mangle["value"] == matches.mss)
            return Clamp(*matches.destination(), matches.mss)
    raise _Altered


_MARK: Mapping[str, Any] = {"meta": {"key": "mark"}}
_FLAGS: Mapping[str, Any] = {"payload": {"protocol": "tcp", "field": "flags"}}
_MSS: Mapping[str, Any] = {"tcp option": {"name": "maxseg", "field": "size"}}
_FLAG_BITS: Mapping[str, int] = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_TRANSPORTS: Mapping[str, tuple[str, ...]] = {
    "syn": ("tcp",),
    "served": ("tcp",),
    "published": ("tcp",),
    "neighbours": ("ipv6-icmp", "icmpv6"),
}
"""The transport that a condition implies."""
_MARKS = (0, 0xFFFFFFFF, *(FROM_WIREGUARD | 1 << bit for bit in range(32)))
"""Marks enough to tell any two ways of masking, comparing and setting bits apart."""


class _Matches:
    """The conditions of one rule, by what they mean."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.family = 0
        self.networks: frozenset[IPNetwork] = frozenset()
        self.mss = 0
        self.port = 0
        self.transport = ""

    def take(self, content: Mapping[str, Any]) -> None:
        left, right, operator = content["left"], content["right"], content["op"]
        match left:
            case {"tcp option": _} if left == _MSS and operator == ">":
                self.mss = right
                self._add("mss")
                return
            case {"meta": {"key": "nfproto"}}:
                _require(self.family == 0)
                self.family = {"ipv4": 4, "ipv6": 6}[right]
                self.networks = frozenset({EVERYTHING[self.family]})
                self._add("destination")
            case {"payload": {"protocol": "ip" | "ip6" as protocol, "field": "daddr"}}:
                family = 4 if protocol == "ip" else 6
                _require(self.family in {0, family} and self.networks <= {EVERYTHING[family]})
                self.family, self.networks = family, frozenset(_read_networks(right))
                self.kinds.add("destination")
            case {"meta": {"key": "oifname"}}:
                _require(right == "lo")
                self._add("loopback")
            case {"payload": {"protocol": "icmpv6", "field": "type"}}:
                _require(sorted(right["set"]) == sorted(NEIGHBOUR_DISCOVERY))
                self._add("neighbours")
            case {"payload": {"protocol": "tcp", "field": "sport"}}:
                self.port = right
                self._add("served")
            case {"ct": {"key": "proto-dst", "dir": "original"}}:
                self.port = right
                self._add("published")
            case {"ct": {"key": "status"}} if operator in {"in", "=="}:
                _require(right == "dnat")
                self._add("handed on")
                return
            case {"meta": {"key": "l4proto"}}:
                self.transport = right  # follows from the flags or the type; some versions say it
            case _:
                self._take_bits(left, right)
        _require(operator == "==")

    def _take_bits(self, left: Any, right: Any) -> None:
        if _mentions(left, _FLAGS):
            asked = [_value(left, flags) == _value(right, flags) for flags in range(256)]
            syn, rst = _FLAG_BITS["syn"], _FLAG_BITS["rst"]
            _require(asked == [flags & (syn | rst) == syn for flags in range(256)])
            self._add("syn")
        else:
            _require(_mentions(left, _MARK))
            asked = [_value(left, mark) == _value(right, mark) for mark in _MARKS]
            _require(asked == [mark & MARK_MASK == FROM_WIREGUARD for mark in _MARKS])
            self._add("own")

    def _add(self, kind: str) -> None:
        _require(kind not in self.kinds)
        self.kinds.add(kind)

    def only(self, *kinds: str) -> bool:
        implied = {name for kind in kinds for name in _TRANSPORTS.get(kind, ())}
        return self.kinds == set(kinds) and self.transport in {"", *implied}

    def destination(self) -> tuple[int, frozenset[IPNetwork]]:
        return self.family, self.networks


def _read_networks(right: Any) -> list[IPNetwork]:
    """Read one element or a set of them: an address, a prefix, or a range into which nft merged several."""
    members = right["set"] if isinstance(right, dict) and "set" in right else [right]
    networks: list[IPNetwork] = []
    for member in members:
        match member:
            case str():
                networks.append(ip_network(member))
            case {"prefix": {"addr": address, "len": length}}:
                networks.append(ip_network(f"{address}/{length}"))
            case {"range": [first, last]}:
                networks += summarize_address_range(ip_address(first), ip_address(last))
            case _:
                raise _Altered
    return list(map(share, collapse_addresses(networks)))  # type: ignore[type-var]  # all of one family


def _forces(mangle: Mapping[str, Any]) -> bool:
    if mangle["key"] != _MARK:
        return False
    return all(_value(mangle["value"], mark) == (mark & CLEAR) ^ TO_WIREGUARD for mark in _MARKS)


def _value(expression: Any, variable: int) -> int:
    """Compute an expression of nft's, where the field that it is about has the value `variable`."""
    match expression:
        case int():
            return expression
        case str():
            return _FLAG_BITS[expression]
        case list():
            return _fold("|", expression, variable)
        case {"&": operands}:
            return _fold("&", operands, variable)
        case {"|": operands}:
            return _fold("|", operands, variable)
        case {"^": operands}:
            return _fold("^", operands, variable)
        case {"meta": _} | {"payload": _}:
            return variable
    raise _Altered


def _fold(operator: str, operands: Sequence[Any], variable: int) -> int:
    total = _value(operands[0], variable)
    for operand in operands[1:]:
        value = _value(operand, variable)
        match operator:
            case "&":
                total &= value
            case "|":
                total |= value
            case _:
                total ^= value
    return total


def _mentions(expression: Any, field: Mapping[str, Any]) -> bool:
    """Tell whether an expression is about this field, and about no other."""
    match expression:
        case {"meta": _} | {"payload": _}:
            return bool(expression == field)
        case {"&": [first, *_]}:
            return _mentions(first, field)
    return False


def _require(as_written: bool) -> None:  # noqa: FBT001 - reads as an assertion
    if not as_written:
        raise _Altered


# ---------------------------------------------------------------------------------------------------------- nft itself


async def observe() -> Firewall | None:
    """Read the table from the kernel; none where there is none. Raises KernelError."""
    code, output, error = await run_nft("-j", "list", "table", "inet", TABLE)
    if code == 0:
        return read(output)
    if "No such file or directory" in error:
        return None
    raise KernelError(f"nft cannot list the table {TABLE}: {_first_line(error)}", _remedy(error))


async def apply(firewall: Firewall | None) -> None:
    """Replace the table, or remove it, in one transaction. Raises KernelError; then nothing has changed."""
    code, _, error = await run_nft("-f", "-", script=render(firewall))
    if code != 0:
        raise KernelError(f"nft refuses the table {TABLE}: {_first_line(error)}", _remedy(error))


async def run_nft(*arguments: str, script: str = "") -> tuple[int, str, str]:
    """Run nft to its end; gives its exit status, output and errors. Raises KernelError where there is no nft."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"},
        )
    except FileNotFoundError:
        raise KernelError("nft is not installed", "install the package nftables") from None
    try:
        output, error = await asyncio.wait_for(process.communicate(script.encode()), TIMEOUT)
    except (TimeoutError, asyncio.CancelledError) as stopped:
        process.kill()
        await process.wait()
        if isinstance(stopped, TimeoutError):
            raise KernelError(f"nft did not answer within {TIMEOUT:.0f} s") from None
        raise
    return process.returncode or 0, output.decode(errors="replace"), error.decode(errors="replace")


def _first_line(error: str) -> str:
    return error.strip().partition("\n")[0] or "no reason given"


def _remedy(error: str) -> str:
    if "Operation not permitted" in error:
        return "run the agent as root, or with CAP_NET_ADMIN"
    if "not supported" in error:
        return "this kernel needs nf_tables with the inet family"
    return ""
