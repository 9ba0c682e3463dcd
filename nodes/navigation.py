"""The console's places in the order of its navigation, and where the same kind of page of another cluster is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.http import QueryDict
from django.urls import NoReverseMatch, reverse


class Place(NamedTuple):
    """One entry of the navigation: the name of its address, and of what else belongs to it by how their names begin."""

    name: str
    title: str
    icon: str
    letter: str
    """`g` and this letter lead there."""
    begins: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where it is; empty where this console has no such page."""
        try:
            return reverse(self.name)
        except NoReverseMatch:
            return ""


PLACES = (
    Place("overview", "Overview", "dashboard", "o", ("overview",)),
    Place("cluster-list", "Clusters", "affiliate", "c", ("cluster", "rotation")),
    Place("node-list", "Nodes", "server-2", "n", ("node",)),
    Place("links", "Links", "arrows-exchange", "l", ("link", "pair")),
    Place("map", "Map", "topology-star-3", "m", ("map",)),
    Place("token-list", "Enrolment", "plug-connected", "e", ("token", "cluster-enrolment")),
    Place("discovery", "Discovery", "world", "d", ("discovery",)),
    Place("activity", "Activity", "activity", "a", ("activity", "audit")),
    Place("settings", "Settings", "settings", "s", ("settings",)),
)


class Tab(NamedTuple):
    """A page of one cluster or node; `key` is what the page calls itself, `below` the tab that it is a part of."""

    key: str
    name: str
    title: str
    below: str = ""
    permission: str = "view_cluster"

    def url(self, subject: object) -> str:
        """Where it is; empty where this console has no such page."""
        return _address(self.name, subject)


CLUSTER_TABS = (
    Tab("overview", "cluster", "Overview"),
    Tab("nodes", "cluster-nodes", "Nodes"),
    Tab("links", "cluster-links", "Links"),
    Tab("map", "cluster-map", "Map"),
    Tab("resources", "cluster-resources", "Resources"),
    Tab("discovery", "cluster-discovery", "Discovery"),
    Tab("options", "cluster-options", "Options"),
    Tab("activity", "cluster-activity", "Activity"),
    Tab("options", "cluster-options", "KubeSpan", below="options"),
    Tab("agents", "cluster-agents", "Agents", below="options"),
    Tab("talos", "cluster-talos", "Talos", below="options"),
    Tab("secret", "cluster-secret", "Secret", below="options", permission="reveal_secret"),
    Tab("rotation", "cluster-rotation", "Rotation", below="options"),
    Tab("delete", "cluster-delete", "Delete", below="options", permission="delete_cluster"),
)


NODE_TABS = (
    Tab("overview", "node", "Overview"),
    Tab("links", "node-links", "Links"),
    Tab("endpoints", "node-endpoints", "Endpoints"),
    Tab("configuration", "node-configuration", "Configuration"),
    Tab("resources", "node-resources", "Resources"),
    Tab("activity", "node-activity", "Activity"),
)


def upper_tab(key: str) -> str:
    """The tab to which a page of a cluster belongs: itself, or that which it is a part of."""
    return next((tab.below for tab in CLUSTER_TABS if tab.key == key and tab.below), key)


HELP = Place("help", "Help", "help", "h", ("help",))


def current_place(name: str) -> Place | None:
    """To which entry the address of this name belongs: that whose beginning fits longest."""
    fitting = [(len(begin), place) for place in PLACES for begin in place.begins if name.startswith(begin)]
    return max(fitting)[1] if fitting else None


LISTS = frozenset({"node-list", "token-list", "activity", "links", "map"})
"""Pages over all clusters that a `cluster` in their address narrows to one."""

TABS = frozenset(
    {
        "cluster",
        "cluster-nodes",
        "cluster-links",
        "cluster-map",
        "cluster-resources",
        "cluster-discovery",
        "cluster-options",
        "cluster-agents",
        "cluster-talos",
        "cluster-rotation",
        "cluster-activity",
        "cluster-enrolment",
    }
)
"""A cluster's own pages that every cluster has."""

OF_A_CLUSTER = {"node": "cluster-nodes", "pair": "cluster-links", "cluster-secret": "cluster-options"}
"""Where a page that only this cluster has leads in another one; the beginning of the name decides."""

OF_ALL = {
    "cluster-nodes": "node-list",
    "cluster-links": "links",
    "cluster-map": "map",
    "cluster-discovery": "discovery",
    "cluster-activity": "activity",
    "cluster-enrolment": "token-list",
    "node": "node-list",
    "pair": "links",
    "cluster": "cluster-list",
}
"""Where a page of one cluster leads for all clusters."""


def _first(table: Mapping[str, str], name: str) -> str:
    return next((target for begin, target in table.items() if name.startswith(begin)), "")


def _address(name: str, *args: object) -> str:
    try:
        return reverse(name, args=args)
    except NoReverseMatch:
        return ""


def switch_cluster(name: str, query: QueryDict, uuid: object | None) -> str:
    """From the page of this name, where the same kind of page of a cluster is; without one, that of all clusters."""
    if name in LISTS:
        return f"{reverse(name)}{_narrow(query, uuid)}"
    if uuid is None:
        return _address(_first(OF_ALL, name)) or reverse("overview")
    target = name if name in TABS else _first(OF_A_CLUSTER, name)
    return _address(target or "cluster", uuid) or reverse("cluster", args=[uuid])


def _narrow(query: QueryDict, uuid: object | None) -> str:
    changed = query.copy()
    for gone in ("cluster", "page"):
        changed.pop(gone, None)
    if uuid is not None:
        changed["cluster"] = str(uuid)
    return f"?{changed.urlencode()}" if changed else ""


def chosen_uuid(name: str, query: QueryDict, shown: Any) -> str:
    """The cluster that a page is about: the one that it shows, or that its list is narrowed to."""
    return str(query.get("cluster", "")) if name in LISTS else str(getattr(shown, "uuid", ""))
