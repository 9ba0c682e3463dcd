"""What of the peers' states the console must be told, and when: changes only, transitions at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubespan.core.messages import REPORT_SECONDS, VERSIONS, Report, Revision

NEVER = float("-inf")

NOT_MEASURED = -1
MEASURED_SINCE = 2
"""The version of the protocol since which a report has round trip and loss."""

FASTEST = 0.5
"""Seconds between two reports that nobody's wish can undercut."""
LONGEST_LEASE = 600.0
"""Seconds after which somebody who still looks must say so again."""


@dataclass(frozen=True, slots=True)
class Row:
    """One peer as a report has it; the handshake is on the agent's timeline."""

    state: int
    endpoint: str
    handshake: float
    received: int
    sent: int
    rtt: int = NOT_MEASURED
    """Microseconds."""
    loss: int = NOT_MEASURED
    """Per mille."""

    def moved(self, before: Row | None) -> bool:
        """Say whether this is a transition, which cannot wait."""
        return before is None or self.state != before.state or self.endpoint != before.endpoint

    def age(self, now: float) -> int:
        """Milliseconds since the last handshake; -1 for never."""
        return -1 if self.handshake == NEVER else max(0, round((now - self.handshake) * 1000))


@dataclass
class Reporter:
    """What one connection has been told. A new connection has a new one."""

    version: int = VERSIONS[0]
    """Of the protocol that the connection speaks."""
    every: float = REPORT_SECONDS
    number: int = 0
    due: float = NEVER
    complete: bool = True
    pace: float = REPORT_SECONDS
    pace_until: float = NEVER
    told: dict[int, Row] = field(default_factory=dict)

    def quicken(self, seconds: float, lease: float, now: float) -> None:
        """Report every `seconds` for the next `lease` seconds: somebody looks."""
        self.pace = max(FASTEST, seconds)
        self.pace_until = now + min(lease, LONGEST_LEASE)
        self.due = min(self.due, now + self.interval(now))

    def interval(self, now: float) -> float:
        """Seconds between two reports at this moment."""
        return min(self.every, self.pace) if now < self.pace_until else self.every

    def patience(self, now: float) -> float:
        """Seconds until the next report is due; one that waits for the socket already needs no fresh look."""
        return self.due - now if self.due > now else self.interval(now)

    def resync(self) -> None:
        """Tell everything again."""
        self.complete = True

    def collect(self, rows: Mapping[int, Row], revision: Revision, now: float) -> Report | None:
        """The report that is due now; none when nothing moved and the last one is recent."""
        if not self.complete and now < self.due:
            moved = {index: row for index, row in rows.items() if row.moved(self.told.get(index))}
            return self._tell(moved, revision, now, complete=False) if moved else None
        changed = rows if self.complete else {i: row for i, row in rows.items() if row != self.told.get(i)}
        if self.complete:
            self.told.clear()
        self.told = {index: row for index, row in self.told.items() if index in rows}
        self.due = now + self.interval(now)
        complete, self.complete = self.complete, False
        return self._tell(changed, revision, now, complete=complete)

    def _tell(self, rows: Mapping[int, Row], revision: Revision, now: float, *, complete: bool) -> Report:
        self.told.update(rows)
        number = self.number
        self.number += 1
        columns = rows.values()
        measured = self.version >= MEASURED_SINCE and any((row.rtt, row.loss) != (NOT_MEASURED,) * 2 for row in columns)
        return Report(
            number=number,
            complete=complete,
            revision=revision,
            members=tuple(rows),
            states=tuple(row.state for row in columns),
            endpoints=tuple(row.endpoint for row in columns),
            handshakes=tuple(row.age(now) for row in columns),
            received=tuple(row.received for row in columns),
            sent=tuple(row.sent for row in columns),
            rtts=tuple(row.rtt for row in columns) if measured else (),
            losses=tuple(row.loss for row in columns) if measured else (),
        )
