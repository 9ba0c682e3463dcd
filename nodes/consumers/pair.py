"""The page of one link."""

from __future__ import annotations

import time
from typing import Any

from django.utils import timezone

from kubespan.core import reason
from kubespan.core.reason import Strain
from nodes import live, pairs
from nodes.consumers.base import LEASE_SECONDS, PACE_SECONDS, Gone, MeshConsumer, Sent, those
from nodes.consumers.rows import sight
from nodes.fanout import Watch
from nodes.history import reading
from nodes.history.series import Series, columns
from nodes.models import Node
from nodes.pages import Flushed, PairDelta, PairSnapshot, Sight
from nodes.services import followed

LinkKey = tuple[int, int]


class PairConsumer(MeshConsumer):
    """Figures as both ends report them; whatever needs words, the server draws, and the page fetches itself anew."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster that both nodes of the address are of."""
        route = self.scope["url_route"]["kwargs"]
        self._pks: LinkKey = route["here"], route["there"]
        self._ends: Sent[int, tuple[Any, ...]] = Sent()
        self._standing: Sent[LinkKey, tuple[str, str, bool, bool, Strain]] = Sent()
        self._lately: Sent[int, tuple[bool | None, bool]] = Sent()
        self._sights: Sent[LinkKey, live.Seen] = Sent()
        self._pinned: Sent[str, bool] = Sent()
        self._noted: float | None = None
        self._history: list[Series] = []
        return those(Node.objects.filter(pk__in=self._pks).values_list("cluster_id", flat=True))

    def read(self) -> None:
        """Four queries and a call to Redis; each minute two more for the newest points."""
        nodes = list(
            Node.objects.filter(pk__in=self._pks).select_related("cluster").prefetch_related("candidates", "obstacles")
        )
        here, there = sorted(nodes, key=lambda node: self._pks.index(node.pk)) if len(nodes) > 1 else (None, None)
        if here is None or there is None:
            raise Gone
        self._ends.now = {
            node.pk: (
                node.name, node.status, node.session, node.left_at, node.fault, node.behind(node.cluster),
                node.clock_skew, node.obstacles_at, node.cluster.revision,
                [(row.endpoint, row.source) for row in node.candidates.all()],
            )
            for node in (here, there)
        }  # fmt: skip
        seen = zip(((here.pk, there.pk), (there.pk, here.pk)), pairs.read_link(here, there), strict=True)
        self._sights.now = {key: one for key, one in seen if one is not None}
        self._pinned.now = {"pinned": followed.is_pinned(here, there)}
        self._stand()
        now = timezone.now()
        self._lately.now = {
            node.pk: (one.hears, reason.is_short(one.arrived))
            for node, one in zip((here, there), reading.lately(here, there, now), strict=True)
        }
        followed.look_at(here, there, now)
        if self._noted is not None:
            self._history, self._noted = _newest(here, there, self._noted), None

    def _stand(self) -> None:
        """What the server's words are made of: state, endpoint, whether there ever was a handshake, what is lost."""
        now = time.time()
        self._standing.now = {
            key: (
                seen.state, seen.endpoint, seen.handshake is None, pairs.is_measured(seen),
                pairs.sight_of(seen, now).strain,
            )
            for key, seen in self._sights.now.items()
        }  # fmt: skip

    def take(self, flushed: Flushed) -> bool:
        """Only what the two say of each other."""
        mine = [(pk, peer, seen) for pk, peer, seen in flushed.links if {pk, peer} == set(self._pks)]
        for pk, peer, seen in mine:
            if seen is None:
                self._sights.now.pop((pk, peer), None)
            else:
                self._sights.now[pk, peer] = seen
        self._stand()
        return bool(mine)

    def _both(self) -> tuple[Sight | None, Sight | None]:
        here, there = self._pks
        return sight(self._sights.now.get((here, there))), sight(self._sights.now.get((there, here)))

    def snapshot(self) -> PairSnapshot:
        """How both see each other; the page may be older than this."""
        for sent in (self._ends, self._standing, self._sights, self._lately, self._pinned):
            sent.news()
        return PairSnapshot(self.number, time.time(), *self._both())

    def delta(self) -> PairDelta | None:
        """Figures, and whether the words are others now."""
        figures = self._sights.news()
        words = [
            sent.news() for sent in (self._standing, self._ends, self._lately, self._pinned)
        ]  # each is asked, whatever others say
        renew = any(changed or gone for changed, gone in words)
        history, self._history = self._history, []
        if not (any(figures) or renew or history):
            return None
        return PairDelta(self.number, time.time(), *self._both(), renew=renew, history=history)

    def watch(self) -> Watch:
        """Both report faster while somebody looks."""
        return Watch(self._pks, PACE_SECONDS, LEASE_SECONDS)

    async def history_noted(self, event: dict[str, Any]) -> None:
        """A minute was added: its points are read with the rest."""
        self._noted = event["minute"]
        self.look_again()


def _newest(here: Node, there: Node, minute: float) -> list[Series]:
    found = []
    for node, peer in ((here, there), (there, here)):
        point = reading.newest_point(node, peer, minute)
        found.append(columns(node.name, [(int(minute), point)] if point else []))
    return found if any(series.at for series in found) else []
