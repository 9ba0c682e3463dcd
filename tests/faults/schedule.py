"""Who is killed, when, and for how long: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CALM_SECONDS = (0.0, 1.0)
"""Between everyone's having recovered and the next kill."""
AWAY_SECONDS = (0.1, 2.0)
"""Between a kill and the new start."""


@dataclass(frozen=True)
class Kill:
    """One fault."""

    victim: str
    calm: float
    away: float


def schedule(seed: int, victims: Sequence[str], count: int) -> Iterator[Kill]:
    """So many kills in a random order, each victim about as often as the others."""
    chance = random.Random(seed)
    rounds, rest = divmod(count, len(victims))
    order = [*victims] * rounds + chance.sample(victims, rest)
    chance.shuffle(order)
    for victim in order:
        yield Kill(victim, chance.uniform(*CALM_SECONDS), chance.uniform(*AWAY_SECONDS))
