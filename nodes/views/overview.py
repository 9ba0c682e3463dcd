"""The first page: how everything stands, and what needs somebody."""

from __future__ import annotations

from django.shortcuts import render
from django.views import View

from nodes.models import Cluster, Node
from nodes.views import attention
from nodes.views.common import OperatorMixin, link_counts, summaries
from nodes.words import LinkCounts


class OverviewView(OperatorMixin, View):
    """Overview."""

    def get(self, request):
        clusters = {cluster.pk: cluster for cluster in Cluster.objects.all()}
        nodes = list(Node.objects.present())
        known = summaries(nodes)
        entries = attention.collect(nodes, clusters, known)
        approved = [node for node in nodes if node.status == Node.Status.APPROVED]
        for cluster in clusters.values():
            members = [node for node in approved if node.cluster_id == cluster.pk]
            cluster.size = len(members)
            cluster.connected = sum(bool(node.session) for node in members)
            cluster.pending = sum(
                node.cluster_id == cluster.pk and node.status == Node.Status.PENDING for node in nodes
            )
            cluster.links = total(known.get(node.pk) for node in members)
        context = {
            "clusters": list(clusters.values()),
            "nodes": len(approved),
            "connected": sum(bool(node.session) for node in approved),
            "links": total(known.get(node.pk) for node in approved),
            "drift": sum(bool(node.fault or node.behind(clusters[node.cluster_id])) for node in approved),
            "attention": entries[: attention.SHOWN],
            "more": max(0, len(entries) - attention.SHOWN),
        }
        return render(request, "overview.html", context)


def total(found) -> LinkCounts:
    """All nodes' links together."""
    links = LinkCounts()
    for summary in found:
        links = links.plus(link_counts(summary))
    return links
