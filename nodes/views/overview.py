"""The first page: how everything stands, and what needs somebody."""

from __future__ import annotations

from django.shortcuts import render
from django.views import View

from nodes import access, live
from nodes.forms import TokenForm
from nodes.models import Cluster, Node
from nodes.views import attention
from nodes.views.common import RoleMixin, link_counts, read_live, summaries
from nodes.words import LinkCounts


class OverviewView(RoleMixin, View):
    """Overview."""

    permission = "enter_console"

    def get(self, request):
        clusters = {cluster.pk: cluster for cluster in Cluster.objects.visible_to(request.user)}
        nodes = list(Node.objects.visible_to(request.user).present().prefetch_related("obstacles"))
        known = summaries(nodes)
        entries = attention.collect(nodes, clusters, known, worst_links(nodes, known))
        approved = [node for node in nodes if node.status == Node.Status.APPROVED]
        for cluster in clusters.values():
            members = [node for node in approved if node.cluster_id == cluster.pk]
            cluster.size = len(members)
            cluster.connected = sum(node.is_here for node in members)
            cluster.pending = sum(
                node.cluster_id == cluster.pk and node.status == Node.Status.PENDING for node in nodes
            )
            cluster.links = total(known.get(node.pk) for node in members)
        context = {
            "clusters": list(clusters.values()),
            "nodes": len(approved),
            "connected": sum(node.is_here for node in approved),
            "links": total(known.get(node.pk) for node in approved),
            "drift": sum(bool(node.fault or node.behind(clusters[node.cluster_id])) for node in approved),
            "attention": entries[: attention.SHOWN],
            "token_form": TokenForm(access.clusters_where(request.user, "create_token")),
            "more": max(0, len(entries) - attention.SHOWN),
        }
        return render(request, "overview.html", context)


def worst_links(nodes: list[Node], known: dict[int, live.Summary]) -> dict[int, live.Seen]:
    """The worst link of each node that has one down, for as many nodes as the page can name."""
    found = {}
    for node in [node for node in nodes if node.pk in known and known[node.pk].down][: attention.SHOWN]:
        links = read_live(lambda node=node: live.read_links(node), {})
        if (link := links.get(known[node.pk].worst)) is not None:
            found[node.pk] = link
    return found


def total(found) -> LinkCounts:
    """All nodes' links together."""
    links = LinkCounts()
    for summary in found:
        links = links.plus(link_counts(summary))
    return links
