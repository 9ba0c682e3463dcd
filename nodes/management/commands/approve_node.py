"""Approve a node from a script; prints one JSON object that lists which of its claims are not believed."""

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

    help = "Approve a node that waits for it: an agent with a token that asks for that, or a Talos machine."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the cluster's and the node's name."""
        parser.add_argument("cluster", help="name of the cluster")
        parser.add_argument("node", help="name of the node")

    def handle(self, *_: Any, **options: Any) -> None:
        """Approve it."""
        try:
            node = Node.objects.present().get(cluster__name=options["cluster"], name=options["node"])
            node = nodes.approve_node(None, node, timezone.now())
        except Node.DoesNotExist:
            raise CommandError(f"there is no node {options['node']!r} in a cluster {options['cluster']!r}") from None
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        self.stdout.write(json.dumps({"node": node.name, "kind": node.kind, "refused_claims": node.refused_claims}))
