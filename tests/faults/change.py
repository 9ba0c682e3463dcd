"""Makes changes by the services, from a process of its own: a line in asks for one, a line out says how it ended.

Started as `python -m tests.faults.change`, with the console's environment.
"""

from __future__ import annotations

import json
import os
import sys

import django
import msgspec

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kubespan_web.settings")
django.setup()

from django.db import close_old_connections, transaction
from django.utils import timezone

from kubespan.core.messages import Revision
from nodes.models import Node
from nodes.services import nodes, revisions


def give_endpoint(node_pk: int, endpoint: str) -> Revision:
    """Give a node an endpoint besides its own; gives the revision that this became."""
    with transaction.atomic():
        node = nodes.set_node_options(
            None,
            Node.objects.get(pk=node_pk),
            extra_endpoints=[endpoint],
            advertised_networks=[],
            excluded_networks=[],
            now=timezone.now(),
        )
        # The cluster's lock is held until the end of this block: nobody else's revision comes in between.
        return revisions.current(node.cluster_id)


def main() -> None:
    """Do what is asked for until there is no more."""
    for line in sys.stdin:
        node_pk, endpoint = json.loads(line)
        close_old_connections()
        try:
            answer = {"revision": msgspec.to_builtins(give_endpoint(node_pk, endpoint))}
        except Exception as error:  # noqa: BLE001 - whatever it was, it was not acknowledged
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
