"""One change to a thousand connected agents, beside a bare broadcast of the same frame.

Ours is from the commit to the last socket having the frame: the Celery task, reading and encoding the change, Redis and
the hub are in it. The reference is a server with the same flags and no Django, from its first send to the last socket
having the frame; what asks it to begin is not in it. Agents take 0.1 to 0.3 s to apply, so their acknowledgements
come after the last has the frame. Changes are a second apart, as an operator's are: a burst is `join`'s business.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time

import redis
import urllib3

from nodes.management.commands import run
from tests.apart import allow_files
from tests.bench.console import ROOT, Console, free_port
from tests.bench.figures import ratio, spread
from tests.crowd import Crowd

AGENTS = 1000
ROUNDS = 15
PAUSE = 1.0
"""Seconds between two changes."""

CONNECT_SECONDS = 60.0


class Tap:
    """Notes when each frame passes through Redis."""

    def __init__(self, url: str, channel: str) -> None:
        self.at: dict[int, float] = {}
        self._client = redis.Redis.from_url(url)
        self._pubsub = self._client.pubsub()
        self._pubsub.subscribe(channel)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        from nodes import fanout  # noqa: PLC0415

        with contextlib.suppress(redis.RedisError, OSError, ValueError):
            for message in self._pubsub.listen():
                if message["type"] == "message":
                    parcel = fanout.parse_parcel(message["data"])
                    if isinstance(parcel, fanout.News):
                        self.at.setdefault(parcel.revision.number, time.monotonic())

    def close(self) -> None:
        """Hear no more."""
        self._pubsub.unsubscribe()
        self._thread.join(5)
        self._client.close()


@contextlib.contextmanager
def bare_server():
    """The reference's address, while it runs."""
    port = free_port()
    command = run.web("bare", "127.0.0.1", port).command
    command = ["tests.bench.bare:application" if word == "kubespan_web.asgi:application" else word for word in command]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *command], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib3.request("POST", url, body=b"", retries=False, timeout=5)
                break
            except urllib3.exceptions.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def measure(console: Console, crowd: Crowd, agents: int, rounds: int) -> dict[str, object]:
    """Both sides in turns; all agents are connected and listeners open."""
    from django.conf import settings  # noqa: PLC0415

    from kubespan.core.messages import Revision  # noqa: PLC0415
    from nodes import fanout  # noqa: PLC0415
    from nodes.services import revisions  # noqa: PLC0415

    cluster, token = console.make_cluster(agents)
    crowd.ask("set", think=[0.1, 0.3])
    crowd.ask("enrol", token=token, count=agents, at_once=16)
    crowd.ask("connect")
    ready = crowd.ask("await", what="revision", revision=console.revision(cluster), seconds=CONNECT_SECONDS)["ready"]
    if ready != agents:
        raise RuntimeError(f"only {ready} of {agents} agents are connected")
    ours, bare, to_redis, to_first = [], [], [], []
    frame = b""
    with bare_server() as url, contextlib.closing(Tap(settings.REDIS_URL, fanout.channel_name(cluster.pk))) as tap:
        crowd.ask("listen", url=url, count=agents)
        for number in range(rounds + 1):
            time.sleep(PAUSE)
            commit = console.commit(cluster)
            heard = crowd.ask("await", what="revision", revision=commit.revision, seconds=20)
            if heard["ready"] != agents:
                raise RuntimeError(f"only {heard['ready']} of {agents} agents got the frame")
            time.sleep(PAUSE)
            frame = revisions.frame(cluster.pk, Revision(*commit.since)).bytes
            sent = urllib3.request("POST", url, body=frame, timeout=20).json()
            got = crowd.ask("await", what="heard", number=number + 1, seconds=20)
            if sent["sockets"] != agents or got["ready"] != agents:
                raise RuntimeError(f"the reference reached {got['ready']} of {sent['sockets']} sockets")
            if number:  # the first of each side finds nothing warm
                ours.append(heard["last"] - commit.at)
                bare.append(got["last"] - sent["started"])
                to_redis.append(tap.at[commit.revision[1]] - commit.at)
                to_first.append(heard["first"] - tap.at[commit.revision[1]])
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
