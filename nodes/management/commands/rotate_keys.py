"""Encrypt every stored secret anew with the first key, so that the older ones can be taken away."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from nodes.management.script import Script
from nodes.services import keys


class Command(Script):
    """Thin: one service, and what it says."""

    help = (
        "Encrypt stored secrets with the first key of KUBESPAN_KEYS. Put a new key in front, restart the console, run "
        "this, then take the old key away. What no key opens is named, and left as it is."
    )

    def handle(self, *_: Any, **_options: Any) -> None:
        """Do it, and say what remains."""
        rotated, unreadable = keys.rotate_keys(None, timezone.now())
        self.stdout.write(f"{rotated} secrets encrypted anew")
        if unreadable:
            raise CommandError("; ".join(unreadable))
