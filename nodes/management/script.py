"""What commands that scripts call have in common."""

from __future__ import annotations

from django.core.management.base import BaseCommand


class Script(BaseCommand):
    """A command without Django's checks: they import every page, which takes half as long as all else."""

    requires_system_checks = ()
