"""What frames say and add up to, for all who receive the same."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from kubespan.core.membership import Membership
from kubespan.core.messages import Delta, FromConsole, Snapshot, dump, parse_from_console

SHARED = 256
"""Frames and memberships that are kept for whoever comes to the same."""


class Views:
    """What frames say and add up to, worked out once for all who receive the same."""

    def __init__(self) -> None:
        self._messages: OrderedDict[tuple[int, bytes], FromConsole] = OrderedDict()
        self._sums: OrderedDict[tuple[int, bytes], tuple[Membership | None, Membership]] = OrderedDict()
        self._digests: OrderedDict[int, tuple[Membership, str]] = OrderedDict()

    def parse(self, frame: bytes, version: int) -> FromConsole:
        """Read a frame; what is only one agent's is not kept."""
        key = (version, frame)
        if (kept := self._messages.get(key)) is not None:
            return kept
        message = parse_from_console(frame, version)
        if isinstance(message, Snapshot | Delta):
            keep(self._messages, key, message)
        return message

    def apply(self, before: Membership, frame: bytes, news: Snapshot | Delta) -> Membership:
        """Give the membership after a frame; raises Gap."""
        base = None if isinstance(news, Snapshot) else before
        key = (id(base), frame)
        if (kept := self._sums.get(key)) is not None:
            return kept[1]
        after = before.apply(news)
        keep(self._sums, key, (base, after))  # with what its id stands for, which no other can then have
        return after

    def digest(self, membership: Membership) -> str:
        """A short name of all that is held."""
        if (kept := self._digests.get(id(membership))) is None:
            raw = dump(membership.snapshot()) if membership.revision else b""
            kept = (membership, hashlib.sha256(raw).hexdigest()[:16])
            keep(self._digests, id(membership), kept)
        return kept[1]


def keep(kept: OrderedDict, key: object, value: object) -> None:
    kept[key] = value
    if len(kept) > SHARED:
        kept.popitem(last=False)
