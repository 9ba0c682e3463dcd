"""The links of a cluster: the matrix, and what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, QueryDict
from django.shortcuts import render
from django.views import View

from nodes import exports, live
from nodes.models import Cluster, Node
from nodes.views.common import RoleMixin, read_live
from nodes.views.unwell import as_file, may_try, unwell_context
from nodes.words import LinkCounts

MODES = (
    ("state", "State"),
    ("rtt", "Round trip"),
    ("loss", "Loss"),
    ("received", "Received"),
    ("sent", "Sent"),
    ("uptime", "Uptime"),
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


VIEWS = ("matrix", "list")


def links_page(request: HttpRequest, cluster: Cluster | None) -> dict[str, Any]:
    """What a page on links shows, of one cluster or of all: the view that its address asks for."""
    asked = request.GET.get("view", "")
    view = asked if asked in VIEWS else VIEWS[0]
    if view == "matrix":
        return {"view": view, **matrix_choices(request.GET)}
    return {"view": view, "can_try": may_try(request.user), **unwell_context(request, cluster)}


class LinksView(RoleMixin, View):
    """Links of all clusters that are not up, or one cluster's matrix: of that which is named, or is worst off."""

    permission = "enter_console"

    def get(self, request):
        clusters = list(Cluster.objects.visible_to(request.user))
        context = {"clusters": clusters, **links_page(request, None)}
        if context["view"] == "matrix":
            named = request.GET.get("cluster", "")
            context["shown"] = next((one for one in clusters if str(one.uuid) == named), None) or worst_off(clusters)
        elif kind := exports.wanted(request):
            return as_file(context, kind)
        return render(request, "links/list.html", context)


def worst_off(clusters: Sequence[Cluster]) -> Cluster | None:
    """The cluster with most links down, then with most unknown, then the first one; two reads whatever there is."""
    rows = Node.objects.approved().filter(cluster__in=clusters).values_list("pk", "cluster")
    nodes = dict(rows)
    counts: dict[int, LinkCounts] = {}
    for pk, summary in read_live(lambda: live.read_summaries_of(nodes), {}).items():
        counts[nodes[pk]] = counts.get(nodes[pk], LinkCounts()).plus(summary)
    return max(clusters, key=lambda one: _badness(counts.get(one.pk, LinkCounts())), default=None)


def _badness(counts: LinkCounts) -> tuple[int, int]:
    return counts.down, counts.unknown
