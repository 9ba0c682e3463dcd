"""About: what runs here, how its parts stand, what it keeps and what it counted."""

from __future__ import annotations

from django.conf import settings
from django.utils import timezone

from nodes import access
from nodes.counters import read_counters
from nodes.models import Console
from nodes.views.common import read_live
from nodes.views.settings.frame import SettingsTab
from nodes.vitals import kept, parts


class AboutView(SettingsTab):
    """How the parts stand is for everybody; how much is kept, and what was refused, for administrators."""

    tab = "about"
    template = "settings/about.html"
    permission = access.ENTER

    def get(self, request):
        context = {
            "vitals": parts.read_vitals(timezone.now()),
            "versions": parts.versions(),
            "console": Console.objects.first(),
            "address": settings.KUBESPAN_URL,
        }
        if access.may(request.user, "manage_console"):
            tables = kept.read_tables()
            context |= {
                "tables": tables,
                "empty": [table.name for table in tables if not table.rows],
                "size": kept.database_size(),
                "counted": sorted(read_live(read_counters, {}).items()),
            }
        return self.show(**context)
