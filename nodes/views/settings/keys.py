"""Keys: what encrypts secrets at rest, and how old clusters' secrets are."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.shortcuts import redirect
from django.utils import timezone

from nodes.services import keys as services
from nodes.services.refused import Refused
from nodes.views.common import PAGE_SIZE
from nodes.views.settings.frame import SettingsTab
from nodes.vitals.keys import read_cluster_secrets, read_keys
from nodes.words import count


class KeysView(SettingsTab):
    """Names of keys and counts; neither a key nor a secret is on it."""

    tab = "keys"
    template = "settings/keys.html"

    def get(self, request):
        page = Paginator(read_cluster_secrets(), PAGE_SIZE).get_page(request.GET.get("page"))
        return self.show(found=read_keys(), page=page, secrets=page.object_list)


class KeysRotateView(SettingsTab):
    """Encrypt everything with the newest key."""

    tab = "keys"

    def post(self, request):
        try:
            rotated, unreadable = services.rotate_keys(request.user, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
        else:
            said = f"{count(rotated, 'value')} {'was' if rotated == 1 else 'were'} encrypted anew."
            if unreadable:
                messages.warning(request, f"{said} {count(len(unreadable), 'value')} cannot be opened; see below.")
            else:
                messages.success(request, f"{said} Older keys encrypt nothing any more, and may go.")
        return redirect("settings-keys")
