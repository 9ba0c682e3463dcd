"""What happened: link transitions, and who did what."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models

from nodes.models.clusters import Cluster
from nodes.models.members import Node
from nodes.models.roles import Role, ScopedQuerySet, roles_of


class Transition(models.Model):
    """Something that changed by itself: a link, a node's presence, an endpoint, a drift that was healed."""

    class Kind(models.TextChoices):
        """What changed."""

        LINK = "link", "link"
        NODE = "node", "node"
        DRIFT = "drift", "drift"
        FAULT = "fault", "fault"
        CAPPED = "capped", "capped"

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="transitions")
    node = models.ForeignKey(Node, null=True, blank=True, on_delete=models.CASCADE, related_name="transitions")
    peer = models.ForeignKey(Node, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=16, choices=Kind)
    before = models.CharField(max_length=64, blank=True)
    after = models.CharField(max_length=64, blank=True)
    text = models.TextField(blank=True)
    count = models.PositiveIntegerField(default=1, help_text="Of a capped row: how many were left out.")
    at = models.DateTimeField(db_index=True)

    objects = ScopedQuerySet.as_manager()

    class Meta:
        ordering = ("-at", "-pk")
        indexes = (
            models.Index(fields=("cluster", "-at"), name="transition_cluster_at"),
            models.Index(fields=("node", "-at"), name="transition_node_at"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.before} → {self.after}"


class AuditQuerySet(ScopedQuerySet):
    """Reading who did what."""

    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> AuditQuerySet:
        """What was done in clusters that somebody may see, or by themselves; to the console and its people: what its
        administrators may see.
        """
        clusters = roles_of(user).at_least(Role.VIEWER)
        if clusters is not None:
            return self.filter(models.Q(cluster__in=clusters) | models.Q(actor=user.pk))
        if roles_of(user).console == Role.ADMINISTRATOR:
            return self
        return self.filter(models.Q(cluster__isnull=False) | models.Q(actor=user.pk))


class Audit(models.Model):
    """Who did what to what, when; kept when the object is gone."""

    at = models.DateTimeField(db_index=True)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL)
    actor_name = models.CharField(max_length=150, help_text="A user's name, or `node NAME`, or `console`.")
    verb = models.CharField(max_length=64, help_text="noun.past, such as node.approved")
    cluster = models.ForeignKey(Cluster, null=True, blank=True, on_delete=models.SET_NULL, related_name="audits")
    node = models.ForeignKey(Node, null=True, blank=True, on_delete=models.SET_NULL, related_name="audits")
    target = models.CharField(max_length=253, blank=True, help_text="The object's name at the time.")
    details = models.JSONField(default=dict, blank=True, help_text="What else; never a secret.")

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ("-at", "-pk")
        indexes = (models.Index(fields=("cluster", "-at"), name="audit_cluster_at"),)
        verbose_name_plural = "audit"

    def __str__(self) -> str:
        return f"{self.actor_name} {self.verb} {self.target}"
