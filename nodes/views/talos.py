"""A cluster's Talos machines: the patch that brings them here, and whether they would find discovery."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables

from kubespan.core.talos.patches import NODES, Patch
from nodes import talos
from nodes.accounts.confirm import ask_again
from nodes.services import talos as services
from nodes.services.refused import Refused
from nodes.talos_forms import PatchForm
from nodes.views.clusters import ClusterTab

TOO_MANY_REQUESTS = 429


def download(patch: Patch) -> HttpResponse:
    """The patch as a file."""
    kind = "application/json" if patch.file.endswith(".json") else "application/yaml"
    headers = {"Content-Disposition": f'attachment; filename="{patch.file}"'}
    return HttpResponse(patch.text, content_type=f"{kind}; charset=utf-8", headers=headers)


@method_decorator(never_cache, name="dispatch")
class ClusterTalosView(ClusterTab):
    """What to do on Talos machines; with id and secret for whoever confirms who they are."""

    post_permission = "reveal_secret"

    tab = "talos"
    template = "clusters/talos.html"

    def get(self, request, uuid):
        return self.show_patch(PatchForm.of(request.GET, talos.guess_era(self.cluster)))

    @sensitive_variables()
    def post(self, request, uuid):
        form = PatchForm.of(request.POST, talos.guess_era(self.cluster))
        if (asked := ask_again(request, f"{request.path}?{form.chosen}#identity")) is not None:
            return asked
        try:
            revealed = services.reveal_patch(request.user, self.cluster, form.era, **form.switches, now=timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
            return self.show_patch(form, refusal.status)
        if "download" in request.POST:
            return download(revealed)
        return self.show_patch(form, revealed=revealed)

    def show_patch(self, form: PatchForm, status: int = 200, **context) -> HttpResponse:
        """The tab as the form chooses."""
        context = {
            "form": form,
            "era": form.era,
            "patch": talos.write_patch(self.cluster, form.era, **form.switches),
            "roots": talos.read_roots(),
            "obstacles": talos.find_obstacles(self.cluster),
            "service": settings.DISCOVERY_URL,
            "nodes_word": NODES,
        } | context
        return self.show(status, **context)


class ClusterTalosPatchView(ClusterTab):
    """The patch without id and secret, as a file."""

    def get(self, request, uuid):
        form = PatchForm.of(request.GET, talos.guess_era(self.cluster))
        return download(talos.write_patch(self.cluster, form.era, **form.switches))


class ClusterTalosTestView(ClusterTalosView):
    """Look from here whether machines would find the service; only where patches send them, nowhere else."""

    post_permission = "change_options"

    http_method_names = ("post",)

    def post(self, request, uuid):
        status, context = (200, {"found": self.find()}) if talos.may_test() else (TOO_MANY_REQUESTS, {"too_soon": True})
        if request.htmx:
            return render(request, "clusters/_talos_test.html", context)
        return self.show_patch(PatchForm.of({}, talos.guess_era(self.cluster)), status, **context)

    def find(self):
        """What a look at the service tells."""
        # The protocol's messages and HTTP/2 cost a web process some memory, which most never need.
        from kubespan.discovery.probe import probe  # noqa: PLC0415

        return probe(talos.endpoint(), self.cluster.cluster_id, talos.read_roots().encode() or None)
