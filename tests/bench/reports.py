"""A thousand nodes that report a thousand links each at the normal pace: what web process and Redis have to do.

`normal`: every link has moved bytes since the last report, as it does where keepalives go; `quiet`: one in ten has.
Reports come every 30 s from each, at times of their own. Windows of ten seconds, of either load in turns, fall on
another third of them each time, so six see every node's report twice. Shares are of one processor, over a window;
`bytes` are a second, and `to_redis` what Redis is sent. `connect` is what the first complete reports of all cost.
Reference: each frame is sent once more, at the same moment, to the same server without Django (`bare`), which receives
it and no more. `ratio` is of the normal load's web processor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import redis

from tests.apart import allow_files
from tests.bench.console import Console
from tests.bench.figures import ratio, spread
from tests.bench.processes import memory, settle, used
from tests.bench.reference import Bare
from tests.crowd import Crowd

AGENTS = 1000
WINDOWS = 6
SECONDS = 10.0
EVERY = 30.0
SHARES = {"normal": 1.0, "quiet": 0.1}
PATIENCE = 300.0

UNITS = {"reports": "a_second", "copies": "a_second", "bytes": "a_second", "to_redis": "a_second"}

Figures = Mapping[str, float]


class Load:
    """A crowd that reports, and what it costs whom."""

    def __init__(self, console: Console, crowd: Crowd, bare: Bare) -> None:
        from nodes.connections import sync_redis  # noqa: PLC0415 - the settings could not be read before

        self.console = console
        self.crowd = crowd
        self.redis: redis.Redis = sync_redis()
        self.pids = {"web": console.pid("web"), "redis": console.pid("valkey"), "bare": bare.pid}

    def connect(self, agents: int, every: float) -> dict[str, float]:
        """All connect, and report for the first time."""
        cluster, token = self.console.make_cluster(agents)
        self.crowd.ask("enrol", token=token, count=agents)
        settle(self.pids["web"], PATIENCE)
        before = self.read()
        self.crowd.ask("set", reports={"every": every, "share": SHARES["normal"]}, mirror=True)
        self.crowd.ask("connect")
        told = self.crowd.ask("await", what="acknowledged", revision=self.console.revision(cluster), seconds=PATIENCE)
        if told["ready"] != agents:
            raise RuntimeError(f"only {told['ready']} of {agents} are connected")
        time.sleep(3)
        after = self.read()
        return {
            "seconds": round(told["last"] - before["at"], 2),
            **{name: round(after[name] - before[name], 2) for name in self.pids},
            "bytes": after["bytes"] - before["bytes"],
        }

    def read(self) -> Figures:
        """All that is counted, so far."""
        counts = self.crowd.ask("state")["counts"]
        return {
            "at": time.monotonic(),
            **{name: used(pid) for name, pid in self.pids.items()},
            "reports": counts.get("reports", 0),
            "copies": counts.get("mirrored", 0),
            "bytes": counts.get("report_bytes", 0),
            "to_redis": self.redis.info("stats")["total_net_input_bytes"],
        }

    def watch(self, seconds: float) -> Figures:
        """One window: each a second."""
        before = self.read()
        time.sleep(seconds)
        after = self.read()
        return {name: (after[name] - before[name]) / (after["at"] - before["at"]) for name in before if name != "at"}


def measure(load: Load, agents: int, windows: int, seconds: float, every: float) -> dict[str, object]:
    """Connect them all, and look at each kind of load in turns."""
    found: dict[str, object] = {"connect": load.connect(agents, every)}
    columns: dict[str, list[Figures]] = {name: [] for name in SHARES}
    for _ in range(windows):
        for name, share in SHARES.items():
            load.crowd.ask("set", reports={"every": every, "share": share})
            columns[name].append(load.watch(seconds))
    state = load.crowd.ask("state")
    if state["connected"] != agents:
        raise RuntimeError(f"some were cut: {state['counts']}")
    found |= {name: _sum_up(column) for name, column in columns.items()}
    found["ratio"] = ratio(found["normal"]["web"], found["normal"]["bare"])
    found["web_mib"] = round(memory(load.pids["web"])["Rss"] / 1024**2, 1)
    found["redis_mib"] = round(load.redis.info("memory")["used_memory"] / 1024**2, 1)
    return found


def _sum_up(windows: Sequence[Figures]) -> dict[str, dict[str, float]]:
    return {name: spread([one[name] for one in windows], UNITS.get(name, "share")) for name in windows[0]}


def bench(
    agents: int = AGENTS, windows: int = WINDOWS, seconds: float = SECONDS, every: float = EVERY
) -> dict[str, object]:
    """So many nodes, each with links to all others."""
    allow_files()
    with Console() as console, Crowd([console.url]) as crowd, Bare() as bare:
        crowd.ask("listen", url=bare.url, count=agents)
        found = measure(Load(console, crowd, bare), agents, windows, seconds, every)
    return {"agents": agents, "links": agents - 1, "windows": windows, "window_seconds": seconds, **found}
