"""The discovery service, for people: what it is, which clusters it keeps, and what it keeps of each."""

from __future__ import annotations

import time
from collections.abc import Iterable

from django.conf import settings
from django.core.cache import cache
from django.core.paginator import Page, Paginator
from django.db import DatabaseError
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache

from kubespan.discovery.limits import AFFILIATES
from nodes import access, exports
from nodes.models import Cluster, DiscoveryCluster
from nodes.services import discovery as services
from nodes.services import inspection
from nodes.services.inspection import Listed, Listing, Seal
from nodes.views.clusters import ClusterTab
from nodes.views.common import PAGE_SIZE, RoleMixin
from nodes.views.lists import export_rows, paginate

STATS_SECONDS = 3600
"""For how long one count is told again (spec/discovery-protocol.md §5.8)."""
STATS_KEY = "discovery-stats"


class DiscoveryView(RoleMixin, View):
    """What the service is, how it stands, and which clusters it keeps."""

    permission = "enter_console"

    def get(self, request):
        kept = inspection.list_clusters(
            Cluster.objects.visible_to(request.user), strangers=access.may(request.user, "view_strangers")
        )
        if kind := exports.wanted(request):
            return export_rows(exports.SERVED, kept, kind)
        strangers = [one for one in kept if one.cluster is None]
        context = {
            "serving": inspection.is_serving(time.time()),
            "all": settings.DISCOVERY_SERVE == "all",
            "redirect": settings.DISCOVERY_REDIRECT,
            "ours": paginate(request, [one for one in kept if one.cluster is not None], "ours"),
            "strangers": paginate(request, strangers),
            "affiliates": sum(one.affiliates for one in kept),
            "limit": settings.DISCOVERY_AFFILIATES,
        }
        return render(request, "discovery/service.html", context)


class StrangerView(RoleMixin, View):
    """A cluster at the service that is not this console's: what is kept of it, all of it sealed."""

    permission = "view_strangers"

    def get(self, request, pk):
        row = get_object_or_404(DiscoveryCluster, pk=pk)
        ours = Cluster.objects.filter(cluster_id=row.cluster_id).first()
        if ours is not None:
            return redirect("cluster-discovery", ours.uuid)
        listing = inspection.list_sealed(row)
        if kind := exports.wanted(request):
            return export_rows(exports.AFFILIATES, listing.rows, kind)
        page = _page(listing, request.GET.get("page"))
        return render(request, "discovery/stranger.html", {"row": row, "page": page, "listing": listing})


class ClusterDiscoveryView(ClusterTab):
    """What the service keeps of one of our clusters, and whether its secret opens it."""

    tab = "discovery"
    template = "clusters/discovery.html"

    def get(self, request, uuid):
        if kind := exports.wanted(request):
            return export_rows(exports.AFFILIATES, inspection.list_affiliates(self.cluster).rows, kind)
        return self.show_listing(request.GET.get("page"))

    def show_listing(self, number: str | None, **context) -> HttpResponse:
        """One page of the affiliates."""
        listing = inspection.list_affiliates(self.cluster)
        page = _page(listing, number)
        page.object_list = inspection.explain(self.cluster, listing, page.object_list)
        return self.show(
            listing=listing,
            page=page,
            counts={seal.value: listing.count(seal) for seal in Seal},
            limit=AFFILIATES,
            serving=inspection.is_serving(time.time()),
            live_path=f"/live/discovery/{self.cluster.uuid}",
            **context,
        )


@method_decorator(never_cache, name="dispatch")
class ClusterContentsView(ClusterDiscoveryView):
    """What the affiliates of one page say, for whoever may and asks for it."""

    post_permission = "open_discoveryaffiliate"

    def get(self, request, uuid):
        return redirect("cluster-discovery", uuid)

    def post(self, request, uuid):
        number = request.POST.get("page")
        ids = [row.id for row in _page(inspection.list_affiliates(self.cluster), number).object_list]
        contents = inspection.reveal(request.user, self.cluster, ids, timezone.now())
        return self.show_listing(number, contents=contents, opened_at=timezone.now())


def _page(listing: Listing, number: str | None) -> Page[Listed]:
    rows: Iterable[Listed] = listing.rows
    return Paginator(list(rows), PAGE_SIZE).get_page(number)


class StatsView(View):
    """How many affiliates there are in all, for whoever asks; counted anew at most once an hour."""

    def get(self, request):
        try:
            kept = _cached_count()
        except DatabaseError:
            return _open(JsonResponse({"error": "Oops, try again"}, status=500))
        return _open(JsonResponse({"affiliates": kept}))


def _cached_count() -> int:
    return cache.get_or_set(STATS_KEY, _count, STATS_SECONDS)


def _count() -> int:
    return services.totals().affiliates


def _open(response: HttpResponse) -> HttpResponse:
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response
