"""Maps: of the cluster that the address names, as a page of its own and as a tab."""

from __future__ import annotations

from typing import get_args
from uuid import UUID

from django.http import Http404
from django.shortcuts import redirect, render
from django.views import View

from nodes.maps import By
from nodes.models import Cluster
from nodes.views.clusters import ClusterTab
from nodes.views.common import RoleMixin


def chosen_grouping(request) -> By:
    """By what the address has nodes grouped; by site where it says nothing that can be."""
    asked = request.GET.get("by")
    return asked if asked in get_args(By) else "site"


class MapView(RoleMixin, View):
    """The map of one cluster: that of the address, or else the first."""

    permission = "enter_console"

    def get(self, request):
        asked = request.GET.get("cluster")
        clusters = Cluster.objects.visible_to(request.user).order_by("name")
        if asked is None:
            first = clusters.first()
            if first is None:
                return render(request, "map/page.html", {"cluster": None})
            query = request.GET.copy()
            query["cluster"] = str(first.uuid)
            return redirect(f"{request.path}?{query.urlencode()}")
        try:
            cluster = clusters.get(uuid=UUID(asked))
        except (ValueError, Cluster.DoesNotExist):
            raise Http404 from None
        return render(request, "map/page.html", {"cluster": cluster, "by": chosen_grouping(request)})


class ClusterMapView(ClusterTab):
    """The cluster's map, beside its other tabs."""

    tab = "map"
    template = "clusters/map.html"

    def get(self, request, uuid):
        return self.show(by=chosen_grouping(request))
