"""Keys: what encrypts secrets at rest, and how old clusters' secrets are."""

from __future__ import annotations

from django.contrib import messages
from django.shortcuts import redirect
from django.utils import timezone

from nodes import exports
from nodes.services import keys as services
from nodes.services.refused import Refused
from nodes.views.lists import export_one, paginate
from nodes.views.settings.frame import SettingsTab
from nodes.vitals.keys import read_cluster_secrets, read_keys
from nodes.words import count

SECRETS = exports.Export(
    "cluster-secrets",
    {
        "cluster": lambda secret: secret.cluster.name,
        "generation": lambda secret: secret.cluster.secret_generation,
        "in_use_since": lambda secret: exports.moment(secret.since),
        "handing_out": lambda secret: secret.handing_out,
    },
)
"""How old each is; no secret is among it."""

KEYS = exports.Export(
    "keys",
    {
        "name": lambda key: key.name,
        "held": lambda key: key.held,
        "newest": lambda key: key.newest,
        "values": lambda key: key.total,
        "encrypts": lambda key: ", ".join(f"{what}: {number}" for what, number in key.values.items()) or None,
    },
)
"""Names alone."""


class KeysView(SettingsTab):
    """Names of keys and counts; neither a key nor a secret is on it."""

    tab = "keys"
    template = "settings/keys.html"

    def get(self, request):
        if kind := exports.wanted(request):
            files = {"secrets": (SECRETS, read_cluster_secrets), "keys": (KEYS, lambda: read_keys().keys)}
            return export_one(request, files, kind)
        page = paginate(request, read_cluster_secrets())
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
