"""The KubeSpan resources of a cluster and of a node, as tables and as YAML; all of the choice is in the address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.core.paginator import Paginator
from django.http import Http404
from redis import RedisError

from kubespan.core.resources import Definition
from nodes import resources
from nodes.resources import Listing
from nodes.views.clusters import ClusterTab
from nodes.views.common import PAGE_SIZE
from nodes.views.node_page import NodePage


def chosen(request, kinds: Sequence[Definition], read: Callable[[Definition], Listing[Any]]) -> dict[str, Any]:
    """What a page of resources shows: one kind, those that are searched for, a page of them."""
    kind = resources.choose(request.GET.get("resource", ""), kinds)
    if kind is None:
        raise Http404
    query = request.GET.get("q", "").strip()
    try:
        found = read(kind)
    except RedisError:
        found = None
    matching = found.search(query) if found and query else found or []
    page = Paginator(matching, PAGE_SIZE).get_page(request.GET.get("page"))
    rows = list(page)
    as_yaml = request.GET.get("view") == "yaml"
    return {
        "kinds": [(one.label.lower(), one.label, one == kind) for one in kinds],
        "resource": kind.label.lower(),
        "singular": kind.display_type,
        "headings": [heading for heading, _ in kind.columns],
        "whose": len({one.node for one in rows}) > 1,
        "rows": rows,
        "page": page,
        "q": query,
        "any": bool(found),
        "unread": found is None,
        "view": "yaml" if as_yaml else "table",
        "text": resources.to_yaml(rows) if as_yaml else "",
    }


class ClusterResourcesView(ClusterTab):
    """What every member of the cluster would list."""

    tab = "resources"
    template = "clusters/resources.html"

    def get(self, request, uuid):
        cluster = self.cluster
        return self.show(**chosen(request, resources.OF_CLUSTER, lambda kind: resources.of_cluster(cluster, kind)))


class NodeResourcesView(NodePage):
    """What this node would list."""

    tab = "resources"
    template = "nodes/resources.html"

    def get(self, request, pk):
        node = self.node
        return self.show(**chosen(request, resources.OF_NODE, lambda kind: resources.of_node(node, kind)))
