"""Lists that sort and turn pages."""

from __future__ import annotations

import django_tables2 as tables

from nodes.models import Node, Token

HEAD = {"th": {"scope": "col"}}


class NodeTable(tables.Table):
    """Nodes of all clusters."""

    name = tables.TemplateColumn(template_name="nodes/_name.html", attrs={"td": {"class": "ks-name"}})
    cluster = tables.Column(
        accessor="cluster__name", verbose_name="Cluster", linkify=lambda record: record.cluster.get_absolute_url()
    )
    site = tables.Column(default="—")
    address = tables.TemplateColumn("{% load kubespan %}{% address record.address %}")
    links = tables.TemplateColumn(template_name="nodes/_links.html", verbose_name="Links up", orderable=False)
    agent = tables.TemplateColumn(
        "{% load kubespan %}{% presence record %}", verbose_name="Agent", order_by=("session", "last_seen")
    )
    configuration = tables.TemplateColumn(
        "{% load kubespan %}{% configuration record record.cluster %}", order_by=("-applied_number",)
    )
    agent_version = tables.Column(verbose_name="Version", default="—")

    class Meta:
        model = Node
        fields = ("name", "cluster", "site", "address", "links", "agent", "configuration", "agent_version")
        order_by = "name"
        template_name = "_table.html"
        attrs = {"class": "table ks-fold", "thead": HEAD}
        row_attrs = {"data-key": lambda record: record.pk}


class TokenTable(tables.Table):
    """Enrolment tokens; the newest first."""

    name = tables.Column(attrs={"td": {"class": "ks-name"}})
    cluster = tables.Column(
        accessor="cluster__name", verbose_name="Cluster", linkify=lambda record: record.cluster.get_absolute_url()
    )
    used = tables.TemplateColumn(
        "{% load kubespan %}{{ record.used|number }} / {{ record.uses|number }}", verbose_name="Used"
    )
    expires = tables.TemplateColumn(template_name="enrolment/_expires.html")
    approval_required = tables.TemplateColumn(
        "{% if record.approval_required %}needs approval{% else %}joins at once{% endif %}", verbose_name="A machine"
    )
    created_by = tables.Column(verbose_name="Made by", default="the command line", order_by="created_by__username")
    last_used = tables.TemplateColumn("{% load kubespan %}{% when record.last_used %}")
    actions = tables.TemplateColumn(template_name="enrolment/_revoke.html", verbose_name="", orderable=False)

    class Meta:
        model = Token
        fields = ("name", "cluster", "used", "expires", "approval_required", "created_by", "last_used", "actions")
        template_name = "_table.html"
        attrs = {"class": "table ks-fold"}
