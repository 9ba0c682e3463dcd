"""Rotation of a cluster's secret: hand out, look at who has it, switch or cancel."""

from __future__ import annotations

from collections import Counter

from django.contrib import messages
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from kubespan.core.rotation import Standing
from nodes.forms import GenerationForm, RotationForm
from nodes.models import Cluster
from nodes.services import rotation as services
from nodes.services.refused import Refused
from nodes.views.clusters import ClusterTab

SHOWN_MACHINES = 50
"""Machines that a list shows; the counts say the rest."""


def start_rotation(request: HttpRequest, cluster: Cluster, *, automatic: bool) -> HttpResponse:
    """Begin, and lead to the page that shows how far it is; one that is under way goes on."""
    try:
        rotation = services.start(request.user, cluster, automatic=automatic, now=timezone.now())
    except Refused as refusal:
        messages.info(request, refusal.reason)
    else:
        messages.success(request, f"Generation {rotation.generation} of the secret is being handed out.")
    return redirect("cluster-rotation", cluster.uuid)


class RotationView(ClusterTab):
    """How far it is, or how to begin."""

    tab = "rotation"
    template = "clusters/rotation.html"

    def get(self, request, uuid):
        rotation = services.under_way(self.cluster)
        context = {"rotation": rotation, "live_path": f"/live/rotation/{self.cluster.uuid}", "shown": SHOWN_MACHINES}
        if rotation is None:
            switched, late = services.not_following(self.cluster)
            return self.show(form=RotationForm(), switched=switched, late=late, **context)
        rows = services.standings(self.cluster, rotation)
        counts = Counter(stand for node, stand in rows if not node.is_talos)
        unready = [(node, stand) for node, stand in rows if stand is not Standing.READY]
        return self.show(
            unready=unready,
            further=max(0, len(unready) - SHOWN_MACHINES),
            ready=counts[Standing.READY],
            away=counts[Standing.AWAY],
            waiting=counts[Standing.WAITING],
            too_old=counts[Standing.TOO_OLD],
            talos=len(rows) - counts.total(),
            size=len(rows),
            **context,
        )


class RotationStartView(ClusterTab):
    """Hand out a new secret."""

    post_permission = "rotate_secret"

    def post(self, request, uuid):
        form = RotationForm(request.POST)
        if not form.is_valid():
            raise BadRequest
        return start_rotation(request, self.cluster, automatic=form.cleaned_data["way"] == "automatic")


class RotationDeed(ClusterTab):
    """Something done to the rotation that the page showed."""

    post_permission = "rotate_secret"

    def post(self, request, uuid):
        form = GenerationForm(request.POST)
        if not form.is_valid():
            raise BadRequest
        generation = form.cleaned_data["generation"]
        try:
            self.do(generation)
        except Refused as refusal:
            messages.error(request, refusal.reason)
        return redirect("cluster-rotation", uuid)

    def do(self, generation: int) -> None:
        """Do it, and say so. Raises Refused."""
        raise NotImplementedError


class RotationSwitchView(RotationDeed):
    """Let everybody use the new secret."""

    def do(self, generation: int) -> None:
        services.switch(self.request.user, self.cluster, generation, timezone.now())
        messages.success(self.request, f"Switched to generation {generation}; connected machines follow now.")


class RotationCancelView(RotationDeed):
    """Forget the new secret."""

    def do(self, generation: int) -> None:
        services.cancel(self.request.user, self.cluster, generation, timezone.now())
        messages.success(self.request, "Cancelled: everybody goes on with the present secret.")
