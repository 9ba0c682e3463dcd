"""What each page costs the server: time, and queries, in a console with 10 nodes and in one with 1,000.

Every URL pattern that an administrator is given HTML at is a page (tests/pages.py), so none is forgotten. Rows are in
the console's database, live state is in its Redis. A page is asked for in this process, of the very application that
uvicorn serves: with its threads, and a connection to the database that each request opens and closes, from the request
to the last byte of the answer, without the network. Templates are those of a web process, and nothing looks on but what
counts queries. Each is asked for twice before it is measured, because a web process is not new either. `slowest_ms` is
the highest median at the larger number, and `queries_constant` whether every page asks the database as often at both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests import pages
from tests.bench.console import Console
from tests.bench.figures import spread

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


class Browser:
    """A context manager: asks the web process' application, as uvicorn would, for pages of who is signed in.

    Importing the application makes this process like a web process, which closes connections after each request.
    """

    def __init__(self, session: str) -> None:
        from django.db.backends.signals import connection_created  # noqa: PLC0415 - settings were not ready before

        from kubespan_web.asgi import application  # noqa: PLC0415

        self.queries = 0
        """How many were asked so far."""
        self._application = application
        self._headers = [(b"host", b"127.0.0.1"), (b"cookie", f"sessionid={session}".encode())]
        self._runner = asyncio.Runner()
        connection_created.connect(self._watch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    def get(self, address: str) -> None:
        """Ask for a page; raises RuntimeError unless it is given."""
        if (status := self._runner.run(self._ask(address))) != 200:
            raise RuntimeError(f"{address} answers {status}")

    async def _ask(self, address: str) -> int:
        path, _, query = address.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": self._headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        asked = [{"type": "http.request", "body": b"", "more_body": False}]
        answered: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return asked.pop() if asked else await asyncio.Future()  # it stays until it has the answer

        async def send(message: dict[str, Any]) -> None:
            answered.append(message)

        await self._application(scope, receive, send)
        return answered[0]["status"]

    def _watch(self, connection: Any, **_: object) -> None:
        if self._count not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._count)

    def _count(self, execute: Callable[..., Any], *args: object) -> Any:
        self.queries += 1
        return execute(*args)


def measure(browser: Browser, address: str, rounds: int) -> Measured:
    """Ask for a page again and again."""
    for _ in range(WARM):
        browser.get(address)
    asked = browser.queries
    took, used = [], []
    for _ in range(rounds):
        started, busy = time.perf_counter(), time.process_time()
        browser.get(address)
        took.append(time.perf_counter() - started)
        used.append(time.process_time() - busy)
    return Measured(took, used, (browser.queries - asked) // rounds)


def bench(nodes: tuple[int, int] = NODES, rounds: int = ROUNDS) -> dict[str, object]:
    """All pages, in a console of few nodes and then with a cluster of many beside."""
    with Console() as console:
        console.make_cluster(1)  # a form asks for the cluster only where there are several
        client = pages.sign_in()
        found: list[Mapping[str, Measured]] = []
        with Browser(client.cookies["sessionid"].value) as browser:
            for count in nodes:
                furnished = pages.furnish(count, name=f"{count} nodes")
                addresses = pages.find(client, furnished)
                furnished.live.write()  # anew: it lives for little longer than a minute
                found.append({name: measure(browser, address, rounds) for name, address in addresses.items()})
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
