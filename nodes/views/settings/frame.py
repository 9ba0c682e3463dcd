"""What all pages of the settings share: who may see them, and what else there is."""

from __future__ import annotations

from typing import NamedTuple

from django.http import HttpResponse
from django.shortcuts import render
from django.views import View

from nodes.views.common import OperatorMixin


class Tab(NamedTuple):
    """A page of the settings: its key, the name of its address, what it is called, its icon, and for whom it is."""

    key: str
    address: str
    label: str
    icon: str
    everybody: bool = False


SECTIONS: tuple[tuple[str, tuple[Tab, ...]], ...] = (
    (
        "Console",
        (
            Tab("about", "settings-about", "About", "info-circle", everybody=True),
            Tab("admin", "admin:index", "Admin", "database"),
        ),
    ),
)


def sections_for(user) -> list[tuple[str, list[Tab]]]:
    """The pages that somebody may open, by section."""
    found = [(name, [tab for tab in tabs if tab.everybody or user.is_superuser]) for name, tabs in SECTIONS]
    return [(name, tabs) for name, tabs in found if tabs]


class SettingsTab(OperatorMixin, View):
    """A page of the settings; only administrators of the console may open it, unless it is for everybody."""

    tab = ""
    template = ""
    everybody = False

    def test_func(self) -> bool:
        return super().test_func() and (self.everybody or self.request.user.is_superuser)

    def show(self, status: int = 200, **context) -> HttpResponse:
        """Draw the page within the frame."""
        context = {"tab": self.tab, "sections": sections_for(self.request.user)} | context
        return render(self.request, self.template, context, status=status)
