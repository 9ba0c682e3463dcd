"""What each page costs the server: time, and queries, in a console with 10 nodes and in one with 1,000.

Every URL pattern that an administrator is given HTML at is a page (tests/pages.py), so none is forgotten. Rows are in
the console's database, live state is in its Redis. A page is asked for in this process, from the request to the last
byte of the answer, without the network; each twice before it is measured, because a web process is not new either.
`slowest_ms` is the highest median at the larger number, and `queries_constant` whether every page asks the database as
often at both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests import pages
from tests.bench.console import Console
from tests.bench.figures import spread

if TYPE_CHECKING:
    from django.test import Client

NODES = (10, 1000)
ROUNDS = 9
WARM = 2


@dataclass(frozen=True)
class Measured:
    """One page: seconds of each round, by the clock and of the processor, and how many queries a round is."""

    took: list[float]
    used: list[float]
    queries: int

    @property
    def median(self) -> float:
        """In milliseconds."""
        return spread(self.took)["ms"]

    def say(self, few: Measured) -> dict[str, object]:
        """What is told of it, beside the same page in the small console."""
        return {
            "ms": self.median,
            "worst_ms": round(1000 * max(self.took), 1),
            "processor_ms": spread(self.used)["ms"],
            "few_ms": few.median,
            "queries": [few.queries, self.queries],
        }


def measure(client: Client, address: str, rounds: int) -> Measured:
    """Ask for a page again and again."""
    from django.db import connection  # noqa: PLC0415 - the settings were not ready before
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    for _ in range(WARM):
        client.get(address)
    with CaptureQueriesContext(connection) as asked:
        client.get(address)
    queries = len(asked)  # the next request forgets them
    took, used = [], []
    for _ in range(rounds):
        started, busy = time.perf_counter(), time.process_time()
        client.get(address)
        took.append(time.perf_counter() - started)
        used.append(time.process_time() - busy)
    return Measured(took, used, queries)


def bench(nodes: tuple[int, int] = NODES, rounds: int = ROUNDS) -> dict[str, object]:
    """All pages, in a console of few nodes and then with a cluster of many beside."""
    with Console() as console:
        console.make_cluster(1)  # a form asks for the cluster only where there are several
        client = pages.sign_in()
        found: list[Mapping[str, Measured]] = []
        for count in nodes:
            furnished = pages.furnish(count, name=f"{count} nodes")
            addresses = pages.find(client, furnished)
            furnished.live.write()  # anew: it lives for little longer than a minute
            found.append({name: measure(client, address, rounds) for name, address in addresses.items()})
    few, many = found
    slowest = max(many, key=lambda name: many[name].median)
    uneven = sorted(name for name in many if many[name].queries != few[name].queries)
    return {
        "nodes": list(nodes),
        "slowest_ms": many[slowest].median,
        "slowest": slowest,
        "queries_constant": not uneven,
        "uneven": uneven,
        "pages": {name: measured.say(few[name]) for name, measured in sorted(many.items())},
    }
