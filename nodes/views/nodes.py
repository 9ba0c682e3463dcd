"""Nodes: the list, one of them, and what an operator may do with it."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone

from nodes import access, exports
from nodes.filters import NodeFilter, Standing
from nodes.forms import NetworksForm, NodeOptionsForm, RenameForm, TokenForm, TypedNameForm
from nodes.models import Node
from nodes.services import nodes as services
from nodes.services.refused import Refused
from nodes.tables import NodeTable
from nodes.views.bulk import NODE_DEEDS
from nodes.views.common import add_links
from nodes.views.lists import ListView
from nodes.views.node_page import NodeOverviewPage
from nodes.views.rotation import start_rotation

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
        return self.visible().prefetch_related("cluster", "candidates", "obstacles")

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


class NodeApproveView(NodeOverviewPage):
    """Let it in."""

    post_permission = "approve_node"

    def post(self, request, pk):
        try:
            node = services.approve_node(request.user, self.node, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
            return redirect("node", pk)
        messages.success(request, f"{node.name} is approved; its peers hear of it now.")
        if request.POST.get("next") == "cluster":
            return redirect("cluster-nodes", node.cluster.uuid)
        return redirect(node)


class NodeRemoveView(NodeOverviewPage):
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


class NodeOptionsView(NodeOverviewPage):
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


class NodeRenameView(NodeOverviewPage):
    """Give it another name."""

    post_permission = "change_node"

    def post(self, request, pk):
        form = RenameForm(request.POST)
        former = self.node.name
        if form.is_valid():
            try:
                node = services.rename_node(request.user, self.node, form.cleaned_data["name"], timezone.now())
            except Refused as refusal:
                form.refuse(refusal)
        if form.errors:
            return self.show(400, rename_form=form, open="rename")
        messages.success(request, f"{former} is called {node.name} now; its peers hear of it.")
        return redirect("node", pk)


class NodeNetworksView(NodeOverviewPage):
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


class NodeTryAgainView(NodeOverviewPage):
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
        return redirect("node-links", pk)
