"""Enrolment tokens: shown once, stored as a hash."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.conf import settings
from django.db import models

from nodes.models.clusters import Cluster
from nodes.models.roles import ScopedQuerySet


class Token(models.Model):
    """The right to enrol a number of machines into one cluster until some time."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=63)
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the token, hexadecimal.")
    uses = models.PositiveIntegerField(default=1, help_text="How many machines it may enrol.")
    used = models.PositiveIntegerField(default=0)
    expires = models.DateTimeField()
    approval_required = models.BooleanField(default=False)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL)
    last_used = models.DateTimeField(null=True, blank=True)

    objects = ScopedQuerySet.as_manager()

    class Meta:
        ordering = ("-created",)
        constraints = (
            models.CheckConstraint(condition=models.Q(used__lte=models.F("uses")), name="token_not_overused"),
        )

    def __str__(self) -> str:
        return self.name

    def worthless(self, now: datetime) -> str | None:
        """Why it enrols nobody any more, in one word; none while it does."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires <= now:
            return "expired"
        return "used-up" if self.used >= self.uses else None
