"""Which rows a list shows; all of it lives in the address of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple

import django_filters as filters
import redis
from django import forms
from django.db.models import Count, Q
from django.http import HttpRequest
from django.utils import timezone

from nodes import live
from nodes.models import Audit, Cluster, Node, Transition
from nodes.models.clusters import ClusterQuerySet
from nodes.models.members import FRESH, HERE, NodeQuerySet
from nodes.seen import SeenLinks
from nodes.sentences import NOUNS
from nodes.widgets import Select

SELECT = Select(attrs={"class": "form-select"})
LIVE_NODES = 10_000
"""Nodes whose live state is looked at for one list: some 50 ms."""

LINKS: Mapping[str, Callable[[live.Summary], bool]] = {
    "down": lambda summary: summary.down > 0,
    "unknown": lambda summary: summary.unknown > 0,
    "up": lambda summary: summary.up > 0 and not summary.down and not summary.unknown,
}
"""What the filter by links means of a node's summary."""


def _search(hint: str) -> forms.TextInput:
    return forms.TextInput(attrs={"class": "form-control", "type": "search", "placeholder": hint, "data-search": ""})


def visible_clusters(request: HttpRequest) -> ClusterQuerySet:
    """Those that one may choose among."""
    return Cluster.objects.visible_to(request.user)


class _Named(filters.FilterSet):
    """A filter set that can name what it filters by, for chips that take one filter away."""

    def chips(self) -> list[tuple[str, str, str]]:
        """The filters in use: parameter, label, value."""
        found = []
        for name, field in self.form.fields.items():
            value = self.form.cleaned_data.get(name) if self.form.is_valid() else None
            if value:
                words = dict(getattr(field, "choices", ())) if isinstance(field, forms.ChoiceField) else {}
                shown = value if isinstance(field, forms.ModelChoiceField) else words.get(value, value)
                found.append((name, str(field.label), str(shown)))
        return found


class ClusterFilter(_Named):
    """Clusters by what they are called."""

    q = filters.CharFilter(
        label="Search", field_name="name", lookup_expr="icontains", widget=_search("Name of a cluster")
    )

    class Meta:
        model = Cluster
        fields = ("q",)


class NodeFilter(_Named):
    """Nodes by what they are called and how they stand."""

    q = filters.CharFilter(label="Search", method="find", widget=_search("Name, host name, site, address or key"))
    cluster = filters.ModelChoiceFilter(
        label="Cluster", queryset=visible_clusters, to_field_name="uuid", empty_label="All", widget=SELECT
    )
    site = filters.CharFilter(
        label="Site", lookup_expr="iexact", widget=forms.TextInput(attrs={"class": "form-control"})
    )
    status = filters.ChoiceFilter(label="Membership", choices=Node.Status, empty_label="Present", widget=SELECT)
    kind = filters.ChoiceFilter(
        label="Kind", choices=(("linux", "agent"), ("talos", "Talos")), empty_label="All", widget=SELECT
    )
    agent = filters.ChoiceFilter(
        label="Agent", choices=(("connected", "connected"), ("away", "away")), method="by_agent", empty_label="All",
        widget=SELECT,
    )  # fmt: skip
    links = filters.ChoiceFilter(
        label="Links",
        choices=(("down", "some down"), ("unknown", "some unknown"), ("up", "all up"), ("silent", "not reported")),
        method="by_links", empty_label="All", widget=SELECT,
    )  # fmt: skip
    configuration = filters.ChoiceFilter(
        label="Configuration",
        choices=(("applied", "applied"), ("behind", "behind"), ("fault", "could not be applied")),
        method="by_configuration", empty_label="All", widget=SELECT,
    )  # fmt: skip

    class Meta:
        model = Node
        fields = ("q", "cluster", "site", "status", "kind", "agent", "links", "configuration")

    unread = False
    """Whether Redis could not be asked for what was filtered by."""

    @property
    def qs(self):
        found = super().qs
        return found if self.form.is_valid() and self.form.cleaned_data.get("status") else found.present()

    def find(self, queryset, name, value):
        words = Q()
        for column in ("name", "hostname", "site", "address", "public_key", "node_id"):
            words |= Q(**{f"{column}__icontains": value.strip()})
        return queryset.filter(words)

    def by_agent(self, queryset, name, value):
        return queryset.here() if value == "connected" else queryset.gone()

    def by_links(self, queryset, name, value):
        """By what is in Redis of all nodes that are left."""
        members = queryset.approved()
        try:
            known = _read_links(members)
        except redis.RedisError:
            self.unread = True
            return queryset.none()
        if value == "silent":
            return members.exclude(pk__in=[pk for pk, summary in known.items() if _is_told(summary)])
        return members.filter(pk__in=[pk for pk, summary in known.items() if LINKS[value](summary)])

    def by_configuration(self, queryset, name, value):
        found = queryset.configured()
        if value == "fault":
            return found.exclude(fault="")
        found = found.filter(fault="")
        return found.filter(FRESH) if value == "applied" else found.exclude(FRESH)


