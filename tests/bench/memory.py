"""What a connected agent that has nothing to say costs the web process, and what an agent itself needs.

Resident memory of the web process before any of the crowd is connected (after a few others were, so that what is made
once is there), and with so many connected and idle: they have their settings, report nothing, and ping. `again` is
after all were cut and came back, three times over. The share of a processor is over some seconds of idling.
"""

from __future__ import annotations

import importlib
import importlib.util
import time

from tests.apart import allow_files
from tests.bench.console import Console
from tests.bench.join import PATIENCE
from tests.crowd import Crowd

SIZES = (1000,)
IDLE_SECONDS = 20.0
RETURNS = 3
WARM = 20
QUIET_SHARE = 0.05
"""Of a processor: below that, a second is a quiet one."""


def _settle(console: Console) -> None:
    """Wait until the web process has nothing to do."""
    deadline = time.monotonic() + PATIENCE
    before = console.cpu("web")
    while time.monotonic() < deadline:
        time.sleep(1)
        now = console.cpu("web")
        if now - before < QUIET_SHARE * 2:
            return
        before = now
    raise TimeoutError("the web process does not come to rest")


def measure(console: Console, agents: int, idle_seconds: float, returns: int) -> dict[str, object]:
    """One size."""
    cluster, token = console.make_cluster(agents + WARM)
    with Crowd([console.url], seed=f"warm-{agents}") as warm:
        warm.ask("enrol", token=token, count=WARM)
        warm.ask("connect")
        warm.ask("await", what="connected", seconds=PATIENCE)
    with Crowd([console.url], seed=f"idle-{agents}") as crowd:
        crowd.ask("enrol", token=token, count=agents)
        _settle(console)
        empty = console.memory("web")
        share_empty = _share(console, idle_seconds)
        crowd.ask("connect")
        _require_all(console, crowd, cluster, agents)
        full = console.memory("web")
        share = _share(console, idle_seconds)
        for _ in range(returns):
            crowd.ask("drop")
            time.sleep(0.5)
            _require_all(console, crowd, cluster, agents)
        again = console.memory("web")
    return {
        "agents": agents,
        "web_mib_without": round(empty["rss"] / 1024, 1),
        "web_mib_with": round(full["rss"] / 1024, 1),
        "web_mib_again": round(again["rss"] / 1024, 1),
        "kib_an_agent": round((full["rss"] - empty["rss"]) / agents, 2),
        "kib_an_agent_pss": round((full["pss"] - empty["pss"]) / agents, 2),
        "kib_an_agent_again": round((again["rss"] - empty["rss"]) / agents, 2),
        "processor_without": share_empty,
        "processor_with": share,
    }


def _require_all(console: Console, crowd: Crowd, cluster, agents: int) -> None:
    for what in ("connected", "acknowledged"):
        told = crowd.ask("await", what=what, revision=console.revision(cluster), seconds=PATIENCE)
        if told["ready"] != agents:
            raise RuntimeError(f"only {told['ready']} of {agents} are {what}")
    _settle(console)


def _share(console: Console, seconds: float) -> float:
    """Of one processor, that the web process uses."""
    before, started = console.cpu("web"), time.monotonic()
    time.sleep(seconds)
    return round((console.cpu("web") - before) / (time.monotonic() - started), 4)


def bench(
    sizes: tuple[int, ...] = SIZES, idle_seconds: float = IDLE_SECONDS, returns: int = RETURNS
) -> dict[str, object]:
    """The web process at each size, and the agent's own figures where there are some."""
    allow_files()
    with Console() as console:
        found = [measure(console, agents, idle_seconds, returns) for agents in sizes]
    main, *more = found
    agent = {}
    if importlib.util.find_spec("tests.bench.agent") is not None:
        agent = importlib.import_module("tests.bench.agent").bench()
    return {**main, **({"sizes": found} if more else {}), **agent}
