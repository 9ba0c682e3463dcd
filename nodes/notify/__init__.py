"""Telling others what happened: what an event is; a module for each way of saying it, and one that carries it there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = {
    "node.pending": "a machine waits for approval",
    "node.away": "a node is away",
    "node.back": "a node is connected again",
    "link.down": "a link is down for longer than …",
    "link.up": "a link that was told to be down is up again",
    "configuration.fault": "a node cannot apply its configuration",
    "rotation": "a cluster secret is rotated",
    "cluster": "a cluster is made, changed or deleted",
}
"""Each kind of event, and when there is one, in words."""

TEST = "test"


@dataclass(frozen=True)
class Event:
    """What is told: a sentence, and the same for programs. It holds no secret."""

    kind: str
    at: str
    """ISO 8601, in UTC."""
    text: str
    cluster: dict[str, str] | None = None
    """`name`, `uuid` and `url`."""
    nodes: list[dict[str, str]] = field(default_factory=list)
    """`name` and `url` of each."""
    links: list[dict[str, str]] = field(default_factory=list)
    """`node`, `peer`, `since` and `url` of each, at most as many as one message names."""
    more: int = 0
    """Further links that are not named."""
    url: str = ""
    """The page to look at."""

    def dump(self) -> dict[str, Any]:
        """The event as a row keeps it."""
        return asdict(self)
