"""What a machine that joins costs, alone, with a thousand others, and when all come back at once.

`one`: so many agents are connected, one more enrols: from its request to the last of them being recorded as having
applied it. Its parts are `request` (until the console takes it up), `commit` (until others can read the change), `task`
(until its frame passes through Redis), `frame` (until the last agent has it) and `acknowledgements` (until the last is
in a row); `reply`, when the machine itself knows, is beside them. What an agent needs to apply is not in it: these have
no data plane. All report at the normal pace. Reference: a request that is answered at once, and then the same frame to
as many sockets, each of which answers it.
`together`: so many enrol at once, each connects when it is enrolled; until all are recorded at the last revision.
`pushes` are frames that went to all meanwhile. Reference: as many send such a request at once, and connect.
`back`: the web process is killed outright; until all are recorded at the last revision again, and a change made
meanwhile with them. Agents wait as long as real ones do, so that is mostly their back-off. Reference: its server is
killed and started, and as many sockets come back with the same back-off.

The references are sockets of the same server without Django (`bare`). A round is all three, ours and the reference's in
turns, with a new cluster; the first three are of a thousand agents, `growth` has the other sizes. Times are seconds.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.apart import ApartError, allow_files
from tests.bench.console import Console
from tests.bench.figures import ratio, spread
from tests.bench.reference import Bare
from tests.bench.watching import Commits, Frames
from tests.crowd import Crowd

SIZES = (100, 300, 1000, 3000)
AGENTS = 1000
ROUNDS = 5
LARGE_ROUNDS = 1
"""Of more than a thousand: each takes minutes."""
ONES = 7
"""So many join alone at each size, or more."""
REST_SECONDS = 2.5
"""Until a push at rest is one at once again."""
PATIENCE = 600.0
"""Until so many that come at once must have settled: else there were too many for one web process."""

UNITS = {"pushes": "times", "bytes": "mib"}

Figures = Mapping[str, float]
Sides = tuple[list[Figures], list[Figures]]
"""Ours, and the reference's."""


class Round:
    """A crowd for one cluster, and as many sockets of the bare server."""

    def __init__(self, console: Console, crowd: Crowd, bare: Bare, cluster: Any, token: str, agents: int) -> None:
        self.console = console
        self.crowd = crowd
        self.bare = bare
        self.cluster = cluster
        self.token = token
        self.agents = agents
        self._frame = b""

    def join_together(self) -> Figures:
        """All enrol at once."""
        started, used = time.monotonic(), self.console.cpu("web")
        with Frames(self.cluster) as frames:
            told = self._ask("enrol", token=self.token, count=self.agents, at_once=self.agents, connect=True)
            if told["enrolled"] != self.agents:
                raise RuntimeError(f"only {told['enrolled']} of {self.agents} enrolled: {told['refused']}")
            at = self._settle()
        return {
            "seconds": at - started,
            "last_reply": told["last"] - started,
            "web_processor": self.console.cpu("web") - used,
            "pushes": len(frames),
        }

    def connect_together(self) -> Figures:
        """As many sockets, each after a request."""
        told = self._listen(self.agents)
        return {"seconds": told["last"] - told["first"]}

    def join_one(self) -> Figures:
        """One more."""
        time.sleep(REST_SECONDS)
        epoch, before = since = self.console.revision(self.cluster)
        revision = [epoch, before + 1]
        with Frames(self.cluster) as frames, Commits(self.cluster) as commits:
            told = self.crowd.ask("enrol", token=self.token, count=1, connect=True)
            self.agents += 1
            heard = self._await("revision", revision=revision)
            recorded = self.console.await_recorded(self.cluster, revision, self.agents, PATIENCE)
        self._frame = self.console.frame(self.cluster, since)
        steps = {
            "request": self.console.begun(self.cluster, revision),
            "commit": commits.at(before + 1),
            "task": frames.at(before + 1),
            "frame": heard["last"],
            "acknowledgements": recorded,
        }
        return {**_part(told["first"], steps), "reply": told["last"] - told["first"]}

    def tell_one(self) -> Figures:
        """One more socket, after a request, and the frame of the last change to all of them."""
        told = self._listen(1)
        sent = self.bare.post("/heard", self._frame)
        heard = self._await("heard", since=sent["started"])
        request, started = told["last"] - told["first"], sent["started"]
        # What asks the bare server to begin is not in it.
        return _part(started - request, {"request": started, "frame": heard["last"], "acknowledgements": sent["heard"]})

    def come_back(self) -> Figures:
        """The web process dies, and all come back."""
        before = self.crowd.ask("state")["counts"]["bytes_heard"]
        killed = self.console.kill_web()
        commit = self.console.commit(self.cluster)
        self.console.await_ready()
        ready = time.monotonic()
        told = self._await("acknowledged", revision=commit.revision)
        at = self._settle()
        return {
            "seconds": at - killed,
            "ready": ready - killed,
            "last_back": told["last"] - killed,
            "web_processor": self.console.cpu("web"),
            "bytes": self.crowd.ask("state")["counts"]["bytes_heard"] - before,
        }

    def reconnect(self) -> Figures:
        """The bare server dies, and all sockets come back."""
        killed = self.bare.restart()
        ready = time.monotonic()
        told = self._await("listening", since=killed)
        return {"seconds": told["last"] - killed, "ready": ready - killed}

    def _listen(self, count: int) -> dict:
        return self.crowd.ask("listen", url=self.bare.url, count=count, at_once=count, enrol=True, answer=True)

    def _await(self, what: str, **values: object) -> dict:
        told = self._ask("await", what=what, seconds=PATIENCE, count=self.agents, **values)
        if told["ready"] != self.agents:
            raise RuntimeError(f"{what}: {told['ready']} of {self.agents} within {PATIENCE:.0f} s")
        return told

    def _ask(self, verb: str, **values: object) -> dict:
        return self.crowd.finish(self.crowd.begin(verb, **values), PATIENCE + 60)

    def _settle(self) -> float:
        """Wait until all of the crowd are recorded at the last revision, and hold the same; when."""
        while True:
            revision = self.console.revision(self.cluster)
            at = self.console.await_recorded(self.cluster, revision, self.agents, PATIENCE)
            if self.console.revision(self.cluster) == revision:
                break
        state = self.crowd.ask("state")
        if len(state["memberships"]) != 1 or state["connected"] != self.agents:
            raise RuntimeError(f"not all hold the same: {state}")
        return at


