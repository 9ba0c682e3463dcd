"""Rotate a cluster's secret from a script; prints one JSON object that lists who is not ready, those away first."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from nodes.management.script import Script
from nodes.models import Cluster, Rotation
from nodes.services import rotation as services
from nodes.services.refused import Refused

ACTIONS = ("status", "start", "switch", "cancel")


class Command(Script):
    """Thin: decode, one service, encode. Each action may be repeated: what is so already is no error."""

    help = (
        "Rotate the secret of a cluster in two phases: start hands out a new one, switch lets everybody use it, cancel "
        "forgets it; status, the default, only tells. Give switch the generation that start printed, and repeating it "
        "never switches another one."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the cluster's name and what to do."""
        parser.add_argument("cluster", help="name of the cluster")
        parser.add_argument("action", nargs="?", choices=ACTIONS, default="status")
        parser.add_argument("--automatic", action="store_true", help="start: switch once that cuts nobody off")
        parser.add_argument("--generation", type=int, help="switch, cancel: of which rotation; else the one under way")

    def handle(self, *_: Any, **options: Any) -> None:
        """Do it, and tell."""
        cluster = Cluster.objects.filter(name=options["cluster"]).first()
        if cluster is None:
            raise CommandError(f"there is no cluster named {options['cluster']!r}")
        try:
            _act(cluster, options)
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        cluster.refresh_from_db()
        self.stdout.write(json.dumps(_describe(cluster, services.under_way(cluster))))


def _act(cluster: Cluster, options: dict[str, Any]) -> None:
    rotation, now = services.under_way(cluster), timezone.now()
    generation = options["generation"] or (rotation.generation if rotation else 0)
    match options["action"]:
        case "start" if rotation is None:
            services.start(None, cluster, automatic=options["automatic"], now=now)
        case "switch":
            services.switch(None, cluster, generation, now)
        case "cancel" if rotation is not None:
            services.cancel(None, cluster, generation, now)


def _describe(cluster: Cluster, rotation: Rotation | None) -> dict[str, Any]:
    told: dict[str, Any] = {"cluster": cluster.name, "secret_generation": cluster.secret_generation, "rotation": None}
    if rotation is None:
        _, late = services.not_following(cluster)
        return told | {"not_yet_switched": [node.name for node in late]}
    rows = services.standings(cluster, rotation)
    return told | {
        "rotation": {
            "generation": rotation.generation,
            "automatic": rotation.automatic,
            "started": rotation.started.isoformat(),
        },
        "nodes": [
            {
                "name": node.name,
                "standing": stand.value,
                "keeps": node.secret_kept == rotation.generation,
                "away_since": node.away_since.isoformat() if node.away_since else None,
            }
            for node, stand in rows
        ],
    }
