"""What is told once a change is committed, and not at all when it is rolled back.

A word that is lost costs time, never truth: pages read the rows again, sockets are compared with them now and then.
"""

from __future__ import annotations

from functools import partial

from django.db import transaction

from kubespan.core.messages import FromConsole
from nodes import announce as announcements
from nodes import fanout
from nodes.models import Node


def announce(cluster_pk: int | None, kind: announcements.Kind, **fields: object) -> None:
    """Tell the cluster's open pages; without one, those about all clusters."""
    transaction.on_commit(partial(announcements.announce, cluster_pk, kind, **fields), robust=True)


def publish(node: Node, message: FromConsole) -> None:
    """Send one node a message, if it is connected."""
    transaction.on_commit(partial(fanout.publish_to_node, node.pk, node.cluster_id, message), robust=True)


def hand_out(cluster_pk: int) -> None:
    """Have connected nodes given the cluster's secrets that they lack."""
    transaction.on_commit(partial(fanout.publish_hand_out, cluster_pk), robust=True)


def settle(node: Node) -> None:
    """Have a connected node's session opened anew, because its standing changed."""
    transaction.on_commit(partial(fanout.settle_node, node.pk, node.cluster_id), robust=True)
