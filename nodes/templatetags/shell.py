"""The frame around every page: navigation, the switcher of clusters, the keys."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from django import template

from nodes import access, navigation
from nodes.models import Cluster, Node

register = template.Library()

SWITCHED_AT_MOST = 200
"""Clusters that the switcher lists; the page of clusters has them all."""

ENROLMENT_KINDS = (("linux", "Linux"), ("talos", "Talos"), ("container", "Container"))
"""Key and title."""


class Choice(NamedTuple):
    """A cluster that one may switch to, or all of them."""

    name: str
    url: str
    chosen: bool


def _name(context: template.Context) -> str:
    match = getattr(context.get("request"), "resolver_match", None)
    if match and match.app_name == "admin":
        return "settings-admin"  # the admin names its pages after models, and belongs to the settings
    return (match.url_name or "") if match else ""


@register.simple_tag(takes_context=True)
def places(context: template.Context) -> list[tuple[navigation.Place, str]]:
    """The navigation's entries, each with its mark: `page` for this very page, `true` for one below it."""
    name = _name(context)
    here = navigation.current_place(name)
    return [
        (place, "page" if place.name == name else "true" if place == here else "")
        for place in navigation.PLACES
        if place.url
    ]


@register.simple_tag
def help_place() -> navigation.Place:
    """The page that explains the words."""
    return navigation.HELP


class Switcher(NamedTuple):
    """What one may switch to; `listed` clusters of more are the first by name, and none stands for all of them."""

    choices: list[Choice]
    listed: int | None = None


@register.simple_tag(takes_context=True)
def switcher(context: template.Context) -> Switcher:
    """The clusters that one may switch to from here, all of them first; none where there is no cluster."""
    name, query = _name(context), context["request"].GET
    clusters = Cluster.objects.visible_to(context["request"].user).values_list("uuid", "name")
    rows = list(clusters[: SWITCHED_AT_MOST + 1])
    if not rows:
        return Switcher([])
    listed = SWITCHED_AT_MOST if len(rows) > SWITCHED_AT_MOST else None
    chosen = navigation.chosen_uuid(name, query, context.get("cluster"))
    rows = rows[:listed]
    if listed and (uuid := _parse_uuid(chosen)) and uuid not in dict(rows):
        rows = [*clusters.filter(uuid=uuid), *rows]  # the page's own is there, wherever its name would put it
    found = [Choice(title, navigation.switch_cluster(name, query, uuid), chosen == str(uuid)) for uuid, title in rows]
    nobody = not any(choice.chosen for choice in found)
    return Switcher([Choice("All clusters", navigation.switch_cluster(name, query, None), nobody), *found], listed)


def _parse_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


@register.simple_tag(takes_context=True)
def cluster_tabs(context: template.Context, cluster: Cluster, tab: str, below: str = "") -> list[Choice]:
    """A cluster's tabs that one may open, or those that are parts of one of them; the page calls itself `tab`."""
    user, chosen = context["request"].user, tab if below else navigation.upper_tab(tab)
    found = [one for one in navigation.CLUSTER_TABS if one.below == below and access.may(user, one.permission, cluster)]
    return [Choice(one.title, url, one.key == chosen) for one in found if (url := one.url(cluster.uuid))]


@register.simple_tag
def node_tabs(node: Node, tab: str) -> list[Choice]:
    """A node's tabs; the page calls itself `tab`."""
    return [Choice(one.title, url, one.key == tab) for one in navigation.NODE_TABS if (url := one.url(node.pk))]


@register.filter
def upper_tab(tab: str) -> str:
    """The tab to which a page of a cluster belongs."""
    return navigation.upper_tab(tab)


@register.simple_tag
def lookup(table: dict[object, object], key: object) -> object:
    """What a table has for a key, if it does."""
    return table.get(key)


@register.simple_tag
def enrolment_kinds() -> tuple[tuple[str, str], ...]:
    """The kinds of machines that the enrolment dialog has a tab for."""
    return ENROLMENT_KINDS
