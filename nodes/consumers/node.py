"""A node's pages."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import msgspec

from kubespan.core.reason import LOSSY
from nodes import live, pairs
from nodes.consumers.base import LEASE_SECONDS, PACE_SECONDS, FollowingConsumer, Gone, MeshConsumer, Sent, View, those
from nodes.consumers.rows import counts, node_rows, on_page, reported, sight
from nodes.fanout import Watch
from nodes.history import reading
from nodes.history.series import Series, columns
from nodes.models import Audit, Candidate, Cluster, Node, Transition
from nodes.pages import FULL_LINKS, Flushed, LinkCounts, NodeDelta, NodeRow, NodeSnapshot, PeerRow
from nodes.seen import SeenLinks

SHOWN_COLUMNS = (
    "name", "status", "site", "session", "left_at", "fault", "applied_epoch", "applied_number", "secret_kept",
    "claimed_networks", "networks", "ruled_networks", "excluded_networks", "extra_endpoints", "refused_claims",
    "clock_skew", "agent_version", "backend", "hostname", "addresses", "obstacles_at", "cluster__epoch",
    "cluster__revision", "cluster__secret_generation",
)  # fmt: skip
"""Of a node and its cluster, what its tabs show."""


class NodeConsumer(MeshConsumer):
    """A node's page: how it sees its peers, and they it."""

    permission = "view_cluster"
    view_form = View

    def find(self) -> set[int | None]:
        """The cluster of the node of the address."""
        self._pk = self.scope["url_route"]["kwargs"]["node"]
        self._view: tuple[int, ...] = ()
        self._rows: Sent[int, NodeRow] = Sent()
        self._peers: Sent[int, PeerRow] = Sent()
        self._told_revision = self._revision = 0
        self._noted: float | None = None
        self._history: list[Series] = []
        return those(Node.objects.filter(pk=self._pk).values_list("cluster_id", flat=True))

    def read(self) -> None:
        """Two queries and three calls to Redis, whatever the number of peers; each minute one more for a point.

        Three queries and a call more where a link in view is not well.
        """
        node = on_page(Node.objects.select_related("cluster")).defer(None).filter(pk=self._pk).first()
        if node is None:
            raise Gone
        peers = list(Node.objects.approved().filter(cluster=node.cluster_id).exclude(pk=node.pk).only("index", "name"))
        self._revision = node.cluster.revision
        self._rows.now = node_rows(node.cluster, live.read_summaries_of([node.pk]), [node])
        ours, theirs = live.read_links(node), live.read_links_to(node, [peer.pk for peer in peers])
        self._peers.now = {
            peer.pk: PeerRow(peer.pk, peer.name, sight(ours.get(peer.index or 0)), sight(theirs.get(peer.pk)))
            for peer in peers
        }
        self._explain(node.cluster)
        self._count_from_peers()
        if self._noted is not None:
            point = reading.newest_point(node, None, self._noted)
            self._history = [columns(node.name, [(int(self._noted), point)])] if point else []
            self._noted = None

    def _explain(self, cluster: Cluster) -> None:
        """Say why links in view are not up, or carry little: of a thousand, nobody reads more than stand on a page."""
        shown = [self._peers.now[pk] for pk in self._view if pk in self._peers.now]
        asked = [(self._pk, row.pk) for row in shown if not _is_well(row)]
        for (_, pk), why in pairs.read_reasons(asked, {cluster.pk: cluster}, time.time()).items():
            self._peers.now[pk] = msgspec.structs.replace(self._peers.now[pk], why=why.reason.text)

    async def look_at(self, view: View) -> None:
        """Of these it is said why their links are not up, and of many peers these report at full pace."""
        self._view = tuple(pk for pk in view.nodes[:FULL_LINKS] if pk in self._peers.now)
        self.look_again()

    async def history_noted(self, event: dict[str, Any]) -> None:
        """A minute was added: its point is read with the rest."""
        self._noted = event["minute"]
        self.look_again()

    def _count_from_peers(self) -> None:
        """A Talos machine reports nothing here: its links are as its peers see them."""
        row = self._rows.now.get(self._pk)
        if row is not None and row.talos:
            seen = Counter(peer.theirs.state for peer in self._peers.now.values() if peer.theirs)
            links = LinkCounts(seen["up"], seen["unknown"], seen["down"])
            self._rows.now[self._pk] = msgspec.structs.replace(row, links=links)

    def take(self, flushed: Flushed) -> bool:
        """Take what the node says of its peers, and they of it."""
        concerned = False
        for pk, summary in flushed.nodes:
            if pk == self._pk and pk in self._rows.now:
                self._rows.now[pk] = reported(self._rows.now[pk], summary)
                concerned = True
        for pk, peer, seen in flushed.links:
            other, change = (peer, "ours") if pk == self._pk else (pk, "theirs")
            row = self._peers.now.get(other)
            if row is not None and self._pk in (pk, peer):
                self._peers.now[other] = told = msgspec.structs.replace(row, **{change: sight(seen)})
                concerned = True
                if other in self._view and _standing(told) != _standing(row):
                    self.look_again()  # another reason, or none
        self._count_from_peers()
        return concerned

    def snapshot(self) -> NodeSnapshot:
        """All of it."""
        (node,), _ = self._rows.news()
        peers, _ = self._peers.news()
        self._told_revision = self._revision
        return NodeSnapshot(self.number, time.time(), self._revision, node, peers)

    def delta(self) -> NodeDelta | None:
        """What changed."""
        rows, _ = self._rows.news()
        peers, gone = self._peers.news()
        revision = None if self._revision == self._told_revision else self._revision
        self._told_revision = self._revision
        history, self._history = self._history, []
        if not (rows or peers or gone or revision or history):
            return None
        return NodeDelta(self.number, time.time(), revision, rows[0] if rows else None, peers, gone, history)

    def watch(self) -> Watch:
        """The node, and its peers where they are few, or else those in view: both ends of each link are then as new."""
        peers = self._view if len(self._peers.now) > FULL_LINKS else tuple(self._peers.now)
        return Watch((self._pk, *peers), PACE_SECONDS, LEASE_SECONDS)


