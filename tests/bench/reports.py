"""A thousand nodes that report a thousand links each at the normal pace: what web process and Redis have to do.

`normal`: every link has moved bytes since the last report, as it does where keepalives go; `quiet`: one in ten has.
Reports come every 30 s from each, at times of their own. Shares are of one processor; bytes are a second.
`connect` is what the first complete reports of all cost.
"""

from __future__ import annotations

import time

import redis

from tests.apart import allow_files
from tests.bench.console import Console
from tests.bench.join import PATIENCE
from tests.crowd import Crowd

AGENTS = 1000
SECONDS = 30.0
EVERY = 30.0
SHARES = {"normal": 1.0, "quiet": 0.1}


def _read(console: Console, crowd: Crowd, client: redis.Redis) -> dict[str, float]:
    counts = crowd.ask("state")["counts"]
    return {
        "at": time.monotonic(),
        "web": console.cpu("web"),
        "redis": console.cpu("valkey"),
        "reports": counts.get("reports", 0),
        "agents_bytes": counts.get("report_bytes", 0),
        "redis_bytes": client.info("stats")["total_net_input_bytes"],
    }


def _rates(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    seconds = after["at"] - before["at"]
    rates = {name: (after[name] - before[name]) / seconds for name in before if name != "at"}
    return {
        "reports_a_second": round(rates["reports"], 1),
        "bytes_a_second_from_agents": round(rates["agents_bytes"]),
        "bytes_a_second_into_redis": round(rates["redis_bytes"]),
        "processor_web": round(rates["web"], 3),
        "processor_redis": round(rates["redis"], 4),
    }


def measure(console: Console, crowd: Crowd, agents: int, seconds: float, every: float) -> dict[str, object]:
    """Connect them all, and look at each kind of load for a while."""
    from nodes.connections import sync_redis  # noqa: PLC0415

    client = sync_redis()
    cluster, token = console.make_cluster(agents)
    crowd.ask("enrol", token=token, count=agents)
    idle = _read(console, crowd, client)
    crowd.ask("set", reports={"every": every, "share": 1.0})
    crowd.ask("connect")
    told = crowd.ask("await", what="acknowledged", revision=console.revision(cluster), seconds=PATIENCE)
    if told["ready"] != agents:
        raise RuntimeError(f"only {told['ready']} of {agents} are connected")
    time.sleep(3)
    after = _read(console, crowd, client)
    connect = {
        "seconds": round(told["last"] - idle["at"], 2),
        "web_cpu_seconds": round(after["web"] - idle["web"], 2),
        "redis_cpu_seconds": round(after["redis"] - idle["redis"], 2),
        "megabytes_from_agents": round((after["agents_bytes"] - idle["agents_bytes"]) / 1e6, 1),
    }
    found: dict[str, object] = {"connect": connect}
    for name, share in SHARES.items():
        crowd.ask("set", reports={"every": every, "share": share})
        before = _read(console, crowd, client)
        time.sleep(seconds)
        found[name] = _rates(before, _read(console, crowd, client))
    state = crowd.ask("state")
    if state["connected"] != agents:
        raise RuntimeError(f"some were cut: {state['counts']}")
    found["web_mib"] = round(console.memory("web")["rss"] / 1024, 1)
    found["redis_mib"] = round(client.info("memory")["used_memory"] / 1024**2, 1)
    return found


def bench(agents: int = AGENTS, seconds: float = SECONDS, every: float = EVERY) -> dict[str, object]:
    """So many nodes, each with links to all others."""
    allow_files()
    with Console() as console, Crowd([console.url]) as crowd:
        return {"agents": agents, "links": agents - 1, **measure(console, crowd, agents, seconds, every)}
