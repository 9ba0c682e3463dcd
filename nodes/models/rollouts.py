"""Upgrades of a cluster's agents: one node first, then the others."""

from __future__ import annotations

from django.db import models

from nodes.models.clusters import Cluster
from nodes.models.members import Node
from nodes.models.roles import ScopedQuerySet


class Rollout(models.Model):
    """One upgrade of a cluster's agents to what the console handed out when it began."""

    class State(models.TextChoices):
        """How it stands."""

        RUNNING = "running", "running"
        DONE = "done", "done"
        STOPPED = "stopped", "stopped"
        CANCELLED = "cancelled", "cancelled"

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="rollouts")
    version = models.CharField(max_length=64)
    sha256 = models.CharField(max_length=64)
    size = models.PositiveBigIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.RUNNING)
    reason = models.TextField(blank=True, help_text="Why it was stopped.")
    started = models.DateTimeField()
    started_by = models.CharField(max_length=150)
    ended = models.DateTimeField(null=True, blank=True)

    objects = ScopedQuerySet.as_manager()

    class Meta:
        ordering = ("-started", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("cluster",), condition=models.Q(state="running"), name="rollout_one_at_a_time"
            ),
        )

    def __str__(self) -> str:
        return f"{self.cluster} to {self.version}"


class RolloutStep(models.Model):
    """One node's part in it; they are told in their order, the first of them alone."""

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting", "waiting"
        TOLD = "told", "told"
        DONE = "done", "done"
        FAILED = "failed", "failed"
        SKIPPED = "skipped", "skipped"

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="steps")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="+")
    order = models.PositiveIntegerField()
    alone = models.BooleanField(default=False, help_text="It went first: the others wait until its links are up.")
    before = models.CharField(max_length=64, help_text="The version that it ran.")
    links = models.PositiveIntegerField(default=0, help_text="How many of its links were up when it was told.")
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    reason = models.TextField(blank=True)
    told = models.DateTimeField(null=True, blank=True)
    told_again = models.DateTimeField(null=True, blank=True)
    ended = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("order",)
        constraints = (models.UniqueConstraint(fields=("rollout", "node"), name="rollout_step_once"),)

    def __str__(self) -> str:
        return f"{self.node} {self.state}"
