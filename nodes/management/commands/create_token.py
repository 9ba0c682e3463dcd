"""Create an enrolment token from a script; prints one JSON object, the only time that the token is shown."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from nodes import delivery
from nodes.management.script import Script
from nodes.models import Cluster
from nodes.services import tokens
from nodes.services.refused import Refused


class Command(Script):
    """Thin: decode, one service, encode."""

    help = "Create an enrolment token for a cluster."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the cluster's name and the token's bounds."""
        parser.add_argument("cluster", help="name of the cluster")
        parser.add_argument("--name", default="script", help="what the token is for")
        parser.add_argument("--uses", type=int, default=1, help="how many machines it may enrol")
        parser.add_argument("--hours", type=float, default=1.0, help="how long it is good for")
        parser.add_argument("--approval-required", action="store_true", help="machines wait for an operator's yes")

    def handle(self, *_: Any, **options: Any) -> None:
        """Create it."""
        try:
            cluster = Cluster.objects.get(name=options["cluster"])
            token, plain = tokens.create_token(
                None,
                cluster,
                name=options["name"],
                uses=options["uses"],
                lifetime=timedelta(hours=options["hours"]),
                approval_required=options["approval_required"],
                now=timezone.now(),
            )
        except Cluster.DoesNotExist:
            raise CommandError(f"there is no cluster named {options['cluster']!r}") from None
        except Refused as refusal:
            raise CommandError(refusal.reason) from None
        line = delivery.write_line(plain, delivery.read_release())
        told = {"token": plain, "uuid": str(token.uuid), "expires": token.expires.isoformat(), "line": line}
        self.stdout.write(json.dumps(told))
