"""Clusters: the list, making and importing, and the tabs of one."""

from __future__ import annotations

import json
from collections import Counter
from functools import cached_property
from hashlib import sha256

from django.contrib import messages
from django.db.models import Case, Count, Q, When
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from kubespan.core.findings import STOPPING
from nodes import exports, standing
from nodes.accounts.confirm import ask_again
from nodes.filters import ClusterFilter
from nodes.forms import ClusterForm, OptionsForm, TokenForm, TypedNameForm
from nodes.models import Cluster, Node, Rollout, RolloutStep
from nodes.services import clusters as services
from nodes.services import rollouts
from nodes.services.refused import Refused
from nodes.talos_forms import ImportForm
from nodes.views.common import RoleMixin, add_links, summaries
from nodes.views.links import links_page
from nodes.views.lists import export_one, export_rows, paginate
from nodes.views.unwell import as_file
from nodes.words import count

ORDERS = {
    "name": ("Name", lambda cluster: cluster.name.casefold()),
    "nodes": ("Nodes", lambda cluster: cluster.standing.size),
    "not-up": ("Links not up", lambda cluster: cluster.standing.links.not_up if cluster.standing.links else 0),
}
"""By what clusters are sorted: what that is called, and how a cluster gives it."""


def sort_clusters(clusters: list[Cluster], asked: str) -> list[Cluster]:
    """Clusters with their standings as an address asks for them, the most first with a `-`; among equals by name."""
    by_name = sorted(clusters, key=ORDERS["name"][1])
    order = ORDERS.get(asked.removeprefix("-"))
    return sorted(by_name, key=order[1], reverse=asked.startswith("-")) if order else by_name


def choose_orders(asked: str) -> list[dict[str, str]]:
    """What they may be sorted by, each with what its link asks for: the other way round for the one in use."""
    found = []
    for name, (title, _) in ORDERS.items():
        first, second = (name, f"-{name}") if name == "name" else (f"-{name}", name)  # of a number, first the most
        order = {name: "ascending", f"-{name}": "descending"}.get(asked, "")
        found.append({"title": title, "sort": second if asked == first else first, "order": order})
    return found


class ClusterListView(RoleMixin, View):
    """All clusters."""

    permission = "enter_console"

    def get(self, request):
        visible = Cluster.objects.visible_to(request.user)
        chosen = ClusterFilter(request.GET, visible, request=request)
        clusters = {cluster.pk: cluster for cluster in chosen.qs}
        nodes = Node.objects.visible_to(request.user).present()
        nodes = standing.read_rows(nodes.filter(cluster__in=chosen.qs.order_by()) if chosen.chips() else nodes)
        known = summaries(nodes)
        for pk, found in standing.tally(nodes, clusters, known).items():
            clusters[pk].standing = found
        asked = request.GET.get("sort", "name")
        found = sort_clusters(list(clusters.values()), asked)
        if kind := exports.wanted(request):
            return export_rows(exports.CLUSTERS, found, kind)
        context = {
            "any": bool(found) or visible.exists(),
            "filter": chosen,
            "chips": chosen.chips(),
            "clusters": paginate(request, found),
            "orders": choose_orders(asked),
            "unread": known is None,
        }
        return render(request, "clusters/list.html", context)


ENROL = "enrol"
"""What a session knows of a cluster just made: its uuid, and the kind of machine that its page offers to enrol."""


