"""Remove a node from a script; prints one JSON object that lists who has not cut it off yet."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from nodes.management.script import Script
from nodes.models import Node
from nodes.services import nodes
from nodes.services.refused import Refused


class Command(Script):
    """Thin: decode, one service, encode."""

    help = "Remove a node: every connected machine drops it within seconds, and it may not come back by itself."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the cluster's and the node's name."""
        parser.add_argument("cluster", help="name of the cluster")
        parser.add_argument("node", help="name of the node")

    def handle(self, *_: Any, **options: Any) -> None:
        """Remove it."""
        try:
            node = Node.objects.present().get(cluster__name=options["cluster"], name=options["node"])
            tombstone = nodes.remove_node(None, node, options["node"], timezone.now())
        except Node.DoesNotExist:
            raise CommandError(f"there is no node {options['node']!r} in a cluster {options['cluster']!r}") from None
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        waiting = Node.objects.not_cut_off(tombstone).values_list("name", flat=True)
        self.stdout.write(json.dumps({"node": node.name, "not_yet_cut_off": list(waiting)}))
