"""What nodes' preflights find: kept as they last said it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from kubespan.core.messages import Finding
from nodes.models import Node, Obstacle
from nodes.services import after
from nodes.services.claims import printable

MOST = 50
"""Findings of one node; more would be a machine that makes them up."""
CODE_LIMIT, TEXT_LIMIT, REMEDY_LIMIT = 64, 1000, 4000


def record_findings(node_pk: int, findings: Sequence[Finding], now: datetime) -> None:
    """Put what a member's preflight finds now in the place of what it said before; pages hear of a difference."""
    each = (
        (printable(one.code, CODE_LIMIT), printable(one.text, TEXT_LIMIT), printable(one.remedy, REMEDY_LIMIT))
        for one in findings[:MOST]
    )
    said = list(dict.fromkeys(each))
    with transaction.atomic():
        # Without an order: that of nodes begins with the cluster's name, and its row would be locked as well.
        approved = Node.objects.approved().order_by().select_for_update()
        node = approved.only("pk", "cluster_id").filter(pk=node_pk).first()
        if node is None:
            return
        known = {(one.code, one.text, one.remedy): one.since for one in node.obstacles.all()}
        if list(known) == said:
            return
        node.obstacles.all().delete()
        Obstacle.objects.bulk_create(
            Obstacle(node=node, place=place, code=one[0], text=one[1], remedy=one[2], since=known.get(one, now))
            for place, one in enumerate(said)
        )
        Node.objects.filter(pk=node_pk).update(obstacles_at=now)
        after.announce(node.cluster_id, "node.changed", node=node_pk)
