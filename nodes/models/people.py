"""People: who has which role."""

from __future__ import annotations

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
