"""Lists that sort and turn pages."""

from __future__ import annotations

from typing import Any

import django_tables2 as tables
from django.template import loader

from nodes.models import Node, Token
from nodes.templatetags import kubespan as tags

HEAD = {"th": {"scope": "col"}}


class Cell(tables.Column):
    """A cell drawn by a template, or a function, of the row; without what whole pages are given, which costs more."""

    empty_values = ()

    def __init__(self, draw: Any, **options: Any) -> None:
        options.setdefault("orderable", "order_by" in options)
        super().__init__(accessor=options.pop("accessor", "pk"), **options)
        self.draw = draw

    def render(self, record: Any, table: tables.Table) -> str:
        """The cell's HTML."""
        if callable(self.draw):
            return self.draw(record)
        return loader.get_template(self.draw).render({"record": record, "request": table.request})


class Choose(Cell):
    """A box to choose a row by, for the form `chosen`."""

    def __init__(self) -> None:
        super().__init__("lists/_choose.html", verbose_name="")


def cluster_column() -> tables.Column:
    """The cluster that a row is of."""
    return tables.Column(
        accessor="cluster__name", verbose_name="Cluster", linkify=lambda record: record.cluster.get_absolute_url()
    )


class NodeTable(tables.Table):
    """Nodes of all clusters."""

    choose = Choose()
    name = Cell("nodes/_name.html", order_by="name")
    cluster = Cell("nodes/_cluster.html", verbose_name="Cluster, site", order_by=("cluster__name", "site"))
    kind = Cell("nodes/_kind.html", verbose_name="Kind", order_by=("kind", "agent_version"))
    address = Cell("nodes/_address.html", verbose_name="Address", order_by="address")
    links = Cell("nodes/_links.html", verbose_name="Links up")
    configuration = Cell(
        lambda node: tags.configuration(node, node.cluster), order_by=("-applied_epoch", "-applied_number")
    )
    seen = Cell("nodes/_seen.html", verbose_name="Last seen", order_by=("session", "last_seen"))
    actions = Cell("nodes/_actions.html", verbose_name="")

    class Meta:
        model = Node
        fields = (
            "choose", "name", "cluster", "address", "links", "configuration", "seen", "kind", "actions",
        )  # fmt: skip
        order_by = "name"
        template_name = "_table.html"
        attrs = {"class": "table ks-fold ks-close", "thead": HEAD}
        row_attrs = {"data-key": lambda record: record.pk}


class TokenTable(tables.Table):
    """Enrolment tokens; the newest first."""

    choose = Choose()
    name = tables.Column()
    cluster = cluster_column()
    used = Cell(lambda token: f"{token.used:,} / {token.uses:,}", order_by="used")
    expires = Cell(tags.token_state, order_by="expires")
    approval_required = Cell(
        lambda token: "needs approval" if token.approval_required else "joins at once",
        verbose_name="A machine", order_by="approval_required",
    )  # fmt: skip
    created_by = tables.Column(verbose_name="Made by", default="the command line", order_by="created_by__username")
    last_used = Cell(lambda token: tags.when(token.last_used), order_by="last_used")
    actions = Cell("enrolment/_revoke.html", verbose_name="")

    class Meta:
        model = Token
        fields = (
            "choose", "name", "cluster", "used", "expires", "approval_required", "created_by", "last_used", "actions",
        )  # fmt: skip
        template_name = "_table.html"
        attrs = {"class": "table ks-fold"}
