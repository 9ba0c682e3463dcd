"""After a backup was restored: let every agent notice that what it holds is of another time."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from nodes.management.script import Script
from nodes.services import revisions


class Command(Script):
    """Thin: one service."""

    help = (
        "Run once after the database was put back by other means than `manage.py restore`, which does this by itself: "
        "agents then get everything anew, and nobody has to enrol again."
    )

    def handle(self, *_: Any, **_options: Any) -> None:
        """Do it, and say which epoch it is."""
        self.stdout.write(f"epoch {revisions.start_epoch(None, timezone.now())}")
