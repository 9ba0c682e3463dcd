"""A cluster's matrix: the part of it that the page has in view."""

from __future__ import annotations

import time

import msgspec

from nodes import live, matrix
from nodes.consumers.base import LEASE_SECONDS, PACE_SECONDS, Gone, MeshConsumer, Sent, those
from nodes.consumers.cluster import IN_VIEW_LIMIT
from nodes.fanout import Watch
from nodes.matrix import MatrixDelta, MatrixSnapshot, Member, Sheet, View
from nodes.models import Cluster, Node
from nodes.pages import FULL_LINKS, Flushed

RECORDS_AT_ONCE = 32
"""Records read in one call, 1.7 MB of 1,000 members."""

LINKS_A_SECOND = 10_000
"""Links that nodes in view may report each second for one page; with more members fewer nodes report at full pace."""


class MatrixConsumer(MeshConsumer):
    """Who sees whom: members first, then cells of the view that the page asks for.

    Of a large cluster nothing but changes of state is told as it comes; figures are read again with the rows, and at
    once for those nodes in view that report at full pace.
    """

    permission = "view_cluster"
    view_form = View

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._members: Sent[int, Member] = Sent()
        self._sheet = Sheet()
        self._asked: View | None = None
        self._indexes: dict[int, int] = {}
        self._next_index = 0
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        return those(Cluster.objects.filter(uuid=self._uuid).values_list("pk", flat=True))

    def read(self) -> None:
        """Two queries, and two calls to Redis besides one for each few records."""
        cluster = Cluster.objects.filter(uuid=self._uuid).only("pk", "next_index").first()
        if cluster is None:
            raise Gone
        self._next_index = cluster.next_index
        nodes = list(
            Node.objects.approved()
            .filter(cluster=cluster)
            .only("pk", "index", "name", "site", "kind", "left_at", "session", "cluster")
        )
        summaries = live.read_summaries_of(node.pk for node in nodes)
        self._members.now = {
            node.index: _member(node, summaries.get(node.pk)) for node in nodes if node.index is not None
        }
        self._indexes = {member.pk: index for index, member in self._members.now.items()}
        self._read_view()

    def _read_view(self) -> None:
        """States of all that are in view, and records of the rows where there are figures."""
        shown = {index: self._members.now[index] for index in self._sheet.shown if index in self._members.now}
        states = live.read_states(member.pk for member in shown.values() if member.connected)
        for index in self._sheet.shown:
            member = shown.get(index)
            self._sheet.put_states(index, None if member is None else states.get(member.pk))
        figure = self._sheet.figure
        if figure is None:
            return
        rows = [self._members.now[index].pk for index in self._sheet.rows if index in self._members.now]
        for start in range(0, len(rows), RECORDS_AT_ONCE):
            for pk, figures in live.read_figures(rows[start : start + RECORDS_AT_ONCE], figure):
                self._sheet.put_figures(self._indexes[pk], figures)

    async def look_at(self, view: View) -> None:
        """Of several within a quarter of a second the last one counts."""
        view.check(self._next_index)
        self._asked = view
        self._changed.set()

    async def _refresh(self) -> None:
        if self._asked is None:
            await super()._refresh()
            return
        view, self._asked = self._asked, None
        self._sheet.look_at(view)
        stale = self._stale.is_set()
        self._stale.clear()
        await self._read_by(self.read if stale else self._read_view)

    def take(self, flushed: Flushed) -> bool:
        """Merge what is reported of members."""
        for pk, summary in flushed.nodes:
            index = self._indexes.get(pk)
            if index is not None:
                self._members.now[index] = _counted(self._members.now[index], summary)
        for pk, peer_pk, seen in flushed.links:
            index, peer = self._indexes.get(pk), self._indexes.get(peer_pk)
            if index is not None and peer is not None:
                self._sheet.put_state(index, peer, live.ABSENT if seen is None else live.STATES.index(seen.state))
                self._sheet.put_seen(index, peer, seen)
        return True

    def snapshot(self) -> MatrixSnapshot:
        """All members."""
        members, _ = self._members.news()
        return MatrixSnapshot(self.number, time.time(), members)

    def delta(self) -> MatrixDelta | None:
        """What changed; what follows its head is kept until it is said."""
        members, gone = self._members.news()
        shape, cells, self._body = self._sheet.news()
        if not (members or gone or shape or cells):
            return None
        return MatrixDelta(self.number, time.time(), members, gone, shape, cells)

    _body = b""

    async def _say(self, message: msgspec.Struct) -> None:
        body, self._body = self._body, b""
        await self.send(bytes_data=matrix.dump(message, body))

    def watch(self) -> Watch:
        """Changes of state come at once by themselves; where there are figures, as many rows as can be borne."""
        pks = [self._members.now[index].pk for index in self._sheet.rows if index in self._members.now]
        members = len(self._members.now)
        most = members if members <= FULL_LINKS else min(IN_VIEW_LIMIT, LINKS_A_SECOND // members)
        return Watch(tuple(pks[:most]), PACE_SECONDS, LEASE_SECONDS)


def _member(node: Node, summary: live.Summary | None) -> Member:
    connected = node.is_here if node.is_talos else summary is not None
    member = Member(node.index or 0, node.pk, node.name, node.site, node.is_talos, connected, 0, 0, 0, 0)
    return member if summary is None else _counted(member, summary)


def _counted(member: Member, summary: live.Summary) -> Member:
    return msgspec.structs.replace(
        member, connected=True, up=summary.up, unknown=summary.unknown, down=summary.down, began=summary.began
    )
