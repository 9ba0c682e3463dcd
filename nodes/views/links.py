"""One link: both ends side by side, why it is not up, and what to do."""

from __future__ import annotations

from django.db.models import Q
from django.http import Http404
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views import View

from kubespan.core.reason import explain
from nodes import pairs
from nodes.models import Node, Transition
from nodes.views.common import RoleMixin, read_live

SHOWN_TRANSITIONS = 20


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