def _part(start: float, steps: Mapping[str, float]) -> Figures:
    """What each step took, and all of them: each ends at its time, and the next begins."""
    ends = list(steps.values())
    return {
        "seconds": ends[-1] - start,
        **{name: end - begin for (name, end), begin in zip(steps.items(), [start, *ends], strict=False)},
    }


@contextlib.contextmanager
def _begin(console: Console, bare: Bare, agents: int, ones: int) -> Iterator[Round]:
    cluster, token = console.make_cluster(agents + ones)
    with Crowd([console.url], seed=f"crowd-{cluster.pk}") as crowd:
        crowd.ask("set", reports={"every": 30})
        yield Round(console, crowd, bare, cluster, token, agents)
        crowd.ask("disconnect")
    console.delete_cluster(cluster)


def measure(console: Console, agents: int, rounds: int) -> dict[str, Any]:
    """All three at one size."""
    ones = math.ceil(ONES / rounds)
    together: Sides = [], []
    one: Sides = [], []
    back: Sides = [], []
    with Bare() as bare:
        for number in range(rounds):
            print(f"join: {agents:,} agents, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            with _begin(console, bare, agents, ones) as turn:
                _take(together, turn.join_together(), turn.connect_together())
                for _ in range(ones):
                    _take(one, turn.join_one(), turn.tell_one())
                _take(back, turn.come_back(), turn.reconnect())
    return {"agents": agents, "one": _compare(one), "together": _compare(together), "back": _compare(back)}


def _take(sides: Sides, *figures: Figures) -> None:
    for side, one in zip(sides, figures, strict=True):
        side.append(one)


def _compare(sides: Sides) -> dict[str, object]:
    ours, bare = map(_sum_up, sides)
    return {"rounds": len(sides[0]), **ours, "bare": bare, "ratio": ratio(ours, bare)}


def _sum_up(side: Sequence[Figures]) -> dict[str, Any]:
    """The medians and the middle halves."""
    spreads = {name: spread([one[name] for one in side], UNITS.get(name, "seconds")) for name in side[0]}
    return {**spreads.pop("seconds"), **spreads}


def bench(sizes: Sequence[int] = SIZES, rounds: int = ROUNDS, database: str = "sqlite") -> dict[str, object]:
    """At each size, on a database of this kind."""
    allow_files()
    with Console(database) as console:
        found = [_measure_or_tell(console, agents, rounds if agents <= AGENTS else LARGE_ROUNDS) for agents in sizes]
    main = next((one for one in found if one["agents"] == AGENTS), found[0])
    return {"database": database, **main, "growth": list(map(_row, found))}


def _measure_or_tell(console: Console, agents: int, rounds: int) -> dict[str, Any]:
    """Of more than a thousand, what kept them from settling is a finding; of fewer, a fault."""
    try:
        return measure(console, agents, rounds)
    except (RuntimeError, TimeoutError, ApartError) as error:
        if agents <= AGENTS:
            raise
        return {"agents": agents, "unsettled": str(error)}


def _row(found: dict[str, Any]) -> dict[str, object]:
    """One size: the medians."""
    if "unsettled" in found:
        return found
    row = {"agents": found["agents"], "pushes": found["together"]["pushes"]["times"]}
    for name in ("one", "together", "back"):
        row[name] = {key: found[name][key] for key in ("rounds", "seconds", "from", "to")}
        row[name] |= {"bare": found[name]["bare"]["seconds"]}
    return row
