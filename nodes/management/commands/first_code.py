"""A new code for the first administrator's page, where `manage.py run` does not print one by itself."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils import timezone

from nodes.management.script import Script
from nodes.services import people


class Command(Script):
    """Thin: one service, encode."""

    help = "Print the address of the first administrator's page and a new one-time code, while there is no user."

    def handle(self, *_: Any, **__: Any) -> None:
        """Print them."""
        if code := people.first_code(timezone.now()):
            self.stdout.write(f"first administrator: {settings.KUBESPAN_URL}/first/  one-time code: {code}")
