"""Upgrade a cluster's agents from a script; prints one JSON object with how it stands."""

from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from nodes.management.script import Script
from nodes.models import Cluster, Rollout
from nodes.services import rollouts
from nodes.services.refused import Refused

LOOK_SECONDS = 1.0


class Command(Script):
    """Thin: decode, one service, encode."""

    help = "Upgrade the agents of a cluster to what this console hands out: one node first, then the others."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the cluster's name, and what to do."""
        parser.add_argument("cluster", help="name of the cluster")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--wait", action="store_true", help="until it has ended; exit status 1 unless it is done")
        what.add_argument("--show", action="store_true", help="only say how the last one stands")
        what.add_argument("--cancel", action="store_true", help="upgrade nobody else")

    def handle(self, *_: Any, **options: Any) -> None:
        """Begin, cancel, or look."""
        try:
            cluster = Cluster.objects.get(name=options["cluster"])
            rollout = self.find(cluster) if options["show"] or options["cancel"] else None
            if rollout is None:
                rollout = rollouts.start_rollout(None, cluster, timezone.now())
            elif options["cancel"]:
                rollout = rollouts.cancel_rollout(None, rollout, timezone.now())
        except Cluster.DoesNotExist:
            raise CommandError(f"there is no cluster named {options['cluster']!r}") from None
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        while options["wait"] and rollout.state == Rollout.State.RUNNING:
            time.sleep(LOOK_SECONDS)
            rollout.refresh_from_db()
        self.stdout.write(json.dumps(describe(rollout)))
        if options["wait"] and rollout.state != Rollout.State.DONE:
            raise CommandError(f"{rollout.state}: {rollout.reason}" if rollout.reason else rollout.state)

    def find(self, cluster: Cluster) -> Rollout:
        """The last one of a cluster."""
        rollout = cluster.rollouts.first()
        if rollout is None:
            raise CommandError(f"the agents of {cluster} were never upgraded from here")
        return rollout


def describe(rollout: Rollout) -> dict[str, object]:
    """How it stands."""
    steps = {
        step.node.name: f"{step.state}: {step.reason}" if step.reason else step.state
        for step in rollout.steps.select_related("node")
    }
    return {"version": rollout.version, "state": rollout.state, "reason": rollout.reason, "nodes": steps}
