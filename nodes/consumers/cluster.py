"""A cluster's page."""

from __future__ import annotations

import time

from nodes import live
from nodes.consumers.base import LEASE_SECONDS, PACE_SECONDS, Gone, MeshConsumer, Sent, View, those
from nodes.consumers.rows import link, node_rows, on_page, reported, with_links
from nodes.fanout import Watch
from nodes.models import Cluster, Node
from nodes.pages import FULL_LINKS, ClusterDelta, ClusterSnapshot, Flushed, Link, NodeRow
from nodes.seen import SeenLinks

NOT_UP_LIMIT = 2000
"""Links that are not up which a large cluster's page gets; beyond, the counts say it."""

IN_VIEW_LIMIT = 50
"""Nodes of a large cluster that a page may ask to see at full pace."""


class ClusterConsumer(MeshConsumer):
    """A cluster's page: its nodes, and its links or those that are not up."""

    permission = "view_cluster"
    view_form = View

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._nodes: Sent[int, NodeRow] = Sent()
        self._links: Sent[tuple[int, int], Link] = Sent()
        self._told_revision = self._revision = 0
        self._view: tuple[int, ...] = ()
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        return those(Cluster.objects.filter(uuid=self._uuid).values_list("pk", flat=True))

    def read(self) -> None:
        """Two queries and two calls to Redis, and one more of each where there are Talos machines.

        Of a large cluster only the records of nodes with links not up are read.
        """
        cluster = Cluster.objects.filter(uuid=self._uuid).first()
        if cluster is None:
            raise Gone
        nodes = list(on_page(Node.objects.present().filter(cluster=cluster)))
        summaries = live.read_summaries_of(node.pk for node in nodes)
        self._revision = cluster.revision
        self._seen = SeenLinks(nodes)
        self._nodes.now = node_rows(cluster, summaries | self._seen.summaries(), nodes)
        indexes = {node.index: node.pk for node in nodes if node.status == Node.Status.APPROVED}
        self._partial = len(indexes) > FULL_LINKS
        self._links.now = self._read_links(indexes, summaries)

    def _read_links(
        self, indexes: dict[int | None, int], summaries: dict[int, live.Summary]
    ) -> dict[tuple[int, int], Link]:
        pks = set(indexes.values())
        states: tuple[int, ...] = ()
        if self._partial:
            pks = {pk for pk in pks if (summary := summaries.get(pk)) and (summary.unknown or summary.down)}
            states = (live.UNKNOWN, live.DOWN)
        links = {}
        for pk, table in live.read_matrix(sorted(pks)):
            for index, seen in table.links(*states):
                peer = indexes.get(index)
                if peer is not None and peer != pk:
                    links[pk, peer] = link(pk, peer, seen)
            if self._partial and len(links) >= NOT_UP_LIMIT:
                break
        return links

    def take(self, flushed: Flushed) -> bool:
        """Merge what is reported of nodes that the page has."""
        for pk, summary in flushed.nodes:
            row = self._nodes.now.get(pk)
            if row is not None:
                self._nodes.now[pk] = reported(row, summary)
        for pk in self._seen.take(flushed.links):
            self._nodes.now[pk] = with_links(self._nodes.now[pk], self._seen.summary(pk))
        for pk, peer, seen in flushed.links:
            known = pk in self._nodes.now and peer in self._nodes.now
            if seen is None or not known or (self._partial and seen.state == "up"):
                self._links.now.pop((pk, peer), None)
            elif (pk, peer) in self._links.now or len(self._links.now) < NOT_UP_LIMIT or not self._partial:
                self._links.now[pk, peer] = link(pk, peer, seen)
        return True

    def snapshot(self) -> ClusterSnapshot:
        """All of it."""
        nodes, _ = self._nodes.news()
        links, _ = self._links.news()
        self._told_revision = self._revision
        return ClusterSnapshot(self.number, time.time(), self._revision, self._partial, nodes, links)

    def delta(self) -> ClusterDelta | None:
        """What changed."""
        nodes, nodes_gone = self._nodes.news()
        links, links_gone = self._links.news()
        revision = None if self._revision == self._told_revision else self._revision
        self._told_revision = self._revision
        if not (nodes or nodes_gone or links or links_gone or revision):
            return None
        return ClusterDelta(self.number, time.time(), revision, nodes, nodes_gone, links, links_gone)

    def watch(self) -> Watch:
        """All nodes of a small cluster; of a large one those that the page says it has in view."""
        pks = self._view if len(self._nodes.now) > FULL_LINKS else tuple(self._nodes.now)
        return Watch(pks, PACE_SECONDS, LEASE_SECONDS)

    async def look_at(self, view: View) -> None:
        """These report at full pace."""
        self._view = tuple(view.nodes[:IN_VIEW_LIMIT])
        await self._publish_watch()
