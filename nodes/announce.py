"""Tell open pages that something of a cluster changed; they read the rows again, so a lost word costs only time."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Literal, get_args

import redis
import structlog
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

Kind = Literal[
    "cluster.created",
    "cluster.changed",  # options, secret, name, what discovery lists
    "cluster.deleted",
    "node.enrolled",
    "node.approved",
    "node.changed",  # claim, endpoints, networks, options
    "node.removed",
    "node.connected",
    "node.away",
    "node.applied",
    "token.changed",
    "rollout.changed",
    "alerts.changed",  # a webhook, or what became of what it was to tell
    "history.noted",  # a minute was added to the history of its nodes and links
    "history.followed",  # whether a link's history is kept
]
KINDS: tuple[str, ...] = get_args(Kind)

log = structlog.get_logger(__name__)

_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("the loop that announces", default=None)


def group(cluster_pk: int | None) -> str:
    """Name of the channel layer's group of a cluster's pages; without one, of the pages about all of them."""
    return "clusters" if cluster_pk is None else f"cluster.{cluster_pk}"


def hand_over_to(loop: asyncio.AbstractEventLoop) -> None:
    """Have threads that are called from here leave what they announce to this loop, and not wait until it is told.

    A loop with thousands of sockets may take most of a second to come to it, and an enrolment has others behind it.
    """
    _loop.set(loop)


def announce(cluster_pk: int | None, kind: Kind, **fields: object) -> None:
    """Tell the pages of `group` from synchronous code, after the commit; never fails for want of Redis."""
    if (loop := _loop.get()) is None:
        async_to_sync(announce_soon)(cluster_pk, kind, **fields)
    else:
        telling = asyncio.run_coroutine_threadsafe(announce_soon(cluster_pk, kind, **fields), loop)
        telling.add_done_callback(_note_fault)


def _note_fault(telling: Future[None]) -> None:
    """Nobody waits for it, and a fault of ours would be lost."""
    if not telling.cancelled() and (error := telling.exception()) is not None:
        log.error("pages were not told", exc_info=error)


async def announce_soon(cluster_pk: int | None, kind: Kind, **fields: object) -> None:
    """`announce` for a coroutine."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no announcement; one of {', '.join(KINDS)} is")
    try:
        await get_channel_layer().group_send(group(cluster_pk), {"type": kind, **fields})
    except (redis.RedisError, OSError) as error:
        log.warning("pages were not told", kind=kind, error=str(error))
