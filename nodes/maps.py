"""What a cluster's map draws: shapes that its socket sends, and how a large cluster becomes groups. Decisions alone.

Up to MAP_LINKS nodes a map has every link. A larger one has its nodes, how many links between each two groups are in
which state, the links that are not up, and those of the node that somebody looks at. `frontend/src/map` has the same
shapes as types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

import msgspec

from nodes.live import ABSENT, DOWN, STATES, UNKNOWN, UP, Seen, Summary
from nodes.pages import LinkCounts, State

MAP_LINKS = 100
"""Nodes up to which a map has every link."""

NOT_UP_DRAWN = 1000
"""Links that are not up which a larger map draws; how many there are is said."""

GROUPS_DRAWN = 24
"""Groups of a map; the nodes of further sites are together in one."""

LEVELS = (1024, 100 * 1024, 10 * 1024**2)
"""Bytes a second, both ways, from which on a link is drawn a step wider."""

By = Literal["site", "kind"]
NO_SITE, OTHER_SITES = "none", "other"

Counts = tuple[int, int, int]
"""Links that are unknown, up and down."""


class MapNode(msgspec.Struct, frozen=True):
    """A member; its key is `pk`. `group` is one of the names of `group_keys`."""

    pk: int
    name: str
    group: str
    site: str
    talos: bool
    connected: bool
    links: LinkCounts


class MapLink(msgspec.Struct, frozen=True, array_like=True):
    """How `node` sees `peer`, whose keys are both; `level` counts the LEVELS that its traffic has reached."""

    node: int
    peer: int
    state: State
    level: int


class GroupLinks(msgspec.Struct, frozen=True, array_like=True):
    """Directed links between two groups, or within one; its key is both, in the order of the alphabet."""

    one: str
    other: str
    up: int
    unknown: int
    down: int


class MapSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """`/live/map/<uuid>/<by>`: members, and every link, or with `grouped` what stands for them."""

    number: int
    at: float
    grouped: bool
    not_up: int
    """Links that are not up, whether drawn or not."""
    unread: int
    """Nodes of a grouped map that report, but whose links are yet to be counted."""
    nodes: list[MapNode]
    links: list[MapLink]
    groups: list[GroupLinks]


class MapDelta(msgspec.Struct, frozen=True, tag_field="type", tag="delta", omit_defaults=True):
    """What changed, and keys of what is gone."""

    number: int
    at: float
    grouped: bool | None = None
    not_up: int | None = None
    unread: int | None = None
    nodes: list[MapNode] = []
    nodes_gone: list[int] = []
    links: list[MapLink] = []
    links_gone: list[tuple[int, int]] = []
    groups: list[GroupLinks] = []
    groups_gone: list[tuple[str, str]] = []


@dataclass(frozen=True, slots=True)
class Member:
    """A member as a map needs it."""

    pk: int
    index: int
    name: str
    site: str
    talos: bool
    here: bool
    """Whether discovery lists it, for a Talos machine."""


def group_keys(members: Iterable[Member], by: By) -> dict[int, str]:
    """Name each member's group, by primary key: `=` and the site or kind, NO_SITE, or OTHER_SITES."""
    members = list(members)
    if by == "kind":
        return {member.pk: "=Talos" if member.talos else "=Linux" for member in members}
    sizes = Counter(member.site for member in members if member.site)
    largest = sorted(sizes, key=lambda site: (-sizes[site], site))
    kept = set(largest if len(largest) <= GROUPS_DRAWN else largest[: GROUPS_DRAWN - 1])
    return {member.pk: _group_key(member.site, kept) for member in members}


def _group_key(site: str, kept: set[str]) -> str:
    if not site:
        return NO_SITE
    return f"={site}" if site in kept else OTHER_SITES


def map_node(member: Member, group: str, summary: Summary | None) -> MapNode:
    """A member and what it last said."""
    links = LinkCounts(summary.up, summary.unknown, summary.down) if summary else LinkCounts()
    connected = member.here if member.talos else summary is not None
    return MapNode(member.pk, member.name, group, member.site, member.talos, connected, links)


