"""API tokens: the right to read as somebody, for a program; shown once, stored as a hash."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.conf import settings
from django.db import models

from nodes.models.roles import Role


class ApiToken(models.Model):
    """A program's right to read what a person may, up to a role, until some time."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=63)
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the token, hexadecimal.")
    role = models.CharField(max_length=16, choices=Role, default=Role.VIEWER, help_text="The most that it may see.")
    created = models.DateTimeField()
    expires = models.DateTimeField()
    last_used = models.DateTimeField(null=True, blank=True, help_text="To the minute.")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created", "-pk")
        verbose_name = "API token"

    def __str__(self) -> str:
        return self.name

    def worthless(self, now: datetime) -> str | None:
        """Why it opens nothing any more, in one word; none while it does."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires <= now else None
