"""Nodes: the list, one of them, and what an operator may do with it."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views import View

from nodes import access, exports
from nodes.filters import NodeFilter, Standing
from nodes.forms import NetworksForm, NodeOptionsForm, TokenForm, TypedNameForm
from nodes.history import reading
from nodes.models import Audit, Node, Transition
from nodes.services import nodes as services
from nodes.services.refused import Refused
from nodes.tables import NodeTable
from nodes.views.bulk import NODE_DEEDS
from nodes.views.common import RoleMixin, add_links
from nodes.views.history import answer, history_context
from nodes.views.lists import ListView
from nodes.views.rotation import start_rotation

SHOWN_ACTIVITY = 12
SHOWN_CHANGES = 20


WANTING = (
    ("Pending approval", "user-check", "warn", "status", "pending"),
    ("Could not apply", "alert-triangle", "bad", "configuration", "fault"),
    ("Behind", "refresh", "warn", "configuration", "behind"),
    ("Away", "plug-connected", "warn", "agent", "away"),
    ("Links down", "link-off", "bad", "links", "down"),
)
"""Label, icon, tone, filter and its value, in the order of `Standing`."""


class NodeListView(ListView):
    """All nodes."""

    template = "nodes/list.html"
    table_class = NodeTable
    filter_class = NodeFilter
    deeds = NODE_DEEDS
    bulk_name = "node-bulk"

    def visible(self):
        return Node.objects.visible_to(self.request.user)

    def rows(self):
        return self.visible().select_related("cluster").prefetch_related("candidates", "obstacles")

    def export(self):
        return exports.NODES

    def complete(self, rows):
        add_links(rows)

    def context(self, table):
        clusters = access.clusters_where(self.request.user, "create_token")
        return {
            "clusters": clusters,
            "token_form": TokenForm(clusters),
            "any": bool(table.rows) or self.visible().exists(),
            "wanting": self.wanting(),
        }

    def wanting(self) -> list[dict[str, object]]:
        """Filters for what needs somebody, each with its count; none where there is nothing."""
        standing = Standing.of(self.visible().present())
        return [
            {
                "label": label, "icon": icon, "tone": tone, "number": number, "address": f"?{name}={value}",
                "chosen": self.request.GET.get(name) == value,
            }
            for (label, icon, tone, name, value), number in zip(WANTING, standing, strict=True)
            if number
        ]  # fmt: skip


class NodePage(RoleMixin, View):
    """Whatever concerns one node."""

    permission = "view_cluster"

    def setup(self, request, *args, **kwargs):
        super().setup(request, *args, **kwargs)
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """The node that the address names."""
        if self._node is None:
            nodes = Node.objects.visible_to(self.request.user)
            self._node = get_object_or_404(nodes.select_related("cluster", "token"), pk=self.kwargs["pk"])
        return self._node

    def subject(self) -> Node:
        return self.node

    def show(self, status: int = 200, **forms) -> HttpResponse:
        """The node's page; `forms` are those that were refused, `open` the dialog to open with it."""
        node = self.node
        add_links([node])
        context = {
            "node": node,
            "cluster": node.cluster,
            "candidates": node.candidates.all(),
            "obstacles": list(node.obstacles.all()),
            "waiting": [network for network in node.claimed_networks if network not in node.networks],
            "changes": changes_not_applied(node),
            "activity": activity_of(node),
            "not_cut_off": not_cut_off(node),
            "shut_out": is_shut_out(node),
            "live_path": f"/live/{'removal' if node.status == Node.Status.REMOVED else 'node'}/{node.pk}",
            "options_form": NodeOptionsForm(initial=chosen(node)),
            "networks_form": NetworksForm(node),
            "remove_form": TypedNameForm(),
            **history_context(self.request),
        } | forms
        return render(self.request, "nodes/node.html", context, status=status)


def chosen(node: Node) -> dict[str, str | list[str]]:
    """What an operator has set for it."""
    return {
        "site": node.site,
        "extra_endpoints": node.extra_endpoints,
        "advertised_networks": node.networks,
        "excluded_networks": node.excluded_networks,
    }


def changes_not_applied(node: Node) -> list[tuple[int, str]]:
    """The revisions that it has yet to apply, each as a sentence; the newest few."""
    cluster = node.cluster
    if node.status != Node.Status.APPROVED or not node.behind(cluster) or node.applied_epoch != cluster.epoch:
        return []
    changes = list(cluster.changes.filter(number__gt=node.applied_number).order_by("-number")[:SHOWN_CHANGES])
    names = dict(cluster.nodes.filter(index__in={change.index for change in changes}).values_list("index", "name"))
    return [(change.number, sentence(change, names.get(change.index, "a node"))) for change in changes]


