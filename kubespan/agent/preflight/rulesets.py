"""Would a firewall let a peer's handshake in? Judged on what `nft -j list ruleset` lists, iptables-nft's included.

One packet is followed through all chains of the hooks that it meets: UDP to our port, at one interface, from somewhere.
What the listing does not tell of such a packet (its source, a match of xtables, a rate limit) counts as not met: an
accept that holds for some senders only is no open port, and a drop for some senders only no closed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOOKS = ("prerouting", "input")
FAMILY_NAMES: Mapping[int, tuple[str, ...]] = {4: ("ip", "inet"), 6: ("ip6", "inet")}
PROTOCOLS: Mapping[int, str] = {4: "ipv4", 6: "ipv6"}
UDP = ("udp", 17)
DEEPEST = 32
"""Jumps; the kernel itself allows 16."""

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Arrival:
    """The packet that is followed."""

    family: int
    interface: str
    port: int
    state: str = "new"
    """What connection tracking would call it."""


@dataclass(frozen=True, slots=True)
class Block:
    """Where a packet ends: in which base chain, and whether by its policy or by a rule."""

    family: str
    table: str
    chain: str
    rule_chain: str = ""
    """The chain of the rule; empty where the policy drops it."""
    handle: int = 0


@dataclass(frozen=True, slots=True)
class _Chain:
    family: str
    table: str
    name: str
    hook: str
    priority: int
    policy: str


class Ruleset:
    """A listing, ready to be asked."""

    def __init__(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self._bases: list[_Chain] = []
        self._rules: dict[tuple[str, str, str], list[Rule]] = {}
        self._dormant: set[tuple[str, str]] = set()
        self._sets: dict[tuple[str, str, str], list[Any]] = {}
        for item in objects:
            for kind, content in item.items():
                self._take(kind, content)
        self._bases.sort(key=lambda chain: (HOOKS.index(chain.hook), chain.priority))

    def _take(self, kind: str, content: Mapping[str, Any]) -> None:
        match kind:
            case "table":
                if "dormant" in content.get("flags", ()):
                    self._dormant.add((content["family"], content["name"]))
            case "chain":
                self._rules.setdefault((content["family"], content["table"], content["name"]), [])
                if content.get("hook") in HOOKS and content.get("type") == "filter":
                    base = (content["family"], content["table"], content["name"], content["hook"])
                    self._bases.append(_Chain(*base, content.get("prio", 0), content.get("policy", "accept")))
            case "set" | "map":
                self._sets[content["family"], content["table"], content["name"]] = list(content.get("elem", ()))
            case "rule":
                named = {**content, "expr": self._resolve(content, content["expr"])}  # sets are listed before rules
                self._rules.setdefault((content["family"], content["table"], content["chain"]), []).append(named)

    def _resolve(self, rule: Rule, value: Any) -> Any:
        """Put the elements of named sets and maps in their names' place."""
        match value:
            case str() if value.startswith("@"):
                return {"set": self._sets.get((rule["family"], rule["table"], value[1:]), [])}
            case dict():
                return {name: self._resolve(rule, part) for name, part in value.items()}
            case list():
                return [self._resolve(rule, part) for part in value]
        return value

    def tables(self) -> set[tuple[str, str]]:
        """Family and name of every table that has a chain."""
        return {(family, table) for family, table, _ in self._rules}

    def has_chain(self, family: str, table: str, name: str) -> bool:
        """Say whether there is such a chain."""
        return (family, table, name) in self._rules

    def blocks(self, arrival: Arrival) -> list[Block]:
        """List the base chains that do not let it pass, each for itself."""
        return [found for chain in self._met_by(arrival.family) if (found := self._judge(chain, arrival)) is not None]

    def reverse_path_rules(self, family: int) -> list[Block]:
        """List the rules that drop a packet whose sender would be answered by another way than it came by."""
        met = [
            (base, chain, rule)
            for base in self._met_by(family)
            for chain, rule in self._walk(base)
            if _drops(rule) and any(_is_reverse_path(statement) for statement in rule["expr"])
            if all(_family_fits(statement, family) for statement in rule["expr"])
        ]
        return [Block(base.family, base.table, base.name, chain, rule["handle"]) for base, chain, rule in met]

    def _met_by(self, family: int) -> list[_Chain]:
        return [
            chain
            for chain in self._bases
            if chain.family in FAMILY_NAMES[family] and (chain.family, chain.table) not in self._dormant
        ]

    def _walk(self, base: _Chain) -> Iterator[tuple[str, Rule]]:
        """Give every rule that can be reached from a base chain, with the chain it stands in, once."""
        waiting, seen = [base.name], {base.name}
        while waiting:
            name = waiting.pop()
            for rule in self._rules.get((base.family, base.table, name), ()):
                yield name, rule
                targets = set(_targets(rule["expr"])) - seen
                seen |= targets
                waiting += targets

    def _judge(self, base: _Chain, arrival: Arrival) -> Block | None:
        verdict = self._follow(base, base.name, arrival, DEEPEST)
        if isinstance(verdict, Block):
            return verdict
        if verdict == "accept" or base.policy != "drop":
            return None
        return Block(base.family, base.table, base.name)

    def _follow(self, base: _Chain, name: str, arrival: Arrival, depth: int) -> Block | str:
        """Follow it through a chain: a block, `accept`, or `return` where the chain lets it go on."""
        for rule in self._rules.get((base.family, base.table, name), ()):
            verdict = _apply(rule["expr"], arrival)
            if verdict is None:
                continue
            kind, target = verdict
            match kind:
                case "drop" | "reject":
                    return Block(base.family, base.table, base.name, name, rule["handle"])
                case "accept" | "return":
                    return kind
                case "jump" | "goto" if depth > 0:
                    after = self._follow(base, target, arrival, depth - 1)
                    if after != "return" or kind == "goto":
                        return after
        return "return"


