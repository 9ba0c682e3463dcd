"""One link: both ends side by side, why it is not up, and what to do."""

from __future__ import annotations

from functools import cached_property

from django.contrib import messages
from django.db.models import Q
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views import View

from kubespan.core.reason import explain
from nodes import pairs
from nodes.history import reading
from nodes.models import Node, Transition
from nodes.services import followed
from nodes.services.refused import Refused
from nodes.views.common import RoleMixin, read_live
from nodes.views.history import answer, history_context

SHOWN_TRANSITIONS = 20
READ_TRANSITIONS = 200
"""That tell what came of each endpoint."""


class PairPage(RoleMixin, View):
    """Whatever concerns a pair of nodes of one cluster."""

    permission = "view_cluster"

    @cached_property
    def subject(self) -> Node:
        return get_object_or_404(self.nodes(), pk=self.kwargs["here"])

    def nodes(self):
        visible = Node.objects.visible_to(self.request.user)
        return visible.select_related("cluster").prefetch_related("candidates", "obstacles")

    def pair(self) -> tuple[Node, Node]:
        """Both of them, in the order of the address."""
        one = self.subject
        other = get_object_or_404(self.nodes(), pk=self.kwargs["there"], cluster_id=one.cluster_id)
        if one == other:
            raise Http404
        return one, other


class PairView(PairPage):
    """Its page."""

    def get(self, request, here, there):
        one, other = self.pair()
        cluster, now = one.cluster, timezone.now()
        seen = read_live(lambda: pairs.read_link(one, other), None)
        lately = reading.lately(one, other, now)
        link = pairs.link_of(one, other, cluster, seen or (None, None), now.timestamp(), lately=lately)
        changes = transitions_between(one, other)
        context = {
            "cluster": cluster,
            "here": one,
            "there": other,
            "up": link.up,
            "reason": None if seen is None else explain(link),
            "unread": seen is None,
            "unsaid": seen == (None, None),
            "views": [
                side(node, peer, sight, changes)
                for node, peer, sight in zip((one, other), (other, one), seen or (None, None), strict=True)
            ],
            "transitions": changes[:SHOWN_TRANSITIONS],
            "pinned": followed.is_pinned(one, other),
            **history_context(request),
        }
        return render(request, "links/pair.html", context)


class PairHistoryView(PairPage):
    """Its history as charts read it."""

    def get(self, request, here, there):
        one, other = self.pair()
        span = reading.parse_span(request.GET.get("span"))
        seen = read_live(lambda: pairs.read_link(one, other), (None, None))
        return answer(reading.link_chart(one, other, seen, span, timezone.now()))


class PairKeepView(PairPage):
    """Keep its history until further notice, or no longer."""

    post_permission = "keep_history"

    def post(self, request, here, there):
        one, other = self.pair()
        try:
            followed.pin(request.user, one, other, timezone.now(), pinned=request.POST.get("keep") == "yes")
        except Refused as refusal:
            messages.error(request, refusal.reason)
        return redirect("pair", here, there)


def side(node: Node, peer: Node, sight: pairs.Seen | None, changes: list[Transition]) -> pairs.View:
    """One end's side."""
    tries = pairs.last_tries(row for row in changes if row.node_id == node.pk)
    return pairs.View(node, peer, sight, pairs.try_order(peer, node.cluster, sight, tries))


def transitions_between(one: Node, other: Node) -> list[Transition]:
    """How the link changed, as either end said, the newest first."""
    ways = Q(node=one, peer=other) | Q(node=other, peer=one)
    return list(Transition.objects.filter(ways).select_related("node", "peer")[:READ_TRANSITIONS])
