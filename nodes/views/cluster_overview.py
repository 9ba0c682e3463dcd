"""A cluster's first tab: how it stands, what needs somebody, and which options are in force."""

from __future__ import annotations

from django.utils import timezone

from nodes.forms import OptionsForm, Routing
from nodes.models import Cluster
from nodes.views.clusters import ENROL, ClusterTab
from nodes.views.overview import Look


class ClusterView(ClusterTab):
    """Overview of one cluster."""

    tab = "overview"
    template = "clusters/overview.html"

    def get(self, request, uuid):
        look = Look(Cluster.objects.filter(pk=self.cluster.pk), timezone.now())
        return self.show(
            **look.context(),
            in_force=describe_options(self.cluster),
            live_path=f"/live/overview/{self.cluster.uuid}",
            enrol_kind=self.take_enrolment(),
        )

    def take_enrolment(self) -> str:
        """The kind of machine that the enrolment dialog opens for, once after the cluster was made; else none."""
        session = self.request.session
        uuid, kind = session.get(ENROL, ("", ""))
        if uuid != str(self.cluster.uuid):
            return ""
        del session[ENROL]
        return kind


def describe_options(cluster: Cluster) -> list[tuple[str, str]]:
    """The options in force, each with its value as people read it."""
    options = cluster.kubespan
    labels = {name: str(field.label) for name, field in OptionsForm.base_fields.items()}
    on = {True: "on", False: "off"}
    switches = ("harvest_extra_endpoints", "advertise_kubernetes_networks")
    return [
        ("KubeSpan", on[options.enabled]),
        (labels["discovery"], on[options.discovery]),
        (labels["routing"], dict(Routing.CHOICES)[Routing.of(options)].lower()),
        ("MTU", str(options.mtu)),
        *((labels[name], on[getattr(options, name)]) for name in switches),
        *((labels[name], ", ".join(values)) for name in OptionsForm.LISTS if (values := getattr(options, name))),
    ]
