"""Rotation of a cluster's secret: hand out, look at who has it, switch or cancel."""

from __future__ import annotations

from collections import Counter

from django.contrib import messages
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from kubespan.core.rotation import Standing
from nodes import exports
from nodes.forms import GenerationForm, RotationForm
from nodes.models import Cluster, Node
from nodes.services import rotation as services
from nodes.services.refused import Refused
from nodes.views.clusters import ClusterTab
from nodes.views.lists import export_rows, paginate


def stand(row: tuple[Node, Standing | None]) -> str:
    """How far a machine is, in a word."""
    node, standing = row
    if standing is None:
        return "does not follow"
    return "takes no part" if node.is_talos else str(standing)


STANDINGS = exports.Export(
    "rotation",
    {
        "node": lambda row: row[0].name,
        "kind": lambda row: "talos" if row[0].is_talos else "agent",
        "standing": stand,
        "last_seen": lambda row: exports.moment(row[0].last_seen),
    },
)
"""Of a rotation that is under way each machine; otherwise those that do not follow the last one yet."""


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
        context = {"rotation": rotation, "live_path": f"/live/rotation/{self.cluster.uuid}"}
        kind = exports.wanted(request)
        if rotation is None:
            switched, late = services.not_following(self.cluster)
            if kind:
                return export_rows(STANDINGS, [(node, None) for node in late], kind)
            return self.show(form=RotationForm(), switched=switched, late=paginate(request, late), **context)
        rows = services.standings(self.cluster, rotation)
        if kind:
            return export_rows(STANDINGS, rows, kind)
        counts = Counter(stand for node, stand in rows if not node.is_talos)
        unready = [(node, stand) for node, stand in rows if stand is not Standing.READY]
        return self.show(
            unready=paginate(request, unready),
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
