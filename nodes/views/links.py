"""One link: both ends side by side, why it is not up, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Q
from django.http import Http404, QueryDict
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views import View

from kubespan.core.reason import explain
from nodes import live, pairs
from nodes.models import Cluster, Node, Transition
from nodes.views.common import RoleMixin, link_counts, read_live
from nodes.words import LinkCounts

SHOWN_TRANSITIONS = 20

MODES = (
    ("state", "State"),
    ("rtt", "Round trip"),
    ("loss", "Loss"),
    ("received", "Received"),
    ("sent", "Sent"),
)
"""What a matrix shows of each link (nodes.matrix), and what that is called."""

ORDERS = (("group", "by site"), ("name", "by name"), ("worst", "worst first"))


def matrix_choices(query: QueryDict) -> dict[str, object]:
    """What is chosen for a matrix in the page's address, and what may be."""
    mode, order = query.get("mode", ""), query.get("order", "")
    return {
        "modes": MODES,
        "mode": mode if mode in dict(MODES) else MODES[0][0],
        "orders": ORDERS,
        "order": order if order in dict(ORDERS) else ORDERS[0][0],
    }


class LinksView(RoleMixin, View):
    """The links of one cluster: that which the address names, or else the one that is worst off."""

    permission = "enter_console"

    def get(self, request):
        clusters = list(Cluster.objects.visible_to(request.user))
        named = request.GET.get("cluster", "")
        cluster = next((one for one in clusters if str(one.uuid) == named), None) or worst_off(clusters)
        context = {"clusters": clusters, "cluster": cluster, **matrix_choices(request.GET)}
        return render(request, "links/list.html", context)


def worst_off(clusters: Sequence[Cluster]) -> Cluster | None:
    """The cluster with most links down, then with most unknown, then the first one; two reads whatever there is."""
    rows = Node.objects.approved().filter(cluster__in=clusters).values_list("pk", "cluster")
    nodes = dict(rows)
    counts: dict[int, LinkCounts] = {}
    for pk, summary in read_live(lambda: live.read_summaries_of(nodes), {}).items():
        counts[nodes[pk]] = counts.get(nodes[pk], LinkCounts()).plus(link_counts(summary))
    return max(clusters, key=lambda one: _badness(counts.get(one.pk, LinkCounts())), default=None)


def _badness(counts: LinkCounts) -> tuple[int, int]:
    return counts.down, counts.unknown


class PairView(RoleMixin, View):
    """A pair of nodes of one cluster."""

    permission = "view_cluster"

    def subject(self) -> Node:
        return get_object_or_404(self.nodes(), pk=self.kwargs["here"])

    def nodes(self):
        visible = Node.objects.visible_to(self.request.user)
        return visible.select_related("cluster").prefetch_related("candidates", "obstacles")

    def get(self, request, here, there):
        nodes = self.nodes()
        one = self.subject()
        other = get_object_or_404(nodes, pk=there, cluster_id=one.cluster_id)
        if one == other:
            raise Http404
        cluster = one.cluster
        seen = read_live(lambda: pairs.read_link(one, other), None)
        link = pairs.link_of(one, other, cluster, seen or (None, None), timezone.now().timestamp())
        context = {
            "cluster": cluster,
            "here": one,
            "there": other,
            "up": link.up,
            "reason": explain(link),
            "unread": seen is None,
            "views": [
                pairs.View(node, peer, sight, pairs.try_order(peer, cluster, sight))
                for node, peer, sight in zip((one, other), (other, one), seen or (None, None), strict=True)
            ],
            "transitions": transitions_between(one, other),
        }
        return render(request, "links/pair.html", context)


def transitions_between(one: Node, other: Node) -> list[Transition]:
    """How the link changed, as either end said, the newest first."""
    ways = Q(node=one, peer=other) | Q(node=other, peer=one)
    return list(Transition.objects.filter(ways).select_related("node", "peer")[:SHOWN_TRANSITIONS])
