"""One change to a thousand connected agents, beside a bare broadcast of the same frame.

Ours is from the commit to the last socket having the frame: the Celery task, reading and encoding the change, Redis and
the hub are in it. The reference is a server with the same flags and no Django, from its first send to the last socket
having the frame; what asks it to begin is not in it. Agents take 0.1 to 0.3 s to apply, so their acknowledgements
come after the last has the frame. Changes are a second apart, as an operator's are: a burst is `join`'s business.
"""

from __future__ import annotations

import time

from tests.apart import allow_files
from tests.bench.console import Console
from tests.bench.figures import ratio, spread
from tests.bench.reference import Bare
from tests.bench.watching import Frames
from tests.crowd import Crowd

AGENTS = 1000
ROUNDS = 15
PAUSE = 1.0
"""Seconds between two changes."""

CONNECT_SECONDS = 60.0


def measure(console: Console, crowd: Crowd, agents: int, rounds: int) -> dict[str, object]:
    """Both sides in turns; all agents are connected and listeners open."""
    cluster, token = console.make_cluster(agents)
    crowd.ask("set", think=[0.1, 0.3])
    crowd.ask("enrol", token=token, count=agents, at_once=16)
    crowd.ask("connect")
    ready = crowd.ask("await", what="revision", revision=console.revision(cluster), seconds=CONNECT_SECONDS)["ready"]
    if ready != agents:
        raise RuntimeError(f"only {ready} of {agents} agents are connected")
    ours, bare, to_redis, to_first = [], [], [], []
    frame = b""
    with Bare() as server, Frames(cluster) as frames:
        crowd.ask("listen", url=server.url, count=agents)
        for number in range(rounds + 1):
            time.sleep(PAUSE)
            commit = console.commit(cluster)
            heard = crowd.ask("await", what="revision", revision=commit.revision, seconds=20)
            if heard["ready"] != agents:
                raise RuntimeError(f"only {heard['ready']} of {agents} agents got the frame")
            time.sleep(PAUSE)
            frame = console.frame(cluster, commit.since)
            sent = server.post("/", frame)
            got = crowd.ask("await", what="heard", since=sent["started"], seconds=20)
            if sent["sockets"] != agents or got["ready"] != agents:
                raise RuntimeError(f"the reference reached {got['ready']} of {sent['sockets']} sockets")
            if number:  # the first of each side finds nothing warm
                ours.append(heard["last"] - commit.at)
                bare.append(got["last"] - sent["started"])
                through = frames.at(commit.revision[1])
                to_redis.append(through - commit.at)
                to_first.append(heard["first"] - through)
    return {
        "agents": agents,
        "rounds": rounds,
        "frame_bytes": len(frame),
        "ours": (whole := spread(ours)),
        "bare": (reference := spread(bare)),
        "ratio": ratio(whole, reference),
        "commit_to_redis": spread(to_redis),
        "redis_to_first_socket": spread(to_first),
    }


def bench(agents: int = AGENTS, rounds: int = ROUNDS) -> dict[str, object]:
    """Commit of a change to the last socket having the frame."""
    allow_files()
    with Console() as console, Crowd([console.url]) as crowd:
        return {"database": console.database, **measure(console, crowd, agents, rounds)}