def _standing(row: PeerRow) -> tuple[tuple[str, bool] | None, ...]:
    """How each end sees the link, and whether it loses so many probes that this is worth a word."""
    ends = (row.ours, row.theirs)
    return tuple(None if end is None else (end.state, (end.loss or 0) >= LOSSY) for end in ends)


def _is_well(row: PeerRow) -> bool:
    """Whether everybody who says anything of the link sees it up and well, and somebody does."""
    return {said for said in _standing(row) if said} == {("up", False)}


class NodeRowsConsumer(FollowingConsumer):
    """A node's tabs that the server draws: its own standing, endpoints, findings and history."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster of the node of the address."""
        self._pk = self.scope["url_route"]["kwargs"]["node"]
        self._rows: Sent[int, tuple[Any, ...]] = Sent()
        self._links: Sent[int, LinkCounts] = Sent()
        self._minute: float | None = None
        return those(Node.objects.filter(pk=self._pk).values_list("cluster_id", flat=True))

    def read(self) -> None:
        """Five queries and a call to Redis, and one more of each for a Talos machine."""
        row = Node.objects.filter(pk=self._pk).values_list(*SHOWN_COLUMNS).first()
        if row is None:
            raise Gone
        endpoints = list(
            Candidate.objects.filter(node=self._pk).order_by("order", "pk").values_list("endpoint", "seen")
        )
        last = [
            rows.filter(node=self._pk).order_by("-pk").values_list("pk", flat=True).first()
            for rows in (Transition.objects, Audit.objects)
        ]
        self._rows.now = {self._pk: (*row, endpoints, *last, self._minute)}
        self._seen = SeenLinks(on_page(Node.objects.filter(pk=self._pk)))
        said = live.read_summaries_of([self._pk]) | self._seen.summaries()
        self._links.now = {pk: counts(summary) for pk, summary in said.items()}

    async def history_noted(self, event: dict[str, Any]) -> None:
        """A minute was added to what the charts show."""
        self._minute = event["minute"]
        self.look_again()

    def take(self, flushed: Flushed) -> bool:
        """Only how many of its links are up."""
        mine = [summary for pk, summary in flushed.nodes if pk == self._pk]
        mine += [self._seen.summary(pk) for pk in self._seen.take(flushed.links)]
        for summary in mine:
            self._links.now[self._pk] = counts(summary)
        return bool(mine)

    def differs(self) -> bool:
        """Anything of it."""
        news = [one.news() for one in (self._rows, self._links)]  # each is asked, whatever the other says
        return any(changed or gone for changed, gone in news)
