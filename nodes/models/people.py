"""People: who has which role, and who is invited to one."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models

from nodes.models.clusters import Cluster
from nodes.models.roles import Role


class Grant(models.Model):
    """One role of one person."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="grants")
    cluster = models.ForeignKey(
        Cluster, null=True, blank=True, on_delete=models.CASCADE, related_name="grants", help_text="None: every one."
    )
    role = models.CharField(max_length=16, choices=Role)
    at = models.DateTimeField()
    given_by = models.CharField(max_length=150)

    class Meta:
        ordering = ("user", "cluster")
        constraints = (
            models.UniqueConstraint(fields=("user", "cluster"), name="grant_once_a_cluster"),
            models.UniqueConstraint(
                fields=("user",), condition=models.Q(cluster=None), name="grant_once_for_the_console"
            ),
        )

    def __str__(self) -> str:
        return f"{self.role} of {self.cluster or 'the console'}"


class Invitation(models.Model):
    """A role that waits for somebody to come by a one-time link and make an account, or sign in with one."""

    name = models.CharField(max_length=150, help_text="Whom it is for; proposed as the user name.")
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the link's secret, hexadecimal.")
    cluster = models.ForeignKey(
        Cluster, null=True, blank=True, on_delete=models.CASCADE, related_name="+", help_text="None: every one."
    )
    role = models.CharField(max_length=16, choices=Role)
    made = models.DateTimeField()
    made_by = models.CharField(max_length=150)
    expires = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-made", "-pk")

    def __str__(self) -> str:
        return self.name

    def worthless(self, now: datetime) -> str | None:
        """Why it lets nobody in any more, in one word; none while it does."""
        if self.accepted_at is not None:
            return "accepted"
        if self.withdrawn_at is not None:
            return "withdrawn"
        return "expired" if self.expires <= now else None
