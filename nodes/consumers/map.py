"""A cluster's map."""

from __future__ import annotations

import time
from collections import Counter

import msgspec

from nodes import live, maps
from nodes.consumers.base import DELTA_SECONDS, LEASE_SECONDS, PACE_SECONDS, Gone, MeshConsumer, Sent, View, those
from nodes.consumers.rows import counts
from nodes.fanout import Watch
from nodes.maps import GroupLinks, MapDelta, MapLink, MapNode, MapSnapshot, Member
from nodes.models import Cluster, Node
from nodes.pages import Flushed, LinkCounts

GROUPED_SECONDS = 1.0
"""A map that is drawn in groups is not told more often."""


class MapConsumer(MeshConsumer):
    """Members and the links between them, or between groups of them."""

    permission = "view_cluster"
    view_form = View

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        route = self.scope["url_route"]["kwargs"]
        self._uuid, self._by = route["cluster"], route["by"]
        self._members: dict[int, Member] = {}
        self._nodes: Sent[int, MapNode] = Sent()
        self._links: Sent[tuple[int, int], MapLink] = Sent()
        self._groups: Sent[tuple[str, str], GroupLinks] = Sent()
        self._figures: Sent[str, tuple[str, int]] = Sent()
        self._traffic = maps.Traffic()
        self._states = maps.LinkStates()
        self._root: int | None = None
        self._of_root: dict[tuple[int, int], MapLink] = {}
        self._recount: set[int] = set()
        return those(Cluster.objects.filter(uuid=self._uuid).values_list("pk", flat=True))

    # Reading.

    def read(self) -> None:
        """Two queries and two calls to Redis: the records of up to MAP_LINKS nodes, or the states alone of more."""
        cluster = Cluster.objects.filter(uuid=self._uuid).only("pk").first()
        if cluster is None:
            raise Gone
        self._members = read_members(cluster)
        groups = maps.group_keys(self._members.values(), self._by)
        summaries = live.read_summaries_of(self._members)
        self._nodes.now = {
            pk: maps.map_node(member, groups[pk], summaries.get(pk)) for pk, member in self._members.items()
        }
        self._recount = {pk for pk, member in self._members.items() if member.talos}
        self._traffic.keep(self._members)
        self._grouped = len(self._members) > maps.MAP_LINKS
        self.pause = GROUPED_SECONDS if self._grouped else DELTA_SECONDS
        if self._grouped:
            self._read_states(groups, summaries)
        else:
            self._states, self._unread = maps.LinkStates(), 0
            self._links.now = self._read_links(self._members)

    def _read_states(self, groups: dict[int, str], summaries: dict[int, live.Summary]) -> None:
        self._states.take_members(self._members, groups)
        wanting = self._states.wanting(summaries)
        found = live.read_states(wanting)
        for pk in wanting:
            self._states.put(pk, found.get(pk, b""))
        self._unread = len(wanting) - len(found)
        self._of_root = self._read_root()

    def _read_links(self, pks: dict[int, Member]) -> dict[tuple[int, int], MapLink]:
        by_index = {member.index: member.pk for member in self._members.values()}
        links = {}
        for pk, table in live.read_matrix(sorted(pks)):
            for index, seen in table.links():
                peer = by_index.get(index)
                if peer is not None and peer != pk:
                    links[pk, peer] = self._traffic.link(pk, peer, seen)
        return links

    def _read_root(self) -> dict[tuple[int, int], MapLink]:
        """The links of the node that is looked at, from both ends."""
        root = self._members.get(self._root or 0)
        if root is None:
            return {}
        ours = self._read_links({root.pk: root})
        node = Node(pk=root.pk, index=root.index)
        theirs = live.read_links_to(node, [pk for pk in self._members if pk != root.pk])
        return ours | {(pk, root.pk): self._traffic.link(pk, root.pk, seen) for pk, seen in theirs.items()}

    # Following.

    def take(self, flushed: Flushed) -> bool:
        """Merge what is reported of members."""
        for pk, peer, seen in flushed.links:
            if pk in self._members and peer in self._members:
                self._take_link(pk, peer, seen)
        for pk, summary in flushed.nodes:
            if (node := self._nodes.now.get(pk)) is not None:
                self._nodes.now[pk] = msgspec.structs.replace(node, connected=True, links=counts(summary))
                said = summary.unknown, summary.up, summary.down
                if self._grouped and summary.at is not None and self._states.counts(pk) != said:
                    self._stale.set()  # what is in Redis tells what the news did not
        return True

    def _take_link(self, pk: int, peer: int, seen: live.Seen | None) -> None:
        key = pk, peer
        if self._members[peer].talos:
            self._recount.add(peer)
        of_root = self._root in key
        if self._grouped:
            self._states.set(pk, peer, live.ABSENT if seen is None else live.STATES.index(seen.state))
        if self._grouped and not of_root:
            return
        links = self._of_root if self._grouped else self._links.now
        if seen is None:
            links.pop(key, None)
        else:
            links[key] = self._traffic.link(pk, peer, seen)

    def _count_seen(self, pk: int) -> LinkCounts:
        """The links of a Talos machine, which says nothing here itself, as those see them who do."""
        if self._grouped:
            return self._states.seen(pk)
        links = (self._links.now.get((one, pk)) for one in self._members)
        found = Counter(link.state for link in links if link is not None)
        return LinkCounts(found["up"], found["unknown"], found["down"])

    def _settle(self) -> None:
        """Bring what is sent up to what is known."""
        for pk in self._recount:
            self._nodes.now[pk] = msgspec.structs.replace(self._nodes.now[pk], links=self._count_seen(pk))
        self._recount = set()
        if self._grouped:
            self._groups.now = self._states.groups()
            self._links.now = {(one.node, one.peer): one for one in self._states.worst()} | self._of_root
            not_up = self._states.not_up()
        else:
            self._groups.now = {}
            not_up = sum(one.state != "up" for one in self._links.now.values())
        figures = {"grouped": int(self._grouped), "not_up": not_up, "unread": self._unread}
        self._figures.now = {name: (name, value) for name, value in figures.items()}

    def snapshot(self) -> MapSnapshot:
        """All of it."""
        self._settle()
        (nodes, _), (links, _), (groups, _) = self._nodes.news(), self._links.news(), self._groups.news()
        figures = dict(self._figures.news()[0])
        return MapSnapshot(
            self.number,
            time.time(),
            bool(figures["grouped"]),
            figures["not_up"],
            figures["unread"],
            nodes,
            links,
            groups,
        )

    def delta(self) -> MapDelta | None:
        """What changed."""
        self._settle()
        nodes, nodes_gone = self._nodes.news()
        links, links_gone = self._links.news()
        groups, groups_gone = self._groups.news()
        figures = dict(self._figures.news()[0])
        if not (nodes or nodes_gone or links or links_gone or groups or groups_gone or figures):
            return None
        grouped = bool(figures["grouped"]) if "grouped" in figures else None
        return MapDelta(
            self.number, time.time(), grouped, figures.get("not_up"), figures.get("unread"),
            nodes, nodes_gone, links, links_gone, groups, groups_gone,
        )  # fmt: skip

    def watch(self) -> Watch:
        """Every node of a map that has every link; of a larger one the node that is looked at."""
        root = (self._root,) if self._root in self._members else ()
        return Watch(root if self._grouped else tuple(self._members), PACE_SECONDS, LEASE_SECONDS)

    async def look_at(self, view: View) -> None:
        """The first of them is in the centre, if there is one."""
        self._root = view.nodes[0] if view.nodes else None
        self.look_again()


def read_members(cluster: Cluster) -> dict[int, Member]:
    """Members of a cluster by primary key, in one query."""
    rows = Node.objects.approved().filter(cluster=cluster).order_by("index")
    columns = rows.values_list("pk", "index", "name", "site", "kind", "left_at")
    return {
        pk: Member(pk, index, name, site, kind == Node.Kind.TALOS, left_at is None)
        for pk, index, name, site, kind, left_at in columns
        if index is not None
    }
