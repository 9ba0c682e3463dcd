"""What a node's preflight found on its machine, and would stand in the mesh's way."""

from __future__ import annotations

from django.db import models

from kubespan.core.findings import STOPPING
from nodes.models.members import Node


class Obstacle(models.Model):
    """One finding of a node as it last said them; the words and the command are the machine's own."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="obstacles")
    place = models.PositiveSmallIntegerField(help_text="Its order among the node's; the worst come first.")
    code = models.CharField(max_length=64)
    text = models.TextField()
    remedy = models.TextField(help_text="The command that mends it, to be run on the machine.")
    since = models.DateTimeField()

    class Meta:
        ordering = ("node_id", "place")
        constraints = (models.UniqueConstraint(fields=("node", "place"), name="obstacle_place_once"),)

    def __str__(self) -> str:
        return f"{self.code} at {self.node_id}"

    @property
    def stops(self) -> bool:
        """Whether the mesh, or a part of it, carries nothing for it."""
        return self.code in STOPPING
