"""One update of one machine to a thousand that watch its cluster, beside a bare broadcast of the same message.

From the update being sent to the last watcher having it, on both sides. With ours, reading the request, the rows, Redis
and the numbering, and writing the message are in it. `answer` is until the machine has its own answer.
"""

from __future__ import annotations

import time

from tests.bench.discovery import both
from tests.bench.figures import ratio, spread

WATCHERS = 1000
ROUNDS = 15
PAUSE = 1.0
"""Seconds between two updates."""


def bench(watchers: int = WATCHERS, rounds: int = ROUNDS) -> dict[str, object]:
    """Both sides in turns."""
    ours, bare = [], []
    with both(watchers) as sides:
        for _ in range(rounds + 1):
            time.sleep(PAUSE)
            ours.append(sides.publish(1))
            time.sleep(PAUSE)
            bare.append(sides.broadcast(1))
        database = sides.console.database
    del ours[0], bare[0]  # the first of each side finds nothing warm
    return {
        "watchers": watchers,
        "rounds": rounds,
        "database": database,
        "frame_bytes": ours[-1]["bytes"],
        "ours": (whole := spread([one["heard"] for one in ours])),
        "bare": (reference := spread([one["heard"] for one in bare])),
        "ratio": ratio(whole, reference),
        "answer": spread([one["answered"] for one in ours]),
    }
