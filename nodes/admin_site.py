"""Who enters Django's admin: administrators of the console, by role, through the console's own door."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest


class ConsoleAdminSite(AdminSite):
    """The admin, as a part of the settings."""

    site_header = site_title = index_title = "Admin"
    enable_nav_sidebar = False  # the frame has its own

    def has_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may come in."""
        from nodes.access import may  # noqa: PLC0415 - models are not loaded yet when the site is

        return may(request.user, "manage_console")


class ConsoleAdminConfig(AdminConfig):
    """Django's admin with that site in it."""

    default = False
    default_site = "nodes.admin_site.ConsoleAdminSite"