class ClusterCreateView(RoleMixin, View):
    """A new cluster, with an id and a secret made for it."""

    permission = "create_cluster"
    kind = "linux"
    """Of its first machine."""

    form_class: type[ClusterForm] = ClusterForm
    importing = False

    def get(self, request):
        return self.show(self.form_class())

    def post(self, request):
        form = self.form_class(request.POST, request.FILES)
        if not form.is_valid():
            form.count_faults()
            return self.show(form, 400)
        given = form.cleaned_data
        try:
            cluster, warnings = services.create_cluster(
                request.user,
                name=given["name"],
                cluster_id=given.get("cluster_id", ""),
                secret=given.get("secret", ""),
                options=form.options(),
                now=timezone.now(),
            )
        except Refused as refusal:
            form.refuse(refusal)
            return self.show(form, refusal.status)
        for warning in warnings:
            messages.warning(request, warning)
        messages.success(request, f"{cluster.name} has been {'imported' if self.importing else 'created'}.")
        if members := cluster.nodes.approved().count():
            messages.info(
                request,
                f"{count(members, 'machine')} listed by discovery with this secret: approved with the import. "
                "Whoever comes later waits for a yes.",
            )
        return self.lead_on(form, cluster)

    def lead_on(self, form, cluster: Cluster) -> HttpResponse:
        """To its page, which opens the enrolment dialog this once."""
        self.request.session[ENROL] = [str(cluster.uuid), self.kind]
        return redirect(cluster)

    def show(self, form, status: int = 200):
        return render(self.request, "clusters/create.html", {"form": form, "importing": self.importing}, status=status)


@method_decorator(sensitive_post_parameters("secret"), name="dispatch")
class ClusterImportView(ClusterCreateView):
    """A cluster that exists already."""

    form_class = ImportForm
    importing = True
    kind = "talos"

    @sensitive_variables()
    def post(self, request):
        return super().post(request)

    def lead_on(self, form, cluster: Cluster) -> HttpResponse:
        """To the patch for its machines, where Talos files were given."""
        if form.found is None:
            return super().lead_on(form, cluster)
        for note in form.notes():
            messages.info(self.request, note)
        return redirect("cluster-talos", cluster.uuid)


class ClusterTab(RoleMixin, View):
    """One of a cluster's tabs."""

    permission = "view_cluster"

    tab = ""
    template = ""

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster that the address names."""
        clusters = Cluster.objects.visible_to(self.request.user)
        return get_object_or_404(clusters.with_counts(), uuid=self.kwargs["uuid"])

    @property
    def subject(self) -> Cluster:
        return self.cluster

    def show(self, status: int = 200, **context) -> HttpResponse:
        """The tab, in the cluster's frame."""
        cluster = self.cluster
        context = {
            "cluster": cluster,
            "tab": self.tab,
            "live_path": f"/live/cluster/{cluster.uuid}",
            "token_form": TokenForm(Cluster.objects.filter(pk=cluster.pk), initial={"cluster": cluster.uuid}),
        } | context
        return render(self.request, self.template, context, status=status)


class ClusterNodesView(ClusterTab):
    """Nodes of the cluster, those that wait first."""

    tab = "nodes"
    template = "clusters/nodes.html"

    def get(self, request, uuid):
        members = Node.objects.approved().filter(cluster=self.cluster).order_by("name")
        pending = Node.objects.pending().filter(cluster=self.cluster).order_by("name")
        if kind := exports.wanted(request):
            files = {
                "members": (exports.NODES, lambda: with_details(members)),
                "pending": (exports.NODES, lambda: with_details(pending)),
            }
            return export_one(request, files, kind, add_links)
        page = paginate(request, members)
        add_links(page.object_list)
        return self.show(
            pending=paginate(request, pending, "pending"),
            page=page,
            size=self.cluster.approved_count,
            connected=members.here().count(),
            hindered=hindered(self.cluster),
        )


def with_details(nodes):
    """These nodes with what their file says of them."""
    return nodes.select_related("cluster").prefetch_related("candidates")


def hindered(cluster: Cluster) -> list[Node]:
    """Members whose preflight found something, each with `found` and `stopped`, how much of it stops the mesh."""
    stopping = Count("obstacles", filter=Q(obstacles__code__in=STOPPING))
    members = Node.objects.approved().filter(cluster=cluster).annotate(found=Count("obstacles"), stopped=stopping)
    return list(members.filter(found__gt=0).only("pk", "cluster", "name").order_by("-stopped", "name"))


