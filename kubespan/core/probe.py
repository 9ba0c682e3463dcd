"""Round trip and loss through the tunnel: whom to ask when, and what the answers come to.

Each peer that is `up` is asked once an interval, at a moment of its own: its phase. The golden ratio spreads the phases
of any set of member indexes evenly, whoever comes and goes, so a thousand peers are 33 probes a second and never a
burst. Nobody else is asked: a probe to a peer without a session would make WireGuard begin handshakes on its account
(docs/decisions/0009).

Times are seconds on one monotonic timeline of the machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from math import inf
from typing import NamedTuple

INTERVAL = 30.0
"""Seconds between two probes of a peer while nobody looks."""
FASTEST = 1.0
"""And while somebody does, at least."""
MOST_A_SECOND = 100
"""Probes of all peers together; with so many peers that it would be more, each is asked less often."""
GRAIN = 0.25
"""Seconds between two wakings: what is due meanwhile goes together."""
TIMEOUT = 5.0
"""Seconds after which a probe counts as lost."""
WINDOW = 20
"""Outcomes that the loss is of."""
LEAST = 3
"""Outcomes without which there is no loss to speak of."""
SMOOTHING = 8
"""A round trip counts for an eighth of the smoothed one, as TCP has it."""
PATIENT = 5
"""Probes that a peer which never answered leaves unanswered until it is asked every so many turns only."""
RARELY = 10
LATE = 1.0
"""Seconds after which a peer whose moment was missed, for this machine was busy, waits for its next one."""

_PHASE = 0.6180339887498949
_WINDOW_BITS = (1 << WINDOW) - 1


class Outcome(NamedTuple):
    """What became of one probe of a peer that is known to answer."""

    member: int
    rtt: float | None
    """Seconds; none for one that is lost."""


@dataclass(slots=True)
class Answers:
    """What one peer's last probes came to."""

    met: bool = False
    """Whether it ever answered: one that never does is not measured, for a firewall of its own may keep it from it."""
    silent: int = 0
    """Unanswered probes of one that never answered."""
    rtt: float | None = None
    bits: int = 0
    """The last outcomes, the newest lowest; 1 is an answer."""
    count: int = 0

    def take(self, rtt: float | None) -> bool:
        """Note an outcome; false where it says nothing, for this peer never answered."""
        if rtt is None and not self.met:
            self.silent += 1
            return False
        self.met = True
        self.bits = (self.bits << 1 | (rtt is not None)) & _WINDOW_BITS
        self.count = min(self.count + 1, WINDOW)
        if rtt is not None:
            self.rtt = rtt if self.rtt is None else self.rtt + (rtt - self.rtt) / SMOOTHING
        elif not self.bits:
            self.rtt = None
        return True

    def restart(self) -> None:
        """Forget outcomes, as of a link that was not up meanwhile."""
        self.rtt, self.bits, self.count = None, 0, 0

    @property
    def loss(self) -> float | None:
        """Share that was not answered; none while there are too few."""
        return None if self.count < LEAST else 1 - self.bits.bit_count() / self.count


class _Asked(NamedTuple):
    member: int
    address: IPv6Address
    at: float


