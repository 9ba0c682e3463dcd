"""The first page: how everything stands, and what needs somebody."""

from __future__ import annotations

from datetime import datetime

from django.db.models import QuerySet
from django.shortcuts import render
from django.utils import timezone
from django.views import View

from nodes import access, pairs, standing
from nodes.forms import TokenForm
from nodes.models import Audit, Cluster, Node, Obstacle, Transition
from nodes.views import attention
from nodes.views.common import RoleMixin, read_live, summaries


class Look:
    """One look at some clusters: their nodes, what these last said, and what needs somebody.

    Six queries and a call to Redis, and three more queries and a call where links are not up; the same for any number
    of nodes.
    """

    def __init__(self, clusters: QuerySet[Cluster], now: datetime) -> None:
        self.now = now
        self.clusters = {cluster.pk: cluster for cluster in clusters}
        self._nodes = standing.read_rows(Node.objects.present().filter(cluster__in=self.clusters))
        known = summaries(self._nodes)
        self.standings = standing.tally(self._nodes, self.clusters, known)
        self._summaries = known or {}

    @property
    def total(self) -> standing.Standing:
        """All clusters together."""
        return standing.total(self.standings.values())

    def attention(self) -> list[attention.Attention]:
        """What needs somebody, worst first."""
        broken = attention.find_broken(self._nodes, self._summaries)
        ends = [(one.pk, other.pk) for one, other in (link.pair for link in broken)]
        reasons = read_live(lambda: pairs.read_reasons(ends, self.clusters, self.now.timestamp()), {})
        obstacles = Obstacle.objects.filter(node__cluster__in=self.clusters).order_by("node_id", "place")
        return attention.collect(self._nodes, self.clusters, self._summaries, obstacles, broken, reasons)

    def changes(self) -> tuple[int, int]:
        """How much changed within the last hour: by itself, and by people."""
        lately = {"cluster__in": self.clusters, "at__gte": self.now - standing.LATELY}
        return Transition.objects.filter(**lately).count(), Audit.objects.filter(**lately).count()

    def context(self) -> dict[str, object]:
        """What the strip and the list of what needs attention show."""
        entries = self.attention()
        by_itself, by_people = self.changes()
        return {
            "standing": self.total,
            "attention": entries[: attention.SHOWN],
            "more": max(0, len(entries) - attention.SHOWN),
            "by_itself": by_itself,
            "by_people": by_people,
            "changed": by_itself + by_people,
        }


class OverviewView(RoleMixin, View):
    """Overview."""

    permission = "enter_console"

    def get(self, request):
        look = Look(Cluster.objects.visible_to(request.user), timezone.now())
        for pk, cluster in look.clusters.items():
            cluster.standing = look.standings[pk]
        context = {
            "clusters": list(look.clusters.values()),
            "enrol_into": next((one for one in look.clusters.values() if may_enrol(request.user, one)), None),
            "token_form": TokenForm(access.clusters_where(request.user, "create_token")),
            **look.context(),
        }
        return render(request, "overview.html", context)


def may_enrol(user, cluster: Cluster) -> bool:
    """Whether somebody may make a token for that cluster."""
    return access.may(user, "create_token", cluster)
