"""Create a cluster from a script; prints one JSON object, without id and secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from nodes.management.script import Script
from nodes.services import clusters
from nodes.services.refused import Refused


class Command(Script):
    """Thin: decode, one service, encode."""

    help = "Create a cluster, or import one by its id and a file that holds its secret."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take a name, and what an import needs."""
        parser.add_argument("name")
        parser.add_argument("--cluster-id", default="", help="id of an existing cluster, kept verbatim")
        parser.add_argument("--secret-file", type=Path, help="file with the secret of an existing cluster")

    def handle(self, *_: Any, **options: Any) -> None:
        """Create it."""
        try:
            secret = options["secret_file"].read_text().strip() if options["secret_file"] else ""
            cluster, warnings = clusters.create_cluster(
                None, name=options["name"], cluster_id=options["cluster_id"], secret=secret, now=timezone.now()
            )
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--secret-file: {error}") from None
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        for warning in warnings:
            self.stderr.write(warning)
        self.stdout.write(json.dumps({"uuid": str(cluster.uuid), "name": cluster.name}))
