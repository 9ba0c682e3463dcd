"""Links whose history the console keeps: those that somebody wants or lately looked at, and those that are not up.

Of a million links few are followed; any other's history is in its agent's own ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from nodes import live
from nodes.access import needs
from nodes.history.looks import LinkKey
from nodes.models import FollowedLink, Node
from nodes.services import after, audit
from nodes.services.audit import Actor
from nodes.services.refused import Refused

MOST_UNWELL = 1000
"""Links of one cluster that are followed because they are not up; when a network splits, half a million are not. The
rest is counted."""
MOST_WANTED = 200
"""Links of one cluster that are followed because somebody wants it or looked at them."""
LOOKED_FOR = timedelta(hours=24)
"""How long a link is followed after its page was open."""
UNWELL_FOR = timedelta(hours=1)
"""How long a link is followed after it was last not up."""
RECORDS = 50
"""Nodes whose records are read in one minute to find links that are not up: of a thousand members 2.7 MB."""


@dataclass(frozen=True)
class Choice:
    """The links to be noted this minute."""

    keys: list[LinkKey]
    sights: dict[LinkKey, live.Seen]
    """What their nodes last said of them."""
    unwell: list[LinkKey]
    """Those that are followed from now on, or longer, because they are not up."""
    left_out: int
    """How many are not up and are not among them."""


def choose(
    cluster_pk: int, members: Mapping[int | None, int], summaries: Mapping[int, live.Summary], now: datetime
) -> Choice:
    """Say which links are to be noted; `members` are primary keys by member index. Raises redis.RedisError."""
    rows = {(row.node_id, row.peer_id): row for row in _following(cluster_pk, members.values(), now)}
    indexes = {pk: index for index, pk in members.items() if index is not None}
    read = live.read_sights((node, indexes[peer]) for node, peer in rows)
    sights = {key: seen for key, seen in zip(rows, read, strict=True) if seen is not None}
    not_up = [key for key, seen in sights.items() if seen.state != "up"]
    room = MOST_UNWELL - sum(not (row.pinned or _after(row.looked_until, now)) for row in rows.values())
    found = _find_not_up(members, summaries, sights, Counter(node for node, _ in not_up), room)
    soon = now + UNWELL_FOR / 2
    renewed = [key for key in not_up if not _after(rows[key].unwell_until, soon)]
    all_not_up = sum(summary.unknown + summary.down for summary in summaries.values())
    return Choice([*rows, *found], sights | found, [*renewed, *found], max(0, all_not_up - len(not_up) - len(found)))


def _after(until: datetime | None, now: datetime) -> bool:
    return until is not None and until > now


def _following(cluster_pk: int, members: Iterable[int], now: datetime) -> list[FollowedLink]:
    present = set(members)
    followed = Q(pinned=True) | Q(looked_until__gt=now) | Q(unwell_until__gt=now)
    rows = FollowedLink.objects.filter(followed, node__cluster=cluster_pk)
    return [row for row in rows if {row.node_id, row.peer_id} <= present]


def _find_not_up(
    members: Mapping[int | None, int],
    summaries: Mapping[int, live.Summary],
    known: Mapping[LinkKey, live.Seen],
    counted: Counter[int],
    room: int,
) -> dict[LinkKey, live.Seen]:
    """Links that are not up and not followed yet, as far as there is room; a few nodes are looked at each minute."""
    found: dict[LinkKey, live.Seen] = {}
    lacking = [pk for pk, one in sorted(summaries.items()) if one.unknown + one.down > counted[pk]]
    if room <= 0 or not lacking:
        return found
    for node, table in live.read_matrix(lacking[:RECORDS]):
        for index, seen in table.links(live.UNKNOWN, live.DOWN):
            peer = members.get(index)
            if peer is None or (node, peer) in known:
                continue
            if len(found) == room:
                return found
            found[node, peer] = seen
    return found


def keep(choice: Choice, now: datetime) -> None:
    """Follow the links of a choice that are not up, within the transaction that notes them."""
    FollowedLink.objects.bulk_create(
        [FollowedLink(node_id=node, peer_id=peer, unwell_until=now + UNWELL_FOR) for node, peer in choice.unwell],
        update_conflicts=True,
        unique_fields=("node", "peer"),
        update_fields=("unwell_until",),
    )


def look_at(one: Node, other: Node, now: datetime) -> bool:
    """Follow a link in both directions because its page is open; false where it is already, or beyond the cap."""
    rows = FollowedLink.objects.filter(node__in=(one, other), peer__in=(one, other))
    if sum(row.pinned or _after(row.looked_until, now + LOOKED_FOR / 2) for row in rows) == len(_ways(one, other)):
        return False
    if _wanted(one.cluster_id, now, one, other) >= MOST_WANTED:
        return False
    FollowedLink.objects.bulk_create(
        [FollowedLink(node=node, peer=peer, looked_until=now + LOOKED_FOR) for node, peer in _ways(one, other)],
        update_conflicts=True,
        unique_fields=("node", "peer"),
        update_fields=("looked_until",),
    )
    return True


def _ways(one: Node, other: Node) -> tuple[tuple[Node, Node], tuple[Node, Node]]:
    return (one, other), (other, one)


def _wanted(cluster_pk: int, now: datetime, *but: Node) -> int:
    """How many links are followed because somebody wants it, those between `but` left out."""
    rows = FollowedLink.objects.filter(node__cluster=cluster_pk).exclude(node__in=but, peer__in=but)
    return rows.filter(Q(pinned=True) | Q(looked_until__gt=now)).count()


def is_pinned(one: Node, other: Node) -> bool:
    """Whether somebody wants the history of the link between two nodes kept."""
    return FollowedLink.objects.filter(node=one, peer=other, pinned=True).exists()


@needs("keep_history")
@transaction.atomic
def pin(actor: Actor, one: Node, other: Node, now: datetime, *, pinned: bool) -> None:
    """Keep the history of a link, in both directions, until further notice; or no longer."""
    if pinned and _wanted(one.cluster_id, now, one, other) >= MOST_WANTED:
        raise Refused(
            "too-many-links",
            f"The history of {MOST_WANTED} links of this cluster is kept already: let go of one, or wait until pages "
            "that were open lately are forgotten.",
            409,
        )
    FollowedLink.objects.bulk_create(
        [FollowedLink(node=node, peer=peer, pinned=pinned) for node, peer in _ways(one, other)],
        update_conflicts=True,
        unique_fields=("node", "peer"),
        update_fields=("pinned",),
    )
    verb = "node.history-kept" if pinned else "node.history-let-go"
    audit.write(actor, verb, one, now, peer=other.name)
    after.announce(one.cluster_id, "history.followed")