class ClusterLinksView(ClusterTab):
    """Who sees whom, live."""

    tab = "links"
    template = "clusters/links.html"

    def get(self, request, uuid):
        context = links_page(request, self.cluster)
        if context["view"] == "list" and (kind := exports.wanted(request)):
            return as_file(context, kind)
        return self.show(**context)


def mark_options(cluster: Cluster) -> str:
    """What tells a cluster's options from what they were."""
    return sha256(json.dumps(cluster.options, sort_keys=True).encode()).hexdigest()[:MARK_LENGTH]


MARK_LENGTH = 16


class OptionsTab(ClusterTab):
    """The tab with the cluster's options."""

    tab = "options"
    template = "clusters/options.html"

    def show(self, status: int = 200, **context) -> HttpResponse:
        """The form; `seen` is the mark of those options that it first showed, which others may have changed since."""
        mark = mark_options(self.cluster)
        seen = self.request.POST.get("seen") or self.request.GET.get("seen") or mark
        live_path = f"/live/options/{self.cluster.uuid}"
        return super().show(status, live_path=live_path, options_mark=mark, seen=seen, **context)


class ClusterOptionsView(OptionsTab):
    """The cluster's options; what saving them would change is told before."""

    post_permission = "change_options"

    def get(self, request, uuid):
        return self.show(form=OptionsForm(initial=OptionsForm.first(self.cluster.kubespan)))

    def post(self, request, uuid):
        form = OptionsForm(request.POST)
        if not form.is_valid():
            return self.show(400, form=form)
        try:
            revision = services.set_options(request.user, self.cluster, options=form.options(), now=timezone.now())
        except Refused as refusal:
            form.refuse(refusal)
            return self.show(refusal.status, form=form)
        if revision is None:
            messages.info(request, "Nothing was different, so there is no new revision.")
        else:
            messages.success(request, f"Saved. The cluster is now at revision {revision}.")
        return redirect("cluster-options", uuid)


@method_decorator(never_cache, name="dispatch")
class ClusterIdView(OptionsTab):
    """The Options tab with the cluster id in clear, for whoever asks for it."""

    permission = "reveal_id"

    def post(self, request, uuid):
        cluster_id = services.reveal_id(request.user, self.cluster, timezone.now())
        return self.show(form=OptionsForm(initial=OptionsForm.first(self.cluster.kubespan)), cluster_id=cluster_id)


class ClusterOptionsPreviewView(ClusterTab):
    """What saving the form as it stands would change; a fragment."""

    permission = "change_options"

    template = "clusters/_preview.html"

    def post(self, request, uuid):
        form = OptionsForm(request.POST)
        sentences: list[str] = []
        if form.is_valid():
            try:
                sentences = services.preview_options(self.cluster, form.options())
            except Refused as refusal:
                form.refuse(refusal)
        return self.show(form=form, sentences=sentences)


VERSIONS = exports.Export("agent-versions", {"agent": lambda row: row[0] or None, "nodes": lambda row: row[1]})

STEPS = exports.Export(
    "upgrade",
    {
        "node": lambda step: step.node.name,
        "from": lambda step: step.before or None,
        "to": lambda step: step.rollout.version,
        "state": lambda step: step.state,
        "reason": lambda step: step.reason or None,
        "told": lambda step: exports.moment(step.told),
        "ended": lambda step: exports.moment(step.ended),
    },
)

PRESSING = Case(When(state=RolloutStep.State.FAILED, then=0), When(state=RolloutStep.State.TOLD, then=1), default=2)
"""What went wrong, and what goes on just now, come before what is done or waits."""


