"""What goes wrong, when, and for how long: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CALM_SECONDS = (0.0, 1.0)
"""Between everyone's having recovered and the next fault."""
AWAY_SECONDS = (0.1, 2.0)
"""Between a kill and the new start."""


@dataclass(frozen=True)
class Fault:
    """A process that is killed, or connections that are cut."""

    victim: str
    calm: float
    away: float


def schedule(seed: int, victims: Sequence[str], kills: int, besides: Sequence[str] = ()) -> Iterator[Fault]:
    """So many kills, each victim about as often as the others, and what happens besides, in a random order."""
    chance = random.Random(seed)
    rounds, rest = divmod(kills, len(victims))
    order = [*victims] * rounds + chance.sample(victims, rest) + [*besides]
    chance.shuffle(order)
    for victim in order:
        yield Fault(victim, chance.uniform(*CALM_SECONDS), chance.uniform(*AWAY_SECONDS))
