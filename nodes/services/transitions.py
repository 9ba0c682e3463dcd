"""Transitions as rows, up to a stated number a minute: a network that splits changes half a million links at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import F

from nodes.live import Moved
from nodes.models import Transition
from nodes.services import revisions
from nodes.services.refused import Refused

TRANSITIONS_A_MINUTE = 1000
"""Rows of one cluster in one minute; what is beyond is counted in one further row of the kind `capped`."""
TRANSITIONS_KEPT_FOR = timedelta(days=30)
TEXT_LIMIT = 1000


class LinkMoved(NamedTuple):
    """A node says that its link to a peer changed. A row takes 25 µs to make, and of a million few are kept."""

    node: int
    peer: int
    moved: Moved
    at: datetime

    def row(self) -> Transition:
        """Make it a row, of no cluster yet."""
        moved = self.moved
        if moved.before == moved.after:
            text = f"endpoint {moved.endpoint_before} → {moved.endpoint}"
        else:
            text = f"endpoint {moved.endpoint}" if moved.endpoint else "no endpoint"
        return Transition(
            node_id=self.node,
            peer_id=self.peer,
            kind=Transition.Kind.LINK,
            before=moved.before,
            after=moved.after,
            text=text,
            at=self.at,
        )


def record_links(cluster_pk: int, links: Sequence[LinkMoved], now: datetime) -> int:
    """Keep what links did, as far as this minute's number allows; how many rows were written in full."""
    return _record(cluster_pk, len(links), lambda room: [link.row() for link in links[:room]], now)


def record_transitions(cluster_pk: int, transitions: Sequence[Transition], now: datetime) -> int:
    """Keep what else changed by itself, as far as this minute's number allows; how many were written in full."""
    return _record(cluster_pk, len(transitions), lambda room: transitions[:room], now)


def _record(cluster_pk: int, count: int, choose: Callable[[int], Sequence[Transition]], now: datetime) -> int:
    if not count:
        return 0
    minute = now.replace(second=0, microsecond=0)
    with transaction.atomic():
        try:
            revisions.lock(cluster_pk)  # two processes may not both see room for the last row
        except Refused:  # deleted while its nodes still talked
            return 0
        here = Transition.objects.filter(cluster_id=cluster_pk, at__gte=minute)
        kept = choose(max(0, TRANSITIONS_A_MINUTE - here.exclude(kind=Transition.Kind.CAPPED).count()))
        for row in kept:
            row.cluster_id = cluster_pk
        Transition.objects.bulk_create(kept, batch_size=500)
        if left_out := count - len(kept):
            _count_capped(cluster_pk, left_out, minute, now)
    return len(kept)


def _count_capped(cluster_pk: int, left_out: int, minute: datetime, now: datetime) -> None:
    capped = Transition.objects.filter(cluster_id=cluster_pk, kind=Transition.Kind.CAPPED, at__gte=minute)
    if not capped.update(count=F("count") + left_out):
        Transition.objects.create(
            cluster_id=cluster_pk,
            kind=Transition.Kind.CAPPED,
            count=left_out,
            text=f"more changed in one minute than the {TRANSITIONS_A_MINUTE} that are kept",
            at=now,
        )


def prune(now: datetime) -> int:
    """Forget transitions that are older than we promise to keep them; how many."""
    return Transition.objects.filter(at__lt=now - TRANSITIONS_KEPT_FOR).delete()[0]
