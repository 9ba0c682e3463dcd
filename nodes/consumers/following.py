"""Pages that the server draws, and that fetch themselves anew."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Model, QuerySet
from django.utils import timezone

from nodes import live
from nodes.consumers.base import FollowingConsumer, Gone, Sent, those
from nodes.models import Audit, Cluster, Node, Rollout, RolloutStep, Tombstone, Transition
from nodes.pages import Flushed
from nodes.standing import LATELY

LINKS_SECONDS = 3.0
"""The list of links that are not up is not told more often: each time it looks at all links of all clusters."""


class OverviewConsumer(FollowingConsumer):
    """Pages about all clusters."""

    permission = "enter_console"

    def find(self) -> set[int | None]:
        """Every cluster; there need not be one."""
        self._clusters_seen: Sent[int, tuple[Any, ...]] = Sent()
        self._nodes: Sent[int, tuple[Any, ...]] = Sent()
        self._links: Sent[int, tuple[int | None, ...]] = Sent()
        self._changes: Sent[type[Model], int] = Sent()
        self._older = False
        return {None, *self.shown().values_list("pk", flat=True)}

    def shown(self) -> QuerySet[Cluster]:
        """The clusters that the page is about."""
        return Cluster.objects.visible_to(self.user)

    def concerns(self) -> set[int | None]:
        """The clusters whose news it hears of; none stands for what concerns all of them."""
        return {None, *self._clusters_seen.now}

    async def _read(self) -> None:
        await super()._read()
        clusters = self.concerns()
        if clusters != self._clusters:
            await self._hear(clusters)
            await self._publish_watch()

    def read(self) -> None:
        """Four queries and a call to Redis: what the lists and the sentences of the overview are made of."""
        clusters = self.shown().values_list("pk", "name", "epoch", "revision", "options")
        self._clusters_seen.now = {row[0]: row for row in clusters}
        nodes = Node.objects.present().filter(cluster__in=self.shown()).values_list(
            "pk", "name", "status", "session", "fault", "applied_epoch", "applied_number", "claimed_networks",
            "networks", "clock_skew", "agent_version", "obstacles_at", "left_at", "site",
        )  # fmt: skip
        self._nodes.now = {row[0]: row for row in nodes}
        summaries = live.read_summaries_of(self._nodes.now)
        self._links.now = {pk: _standing(summary) for pk, summary in summaries.items()}
        # Such a link is worth a sentence once each endpoint was tried in vain: time alone makes that news.
        self._older = any(summary.unknown for summary in summaries.values())
        self._changes.now = dict(self._read_oldest(timezone.now() - LATELY))

    def _read_oldest(self, since: datetime) -> Iterator[tuple[type[Model], int]]:
        """The first rows of those that count as changes of late: with another first one there are fewer."""
        for model in (Transition, Audit):
            rows = model.objects.filter(cluster__in=self._clusters_seen.now, at__gte=since)
            for pk in rows.order_by("at", "pk").values_list("pk", flat=True)[:1]:
                yield model, pk

    def take(self, flushed: Flushed) -> bool:
        """Only a link that came up or went down matters here, not how old its handshake is."""
        known = [(pk, summary) for pk, summary in flushed.nodes if pk in self._nodes.now]
        self._links.now.update((pk, _standing(summary)) for pk, summary in known)
        return bool(known)

    def differs(self) -> bool:
        """A cluster, a node's standing, its links, or what is no change of late any more."""
        news = [sent.news() for sent in (self._clusters_seen, self._nodes, self._links, self._changes)]
        older, self._older = self._older, False
        return older or any(changed or gone for changed, gone in news)

    async def cluster_deleted(self, event: dict[str, Any]) -> None:
        """The others are still there."""
        self.look_again()


class ClusterOverviewConsumer(OverviewConsumer):
    """The first page of one cluster."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        return those(pk for pk in super().find() if pk is not None)

    def shown(self) -> QuerySet[Cluster]:
        """That one alone."""
        return Cluster.objects.filter(uuid=self._uuid)

    def concerns(self) -> set[int | None]:
        """It alone, whatever comes or goes besides."""
        return self._clusters

    def read(self) -> None:
        """The same of one cluster."""
        super().read()
        if not self._clusters_seen.now:
            raise Gone


class LinksConsumer(OverviewConsumer):
    """The list of links that are not up."""

    pause = LINKS_SECONDS

    def _read_oldest(self, since: datetime) -> Iterator[tuple[type[Model], int]]:
        """It counts no changes."""
        return iter(())


class RemovalConsumer(FollowingConsumer):
    """A removed node's page: who has yet to drop it."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster of the removed node."""
        self._members: Sent[int, tuple[Any, ...]] = Sent()
        tombstone = Tombstone.objects.filter(removed_node=self.scope["url_route"]["kwargs"]["node"]).first()
        if tombstone is None:
            raise Gone
        self._tombstone = tombstone
        return those([tombstone.cluster_id])

    def read(self) -> None:
        """One query: what the list of those that are not yet cut off shows."""
        rows = Node.objects.not_cut_off(self._tombstone).values_list(
            "pk", "name", "session", "left_at", "fault", "applied_epoch", "applied_number"
        )
        self._members.now = {row[0]: row for row in rows}

    def take(self, flushed: Flushed) -> bool:
        """What its links are like is not shown."""
        return False

    def differs(self) -> bool:
        """A member that dropped it, came or went."""
        return any(self._members.news())


