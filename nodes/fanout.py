"""What goes to agents' sockets, from whoever commits a change: one Redis channel a cluster, heard by every hub.

What travels there is one of seven small things, msgpack:

- `News`: a frame for all approved nodes, already encoded, with the revisions that it leads from and to;
- `Personal`: a frame for one node;
- `Settle`: a node's standing changed (approved), and it is welcomed anew;
- `Replaced`: a node has a newer connection: older ones close;
- `HandOut`: the cluster's secrets are others now: each process seals them to the nodes that it serves;
- `Watch`: somebody looks at these nodes' links: they report faster for a while;
- `Ask`: somebody wants a link's past, which its node keeps (`nodes.agents.history`).

Nothing depends on a message arriving: `nodes.agents.hub`, the receiving end, reads the change log whenever in doubt.
"""

from __future__ import annotations

import builtins
from typing import Protocol

import msgspec
import redis
import structlog

from kubespan.core.messages import FromConsole, Removed, Revision, dump
from nodes.connections import sync_redis

CLOSE_POLICY = 1008
CLOSE_TOO_BIG = 1009
CLOSE_RESTART = 1012
CLOSE_LATER = 1013
CLOSE_REMOVED = 4403
CLOSE_REPLACED = 4409

log = structlog.get_logger(__name__)


class News(msgspec.Struct, frozen=True, array_like=True, tag="news"):
    """A frame for all approved nodes of a cluster."""

    since: Revision | None
    revision: Revision
    frame: bytes


class Personal(msgspec.Struct, frozen=True, array_like=True, tag="personal"):
    """A frame for one node; `close` is the code that its connection is then closed with, 0 for none."""

    node: int
    frame: bytes
    close: int = 0


class Settle(msgspec.Struct, frozen=True, array_like=True, tag="settle"):
    """A node's standing changed."""

    node: int


class Replaced(msgspec.Struct, frozen=True, array_like=True, tag="replaced"):
    """A node's present session is this one; any other is over."""

    node: int
    session: str


class HandOut(msgspec.Struct, frozen=True, array_like=True, tag="hand-out"):
    """There is a secret that nodes of the cluster may lack; it does not travel here itself, not even sealed."""


class Watch(msgspec.Struct, frozen=True, array_like=True, tag="watch"):
    """A page shows the links of these nodes, and wants to hear of the cluster."""

    nodes: tuple[int, ...]
    seconds: float
    lease: float


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """A node's agent is to tell the past of its link to the member with this index."""

    node: int
    request: int
    member: int


Parcel = News | Personal | Settle | Replaced | HandOut | Watch | Ask

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Parcel] = msgspec.msgpack.Decoder(Parcel)


def dump_parcel(parcel: Parcel) -> bytes:
    """Encode a parcel."""
    return _encoder.encode(parcel)


def parse_parcel(data: bytes) -> Parcel:
    """Read a parcel; raises msgspec.DecodeError."""
    return _decoder.decode(data)


class Frame(Protocol):
    """What the change log gives: an encoded Snapshot or Delta, and between which revisions it lies."""

    @property
    def bytes(self) -> builtins.bytes: ...

    @property
    def since(self) -> Revision | None: ...

    @property
    def revision(self) -> Revision: ...


def channel_name(cluster_pk: int) -> str:
    """The Redis channel of a cluster."""
    return f"kubespan:cluster:{cluster_pk}"


def publish_frame(cluster_pk: int, frame: Frame) -> None:
    """Send a frame to all approved nodes of a cluster; raises redis.RedisError."""
    _publish(cluster_pk, News(frame.since, frame.revision, frame.bytes))


def publish_to_node(node_pk: int, cluster_pk: int, message: FromConsole) -> None:
    """Send one node a message, if it is connected anywhere; after `Removed` its connection is closed.

    Never fails for want of Redis: whatever must reach a node is also found when its socket is next checked.
    """
    close = CLOSE_REMOVED if isinstance(message, Removed) else 0
    _publish_gently(cluster_pk, Personal(node_pk, dump(message), close))


def settle_node(node_pk: int, cluster_pk: int) -> None:
    """Have a connected node told what its standing is now: it was approved."""
    _publish_gently(cluster_pk, Settle(node_pk))


def publish_hand_out(cluster_pk: int) -> None:
    """Have connected nodes given the cluster's secrets that they lack."""
    _publish_gently(cluster_pk, HandOut())


def publish_watch(cluster_pk: int, watch: Watch) -> None:
    """Let nodes report faster, because a page shows them."""
    _publish_gently(cluster_pk, watch)


def _publish(cluster_pk: int, parcel: Parcel) -> None:
    sync_redis().publish(channel_name(cluster_pk), dump_parcel(parcel))


def _publish_gently(cluster_pk: int, parcel: Parcel) -> None:
    try:
        _publish(cluster_pk, parcel)
    except redis.RedisError as error:
        log.warning("not published", parcel=type(parcel).__name__, error=str(error))
