"""Activity: what changed by itself, and who did what."""

from __future__ import annotations

from django.shortcuts import render
from django.views import View

from nodes import exports
from nodes.filters import AuditFilter, TransitionFilter
from nodes.models import Audit, Transition
from nodes.views.common import RoleMixin
from nodes.views.lists import export_rows, paginate


class ActivityView(RoleMixin, View):
    """Both kinds of history, each a tab."""

    permission = "enter_console"

    def get(self, request):
        tab = "audit" if request.GET.get("tab") == "audit" else "links"
        if tab == "audit":
            audits = Audit.objects.visible_to(request.user)
            found = AuditFilter(request.GET, audits.select_related("cluster", "node"), request=request)
        else:
            transitions = Transition.objects.visible_to(request.user)
            found = TransitionFilter(
                request.GET, transitions.select_related("cluster", "node", "peer"), request=request
            )
        if kind := exports.wanted(request):
            return export_rows(exports.AUDITS if tab == "audit" else exports.TRANSITIONS, found.qs, kind)
        page = paginate(request, found.qs)
        return render(
            request, "activity/list.html", {"tab": tab, "filter": found, "chips": found.chips(), "page": page}
        )