class Traffic:
    """How fast bytes pass on each link: from one report to the next, as a level."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], tuple[float, int, int]] = {}

    def link(self, node: int, peer: int, seen: Seen) -> MapLink:
        """The link as the map has it; its level is nought until a second report came."""
        total = seen.received + seen.sent
        at, before, level = self._last.get((node, peer), (seen.at, total, 0))
        if seen.at > at:
            level = traffic_level((total - before) / (seen.at - at))
        self._last[node, peer] = seen.at, total, level
        return MapLink(node, peer, seen.state, level)  # type: ignore[arg-type] # its states are these words

    def keep(self, nodes: Mapping[int, object]) -> None:
        """Forget links of nodes that are gone."""
        gone = [key for key in self._last if key[0] not in nodes or key[1] not in nodes]
        for key in gone:
            del self._last[key]


def traffic_level(bytes_a_second: float) -> int:
    """How many of the LEVELS it reaches; a counter that began anew is no traffic."""
    return sum(bytes_a_second >= least for least in LEVELS)


class LinkStates:
    """The state of each link of a large cluster, a byte a link, and how many there are between groups.

    Rows are what nodes say, by member index. A row is read again when its counts are no longer those of its node's
    summary, so a word that was missed is made good.
    """

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._by_index: dict[int, Member] = {}
        self._groups: dict[int, str] = {}
        self._masks: dict[str, int] = {}
        self._rows: dict[int, bytearray] = {}
        self._counted: dict[int, dict[str, list[int]]] = {}
        self._totals: dict[tuple[str, str], list[int]] = {}
        self._away: set[int] = set()

    def take_members(self, members: Mapping[int, Member], groups: Mapping[int, str]) -> None:
        """Those of now; rows of nodes that are gone go with them."""
        if self._members == members and self._groups == groups:
            return
        self._members, self._groups = dict(members), dict(groups)
        self._by_index = {member.index: member for member in members.values()}
        self._masks = {}
        for pk, group in groups.items():
            self._masks[group] = self._masks.get(group, 0) | 1 << 8 * members[pk].index
        self._rows = {pk: row for pk, row in self._rows.items() if pk in members}
        self._counted, self._totals = {}, {}
        for pk in self._rows:
            self._count(pk)

    def wanting(self, summaries: Mapping[int, Summary]) -> list[int]:
        """Nodes whose rows must be read, since they are not what their summaries count; those that say nothing lose
        theirs.
        """
        wanted = []
        self._away = {pk for pk, one in self._members.items() if not one.talos and pk not in summaries}
        for pk in self._members:
            summary = summaries.get(pk)
            if summary is None or summary.at is None:
                self.put(pk, b"")
            elif self.counts(pk) != (summary.unknown, summary.up, summary.down):
                wanted.append(pk)
        return wanted

    def put(self, pk: int, states: bytes) -> None:
        """Set a node's row: states by member index; without any it says nothing."""
        if pk in self._rows:
            self._uncount(pk)
            del self._rows[pk]
        if states and pk in self._members:
            self._rows[pk] = bytearray(states)
            self._count(pk)

    def set(self, pk: int, peer: int, state: int) -> None:
        """Set one link; of a node without a row nothing is known yet, so there is nothing to change."""
        row = self._rows.get(pk)
        if row is None or peer not in self._members or pk == peer:
            return
        index = self._members[peer].index
        row.extend([ABSENT] * (index + 1 - len(row)))
        for change, which in ((-1, row[index]), (1, state)):
            if which != ABSENT:
                self._add(pk, self._groups[peer], which, change)
        row[index] = state

    def counts(self, pk: int) -> Counts | None:
        """How many links a node's row has in each state; none without one."""
        if pk not in self._rows:
            return None
        found = list(self._counted.get(pk, {}).values())
        return sum(one[UNKNOWN] for one in found), sum(one[UP] for one in found), sum(one[DOWN] for one in found)

    def seen(self, pk: int) -> LinkCounts:
        """How the links of others to one are."""
        index = self._members[pk].index
        column = bytes(row[index] for row in self._rows.values() if index < len(row))
        return LinkCounts(column.count(UP), column.count(UNKNOWN), column.count(DOWN))

    def _count(self, pk: int) -> None:
        for state, table in _PLANES.items():
            # A bit a link: a thousand links are counted at once, by group.
            plane = int.from_bytes(self._rows[pk].translate(table), "little")
            for group, mask in self._masks.items():
                if found := (plane & mask).bit_count():
                    self._add(pk, group, state, found)

    def _uncount(self, pk: int) -> None:
        for group, found in self._counted.pop(pk, {}).items():
            total = self._totals[self._groups[pk], group]
            for state in _PLANES:
                total[state] -= found[state]

    def _add(self, pk: int, group: str, state: int, count: int) -> None:
        self._counted.setdefault(pk, {}).setdefault(group, [0, 0, 0])[state] += count
        self._totals.setdefault((self._groups[pk], group), [0, 0, 0])[state] += count

    def groups(self) -> dict[tuple[str, str], GroupLinks]:
        """Links between groups, both ways together."""
        summed: dict[tuple[str, str], list[int]] = {}
        for pair, found in self._totals.items():
            one, other = sorted(pair)
            into = summed.setdefault((one, other), [0, 0, 0])
            for state in _PLANES:
                into[state] += found[state]
        return {
            key: GroupLinks(*key, found[UP], found[UNKNOWN], found[DOWN]) for key, found in summed.items() if any(found)
        }

    def not_up(self) -> int:
        """How many links are not up."""
        return sum(found[UNKNOWN] + found[DOWN] for found in self._totals.values())

    def worst(self, limit: int = NOT_UP_DRAWN) -> Iterator[MapLink]:
        """Links that are not up, at most so many: down before unknown, and of each node in turn one.

        That all others do not reach a node that is away goes without saying, so it comes last.
        """
        turns = (self._in_turn(state, away=away) for away in (False, True) for state in (DOWN, UNKNOWN))
        return islice(chain.from_iterable(turns), limit)

    def _in_turn(self, state: int, *, away: bool) -> Iterator[MapLink]:
        left = [(pk, self._peers(pk, state)) for pk in sorted(self._rows)]
        while left:
            going = []
            for pk, peers in left:
                peer = next((peer for peer in peers if (peer in self._away) == away), None)
                if peer is not None:
                    yield MapLink(pk, peer, STATES[state], 0)  # type: ignore[arg-type] # its states are these words
                    going.append((pk, peers))
            left = going

    def _peers(self, pk: int, state: int) -> Iterator[int]:
        row = self._rows[pk]
        index = row.find(state)
        while index >= 0:
            member = self._by_index.get(index)
            if member is not None and member.pk != pk:
                yield member.pk
            index = row.find(state, index + 1)


_PLANES = {state: bytes(byte == state for byte in range(256)) for state in (UNKNOWN, UP, DOWN)}