def _read_links(members: NodeQuerySet) -> dict[int, live.Summary]:
    """How the links of LIVE_NODES members are: up to three queries and two calls to Redis. Raises redis.RedisError."""
    ordered = members.order_by("pk")
    agents = ordered.filter(kind=Node.Kind.LINUX).values_list("pk", flat=True)[:LIVE_NODES]
    machines = ordered.filter(kind=Node.Kind.TALOS)[:LIVE_NODES]
    return live.read_summaries_of(agents) | SeenLinks(machines).summaries()


def _is_told(summary: live.Summary) -> bool:
    """Whether anybody has said anything of a node's links."""
    return summary.at is not None or bool(summary.up or summary.unknown or summary.down)


class Standing(NamedTuple):
    """How many nodes of a list want somebody; each is a filter of the same name."""

    pending: int
    faulty: int
    behind: int
    away: int
    down: int

    @classmethod
    def of(cls, nodes: NodeQuerySet) -> Standing:
        """One query, and what _read_links takes."""
        member = Q(status=Node.Status.APPROVED)
        agent = member & Q(kind=Node.Kind.LINUX)
        found = nodes.aggregate(
            pending=Count("pk", filter=Q(status=Node.Status.PENDING)),
            faulty=Count("pk", filter=agent & ~Q(fault="")),
            behind=Count("pk", filter=agent & Q(fault="") & ~FRESH),
            away=Count("pk", filter=member & ~HERE),
        )
        try:
            known = _read_links(nodes.approved())
        except redis.RedisError:
            known = {}
        return cls(**found, down=sum(summary.down > 0 for summary in known.values()))


PERIODS = {
    "hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1), "month": timedelta(days=30),
}  # fmt: skip


def _date(label: str, lookup: str) -> filters.DateFilter:
    widget = forms.DateInput(attrs={"class": "form-control", "type": "date"}, format="%Y-%m-%d")
    return filters.DateFilter(label=label, field_name="at", lookup_expr=lookup, widget=widget)


def _text(label: str, hint: str = "", **options) -> filters.CharFilter:
    """A field for words; that with a hint is what a page is searched by."""
    widget = _search(hint) if hint else forms.TextInput(attrs={"class": "form-control"})
    return filters.CharFilter(label=label, widget=widget, **options)


class _OfTime(_Named):
    """What has a time: how long ago at most, or between two days (UTC)."""

    since = filters.ChoiceFilter(
        label="Time",
        choices=(("hour", "last hour"), ("day", "last 24 hours"), ("week", "last 7 days"), ("month", "last 30 days")),
        method="by_age", empty_label="Any", widget=SELECT,
    )  # fmt: skip
    after = _date("From", "date__gte")
    before = _date("Until", "date__lte")

    def by_age(self, queryset, name, value):
        return queryset.filter(at__gte=timezone.now() - PERIODS[value])


class TransitionFilter(_OfTime):
    """What changed by itself."""

    cluster = filters.ModelChoiceFilter(
        label="Cluster", queryset=visible_clusters, to_field_name="uuid", empty_label="All", widget=SELECT
    )
    kind = filters.ChoiceFilter(label="Kind", choices=Transition.Kind, empty_label="All", widget=SELECT)
    object = _text("Node", "Name", method="find")

    class Meta:
        model = Transition
        fields = ("cluster", "kind", "object", "since", "after", "before")

    def find(self, queryset, name, value):
        value = value.strip()
        return queryset.filter(Q(node__name__icontains=value) | Q(peer__name__icontains=value))


class AuditFilter(_OfTime):
    """Who did what."""

    cluster = filters.ModelChoiceFilter(
        label="Cluster", queryset=visible_clusters, to_field_name="uuid", empty_label="All", widget=SELECT
    )
    kind = filters.ChoiceFilter(
        label="Kind", choices=tuple(NOUNS.items()), method="by_kind", empty_label="All", widget=SELECT
    )
    actor = _text("Actor", field_name="actor_name", lookup_expr="icontains")
    object = _text("Object", "Name", field_name="target", lookup_expr="icontains")

    class Meta:
        model = Audit
        fields = ("cluster", "kind", "actor", "object", "since", "after", "before")

    def by_kind(self, queryset, name, value):
        return queryset.filter(verb__startswith=f"{value}.")
