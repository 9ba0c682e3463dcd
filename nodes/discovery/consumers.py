"""Sockets of the pages about discovery: they say when to look again, and the server draws."""

from __future__ import annotations

import time
from typing import Any

from django.db.models import Count

from nodes.consumers.base import FollowingConsumer, Gone, Sent
from nodes.consumers.following import OverviewConsumer
from nodes.models import Cluster, DiscoveryAffiliate, DiscoveryCluster, Node
from nodes.pages import Flushed
from nodes.services import inspection


class DiscoveryConsumer(OverviewConsumer):
    """The page on the service: its clusters, how much is kept of each, and whether anybody serves."""

    permission = "enter_console"

    def find(self) -> set[int | None]:
        """Every cluster; there need not be one."""
        self._kept: Sent[int, tuple[Any, ...]] = Sent()
        self._serving: Sent[str, bool] = Sent()
        return super().find()

    def read(self) -> None:
        """Three queries: what the page is drawn of, but for when a cluster was last used."""
        clusters = Cluster.objects.visible_to(self.user).values_list("pk", "name", "options")
        self._clusters_seen.now = {row[0]: row for row in clusters}
        kept = DiscoveryCluster.objects.annotate(size=Count("affiliates")).values_list("pk", "number", "size")
        self._kept.now = {row[0]: row for row in kept}
        self._serving.now = {"serving": inspection.is_serving(time.time())}

    def take(self, flushed: Flushed) -> bool:
        """What links are like is not shown."""
        return False

    def differs(self) -> bool:
        """A cluster, what is kept of one, or whether anybody serves."""
        # Each is asked, whatever the others say.
        news = [one.news() for one in (self._clusters_seen, self._kept, self._serving)]
        return any(changed or gone for changed, gone in news)


class ClusterDiscoveryConsumer(FollowingConsumer):
    """A cluster's page on discovery: what is kept of it, and which of it are nodes."""

    permission = "view_cluster"

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._uuid = self.scope["url_route"]["kwargs"]["cluster"]
        self._affiliates: Sent[str, tuple[Any, ...]] = Sent()
        self._members: Sent[int, tuple[Any, ...]] = Sent()
        self._standing: Sent[str, tuple[Any, ...]] = Sent()
        return {self._cluster().pk}

    def _cluster(self) -> Cluster:
        cluster = Cluster.objects.filter(uuid=self._uuid).first()
        if cluster is None:
            raise Gone
        return cluster

    def read(self) -> None:
        """Five queries, whatever the number of affiliates; their sealed data is not among what is read."""
        cluster = self._cluster()
        row = DiscoveryCluster.objects.filter(cluster_id=cluster.cluster_id).values_list("pk", "number").first()
        rows = DiscoveryAffiliate.objects.filter(cluster=row[0] if row else None)
        columns = ("affiliate_id", "endpoint_count", "expires", "address")
        self._affiliates.now = {found[0]: found for found in rows.values_list(*columns)}
        nodes = Node.objects.present().filter(cluster=cluster).order_by()
        self._members.now = {found[0]: found for found in nodes.values_list("pk", "name", "status")}
        # The number stands for what the affiliates say.
        self._standing.now = {"cluster": (row, cluster.options, inspection.is_serving(time.time()))}

    def take(self, flushed: Flushed) -> bool:
        """What links are like is not shown."""
        return False

    def differs(self) -> bool:
        """What is kept, a node, or the cluster's options."""
        news = [one.news() for one in (self._affiliates, self._members, self._standing)]
        return any(changed or gone for changed, gone in news)
