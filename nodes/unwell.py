"""Pairs whose link is not up, as at least one end says: found for all clusters at once, looked up a page at a time.

A network that is split has hundreds of thousands of them. So what a whole list is found, filtered and sorted by costs a
byte a link (nodes.live.read_states), and four more where it is sorted by age; reasons and endpoints are read for those
alone that are shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from kubespan.core.reason import Reason
from nodes import live, pairs
from nodes.live import ABSENT, DOWN, STATES, UNKNOWN, UP, Seen
from nodes.models import Cluster, Node

NOT_SAID = "not said"
ONE_WAY = "one-way"
_BY_RANK = (DOWN, UNKNOWN, UP, ABSENT)
_RANKS = len(_BY_RANK)
_RANK = {state: rank for rank, state in enumerate(_BY_RANK)}
_NOTHING = bytes([ABSENT])
_NOT_UP = re.compile(bytes([ord("["), DOWN, UNKNOWN, ord("]")]))


class End(NamedTuple):
    """A member, as the list needs it."""

    pk: int
    cluster: int
    member: int
    """Its member index."""
    name: str
    here: bool
    """Whether its agent is connected, or discovery lists it."""
    talos: bool


class Unwell(NamedTuple):
    """A pair, the end that is worse off first, and how each sees the other."""

    one: End
    other: End
    ours: int
    theirs: int

    @property
    def key(self) -> tuple[int, int]:
        """Both primary keys."""
        return self.one.pk, self.other.pk

    @property
    def name(self) -> str:
        """The same whichever end is worse off, which may be another one by the next look."""
        return "-".join(map(str, sorted(self.key)))


class Query(NamedTuple):
    """Which of them are wanted; empty words want all."""

    text: str = ""
    """Part of an end's name."""
    state: str = ""
    """`down`, `unknown`, or `one-way`."""
    connected: bool = False
    """Whether both ends must be there, for what a machine that is away explains is then left out."""


Found = tuple[int, int, int]
"""How bad a pair is, and both ends as places in the list of ends, which is sorted by name: so it sorts by itself."""

SORTS: dict[str, Callable[[Found], Any] | None] = {"worst": None, "from": itemgetter(1, 2), "to": itemgetter(2, 1)}
AGE = "age"
"""A further one: the longest not up first, of those that were lost at once the worst."""

States = Mapping[int, bytes]
"""As nodes.live.read_states has them."""

Ages = Mapping[int, Sequence[int]]
"""As nodes.live.read_ages has them."""


def read_ends(clusters: Iterable[Cluster]) -> list[End]:
    """Members of these clusters, by name: one query."""
    rows = Node.objects.approved().filter(cluster__in=clusters, index__isnull=False).order_by("name", "pk")
    talos = Node.Kind.TALOS
    columns = rows.values_list("pk", "cluster_id", "index", "name", "session", "kind", "left_at")
    return [
        End(pk, cluster, index or 0, name, left is None if kind == talos else bool(session), kind == talos)
        for pk, cluster, index, name, session, kind, left in columns
    ]


def read_states(ends: Iterable[End]) -> States:
    """How those of them see the others that have an agent: one call to Redis; raises redis.RedisError."""
    return live.read_states(end.pk for end in ends if end.here and not end.talos)


def count_tellers(ends: Sequence[End], states: States) -> tuple[int, int]:
    """Of connected agents with another member to see: how many said anything of one, and how many did not."""
    sizes = Counter(end.cluster for end in ends)
    asked = [end for end in ends if end.here and not end.talos and sizes[end.cluster] > 1]
    told = sum(bool(states.get(end.pk, b"").strip(_NOTHING)) for end in asked)
    return told, len(asked) - told


def find(ends: Sequence[End], states: States) -> list[Found]:
    """All pairs of them that are not up, in no order."""
    places: dict[int, dict[int, int]] = {}
    for place, end in enumerate(ends):
        places.setdefault(end.cluster, {})[end.member] = place
    rows = [states.get(end.pk, b"") for end in ends]
    found: list[Found] = []
    for place, end in enumerate(ends):
        there = places[end.cluster]
        for match in _NOT_UP.finditer(rows[place]):
            other = there.get(match.start())
            if other is not None and other != place:
                back = rows[other][end.member] if end.member < len(rows[other]) else ABSENT
                ours, theirs = _RANK[match[0][0]], _RANK[back]
                # What both ends say of a pair is found twice: the worse one stands for it, or else the first one.
                if ours < theirs or (ours == theirs and place < other):
                    found.append((ours * _RANKS + theirs, place, other))
    return found


