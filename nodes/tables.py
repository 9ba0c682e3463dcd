"""Lists that sort and turn pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django_tables2 as tables
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString

from nodes import cells
from nodes.models import Node, Token
from nodes.templatetags import kubespan as tags

HEAD = {"th": {"scope": "col"}}
NAMED = {"id": lambda record: f"row-{record.pk}", "data-key": lambda record: record.pk}
"""Of a row: a page that fetches itself anew knows it by them, and leaves it its box, its focus and its button."""


class Cell(tables.Column):
    """A cell drawn by a function of the row."""

    empty_values = ()

    def __init__(self, draw: Callable[..., str], **options: Any) -> None:
        options.setdefault("orderable", "order_by" in options)
        super().__init__(accessor=options.pop("accessor", "pk"), **options)
        self.draw = draw

    def render(self, record: Any, table: tables.Table) -> str:
        """The cell's HTML."""
        return self.draw(record)


class Deeds(Cell):
    """Buttons, drawn by a function of the row and of who looks at it."""

    def render(self, record: Any, table: tables.Table) -> str:
        """The cell's HTML."""
        return self.draw(record, table.request.user)


class Table(tables.Table):
    """What `_table.html` draws."""

    def body(self) -> SafeString:
        """The rows of the page.

        Built here, for a template that goes from cell to cell looks the same things up for each, and so does the
        library for a cell that is a function of its row.
        """
        frames = [(column, *_frame(column, first=not place)) for place, column in enumerate(self.columns)]
        parts: list[str] = []
        for row in self.paginated_rows:
            parts.append(format_html("<tr {}>", row.attrs.as_html()))
            for column, before, after in frames:
                drawn = column.column
                cell = drawn.render(row.record, self) if isinstance(drawn, Cell) else row.get_cell(column.name)
                parts += before, conditional_escape(cell), after
            parts.append("</tr>")
        return SafeString("".join(parts))


def _frame(column: tables.columns.BoundColumn, *, first: bool) -> tuple[str, str]:
    """What stands around each cell of a column; narrow screens show its name beside it."""
    if column.name == "choose":
        return '<td class="ks-choose">', "</td>"
    if first or column.name == "name":
        return '<th scope="row" class="ks-name">', "</th>"
    look = SafeString(' class="ks-row-actions"') if column.name == "actions" else ""
    return format_html('<td{} data-label="{}"><div>', look, column.header), "</div></td>"


def cluster_column() -> tables.Column:
    """The cluster that a row is of."""
    return tables.Column(
        accessor="cluster__name", verbose_name="Cluster", linkify=lambda record: record.cluster.get_absolute_url()
    )


class NodeTable(Table):
    """Nodes of all clusters."""

    choose = Cell(cells.choose, verbose_name="")
    name = Cell(cells.name, order_by="name")
    cluster = Cell(cells.cluster, verbose_name="Cluster, site", order_by=("cluster__name", "site"))
    kind = Cell(cells.kind, verbose_name="Kind", order_by=("kind", "agent_version"))
    address = Cell(cells.address, verbose_name="Address", order_by="address")
    links = Cell(lambda node: tags.links(node.links), verbose_name="Links up")
    configuration = Cell(
        lambda node: tags.configuration(node, node.cluster), order_by=("-applied_epoch", "-applied_number")
    )
    seen = Cell(cells.seen, verbose_name="Last seen", order_by=("session", "last_seen"))
    actions = Deeds(cells.node_deeds, verbose_name="")

    class Meta:
        model = Node
        fields = (
            "choose", "name", "cluster", "address", "links", "configuration", "seen", "kind", "actions",
        )  # fmt: skip
        order_by = "name"
        template_name = "_table.html"
        attrs = {"class": "table ks-fold ks-close", "thead": HEAD}
        row_attrs = NAMED


class TokenTable(Table):
    """Enrolment tokens; the newest first."""

    choose = Cell(cells.choose, verbose_name="")
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
    actions = Deeds(cells.token_deeds, verbose_name="")

    class Meta:
        model = Token
        fields = (
            "choose", "name", "cluster", "used", "expires", "approval_required", "created_by", "last_used", "actions",
        )  # fmt: skip
        template_name = "_table.html"
        attrs = {"class": "table ks-fold"}
        row_attrs = NAMED