class Prober:
    """All of a machine's probes: fed with peers and answers, asked for who is due."""

    def __init__(self) -> None:
        self._targets: dict[int, IPv6Address] = {}
        self._order: list[tuple[float, int]] = []
        """Phase and member, by phase."""
        self._new: list[int] = []
        """Those that came up and were not asked since."""
        self._wanted = INTERVAL
        self._until = -inf
        self._last = -inf
        self._answers: dict[int, Answers] = {}
        self._asked: dict[int, _Asked] = {}
        """By cookie, the oldest first."""

    def aim(self, targets: Mapping[int, IPv6Address], members: Container[int]) -> None:
        """Ask these from now on, by member index: the peers that are up. What was of no `members` is forgotten."""
        for index in [index for index in self._answers if index not in members]:
            del self._answers[index]
        if targets == self._targets:
            return
        for index in self._targets.keys() - targets.keys():
            if index in self._answers:
                self._answers[index].restart()
        self._new = [index for index in self._new if index in targets]
        self._new += sorted(targets.keys() - self._targets.keys())
        self._targets = dict(targets)
        self._order = sorted((index * _PHASE % 1, index) for index in targets)

    def quicken(self, seconds: float, until: float) -> None:
        """Ask every so many seconds until then, for somebody looks."""
        self._wanted, self._until = seconds, until

    def interval(self, now: float) -> float:
        """Seconds between two probes of a peer at this moment."""
        wanted = min(INTERVAL, max(FASTEST, self._wanted)) if now < self._until else INTERVAL
        return max(wanted, len(self._order) / MOST_A_SECOND)

    def due(self, now: float) -> list[tuple[int, IPv6Address]]:
        """Give whom to ask now: who just came up, and whose moment has come since this was asked last."""
        interval = self.interval(now)
        since = max(self._last, now - LATE)
        self._last = now
        turn = int(now // interval)
        asked = [
            index
            for index in self._between(since / interval, now / interval)
            if not self._is_mute(index) or (turn + index) % RARELY == 0
        ]
        room = max(1, int(MOST_A_SECOND * GRAIN) - len(asked))
        new, self._new = self._new[:room], self._new[room:]
        return [(index, self._targets[index]) for index in dict.fromkeys([*new, *asked])]

    def _between(self, since: float, until: float) -> Iterator[int]:
        """Members whose phase was reached after `since`, until `until`, in turns."""
        first, last = self._place(since % 1), self._place(until % 1)
        if int(until) == int(since):
            return (member for _, member in self._order[first:last])
        return (member for _, member in (*self._order[first:], *self._order[:last]))

    def _place(self, phase: float) -> int:
        return bisect_right(self._order, (phase, 1 << 63))

    def _is_mute(self, member: int) -> bool:
        answers = self._answers.get(member)
        return answers is not None and not answers.met and answers.silent >= PATIENT

    def sent(self, cookie: int, member: int, now: float) -> None:
        """Note that a probe is on its way; its answer will bring the cookie back."""
        if member in self._targets:
            self._asked[cookie] = _Asked(member, self._targets[member], now)

    def answered(self, cookie: int, address: IPv6Address, rtt: float) -> Outcome | None:
        """Take an answer; none for one that was not asked for, or not of whom it comes from."""
        asked = self._asked.get(cookie)
        if asked is None or asked.address != address:
            return None
        del self._asked[cookie]
        return self._take(asked.member, max(0.0, rtt))

    def asked_at(self, cookie: int) -> float | None:
        """When a probe that is still on its way was sent."""
        asked = self._asked.get(cookie)
        return None if asked is None else asked.at

    def expire(self, now: float) -> list[Outcome]:
        """Count as lost what was not answered in time."""
        lost: list[Outcome] = []
        while self._asked:
            cookie, asked = next(iter(self._asked.items()))
            if now - asked.at < TIMEOUT:
                break
            del self._asked[cookie]
            outcome = self._take(asked.member, None)
            if outcome is not None:
                lost.append(outcome)
        return lost

    def _take(self, member: int, rtt: float | None) -> Outcome | None:
        if member not in self._targets:
            return None  # its link went down, or it left, while the probe was on its way
        answers = self._answers.setdefault(member, Answers())
        return Outcome(member, rtt) if answers.take(rtt) else None

    def patience(self, now: float) -> float:
        """Seconds until there is something to do; infinite while nobody is to be asked."""
        waits = [asked.at + TIMEOUT - now for asked in self._first_asked()]
        if self._new:
            waits.append(GRAIN)
        elif self._order:
            interval = self.interval(now)
            place = self._place(now / interval % 1)
            ahead = self._order[place][0] if place < len(self._order) else self._order[0][0] + 1
            waits.append((ahead - now / interval % 1) * interval)
        return max(GRAIN, min(waits)) if waits else inf

    def _first_asked(self) -> Iterator[_Asked]:
        if self._asked:
            yield next(iter(self._asked.values()))

    def measured(self, member: int) -> tuple[float | None, float | None]:
        """A link's round trip in seconds, smoothed, and loss from 0 to 1; none for what is not measured."""
        answers = self._answers.get(member)
        return (None, None) if answers is None else (answers.rtt, answers.loss)
