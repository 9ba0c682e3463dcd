"""What nodes and links were like: points of a minute kept for a day, and of a quarter of an hour kept for a week.

A row holds an hour of minutes or a day of quarters, packed (nodes.history.points): a row a point would be 1.44 million
rows a day for a thousand nodes.
"""

from __future__ import annotations

from django.db import models

from nodes.models.clusters import Cluster
from nodes.models.members import Node


class Period(models.IntegerChoices):
    """Seconds that a point stands for."""

    MINUTE = 60, "minutes"
    QUARTER = 900, "quarters of an hour"


class NodeHistory(models.Model):
    """Points of one node, from `start` on, one after another."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="history")
    period = models.PositiveSmallIntegerField(choices=Period)
    start = models.DateTimeField()
    points = models.BinaryField(help_text="Packed, of equal size; where nothing was noted, noughts.")

    class Meta:
        verbose_name_plural = "node histories"
        ordering = ("node_id", "period", "start")
        constraints = (models.UniqueConstraint(fields=("node", "period", "start"), name="node_history_once"),)
        indexes = (models.Index(fields=("period", "start"), name="node_history_start"),)

    def __str__(self) -> str:
        return f"{self.get_period_display()} of node {self.node_id} from {self.start}"


class LinkHistory(models.Model):
    """Points of one link as `node` sees `peer`, from `start` on."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="link_history")
    peer = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="+")
    period = models.PositiveSmallIntegerField(choices=Period)
    start = models.DateTimeField()
    points = models.BinaryField(help_text="Packed, of equal size; where nothing was noted, noughts.")

    class Meta:
        verbose_name_plural = "link histories"
        ordering = ("node_id", "peer_id", "period", "start")
        constraints = (models.UniqueConstraint(fields=("node", "peer", "period", "start"), name="link_history_once"),)
        indexes = (models.Index(fields=("period", "start"), name="link_history_start"),)

    def __str__(self) -> str:
        return f"{self.get_period_display()} of link {self.node_id} → {self.peer_id} from {self.start}"


class FollowedLink(models.Model):
    """A link whose history the console keeps: somebody wants it, looks at it, or it is or lately was not up."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="followed_links")
    peer = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="+")
    pinned = models.BooleanField(default=False, help_text="Somebody wants it kept until further notice.")
    looked_until = models.DateTimeField(
        null=True, blank=True, help_text="Until when it is kept because its page was open."
    )
    unwell_until = models.DateTimeField(null=True, blank=True, help_text="Until when, because it was not up.")

    class Meta:
        ordering = ("node_id", "peer_id")
        constraints = (models.UniqueConstraint(fields=("node", "peer"), name="followed_link_once"),)

    def __str__(self) -> str:
        return f"link {self.node_id} → {self.peer_id}"


class HistoryMark(models.Model):
    """How far a cluster's history was taken: its lock, and why nothing is taken twice."""

    cluster = models.OneToOneField(Cluster, on_delete=models.CASCADE, related_name="history_mark")
    minute = models.DateTimeField(null=True, blank=True, help_text="The last minute that was noted.")
    quarter = models.DateTimeField(null=True, blank=True, help_text="Until when minutes are rolled up into quarters.")
    left_out = models.PositiveIntegerField(default=0, help_text="Links that were not up and are beyond the cap.")

    class Meta:
        ordering = ("cluster",)

    def __str__(self) -> str:
        return f"history of {self.cluster_id} until {self.minute}"
