"""The list of links that are not up: filtered and sorted by its address, a page of it, or all of it as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views import View

from nodes import access, exports, unwell
from nodes.models import Cluster, Node
from nodes.services import nodes as services
from nodes.services.refused import Refused
from nodes.unwell import Query, Shown
from nodes.views.common import PAGE_SIZE, RoleMixin, read_live
from nodes.widgets import Select
from nodes.words import count

STATES = (("", "All"), ("down", "down"), ("unknown", "unknown"), ("one-way", "one direction only"))
ENDS = (("", "All"), ("connected", "both connected"))
SHOWN_REFUSALS = 5

SELECT = Select(attrs={"class": "form-select"})
SEARCH = forms.TextInput(
    attrs={"class": "form-control", "type": "search", "placeholder": "Name of either end", "data-search": ""}
)


class UnwellForm(forms.Form):
    """Which links are wanted."""

    q = forms.CharField(label="Search", required=False, widget=SEARCH)
    cluster = forms.ModelChoiceField(
        label="Cluster", queryset=Cluster.objects.none(), to_field_name="uuid", required=False, empty_label="All",
        widget=SELECT,
    )  # fmt: skip
    state = forms.ChoiceField(label="State", choices=STATES, required=False, widget=SELECT)
    ends = forms.ChoiceField(label="Agents", choices=ENDS, required=False, widget=SELECT)

    def __init__(self, clusters: Any, one: Cluster | None, data: Any) -> None:
        super().__init__(data)
        self.fields["cluster"].queryset = clusters
        if one is not None:
            del self.fields["cluster"]

    def chips(self) -> list[tuple[str, str, str]]:
        """The filters in use: parameter, label, value."""
        words = {"state": dict(STATES), "ends": dict(ENDS)}
        chosen = self.cleaned_data if self.is_valid() else {}
        return [
            (name, str(self.fields[name].label), str(words.get(name, {}).get(value, value)))
            for name, value in chosen.items()
            if value
        ]

    def query(self) -> Query:
        """The same for nodes.unwell."""
        chosen = self.cleaned_data if self.is_valid() else {}
        return Query(chosen.get("q", "").strip(), chosen.get("state", ""), chosen.get("ends") == "connected")


EXPORT = exports.Export(
    "links-not-up",
    {
        "cluster": lambda row: row.cluster.name,
        "from": lambda row: row.pair.one.name,
        "to": lambda row: row.pair.other.name,
        "state": lambda row: row.states[0],
        "state_seen_by_other_end": lambda row: row.states[1],
        "reason": lambda row: row.reason.code if row.reason else None,
        "why": lambda row: row.reason.text if row.reason else None,
        "what_to_do": lambda row: row.reason.remedy if row.reason else None,
        "since": lambda row: exports.moment(row.since),
        "since_at_least": lambda row: row.at_least,
        "last_handshake": lambda row: exports.moment(row.handshake),
        "endpoint": lambda row: row.endpoint or None,
    },
)


def unwell_context(request: HttpRequest, one: Cluster | None = None) -> dict[str, Any]:
    """What the list shows, of one cluster or of all that may be seen: five queries, three calls to Redis or four."""
    visible = Cluster.objects.visible_to(request.user)
    form = UnwellForm(visible, one, request.GET)
    named = one or (form.cleaned_data.get("cluster") if form.is_valid() else None)
    clusters = {cluster.pk: cluster for cluster in ([named] if named else visible)}
    ends = unwell.read_ends(clusters.values())
    states = read_live(lambda: unwell.read_states(ends), None)
    told, silent = unwell.count_tellers(ends, states or {})
    found = unwell.find(ends, states or {})
    sort = request.GET.get("sort", "worst")
    by_age = sort.removeprefix("-") == unwell.AGE
    ages = read_live(lambda: unwell.read_ages(ends, found), {}) if by_age else {}
    chosen = unwell.choose(ends, found, form.query(), sort, ages)

    def look_up(pairs: Iterable[unwell.Found]) -> list[Shown] | None:
        return read_live(lambda: unwell.look_up(ends, pairs, clusters, timezone.now().timestamp()), None)

    page = Paginator(chosen, PAGE_SIZE).get_page(request.GET.get("page"))
    rows = look_up(page)
    return {
        "filter": {"form": form},
        "chips": form.chips(),
        "unread": states is None or rows is None,
        "links": len(ends) > len({end.cluster for end in ends}),
        "told": told,
        "silent": silent,
        "chosen": chosen,
        "page": page,
        "rows": rows,
        "heads": [_head(request, sort, *head) for head in HEADS],
        "look_up": look_up,
    }


HEADS = (("From", "from"), ("To", "to"), ("State", "worst"), ("Not up since", unwell.AGE))


def _head(request: HttpRequest, sort: str, title: str, name: str) -> dict[str, str]:
    """A heading that sorts: its address, and how it is sorted by now."""
    turned = sort == name
    query = request.GET.copy()
    query.pop("page", None)
    query["sort"] = f"-{name}" if turned else name
    order = "ascending" if turned else "descending" if sort == f"-{name}" else ""
    return {"title": title, "address": f"?{query.urlencode()}", "order": order}


def as_file(context: dict[str, Any], kind: str) -> Any:
    """All of the list as a file; none while it cannot be read, for an empty one would say that all is well."""
    chosen = context["chosen"]
    rows = None if context["unread"] else context["look_up"](chosen[: exports.LIMIT])
    if rows is None:
        return HttpResponse("Redis does not answer.\n", status=503, content_type="text/plain; charset=utf-8")
    return exports.answer(EXPORT, rows, len(chosen), kind, timezone.now())


class TryAgainView(RoleMixin, View):
    """Have both ends of the chosen pairs take the next endpoint."""

    permission = "enter_console"

    def get(self, request):
        return redirect("links")

    def post(self, request):
        chosen = [tuple(map(int, pair)) for text in request.POST.getlist("pair") if _is_pair(pair := text.split("-"))]
        nodes = Node.objects.visible_to(request.user).select_related("cluster")
        rows = nodes.in_bulk({pk for pair in chosen[:PAGE_SIZE] for pk in pair})
        told, refused = 0, []
        for one, other in chosen[:PAGE_SIZE]:
            if one in rows and other in rows and rows[one].cluster_id == rows[other].cluster_id:
                told += try_both(request.user, rows[one], rows[other], refused.append)
        if not told and not refused:
            messages.error(request, "Choose at least one link.")
        if told:
            messages.success(request, f"{count(told, 'end')} told to take the next endpoint now.")
        for reason in dict.fromkeys(refused[:SHOWN_REFUSALS]):
            messages.warning(request, reason)
        return redirect(_back(request))


def try_both(actor: Any, one: Node, other: Node, refuse: Callable[[str], None]) -> int:
    """Have each end that has an agent try the other anew; how many were told, and why those that were not."""
    told = 0
    for node, peer in ((one, other), (other, one)):
        if node.is_talos:
            continue
        try:
            services.try_again(actor, node, peer, timezone.now())
        except Refused as refusal:
            refuse(refusal.reason)
        else:
            told += 1
    return told


def _is_pair(words: list[str]) -> bool:
    return len(words) == 2 and all(word.isdecimal() and len(word) < 19 for word in words)  # noqa: PLR2004 - as databases hold


def _back(request: HttpRequest) -> str:
    address = request.POST.get("back", "")
    if url_has_allowed_host_and_scheme(address, {request.get_host()}, require_https=request.is_secure()):
        return address
    return f"{reverse('links')}?view=list"


def may_try(user: Any) -> bool:
    """Whether somebody may have links tried again in any cluster; in which, the service says."""
    return access.clusters_where(user, "try_again").exists()
