"""Lists: the same for all of them. The address filters and sorts; it gives a page of rows, or all of them as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import django_filters
import django_tables2 as tables
from django.core.exceptions import BadRequest
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views import View
from django_tables2 import RequestConfig

from nodes import exports
from nodes.views.bulk import Deed, offered
from nodes.views.common import PAGE_SIZE, RoleMixin

Rows = QuerySet[Any] | Sequence[Any]
Files = Mapping[str, tuple[exports.Export, Callable[[], Rows]]]
"""The lists of a page by name: the columns of each one's file, and its rows."""


class ListView(RoleMixin, View):
    """One list. What a list is, its class says by these; the rest is here."""

    permission = "enter_console"
    template: str
    table_class: type[tables.Table]
    filter_class: type[django_filters.FilterSet] | None = None

    def rows(self) -> Rows:
        """All of the list, unfiltered."""
        raise NotImplementedError

    def export(self) -> exports.Export:
        """The columns of its file."""
        raise NotImplementedError

    def complete(self, rows: Iterable[Any]) -> None:
        """Give rows that are about to be shown or written what the database does not know of them."""

    deeds: Sequence[Deed] = ()
    """What may be done to many rows at once."""
    bulk_name = ""
    """The pattern that does it."""

    def context(self, table: tables.Table) -> dict[str, object]:
        """What its page needs besides."""
        return {}

    def get(self, request: HttpRequest, **_: object) -> HttpResponse:
        """The page, or the file."""
        found = self.filter_class(request.GET, self.rows(), request=request) if self.filter_class else None
        deeds = offered(self.deeds, request.user)
        rows = found.qs if found is not None else self.rows()
        table = self.table_class(rows, exclude=() if deeds else ("choose",))
        kind = exports.wanted(request)
        RequestConfig(request, paginate=False if kind else {"per_page": PAGE_SIZE}).configure(table)
        if kind:
            return export_rows(self.export(), table.data.data, kind, self.complete)
        self.complete([row.record for row in table.paginated_rows])
        context = {"table": table, "filter": found, "chips": found.chips() if found is not None else [], "deeds": deeds}
        if deeds:
            context["bulk_url"] = reverse(self.bulk_name)
        return render(request, self.template, context | self.context(table))


def paginate(request: HttpRequest, rows: Rows, parameter: str = "page") -> Page[Any]:
    """The page of a list that the address asks for; a second list of the same page has a parameter of its own."""
    return Paginator(rows, PAGE_SIZE).get_page(request.GET.get(parameter))


def export_one(request: HttpRequest, files: Files, kind: str, complete: Any = None) -> HttpResponse:
    """The list that the address names, as a file. Raises BadRequest for one that the page does not have."""
    name = request.GET.get(exports.WHICH) or next(iter(files))
    if name not in files:
        raise BadRequest(f"The lists of this page are {' and '.join(files)}.")
    export, read = files[name]
    return export_rows(export, read(), kind, complete)


def export_rows(export: exports.Export, rows: Rows, kind: str, complete: Any = None) -> HttpResponse:
    """The first rows as a file."""
    total = rows.count() if isinstance(rows, QuerySet) else len(rows)
    shown = list(rows[: exports.LIMIT])
    if complete is not None:
        complete(shown)
    return exports.answer(export, shown, total, kind, timezone.now())
