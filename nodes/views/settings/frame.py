"""What all pages of the settings share: who may see them, and what else there is."""

from __future__ import annotations

from typing import NamedTuple

from django.http import HttpResponse
from django.shortcuts import render
from django.views import View

from nodes.access import ENTER, clusters_where, may
from nodes.views.common import RoleMixin


class Tab(NamedTuple):
    """A page of the settings: its key, its address by name, its title, its icon, and what it needs, if anything."""

    key: str
    address: str
    label: str
    icon: str
    permission: str = "manage_console"
    anywhere: bool = False
    """Whether being allowed to in one cluster is enough."""


SECTIONS: tuple[tuple[str, tuple[Tab, ...]], ...] = (
    (
        "You",
        (
            Tab("account", "account", "Sign-in", "shield-lock", permission=""),
            Tab("api-tokens", "settings-api-tokens", "API tokens", "key", permission=ENTER),
        ),
    ),
    (
        "Console",
        (
            Tab("people", "settings-people", "People", "users", permission="manage_people", anywhere=True),
            Tab("sign-on", "settings-sign-on", "Single sign-on", "login"),
            Tab("alerts", "settings-alerts", "Alerts", "bell"),
            Tab("keys", "settings-keys", "Keys", "shield-lock"),
            Tab("about", "settings-about", "About", "info-circle", permission=ENTER),
            Tab("admin", "admin:index", "Admin", "database"),
        ),
    ),
)


def _is_for(tab: Tab, user) -> bool:
    if not tab.permission or may(user, tab.permission):
        return True
    return tab.anywhere and clusters_where(user, tab.permission).exists()


def sections_for(user) -> list[tuple[str, list[Tab]]]:
    """The pages that somebody may open, by section."""
    found = [(name, [tab for tab in tabs if _is_for(tab, user)]) for name, tabs in SECTIONS]
    return [(name, tabs) for name, tabs in found if tabs]


class SettingsTab(RoleMixin, View):
    """A page of the settings; for administrators of the console, unless its `permission` says otherwise."""

    tab = ""
    template = ""
    permission = "manage_console"

    def show(self, status: int = 200, **context) -> HttpResponse:
        """Draw the page within the frame."""
        context = {"tab": self.tab, "sections": sections_for(self.request.user)} | context
        return render(self.request, self.template, context, status=status)
