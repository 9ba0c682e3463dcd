"""Links of Talos machines, which report nothing here: they are as the agents of their cluster see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from nodes import live
from nodes.models import Node

_ABSENT = bytes([live.ABSENT])


class SeenLinks:
    """How agents see the Talos members among some nodes: the state of each link to them.

    Reading is a query and a call to Redis where there are such, however many: an agent's states are a byte a member.
    Raises redis.RedisError.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._columns: dict[int, bytearray] = {}
        """By the machine's primary key, a byte for each agent of its cluster."""
        self._places: dict[int, int] = {}
        """Which of these bytes is an agent's."""
        machines: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for node in nodes:
            if node.is_talos and node.index is not None and node.status == Node.Status.APPROVED:
                machines[node.cluster_id].append((node.pk, node.index))
        if machines:
            self._read(machines)

    def _read(self, machines: dict[int, list[tuple[int, int]]]) -> None:
        agents: dict[int, list[int]] = {cluster_pk: [] for cluster_pk in machines}
        rows = Node.objects.configured().filter(cluster__in=agents).order_by()
        for pk, cluster_pk in rows.values_list("pk", "cluster_id"):
            agents[cluster_pk].append(pk)
        states = live.read_states([pk for pks in agents.values() for pk in pks])
        for cluster_pk, pks in agents.items():
            self._places |= {pk: place for place, pk in enumerate(pks)}
            width = 1 + max(index for _, index in machines[cluster_pk])
            table = b"".join(states.get(pk, b"")[:width].ljust(width, _ABSENT) for pk in pks)
            for pk, index in machines[cluster_pk]:
                self._columns[pk] = bytearray(table[index::width])

    def take(self, links: Iterable[tuple[int, int, live.Seen | None]]) -> set[int]:
        """Take what was reported since; gives the machines that it is about."""
        concerned = set()
        for pk, peer, seen in links:
            column, place = self._columns.get(peer), self._places.get(pk)
            if column is not None and place is not None:
                column[place] = live.ABSENT if seen is None else live.STATES.index(seen.state)
                concerned.add(peer)
        return concerned

    def summary(self, pk: int) -> live.Summary:
        """The counts of one of these machines."""
        counts = {name: self._columns[pk].count(state) for state, name in enumerate(live.STATES)}
        return live.Summary("", **counts)

    def summaries(self) -> dict[int, live.Summary]:
        """The counts of all of them, by primary key."""
        return {pk: self.summary(pk) for pk in self._columns}
