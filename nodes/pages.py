"""What browsers are sent over their sockets; `frontend/src` has the same shapes as types.

A page gets one snapshot, then deltas numbered 1, 2, 3 …; each entry of a delta is a whole present value that replaces
the one of the same key. A number left out means that something was missed: the page connects again. Times are unix
seconds, ages are for the page to compute; nothing is null but what is said to be.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nodes.history.series import Series
from nodes.live import Seen, Summary

FULL_LINKS = 50
"""Nodes up to which a cluster's page gets all links; of a larger one, those that are not up."""

State = Literal["unknown", "up", "down"]
Status = Literal["pending", "approved", "left", "removed"]


class LinkCounts(msgspec.Struct, frozen=True):
    """A node's links by state."""

    up: int = 0
    unknown: int = 0
    down: int = 0


class NodeRow(msgspec.Struct, frozen=True):
    """One node; its key is `pk`. `applied` and `behind` are revisions' numbers within the epoch."""

    pk: int
    index: int | None
    name: str
    status: Status
    address: str
    connected: bool
    last_seen: float | None
    applied: int
    behind: int
    fault: str
    links: LinkCounts
    talos: bool = False
    found: float | None = None
    """When what its preflight finds was last different, as Unix time."""


class Link(msgspec.Struct, frozen=True):
    """How `node` sees `peer`; its key is both. `at` is when it said so."""

    node: int
    peer: int
    state: State
    endpoint: str
    handshake: float | None
    received: int
    sent: int
    at: float
    rtt: float | None = None
    """Seconds; null while not measured."""
    loss: float | None = None
    """0 to 1; null while not measured."""


class ClusterSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """`/live/cluster/<uuid>`: every node that isn't removed, every link of a small cluster.

    With more than FULL_LINKS nodes (`partial`), `links` are only those that are not up.
    """

    number: int
    at: float
    revision: int
    partial: bool
    nodes: list[NodeRow]
    links: list[Link]


class ClusterDelta(msgspec.Struct, frozen=True, tag_field="type", tag="delta", omit_defaults=True):
    """Changed rows, keys of rows that are gone; what is left out did not change."""

    number: int
    at: float
    revision: int | None = None
    nodes: list[NodeRow] = []
    nodes_gone: list[int] = []
    links: list[Link] = []
    links_gone: list[tuple[int, int]] = []


class Sight(msgspec.Struct, frozen=True):
    """A link as one end sees it; `at` is when it said so."""

    state: State
    endpoint: str
    handshake: float | None
    received: int
    sent: int
    at: float
    rtt: float | None = None
    """Seconds; null while not measured."""
    loss: float | None = None
    """0 to 1; null while not measured."""


class PeerRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node's peer, whose key is `pk`: the link as the node sees it, and as the peer does; null while not said."""

    pk: int
    name: str
    ours: Sight | None
    theirs: Sight | None
    why: str = ""
    """Why the link is not up or carries little (kubespan.core.reason), of the peers that the page has in view."""


class NodeSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """`/live/node/<pk>`."""

    number: int
    at: float
    revision: int
    node: NodeRow
    peers: list[PeerRow]


class NodeDelta(msgspec.Struct, frozen=True, tag_field="type", tag="delta", omit_defaults=True):
    """What changed of a node's page."""

    number: int
    at: float
    revision: int | None = None
    node: NodeRow | None = None
    peers: list[PeerRow] = []
    peers_gone: list[int] = []
    history: list[Series] = []
    """The newest point of its history, where one was noted: columns of one."""


class PairSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """`/live/pair/<pk>/<pk>`: how the first sees the second, and the second the first; null while not said."""

    number: int
    at: float
    here: Sight | None
    there: Sight | None


class PairDelta(msgspec.Struct, frozen=True, tag_field="type", tag="delta"):
    """The same; with `renew`, what the server words is different now, and the page fetches itself anew."""

    number: int
    at: float
    here: Sight | None
    there: Sight | None
    renew: bool = False
    history: list[Series] = []
    """The newest point of each direction, where one was noted: columns of one."""


class Enrolled(msgspec.Struct, frozen=True):
    """A machine that came by a token, and how far it is; `handshake` is seconds from enrolment to the first one."""

    pk: int
    name: str
    stage: Literal["pending", "enrolled", "connected", "up", "removed"]
    handshake: float | None
    peers: int
    """How many others it could have a link with; with none there is no handshake to wait for."""


class EnrolmentSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """`/live/enrolment/<token uuid>`: no node yet means waiting; `worthless` is why nobody can come any more."""

    number: int
    at: float
    nodes: list[Enrolled]
    used: int
    uses: int
    worthless: Literal["revoked", "expired", "used-up"] | None


class EnrolmentDelta(msgspec.Struct, frozen=True, tag_field="type", tag="delta", omit_defaults=True):
    """Nodes that changed; `worthless` is "" when it did not."""

    number: int
    at: float
    nodes: list[Enrolled] = []
    used: int | None = None
    worthless: str = ""


class OverviewSnapshot(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """`/live/overview`: pages about several clusters, which the server draws; they fetch themselves anew."""

    number: int
    at: float


class OverviewDelta(msgspec.Struct, frozen=True, tag_field="type", tag="delta"):
    """Something that such a page shows is different now."""

    number: int
    at: float


class Flushed(msgspec.Struct, frozen=True, array_like=True):
    """What the processes with agents tell those with pages, by primary keys: not for browsers."""

    nodes: list[tuple[int, Summary]]
    links: list[tuple[int, int, Seen | None]]
    """Node, peer, and how the node sees it; none when it does not any more."""