class AgentsConsumer(FollowingConsumer):
    """The page on a cluster's agents: which versions run, and how far an upgrade is."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._steps: Sent[int, tuple[Any, ...]] = Sent()
        self._rollouts: Sent[int, tuple[Any, ...]] = Sent()
        self._agents: Sent[int, tuple[Any, ...]] = Sent()
        found = those(
            Cluster.objects.filter(uuid=self.scope["url_route"]["kwargs"]["cluster"]).values_list("pk", flat=True)
        )
        (self._cluster,) = found
        return found

    def read(self) -> None:
        """Three queries: what the page shows of members, of the last upgrade, and of its steps."""
        members = Node.objects.approved().filter(cluster=self._cluster).values_list("pk", "agent_version", "session")
        self._agents.now = {row[0]: (row[1], bool(row[2])) for row in members}
        rollouts = Rollout.objects.filter(cluster=self._cluster)[:1].values_list("pk", "state", "reason")
        self._rollouts.now = {row[0]: row for row in rollouts}
        steps = RolloutStep.objects.filter(rollout__in=list(self._rollouts.now)).values_list("pk", "state", "reason")
        self._steps.now = {row[0]: row for row in steps}

    def take(self, flushed: Flushed) -> bool:
        """What links are like is not shown."""
        return False

    def differs(self) -> bool:
        """Whether anything of it is different."""
        # Each is asked, whatever the others say.
        news = [one.news() for one in (self._agents, self._rollouts, self._steps)]
        return any(changed or gone for changed, gone in news)


class RotationConsumer(FollowingConsumer):
    """The page of a cluster's rotation: who has the next secret, and who is away."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        self._members: Sent[int, tuple[Any, ...]] = Sent()
        self._secrets: Sent[int, tuple[Any, ...]] = Sent()
        return those(Cluster.objects.filter(uuid=self._uuid).values_list("pk", flat=True))

    def read(self) -> None:
        """Two queries: what the page is drawn of."""
        clusters = Cluster.objects.filter(uuid=self._uuid).values_list(
            "pk", "epoch", "secret_generation", "rotation__generation", "rotation__automatic"
        )
        self._secrets.now = {row[0]: row for row in clusters}
        if not self._secrets.now:
            raise Gone
        rows = Node.objects.approved().filter(cluster__in=self._secrets.now).order_by()
        members = rows.values_list(
            "pk", "name", "session", "left_at", "protocol", "secret_kept", "applied_epoch", "applied_number"
        )
        self._members.now = {row[0]: row for row in members}

    def take(self, flushed: Flushed) -> bool:
        """What links are like is not shown."""
        return False

    def differs(self) -> bool:
        """The rotation, or how far a member is."""
        news = [one.news() for one in (self._members, self._secrets)]  # each is asked, whatever the other says
        return any(changed or gone for changed, gone in news)


class OptionsConsumer(FollowingConsumer):
    """The page of a cluster's options, whose form nobody may change under somebody's hands: what it says beside it."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        self._shown: Sent[int, tuple[Any, ...]] = Sent()
        return those(Cluster.objects.filter(uuid=self._uuid).values_list("pk", flat=True))

    def read(self) -> None:
        """One query."""
        clusters = Cluster.objects.filter(uuid=self._uuid).values_list("pk", "options", "epoch", "revision")
        self._shown.now = {row[0]: row for row in clusters}
        if not self._shown.now:
            raise Gone

    def take(self, flushed: Flushed) -> bool:
        """What links are like is not shown."""
        return False

    def differs(self) -> bool:
        """The options, or the revision that saving them would make."""
        return any(self._shown.news())


def _standing(summary: live.Summary) -> tuple[int | None, ...]:
    mute = summary.mute, summary.mute_to
    return summary.up, summary.unknown, summary.down, summary.worst, *mute, summary.at is not None
