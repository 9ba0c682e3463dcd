"""List a cluster's nodes for a script; prints one JSON object."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from nodes import live
from nodes.management.script import Script
from nodes.models import Cluster, Node


class Command(Script):
    """Thin: decode, read, encode."""

    help = "List the nodes of a cluster: who is connected, which agent it runs, what it applied, how many links are up."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the cluster's name."""
        parser.add_argument("cluster", help="name of the cluster")

    def handle(self, *_: Any, **options: Any) -> None:
        """List them."""
        cluster = Cluster.objects.filter(name=options["cluster"]).first()
        if cluster is None:
            raise CommandError(f"there is no cluster named {options['cluster']!r}")
        summaries = live.read_summaries(cluster)
        nodes = [_describe(node, cluster, summaries.get(node.pk)) for node in cluster.nodes.present()]
        self.stdout.write(json.dumps({"cluster": cluster.name, "revision": str(cluster.current), "nodes": nodes}))


def _describe(node: Node, cluster: Cluster, summary: live.Summary | None) -> dict[str, Any]:
    return {
        "name": node.name,
        "status": node.status,
        "address": node.address,
        "agent": node.agent_version,
        "reporting": summary is not None,
        "behind": node.behind(cluster),
        "links": {"up": summary.up, "unknown": summary.unknown, "down": summary.down} if summary else None,
    }
