"""What a cluster at rest costs: a thousand machines that watch it, and each renews its words every 15 min.

Time is compressed for the renewals alone. For as long as `window`, machines renew one after another at `speed` times
the real pace, and then for as long nothing is said; the difference is divided by the number of renewals:
`ms_per_refresh`, of the discovery process (SQLite is in it) and of all of PostgreSQL's. `idle` is the share of one
processor meanwhile, unscaled. `share` is what both make at the real pace: idle + ms_per_refresh × 1,000 / 15 min. At
the real pace no two renewals are one transaction; at this one few are, which `refreshes_a_second` lets one judge. The
reference answers as many calls in the windows in which ours is at rest, and keeps nothing.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable

from kubespan.discovery.limits import TTL_SECONDS
from tests.bench.console import CannotRun
from tests.bench.discovery import BARE, OURS, Sides, both
from tests.bench.figures import ratio, spread
from tests.bench.processes import used

MACHINES = 1000
EVERY = TTL_SECONDS / 2
SPEED = 20.0
ROUNDS = 5
WINDOW = 10.0
"""Seconds, in which the service looks after itself once (nodes.discovery.registry.BEAT_SECONDS)."""


def _meters(sides: Sides) -> dict[str, Callable[[], float]]:
    """Seconds of processor so far, by whose they are."""
    console = sides.console
    discovery = console.pid("discovery")
    found = {OURS: lambda: used(discovery), BARE: lambda: used(sides.bare_pid)}
    return found | ({"database": console.database_cpu} if console.database == "postgresql" else {})


def _window(meters: dict[str, Callable[[], float]], work: Callable[[], object]) -> dict[str, float]:
    """What each used in a window that begins with some work."""
    started, before = time.monotonic(), {name: meter() for name, meter in meters.items()}
    work()
    time.sleep(max(0.0, started + WINDOW - time.monotonic()))
    return {name: meter() - before[name] for name, meter in meters.items()}


def measure(database: str, machines: int, rounds: int, speed: float) -> dict[str, object]:
    """Both kinds of window in turns, on one kind of database."""
    pace = machines / EVERY
    idle: dict[str, list[float]] = {}
    each: dict[str, list[float]] = {}
    with both(machines, database) as sides:
        sides.publish(machines, 1.0)
        sides.broadcast(machines, 1.0)
        meters = _meters(sides)
        time.sleep(WINDOW)
        for number in range(rounds + 1):
            used, calls = {}, {}
            for side in (OURS, BARE):
                told: list[dict] = []
                used[side] = _window(meters, lambda side=side, told=told: told.append(
                    sides.refresh(side, speed * pace, 0.9 * WINDOW)))  # fmt: skip
                calls[side] = told[0]["count"]
                if side == OURS and told[0]["woken"]:
                    raise RuntimeError(f"renewals woke {told[0]['woken']} watchers")
            if not number:
                continue  # finds nothing warm
            for name in meters:
                busy, rest = (BARE, OURS) if name == BARE else (OURS, BARE)
                idle.setdefault(name, []).append(used[rest][name] / WINDOW)
                each.setdefault(name, []).append((used[busy][name] - used[rest][name]) / calls[busy])
    refresh = {name: spread(column) for name, column in each.items()}
    share = {name: statistics.median(idle[name]) + pace * refresh[name]["ms"] / 1000 for name in meters}
    return {
        "ms_per_refresh": refresh,
        "idle": {name: round(statistics.median(column), 5) for name, column in idle.items()},
        "share": {name: round(value, 5) for name, value in share.items()},
        "ratio": ratio(refresh[OURS], refresh[BARE]),
    }


def _measure_apart(*arguments: object) -> dict[str, object]:
    """In a process of its own: settings are read once."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            return pool.apply(measure, arguments)
        except CannotRun as reason:
            return {"skipped": str(reason)}


def bench(machines: int = MACHINES, rounds: int = ROUNDS, speed: float = SPEED) -> dict[str, object]:
    """On both kinds of database."""
    return {
        "machines": machines,
        "rounds": rounds,
        "every_seconds": EVERY,
        "refreshes_a_second": round(speed * machines / EVERY, 1),
        **{database: _measure_apart(database, machines, rounds, speed) for database in ("sqlite", "postgresql")},
    }
