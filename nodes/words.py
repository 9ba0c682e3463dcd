"""Words and numbers as people read them on pages; nothing here looks anything up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from kubespan.core.duration import age

JUST_NOW = 2
SKEW_SECONDS = 60.0
"""A clock off by more than this is worth a word; WireGuard takes no handshake that is older than the last one."""


def count(number: int, noun: str) -> str:
    """A count with its noun: `1 node`, `3 nodes`, `1,000 nodes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def relative(seconds: float) -> str:
    """How long ago (or, below nought, how soon)."""
    if abs(seconds) < JUST_NOW:
        return "just now"
    return f"{age(seconds)} ago" if seconds > 0 else f"in {age(round(-seconds))}"


def clock(skew: float | None) -> str:
    """How a machine's clock differs from the console's, as a part of a sentence; empty where that is of no matter."""
    if skew is None or abs(skew) <= SKEW_SECONDS:
        return ""
    if skew > 0:
        return f"{age(skew)} ahead"
    return f"{age(-skew)} behind: if it was set back, WireGuard refuses the handshakes that it begins"


class HasCounts(Protocol):
    """What says how many directed links are in each state."""

    @property
    def up(self) -> int: ...

    @property
    def unknown(self) -> int: ...

    @property
    def down(self) -> int: ...


class LinkCounts(NamedTuple):
    """How many directed links are in each state."""

    up: int = 0
    unknown: int = 0
    down: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> LinkCounts:
        """Read a mapping of states; what it lacks is nought."""
        return cls(counts.get("up", 0), counts.get("unknown", 0), counts.get("down", 0))

    @property
    def all(self) -> int:
        """All of them."""
        return sum(self)

    @property
    def not_up(self) -> int:
        """Those that are not up."""
        return self.unknown + self.down

    @property
    def worst(self) -> str:
        """The worst state that any of them is in."""
        return "down" if self.down else "unknown" if self.unknown else "up" if self.up else "none"

    def plus(self, other: HasCounts) -> LinkCounts:
        """Both together."""
        return LinkCounts(self.up + other.up, self.unknown + other.unknown, self.down + other.down)

    def shares(self) -> list[tuple[str, float]]:
        """Each state's share in per cent; states that nothing is in are left out."""
        return [(name, round(100 * n / self.all, 2)) for name, n in self._asdict().items() if n]

    def sentence(self) -> str:
        """For whoever cannot see a bar."""
        return f"{self.up:,} of {count(self.all, 'link')} up, {self.unknown:,} unknown, {self.down:,} down"


def moment(at: datetime) -> str:
    """A time for programs, to the second: `2026-03-01T12:00:00Z`."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
