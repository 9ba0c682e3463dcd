"""A thousand machines are there within a second, until each of a thousand watchers has heard of all of them.

From the first update, so that one second is how long they take to come. The reference is sent as many messages as ours
made, with the same bytes in all, evenly within the same second: no calls of a thousand machines, only what goes out.
`messages_per_watcher` would be a thousand, were each machine told alone. Each round is of a cluster of its own.
"""

from __future__ import annotations

import time

from tests.bench.discovery import BARE, OURS, both
from tests.bench.figures import ratio, spread

MACHINES = 1000
WITHIN = 1.0
"""Seconds in which they come."""
ROUNDS = 5
PAUSE = 2.0
"""Seconds before each round, in which what was written is done with."""


def bench(machines: int = MACHINES, rounds: int = ROUNDS) -> dict[str, object]:
    """Both sides in turns."""
    ours, bare = [], []
    with both(machines) as sides:
        for _ in range(rounds + 1):
            sides.watch(OURS)
            time.sleep(PAUSE)
            ours.append(sides.publish(machines, WITHIN))
            sides.watch(BARE)
            time.sleep(PAUSE)
            bare.append(sides.broadcast(machines, WITHIN, ours[-1]["messages"]))
        database = sides.console.database
    del ours[0], bare[0]  # the first of each side finds nothing warm
    return {
        "machines": machines,
        "rounds": rounds,
        "database": database,
        "ours": (whole := spread([one["heard"] for one in ours])),
        "bare": (reference := spread([one["heard"] for one in bare])),
        "ratio": ratio(whole, reference),
        "messages_per_watcher": max(one["messages"] for one in ours),
        "bytes_per_watcher": ours[-1]["bytes"],
        "last_answer": spread([one["answered"] for one in ours]),
    }
