"""A link's past from its node's own ring: asked of whichever process has the agent's socket, and brought back.

    rings = await fetch_history(node, peer)     # from synchronous code: async_to_sync(fetch_history)(node, peer)

gives how `node` saw its link to `peer`: a list of `Ring`, the finest first (minutes of six hours, quarters of an hour
of a week), each with its points oldest first, as (Unix time at which the point begins, `Point` or None where nothing is
known). An empty list is a link that the agent knows nothing of, or one whose first minute is not over. It takes a few
milliseconds as a rule and ANSWER_SECONDS at most, and raises `Refused` with one of the codes `no-agent`, `agent-away`,
`agent-too-old`, `timed-out`, `bad-history` and `redis-away`; the reason is a sentence for people.

The question goes out on the cluster's channel (`nodes.fanout.Ask`). The process that has the socket passes it on and
remembers it; what the agent says goes to a key of that one question, at which the asker waits. So an agent can answer
only what it was asked, and nothing is kept but for KEPT_SECONDS.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import redis
import redis.asyncio

from kubespan.core.history import Point, read_track
from kubespan.core.messages import Track
from nodes import live
from nodes.connections import async_redis
from nodes.fanout import Ask, channel_name, dump_parcel
from nodes.models import Node
from nodes.services.refused import Refused

ANSWER_SECONDS = 4
"""For the agent to answer; less than Redis itself may take."""

KEPT_SECONDS = 30
"""An answer that nobody waits for any more is forgotten after this."""

MOST_ASKED = 8
"""Questions that wait for one agent; of more, the oldest are forgotten, and whoever asked is told that it timed out."""


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What comes back to the asker."""

    outcome: Literal["told", "agent-too-old"]
    tracks: tuple[Track, ...] = ()


@dataclass(frozen=True, slots=True)
class Ring:
    """A link's past at one width."""

    seconds: int
    """That each point is over."""
    points: list[tuple[float, Point | None]]
    """Unix time at which it begins, and what the link was like; none where that is not known."""


_decoder = msgspec.msgpack.Decoder(Told)

_REASONS = {
    "no-agent": ("{} has no agent of ours: it keeps no history that could be asked for.", 409),
    "agent-away": ("{} is not connected: its history stays with its agent, and can be seen once that is back.", 409),
    "agent-too-old": ("The agent of {} is too old to keep a history; upgrade it on the cluster's Agents tab.", 409),
    "timed-out": ("{} did not answer in time; try again in a moment.", 504),
    "bad-history": ("What {} sent as its history cannot be read; upgrade its agent.", 502),
    "redis-away": ("{} cannot be asked while Redis is away; try again in a moment.", 503),
}


def _refuse(code: str, node: Node) -> Refused:
    reason, status = _REASONS[code]
    return Refused(code, reason.format(node.name), status)


async def fetch_history(node: Node, peer: Node) -> list[Ring]:
    """Ask a node's agent for the past of its link to a peer; raises Refused."""
    if node.is_talos:
        raise _refuse("no-agent", node)
    if peer.index is None:
        return []
    client = async_redis()
    try:
        told = await _ask(client, node, peer.index)
    except (redis.RedisError, OSError):
        raise _refuse("redis-away", node) from None
    finally:
        await client.aclose()
    if told.outcome != "told":
        raise _refuse(told.outcome, node)
    now = time.time()
    try:
        rings = [Ring(track.seconds, read_track(track, now)) for track in told.tracks]
    except ValueError:
        raise _refuse("bad-history", node) from None
    return sorted((ring for ring in rings if ring.points), key=lambda ring: ring.seconds)


async def _ask(client: redis.asyncio.Redis, node: Node, member: int) -> Told:
    if not await client.exists(live.summary_key(node.pk)):
        raise _refuse("agent-away", node)
    request = secrets.randbits(62)
    ask = Ask(node.pk, request, member)
    if not await client.publish(channel_name(node.cluster_id), dump_parcel(ask)):
        raise _refuse("agent-away", node)
    waiting: Any = client.blpop([answer_key(node.pk, request)], timeout=ANSWER_SECONDS)
    found = await waiting
    if found is None:
        raise _refuse("timed-out", node)
    return _decoder.decode(found[1])


def answer_key(node_pk: int, request: int) -> str:
    """Where the asker waits."""
    return f"kubespan:history:{node_pk}:{request}"


async def answer(client: redis.asyncio.Redis, node_pk: int, request: int, told: Told) -> None:
    """Bring an answer to who waits for it; raises redis.RedisError."""
    key = answer_key(node_pk, request)
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.rpush(key, msgspec.msgpack.encode(told))
        pipeline.expire(key, KEPT_SECONDS)
        await pipeline.execute()


class Questions:
    """What one agent was asked and has not answered: nothing else that it says is an answer."""

    def __init__(self) -> None:
        self._asked: dict[int, int] = {}

    def note(self, request: int, member: int) -> None:
        """Remember a question."""
        self._asked[request] = member
        while len(self._asked) > MOST_ASKED:
            del self._asked[next(iter(self._asked))]

    def settle(self, request: int, member: int) -> bool:
        """Whether this was asked; it is then answered."""
        return self._asked.pop(request, None) == member
