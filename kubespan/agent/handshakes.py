"""When each peer's last handshake was, on a timeline that no setting of the clock disturbs.

WireGuard tells handshakes in wall-clock time. Each is converted once, when it is first seen, and stays where it was
put; it cannot have been before the look that did not show it yet, nor after the one that does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class _Seen:
    wall: float
    at: float


@dataclass
class Handshakes:
    """The conversions made so far; both clocks are arguments."""

    _seen: dict[str, _Seen] = field(default_factory=dict)
    _looked: dict[str, float] = field(default_factory=dict)

    def convert(self, key: str, handshake: float, *, wall: float, now: float) -> float:
        """Give the monotonic time of a peer's last handshake; `handshake` and `wall` are Unix time, 0.0 for never."""
        looked = self._looked.get(key, NEVER)
        self._looked[key] = now
        if handshake <= 0:
            self._seen.pop(key, None)
            return NEVER
        known = self._seen.get(key)
        if known is None or known.wall != handshake:
            at = min(now, max(looked, now - (wall - handshake)))
            known = self._seen[key] = _Seen(handshake, at)
        return known.at

    def keep(self, keys: frozenset[str]) -> None:
        """Forget the peers that are not among these."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in keys}
        self._looked = {key: looked for key, looked in self._looked.items() if key in keys}
