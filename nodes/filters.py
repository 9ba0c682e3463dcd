"""Which rows a list shows; all of it lives in the address of the page."""

from __future__ import annotations

import django_filters as filters
from django import forms
from django.db.models import F, Q
from django.http import HttpRequest

from nodes.models import Audit, Cluster, Node, Transition
from nodes.models.clusters import ClusterQuerySet

SELECT = forms.Select(attrs={"class": "form-select"})


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
    agent = filters.ChoiceFilter(
        label="Agent", choices=(("connected", "connected"), ("away", "away")), method="by_agent", empty_label="All",
        widget=SELECT,
    )  # fmt: skip
    configuration = filters.ChoiceFilter(
        label="Configuration", choices=(("applied", "applied"), ("behind", "behind")), method="by_configuration",
        empty_label="All", widget=SELECT,
    )  # fmt: skip

    class Meta:
        model = Node
        fields = ("q", "cluster", "site", "status", "agent", "configuration")

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
        return queryset.exclude(session="") if value == "connected" else queryset.filter(session="")

    def by_configuration(self, queryset, name, value):
        fresh = Q(applied_epoch=F("cluster__epoch"), applied_number__gte=F("cluster__revision"), fault="")
        approved = queryset.approved()
        return approved.filter(fresh) if value == "applied" else approved.exclude(fresh)


class TransitionFilter(_Named):
    """What changed by itself."""

    cluster = filters.ModelChoiceFilter(
        label="Cluster", queryset=visible_clusters, to_field_name="uuid", empty_label="All", widget=SELECT
    )
    kind = filters.ChoiceFilter(label="Kind", choices=Transition.Kind, empty_label="All", widget=SELECT)

    class Meta:
        model = Transition
        fields = ("cluster", "kind")


class AuditFilter(_Named):
    """Who did what."""

    q = filters.CharFilter(label="Search", method="find", widget=_search("Actor, action or object"))
    cluster = filters.ModelChoiceFilter(
        label="Cluster", queryset=visible_clusters, to_field_name="uuid", empty_label="All", widget=SELECT
    )

    class Meta:
        model = Audit
        fields = ("q", "cluster")

    def find(self, queryset, name, value):
        value = value.strip()
        return queryset.filter(Q(actor_name__icontains=value) | Q(verb__icontains=value) | Q(target__icontains=value))