def read_ages(ends: Iterable[End], found: Iterable[Found]) -> Ages:
    """What it takes to sort these by age: one call to Redis; raises redis.RedisError."""
    places = {place for _, *both in found for place in both}
    return live.read_ages(end.pk for place, end in enumerate(ends) if place in places)


def choose(
    ends: Sequence[End], found: Iterable[Found], query: Query, sort: str, ages: Ages = MappingProxyType({})
) -> list[Found]:
    """Those that are wanted, in order: `sort` is AGE or one of SORTS, turned round by a `-` before it."""
    text = query.text.casefold()
    named = {place for place, end in enumerate(ends) if text in end.name.casefold()}
    here = {place for place, end in enumerate(ends) if end.here}
    wanted = {badness for badness in range(_RANKS * _RANKS) if not query.state or _is(*_states(badness), query.state)}
    chosen = [
        pair
        for pair in found
        if pair[0] in wanted
        and (not text or pair[1] in named or pair[2] in named)
        and (not query.connected or (pair[1] in here and pair[2] in here))
    ]
    by = sort.removeprefix("-")
    key = (lambda pair: (_lost_at(ends, pair, ages), pair)) if by == AGE else SORTS.get(by)
    return sorted(chosen, key=key, reverse=sort.startswith("-"))


def _lost_at(ends: Sequence[End], pair: Found, ages: Ages) -> float:
    """Unix time since when the pair is not up as an end says that does not see it up; late where nobody told."""
    badness, one, other = pair
    ways = ((one, other), (other, one))
    lost = [way for way, state in zip(ways, _states(badness), strict=True) if state in {DOWN, UNKNOWN}]
    return min((_age(ages, ends[here], ends[there].member) for here, there in lost), default=inf)


def _age(ages: Ages, end: End, member: int) -> float:
    said = ages.get(end.pk, ())
    return (said[member] if member < len(said) else 0) or inf


def _is(ours: int, theirs: int, state: str) -> bool:
    return theirs == UP if state == ONE_WAY else STATES.index(state) in {ours, theirs}


def _states(badness: int) -> tuple[int, int]:
    return _BY_RANK[badness // _RANKS], _BY_RANK[badness % _RANKS]


class Shown(msgspec.Struct, frozen=True):
    """A pair with what a row of the list says of it."""

    pair: Unwell
    cluster: Cluster
    reason: Reason | None
    ours: Seen | None
    theirs: Seen | None

    @property
    def lost(self) -> Seen | None:
        """The end that lost the other first, of those that do not see it up: their link is that old."""
        return pairs.lost_first((self.ours, self.theirs))

    @property
    def since(self) -> datetime | None:
        """Since when it is not up."""
        return pairs.since(self.lost)

    @property
    def at_least(self) -> bool:
        """Whether it may be so for longer."""
        return self.lost is not None and self.lost.at_least

    @property
    def handshake(self) -> datetime | None:
        """The newer of what both ends say."""
        said = [seen.handshake for seen in (self.ours, self.theirs) if seen is not None and seen.handshake is not None]
        return datetime.fromtimestamp(max(said), UTC) if said else None

    @property
    def endpoint(self) -> str:
        """Where the end that is worse off tries, or has, the other."""
        return self.ours.endpoint if self.ours is not None else ""

    @property
    def states(self) -> tuple[str, str]:
        """How each sees the other, in words."""
        ours, theirs = (NOT_SAID if state == ABSENT else STATES[state] for state in (self.pair.ours, self.pair.theirs))
        return ours, theirs


def look_up(ends: Sequence[End], chosen: Iterable[Found], clusters: Mapping[int, Cluster], now: float) -> list[Shown]:
    """What a page says of these: three queries and two calls to Redis for all; raises redis.RedisError."""
    unwell = [Unwell(ends[one], ends[other], *_states(badness)) for badness, one, other in chosen]
    reasons = pairs.read_reasons([pair.key for pair in unwell], clusters, now)
    wanted = [way for pair in unwell for way in ((pair.one.pk, pair.other.member), (pair.other.pk, pair.one.member))]
    sights = live.read_sights(wanted)
    return [
        Shown(pair, clusters[pair.one.cluster], why.reason if (why := reasons.get(pair.key)) else None, ours, theirs)
        for pair, ours, theirs in zip(unwell, sights[::2], sights[1::2], strict=True)
    ]
