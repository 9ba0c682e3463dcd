"""The KubeSpan resources of a cluster and of a node, as tables and as YAML; all of the choice is in the address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from redis import RedisError

from kubespan.core.resources import Definition
from nodes import exports, resources
from nodes.resources import Listed, Listing
from nodes.views.clusters import ClusterTab
from nodes.views.lists import export_rows, paginate
from nodes.views.node_page import NodePage


def file_of(kind: Definition) -> exports.Export:
    """A kind's columns as a table has them, several values of one in a cell."""

    def cell(heading: str) -> Callable[[Listed], str | None]:
        return lambda one: exports.joined(dict(one.cells)[heading]) or None

    columns = {heading.lower().replace(" ", "_"): cell(heading) for heading, _ in kind.columns}
    return exports.Export(
        kind.label.lower(), {"node": lambda one: one.node or None, "id": lambda one: one.id} | columns
    )


def answer(
    request: HttpRequest,
    kinds: Sequence[Definition],
    read: Callable[[Definition], Listing[Any]],
    show: Callable[..., HttpResponse],
) -> HttpResponse:
    """One kind of resources: those that are searched for as a file, or a page of them by `show`."""
    kind = resources.choose(request.GET.get("resource", ""), kinds)
    if kind is None:
        raise Http404
    query = request.GET.get("q", "").strip()
    try:
        found = read(kind)
    except RedisError:
        found = None
    matching = found.search(query) if found and query else found or []
    if wanted := exports.wanted(request):
        return export_rows(file_of(kind), matching, wanted)
    page = paginate(request, matching)
    rows = list(page)
    as_yaml = request.GET.get("view") == "yaml"
    return show(
        kinds=[(one.label.lower(), one.label, one == kind) for one in kinds],
        resource=kind.label.lower(),
        singular=kind.display_type,
        headings=[heading for heading, _ in kind.columns],
        whose=len({one.node for one in rows}) > 1,
        rows=rows,
        page=page,
        q=query,
        any=bool(found),
        unread=found is None,
        view="yaml" if as_yaml else "table",
        text=resources.to_yaml(rows) if as_yaml else "",
    )


class ClusterResourcesView(ClusterTab):
    """What every member of the cluster would list."""

    tab = "resources"
    template = "clusters/resources.html"

    def get(self, request, uuid):
        cluster = self.cluster
        return answer(request, resources.OF_CLUSTER, lambda kind: resources.of_cluster(cluster, kind), self.show)


class NodeResourcesView(NodePage):
    """What this node would list."""

    tab = "resources"
    template = "nodes/resources.html"

    def get(self, request, pk):
        node = self.node
        return answer(request, resources.OF_NODE, lambda kind: resources.of_node(node, kind), self.show)
