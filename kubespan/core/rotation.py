"""A cluster's secret is changed in two phases, so that no packet is lost between connected machines.

First the next secret is handed out, while everybody goes on with the present one; then one revision names the next
one's generation, and all who hold it switch at that. A session of WireGuard outlives the switch: the preshared key goes
into the next handshake only, and one that fails because the other end is some moments behind is repeated after 5 s.

Two secrets of one generation are one secret, within an epoch of the cluster: a generation that was cancelled is never
used again. A backup that is restored knows nothing of that, which is why an epoch begins with what the console says.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

KEPT_BESIDE = 2
"""Secrets that a machine keeps beside the one in use: the one of a switch that it missed, and the one after that."""
ROTATION_VERSION = 2
"""The protocol version since which an agent holds two secrets, and says what it holds."""


class KeptSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cluster secret that a machine was given and does not use, or not yet."""

    generation: int
    secret: str

    def __repr__(self) -> str:
        return f"KeptSecret({self.generation}, …)"


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster secrets of one machine: the one in use, and others in the order in which they came."""

    generation: int = 0
    """Of the one in use; 0 for none."""
    secret: str = ""
    others: tuple[KeptSecret, ...] = ()

    def __repr__(self) -> str:
        return f"Secrets({self.generation}, {self.others})"

    @property
    def newest(self) -> int:
        """The generation that came last; 0 for none."""
        return self.others[-1].generation if self.others else self.generation

    def take(self, generation: int, secret: str) -> Secrets:
        """Take a secret in; the one in use, given again, says that nothing given since counts any more."""
        if self.generation in {0, generation}:
            return Secrets(generation=generation, secret=secret)
        others = (*(one for one in self.others if one.generation != generation), KeptSecret(generation, secret))
        return Secrets(generation=self.generation, secret=self.secret, others=others[-KEPT_BESIDE:])

    def follow(self, generation: int) -> Secrets:
        """Use the secret that the settings name, and forget what came before it; without it nothing changes."""
        place = next((number for number, one in enumerate(self.others) if one.generation == generation), None)
        if place is None:
            return self
        used = self.others[place]
        return Secrets(generation=used.generation, secret=used.secret, others=self.others[place + 1 :])


def lacking(held: int, present: int, following: int | None) -> tuple[int, ...]:
    """The generations to give to a machine whose newest is `held`, in their order.

    `following` is the generation that is handed out; none where no rotation is under way, or the machine cannot keep
    two. Whoever holds that one was given the present one before it.
    """
    wanted = (present,) if following is None else (present, following)
    if held == wanted[-1]:
        return ()
    return wanted[1:] if held == present else wanted


class Standing(StrEnum):
    """How far a machine is in a rotation; the order is that of the page's list, the worst first."""

    AWAY = "away"
    """Not connected: cut off at the switch until it returns, whether it holds the next secret or not."""
    TOO_OLD = "too old"
    """Its agent cannot keep two secrets, and gets the next one with the switch."""
    WAITING = "waiting"
    """Connected, and has not said yet that it stored the next secret."""
    READY = "ready"


def standing(*, kept: int, following: int, connected: bool, version: int) -> Standing:
    """Judge one machine by the generation that it said it keeps, and the protocol version that it last spoke."""
    if not connected:
        return Standing.AWAY
    if version < ROTATION_VERSION:
        return Standing.TOO_OLD
    return Standing.READY if kept == following else Standing.WAITING


def may_switch_alone(standings: Iterable[Standing]) -> bool:
    """Say whether the switch may come by itself: only when it cuts nobody off."""
    return all(one is Standing.READY for one in standings)