def sentence(change, name: str) -> str:
    """What a revision changed."""
    return {
        "member": f"{name} joined or changed",
        "gone": f"{name} was removed",
        "options": "the cluster's options changed",
        "secret": "the cluster secret changed",
    }[change.kind]


def activity_of(node: Node) -> list[Transition | Audit]:
    """What last happened to it, by itself and by people, the newest first."""
    transitions = node.transitions.select_related("cluster", "node", "peer")[:SHOWN_ACTIVITY]
    audits = node.audits.select_related("cluster", "node")[:SHOWN_ACTIVITY]
    return sorted([*transitions, *audits], key=lambda row: row.at, reverse=True)[:SHOWN_ACTIVITY]


def not_cut_off(node: Node) -> list[Node]:
    """Of a removed node: who may still have it as a peer."""
    tombstone = getattr(node, "tombstone", None) if node.status == Node.Status.REMOVED else None
    return list(Node.objects.not_cut_off(tombstone).select_related("cluster")) if tombstone else []


def is_shut_out(node: Node) -> bool:
    """Whether a removed node knows no secret that the cluster still uses."""
    tombstone = getattr(node, "tombstone", None)
    return tombstone is not None and node.cluster.secret_generation != tombstone.secret_generation


class NodeView(NodePage):
    """One node."""

    def get(self, request, pk):
        return self.show()


class NodeHistoryView(NodePage):
    """Its history as charts read it."""

    def get(self, request, pk):
        return answer(reading.node_chart(self.node, reading.parse_span(request.GET.get("span")), timezone.now()))


class NodeApproveView(NodePage):
    """Let it in."""

    post_permission = "approve_node"

    def post(self, request, pk):
        try:
            node = services.approve_node(request.user, self.node, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
            return redirect("node", pk)
        messages.success(request, f"{node.name} is approved; its peers hear of it now.")
        return redirect(node.cluster if request.POST.get("next") == "cluster" else node)


class NodeRemoveView(NodePage):
    """Cut it off everywhere, for whoever types its name."""

    post_permission = "remove_node"

    def post(self, request, pk):
        name, cluster = self.node.name, self.node.cluster
        try:
            services.remove_node(request.user, self.node, request.POST.get("typed_name", ""), timezone.now())
        except Refused as refusal:
            form = TypedNameForm(request.POST)
            form.is_valid()
            form.refuse(refusal)
            return self.show(refusal.status, remove_form=form, rotate=request.POST.get("rotate"), open="remove")
        if request.POST.get("rotate"):
            messages.success(request, f"{name} is removed. Connected members drop it now.")
            return start_rotation(request, cluster, automatic=False)
        messages.success(request, f"{name} is removed. Connected members drop it now; those away are listed below.")
        return redirect("node", pk)


class NodeOptionsView(NodePage):
    """Set what an operator decides for it."""

    post_permission = "change_node"

    def post(self, request, pk):
        form = NodeOptionsForm(request.POST)
        if form.is_valid():
            try:
                services.set_node_options(request.user, self.node, **form.cleaned_data, now=timezone.now())
            except Refused as refusal:
                form.refuse(refusal)
        if form.errors:
            return self.show(400, options_form=form, open="options")
        messages.success(request, "Saved.")
        return redirect("node", pk)


class NodeNetworksView(NodePage):
    """Say yes to networks that it asks to advertise."""

    post_permission = "change_node"

    def post(self, request, pk):
        form = NetworksForm(self.node, request.POST)
        if form.is_valid():
            chosen_networks = form.cleaned_data["networks"]
            try:
                services.approve_networks(request.user, self.node, chosen_networks, timezone.now())
            except Refused as refusal:
                form.add_error(None, refusal.reason)
        if form.errors:
            return self.show(400, networks_form=form)
        messages.success(request, "Its peers route these networks to it now.")
        return redirect("node", pk)


class NodeTryAgainView(NodePage):
    """Take the next endpoint of one peer, or of all."""

    post_permission = "try_again"

    def post(self, request, pk):
        peer = None
        if asked := request.POST.get("peer"):
            if not asked.isdecimal():
                raise Http404
            peer = get_object_or_404(Node, pk=asked, cluster_id=self.node.cluster_id)
        try:
            services.try_again(request.user, self.node, peer, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
        else:
            what = peer.name if peer else "every peer that is not up"
            messages.success(request, f"{self.node.name} tries the next endpoint of {what} now.")
        if peer is not None and request.POST.get("next") == "pair":
            return redirect("pair", pk, peer.pk)
        return redirect("node", pk)
