"""What agents' sockets ask of the database, in threads of its own: the event loop never waits for a row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import msgspec
from channels.db import DatabaseSyncToAsync
from django.db import InterfaceError, OperationalError

from kubespan.core.messages import Revision
from nodes.agents.hub import Standing
from nodes.announce import hand_over_to
from nodes.fanout import Frame
from nodes.models import Candidate, Cluster, Node
from nodes.models.members import NodeQuerySet
from nodes.services import revisions

THREADS = 8
"""Connections to the database that a process's agents use; what is more waits its turn."""

DOORS = 1
"""Further ones for enrolments: under their cluster's lock they come one after another anyway, and SQLite has writers
that meet a lock sleep."""

AWAY = (OperationalError, InterfaceError)
"""The database cannot be reached or is locked; what was to be written is tried again."""

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rows")
_doors = ThreadPoolExecutor(DOORS, thread_name_prefix="door")

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that uses the database; connections that are too old are closed before and after."""
    return await _in(_threads, function, *args, **kwargs)


async def at_door(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`in_thread` for enrolments, so that a thousand of them are in nobody else's way, and no page is in theirs."""
    hand_over_to(asyncio.get_running_loop())
    return await _in(_doors, function, *args, **kwargs)


async def _in(executor: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    call: Any = DatabaseSyncToAsync(function, thread_sensitive=False, executor=executor)
    return await call(*args, **kwargs)


class RosterMember(msgspec.Struct, frozen=True):
    """An approved node as reports need it: who has this member index, and at which endpoints it says it is."""

    pk: int
    endpoints: frozenset[str]


class Roster(msgspec.Struct, frozen=True):
    """A cluster's members by index, as of a revision."""

    revision: Revision
    members: dict[int, RosterMember]
    harvest: bool
    """Whether endpoints that neighbours saw are wanted."""


def read_roster(cluster_pk: int) -> Roster:
    """Read a cluster's members; two queries, a third with the endpoints where harvesting is on."""
    cluster = Cluster.objects.get(pk=cluster_pk)
    harvest = cluster.kubespan.harvest_extra_endpoints
    endpoints: dict[int, set[str]] = {}
    if harvest:
        own = Candidate.objects.filter(node__cluster=cluster).exclude(source=Candidate.Source.HARVESTED).order_by()
        for node_pk, endpoint in own.values_list("node_id", "endpoint"):
            endpoints.setdefault(node_pk, set()).add(endpoint)
    approved = Node.objects.approved().filter(cluster=cluster, index__isnull=False).order_by()
    members = {
        index: RosterMember(pk, frozenset(endpoints.get(pk, ())))
        for index, pk in approved.values_list("index", "pk")
        if index is not None
    }
    return Roster(cluster.current, members, harvest)


def read_newest(cluster_pks: Iterable[int]) -> dict[int, Revision]:
    """The newest revision of each of these clusters."""
    rows = Cluster.objects.filter(pk__in=cluster_pks).order_by().values_list("pk", "epoch", "revision")
    return {pk: Revision(epoch, number) for pk, epoch, number in rows}


def read_standings(cluster_pk: int) -> dict[int, Standing]:
    """Status and present session of each node of a cluster."""
    return _standings(Node.objects.filter(cluster=cluster_pk))


def read_standings_of(node_pks: Collection[int]) -> dict[int, Standing]:
    """Status and present session of each of these nodes."""
    return _standings(Node.objects.filter(pk__in=node_pks))


def _standings(nodes: NodeQuerySet) -> dict[int, Standing]:
    rows = nodes.order_by().values_list("pk", "status", "session")
    return {pk: Standing(status, session) for pk, status, session in rows}


class DatabaseRows:
    """The hub's questions (nodes.agents.hub.Rows), answered by the database."""

    async def read_frame(self, cluster_pk: int, since: Revision | None) -> Frame:
        """What leads from `since` to the present."""
        return await in_thread(revisions.frame, cluster_pk, since)

    async def read_current(self, cluster_pk: int) -> Revision:
        """The newest revision."""
        return await in_thread(revisions.current, cluster_pk)

    async def read_newest(self, cluster_pks: Iterable[int]) -> dict[int, Revision]:
        """The newest revision of each of these clusters."""
        return await in_thread(read_newest, cluster_pks)

    async def read_standings(self, cluster_pk: int) -> dict[int, Standing]:
        """Each node of the cluster by its primary key."""
        return await in_thread(read_standings, cluster_pk)

    async def read_standings_of(self, node_pks: Collection[int]) -> dict[int, Standing]:
        """Status and present session of each of these nodes."""
        return await in_thread(read_standings_of, node_pks)
