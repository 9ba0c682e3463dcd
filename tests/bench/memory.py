"""What a connected agent that has nothing to say costs the web process, and what an agent itself needs.

In each round the web process is new: its resident memory before any of the crowd is connected (after a few others
were, so that what is made once is there), and with so many connected and idle: they were sent all settings, report
nothing, and ping. `again` is after all were cut and came back. Shares of a processor are of some seconds of idling.
Reference: as many silent sockets of the same server without Django (`bare`), new in each round and measured in turns
with ours. `agent` is the agent's own side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.apart import allow_files
from tests.bench import agent
from tests.bench.console import CannotRun, Console
from tests.bench.figures import ratio, spread
from tests.bench.processes import memory, settle, shares
from tests.bench.reference import Bare
from tests.crowd import Crowd

AGENTS = 1000
ROUNDS = 5
IDLE_SECONDS = 5.0
WARM = 20
PATIENCE = 120.0

Figures = dict[str, float]


class Ours:
    """The console's web process, and agents of one cluster."""

    def __init__(self, console: Console, warm: Crowd, crowd: Crowd, agents: int) -> None:
        self.console = console
        self.warm = warm
        self.crowd = crowd
        self.cluster, token = console.make_cluster(agents + WARM)
        warm.ask("enrol", token=token, count=WARM)
        crowd.ask("enrol", token=token, count=agents)

    def measure(self, agents: int) -> Figures:
        """One round."""
        self.console.kill_web()
        self.console.await_ready()
        pid = self.console.pid("web")
        self._connect(self.warm, WARM)
        self.warm.ask("disconnect", forget=True)
        found = _compare(pid, agents, lambda: self._connect(self.crowd, agents))
        dropped = self.crowd.ask("drop")["at"]
        self._await(self.crowd, agents, since=dropped)
        settle(pid, PATIENCE)
        found["again"] = (memory(pid)["Rss"] - found["without"]) / agents
        self.crowd.ask("disconnect", forget=True)
        return found

    def _connect(self, crowd: Crowd, count: int) -> None:
        crowd.ask("connect")
        self._await(crowd, count)

    def _await(self, crowd: Crowd, count: int, since: float = 0.0) -> None:
        revision = self.console.revision(self.cluster)
        for what in ("connected", "acknowledged"):
            told = crowd.ask("await", what=what, revision=revision, since=since, seconds=PATIENCE)
            if told["ready"] != count:
                raise RuntimeError(f"only {told['ready']} of {count} are {what}")


def measure_bare(crowd: Crowd, agents: int) -> Figures:
    """One round of the reference."""
    with Bare() as bare:
        crowd.ask("listen", url=bare.url, count=WARM)
        crowd.ask("hush")
        found = _compare(bare.pid, agents, lambda: crowd.ask("listen", url=bare.url, count=agents))
        crowd.ask("hush")
    return found


def _compare(pid: int, agents: int, connect: Callable[[], object]) -> Figures:
    """A process without any, and with all of them."""
    settle(pid, PATIENCE)
    without, share_without = memory(pid)["Rss"], shares([pid], IDLE_SECONDS)[0]
    connect()
    settle(pid, PATIENCE)
    full = memory(pid)["Rss"]
    return {
        "without": without,
        "with": full,
        "each": (full - without) / agents,
        "share_without": share_without,
        "share_with": shares([pid], IDLE_SECONDS)[0],
    }


def _sum_up(rounds: Sequence[Figures]) -> dict[str, object]:
    columns = {name: [one[name] for one in rounds] for name in rounds[0]}
    units = {"each": "kib", "again": "kib", "without": "mib", "with": "mib"}
    return {name: spread(column, units.get(name, "share")) for name, column in columns.items()}


def bench(agents: int = AGENTS, rounds: int = ROUNDS) -> dict[str, object]:
    """The web process beside the bare one, and the agent's own figures where they can be had."""
    allow_files()
    ours, bare = [], []
    with (
        Console() as console,
        Crowd([console.url], seed="warm") as warm,
        Crowd([console.url], seed="idle") as crowd,
    ):
        web = Ours(console, warm, crowd, agents)
        for _ in range(rounds):
            ours.append(web.measure(agents))
            bare.append(measure_bare(crowd, agents))
    found, reference = _sum_up(ours), _sum_up(bare)
    return {
        "agents": agents,
        "rounds": rounds,
        "kib_an_agent": found["each"]["kib"],
        "web": found,
        "bare": reference,
        "ratio": ratio(found["each"], reference["each"]),
        **_measure_agent(),
    }


def _measure_agent() -> dict[str, object]:
    try:
        return agent.bench()
    except CannotRun as reason:
        return {"agent": {"skipped": str(reason)}}