VERDICTS = ("accept", "drop", "reject", "return", "jump", "goto")


def _apply(statements: Sequence[Mapping[str, Any]], arrival: Arrival) -> tuple[str, str] | None:
    """What a rule says to this packet: a verdict and its target; none where it does not apply, or says nothing."""
    for statement in statements:
        for kind, content in statement.items():
            if kind in VERDICTS:
                return _verdict(kind, content)
            if kind == "vmap":
                return _look_up(content, arrival)
            if kind == "match" and not _matches(content, arrival):
                return None
            if kind in {"limit", "ct count", "meter", "quota"}:
                return None
            if kind == "xt" and not _is_met(content, statements, arrival):
                return None
    return None


def _is_met(content: Mapping[str, Any], statements: Sequence[Mapping[str, Any]], arrival: Arrival) -> bool:
    """Guess at a match of xtables, of which a listing has the name alone, by what it is used for everywhere.

    Connections' states let answers in; types of addresses spare what is for this machine itself, as ufw does.
    """
    verdicts = {kind for statement in statements for kind in statement if kind in VERDICTS}
    match content.get("name"):
        case "conntrack" | "state":
            return "accept" in verdicts and arrival.state == "established"
        case "addrtype":
            return bool(verdicts & {"accept", "return"})
    return False


def _verdict(kind: str, content: Any) -> tuple[str, str]:
    return kind, content["target"] if isinstance(content, dict) and "target" in content else ""


def _look_up(content: Mapping[str, Any], arrival: Arrival) -> tuple[str, str] | None:
    data = content["data"]
    elements = data.get("set", ()) if isinstance(data, dict) else ()
    for key, verdict in elements:
        if _matches({"left": content["key"], "op": "==", "right": key}, arrival):
            ((kind, target),) = verdict.items()
            return _verdict(kind, target)
    return None


def _matches(content: Mapping[str, Any], arrival: Arrival) -> bool:
    """Say whether a condition is sure to be met."""
    left, right, operator = content["left"], content["right"], content["op"]
    match left:
        case {"payload": {"protocol": "udp" | "th", "field": "dport"}}:
            value: Any = arrival.port
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip" | "ip6", "field": "protocol" | "nexthdr"}}:
            return _holds(any(_contains(right, name) for name in UDP), operator)
        case {"meta": {"key": "nfproto"}}:
            value = PROTOCOLS[arrival.family]
        case {"meta": {"key": "protocol"}}:
            value = "ip" if arrival.family == 4 else "ip6"  # noqa: PLR2004 - IPv4
        case {"meta": {"key": "iifname" | "iif"}}:
            value = arrival.interface
        case {"ct": {"key": "state"}}:
            value = arrival.state
        case _:
            return False
    return _holds(_contains(right, value), operator)


def _holds(contained: bool, operator: str) -> bool:  # noqa: FBT001 - what an operator says of a fact
    return {"==": contained, "in": contained, "!=": not contained}.get(operator, False)


def _contains(right: Any, value: Any) -> bool:
    match right:
        case {"elem": {"val": member}}:
            return _contains(member, value)
        case {"set": [*members]} | [*members]:
            return any(_contains(member, value) for member in members)
        case {"range": [first, last]} if isinstance(value, int):
            return bool(first <= value <= last)
        case str() if isinstance(value, str) and right.endswith("*"):
            return value.startswith(right[:-1])
    return bool(right == value)


def _drops(rule: Rule) -> bool:
    return any("drop" in statement or "reject" in statement for statement in rule["expr"])


def _is_reverse_path(statement: Mapping[str, Any]) -> bool:
    match statement:
        case {"match": {"left": {"fib": {"result": "oif", "flags": [*flags]}}, "op": "==", "right": False}}:
            return "saddr" in flags and "iif" in flags
        case {"xt": {"name": "rpfilter"}}:
            return True
    return False


def _family_fits(statement: Mapping[str, Any], family: int) -> bool:
    match statement:
        case {"match": {"left": {"meta": {"key": "nfproto"}}, "op": "==", "right": name}}:
            return bool(name == PROTOCOLS[family])
    return True


def _targets(statements: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for statement in statements:
        for kind, content in statement.items():
            if kind in {"jump", "goto"}:
                yield content["target"]
            elif kind == "vmap" and isinstance(content["data"], dict):
                yield from _targets([verdict for _, verdict in content["data"].get("set", ())])
