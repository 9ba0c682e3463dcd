"""What goes wrong, when, and for how long: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
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
    away: float | None
    """Seconds; none where it stays away until everyone has recovered without it."""


def schedule(
    seed: int,
    victims: Sequence[str],
    kills: int,
    besides: Sequence[str] = (),
    twins: Sequence[Collection[str]] = (),
) -> Iterator[Fault]:
    """So many kills, each victim about as often as the others, and what happens besides, in a random order.

    Of victims that are `twins` the first one that is killed stays away: the others of its kind must do without it.
    """
    chance = random.Random(seed)
    rounds, rest = divmod(kills, len(victims))
    order = [*victims] * rounds + chance.sample(victims, rest) + [*besides]
    chance.shuffle(order)
    staying = {next((place for place, victim in enumerate(order) if victim in kind), None) for kind in twins}
    for place, victim in enumerate(order):
        calm, away = chance.uniform(*CALM_SECONDS), chance.uniform(*AWAY_SECONDS)
        yield Fault(victim, calm, None if place in staying else away)
