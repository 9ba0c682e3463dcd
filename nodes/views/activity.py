"""Activity: what changed by itself, and who did what."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.shortcuts import render
from django.views import View

from nodes import exports
from nodes.filters import AuditFilter, TransitionFilter
from nodes.models import Audit, Transition
from nodes.views.common import PAGE_SIZE, OperatorMixin
from nodes.views.lists import export_rows


class ActivityView(OperatorMixin, View):
    """Both kinds of history, each a tab."""

    def get(self, request):
        tab = "audit" if request.GET.get("tab") == "audit" else "links"
        if tab == "audit":
            found = AuditFilter(request.GET, Audit.objects.select_related("cluster", "node"))
        else:
            found = TransitionFilter(request.GET, Transition.objects.select_related("cluster", "node", "peer"))
        if kind := exports.wanted(request):
            return export_rows(exports.AUDITS if tab == "audit" else exports.TRANSITIONS, found.qs, kind)
        page = Paginator(found.qs, PAGE_SIZE).get_page(request.GET.get("page"))
        return render(
            request, "activity/list.html", {"tab": tab, "filter": found, "chips": found.chips(), "page": page}
        )