class ClusterAgentsView(ClusterTab):
    """Which agents run, and upgrading them: one node first, then the others."""

    post_permission = "upgrade_agents"

    tab = "agents"
    template = "clusters/agents.html"

    def get(self, request, uuid):
        if kind := exports.wanted(request):
            files = {"upgrade": (STEPS, self.steps), "versions": (VERSIONS, self.versions)}
            return export_one(request, files, kind)
        return self.show_offer()

    def post(self, request, uuid):
        try:
            rollouts.start_rollout(request.user, self.cluster, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
        return redirect("cluster-agents", uuid)

    @cached_property
    def rollout(self) -> Rollout | None:
        """The last upgrade."""
        return self.cluster.rollouts.first()

    def steps(self):
        """What became of each node in it."""
        steps = RolloutStep.objects.filter(rollout=self.rollout).select_related("node", "rollout")
        return steps.order_by(PRESSING, "order")

    def versions(self) -> list[tuple[str, int]]:
        """Which agents run, and on how many members."""
        members = Node.objects.approved().filter(cluster=self.cluster).order_by()
        return sorted(Counter(members.values_list("agent_version", flat=True)).items(), reverse=True)

    def show_offer(self) -> HttpResponse:
        """What runs, what may be upgraded, and how the last upgrade went."""
        steps = self.steps()
        return self.show(
            offer=rollouts.read_offer(self.cluster),
            versions=self.versions(),
            rollout=self.rollout,
            page=paginate(self.request, steps),
            finished=steps.filter(state=RolloutStep.State.DONE).count(),
        )


class RolloutCancelView(RoleMixin, View):
    """Upgrade nobody else."""

    permission = "upgrade_agents"

    @cached_property
    def subject(self) -> Rollout:
        rollouts = Rollout.objects.visible_to(self.request.user).select_related("cluster")
        return get_object_or_404(rollouts, pk=self.kwargs["pk"])

    def post(self, request, pk):
        rollout = self.subject
        try:
            rollouts.cancel_rollout(request.user, rollout, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
        else:
            messages.success(request, "Cancelled. Machines that were told already go on.")
        return redirect("cluster-agents", rollout.cluster.uuid)


class ClusterActivityView(ClusterTab):
    """What happened in this cluster."""

    tab = "activity"
    template = "clusters/activity.html"

    def get(self, request, uuid):
        kind = "audit" if request.GET.get("kind") == "audit" else "links"
        if kind == "audit":
            rows = self.cluster.audits.select_related("cluster", "node")
        else:
            rows = self.cluster.transitions.select_related("cluster", "node", "peer")
        if wanted := exports.wanted(request):
            return export_rows(exports.AUDITS if kind == "audit" else exports.TRANSITIONS, rows, wanted)
        return self.show(kind=kind, page=paginate(request, rows), live_path=f"/live/activity/{self.cluster.uuid}")


@method_decorator(never_cache, name="dispatch")
class ClusterSecretView(ClusterTab):
    """The secret, for whoever confirms who they are; the answer is never kept by a browser."""

    permission = "reveal_secret"

    tab = "secret"
    template = "clusters/secret.html"

    def get(self, request, uuid):
        return ask_again(request, request.path) or self.show()

    def post(self, request, uuid):
        if (asked := ask_again(request, request.path)) is not None:
            return asked
        try:
            secret = services.reveal_secret(request.user, self.cluster, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
            return self.show(refusal.status)
        return self.show(secret=secret)


class ClusterDeleteView(ClusterTab):
    """Take a cluster away, for whoever types its name."""

    permission = "delete_cluster"

    tab = "delete"
    template = "clusters/delete.html"

    def get(self, request, uuid):
        return self.show(form=TypedNameForm())

    def post(self, request, uuid):
        form = TypedNameForm(request.POST)
        name = self.cluster.name
        try:
            services.delete_cluster(request.user, self.cluster, request.POST.get("typed_name", ""), timezone.now())
        except Refused as refusal:
            form.is_valid()
            form.refuse(refusal)
            return self.show(refusal.status, form=form)
        messages.success(request, f"{name} has been deleted.")
        return redirect("cluster-list")
