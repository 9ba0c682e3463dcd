"""What a machine that joins costs, alone, with a thousand others, and when all come back at once.

`one`: so many agents are connected, one more enrols: from its request to the last of them being recorded as having
applied it. Its parts are `request` (until the reply, which is sent when the change is committed), `task` (from there
until the frame passes through Redis), `frame` (until the last agent has it) and `acknowledgements` (until the last is
in a row). What an agent needs to apply is not in it: these have no data plane. All report at the normal pace.
`together`: so many enrol at once, each connects when it is enrolled; until all are recorded at the last revision.
`back`: the web process is killed outright; until all are recorded at the last revision again, and a change made
meanwhile with them. Agents wait as long as real ones do, so that is mostly their back-off.
`pushes` are frames that went to all meanwhile.
"""

from __future__ import annotations

import contextlib
import time

from tests.apart import allow_files
from tests.bench.console import Console
from tests.bench.fanout import Tap
from tests.bench.figures import spread
from tests.crowd import Crowd

SIZES = (100, 300, 1000, 3000)
AGENTS = 1000
ROUNDS = 7
PATIENCE = 300.0


def _require(told: dict, count: int, what: str) -> dict:
    if told["ready"] != count:
        raise RuntimeError(f"{told['ready']} of {count} {what} within {PATIENCE:.0f} s")
    return told


def _settle(console: Console, crowd: Crowd, cluster, agents: int) -> float:
    """Wait until all of the crowd are recorded at the last revision, and hold the same; when."""
    while True:
        revision = console.revision(cluster)
        at = console.await_recorded(cluster, revision, agents, PATIENCE)
        if console.revision(cluster) == revision:
            break
    state = crowd.ask("state")
    if len(state["memberships"]) != 1 or state["connected"] != agents:
        raise RuntimeError(f"not all hold the same: {state}")
    return at


def measure_together(console: Console, crowd: Crowd, cluster, token: str, agents: int) -> dict[str, object]:
    """All enrol at once."""
    started = time.monotonic()
    told = crowd.ask("enrol", token=token, count=agents, at_once=agents, connect=True)
    if told["enrolled"] != agents:
        raise RuntimeError(f"only {told['enrolled']} of {agents} enrolled: {told['refused']}")
    at = _settle(console, crowd, cluster, agents)
    return {"seconds": round(at - started, 3), "last_reply": round(told["last"] - started, 3)}


def measure_one(console: Console, crowd: Crowd, tap: Tap, cluster, token: str, agents: int) -> dict[str, float]:
    """One more; `agents` counts it."""
    started = time.monotonic()
    told = crowd.ask("enrol", token=token, count=1, connect=True)
    revision = console.revision(cluster)
    heard = _require(crowd.ask("await", what="revision", revision=revision, seconds=PATIENCE), agents, "got the frame")
    recorded = console.await_recorded(cluster, revision, agents, PATIENCE)
    through = tap.at[revision[1]]
    return {
        "seconds": recorded - started,
        "request": told["last"] - told["first"],
        "task": through - told["last"],
        "frame": heard["last"] - through,
        "acknowledgements": recorded - heard["last"],
    }


def measure_back(console: Console, crowd: Crowd, cluster, agents: int) -> dict[str, object]:
    """The web process dies, and all come back."""
    killed = console.restart_web()
    commit = console.commit(cluster)
    console.await_ready()
    ready = time.monotonic()
    told = _require(crowd.ask("await", what="acknowledged", revision=commit.revision, seconds=PATIENCE), agents, "came")
    at = _settle(console, crowd, cluster, agents)
    return {
        "seconds": round(at - killed, 3),
        "ready_after": round(ready - killed, 3),
        "last_back": round(told["last"] - killed, 3),
    }


def measure(console: Console, agents: int, rounds: int) -> dict[str, object]:
    """All three at one size."""
    from django.conf import settings  # noqa: PLC0415

    from nodes import fanout  # noqa: PLC0415

    cluster, token = console.make_cluster(agents + rounds + 1)
    with (
        Crowd([console.url], seed=f"crowd-{agents}") as crowd,
        contextlib.closing(Tap(settings.REDIS_URL, fanout.channel_name(cluster.pk))) as tap,
    ):
        crowd.ask("set", reports={"every": 30})
        cpu = console.cpu("web")
        together = measure_together(console, crowd, cluster, token, agents)
        together |= {"pushes": len(tap.at), "web_cpu_seconds": round(console.cpu("web") - cpu, 2)}
        parts = []
        for number in range(rounds + 1):
            time.sleep(2.5)  # until a push at rest is one at once again
            parts.append(measure_one(console, crowd, tap, cluster, token, agents + number + 1))
        one = {name: spread([part[name] for part in parts[1:]]) for name in parts[0]}
        cpu, pid = console.cpu("web"), console.pid("web")
        heard = crowd.ask("state")["counts"]["bytes_heard"]
        back = measure_back(console, crowd, cluster, agents + rounds + 1)
        if console.pid("web") == pid:
            raise RuntimeError("the web process was not started again")
        back["web_cpu_seconds"] = round(console.cpu("web"), 2)
        back["megabytes_heard"] = round((crowd.ask("state")["counts"]["bytes_heard"] - heard) / 1e6, 1)
    return {"one": one, "together": together, "back": back}


def bench(sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS, database: str = "sqlite") -> dict[str, object]:
    """At each size, on a database of its own kind; `growth` has the medians side by side."""
    allow_files()
    found: dict[str, object] = {}
    with Console(database) as console:
        for agents in sizes:
            found[str(agents)] = measure(console, agents, rounds)
    main = found.get(str(AGENTS)) or next(iter(found.values()))
    growth = [
        {
            "agents": int(agents),
            "one_ms": one["one"]["seconds"]["ms"],
            "together_seconds": one["together"]["seconds"],
            "pushes": one["together"]["pushes"],
            "back_seconds": one["back"]["seconds"],
        }
        for agents, one in found.items()
    ]
    return {"database": database, "agents": AGENTS if str(AGENTS) in found else sizes[0], **main, "growth": growth}
