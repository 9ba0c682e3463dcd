"""What something else on this machine changed, in words, and how often to fight it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubespan.core.plan import (
    AddAddress,
    AddRule,
    Change,
    CreateLink,
    DeleteLink,
    Desired,
    Observed,
    RemoveAddress,
    RemovePeers,
    RemoveRoute,
    RemoveRule,
    SetFirewall,
    SetLink,
    SetPeers,
    SetPresharedKeys,
    SetRoute,
    plan,
)

SHORTEST_PAUSE = 0.1
"""Seconds between a kernel event and the look it causes, so that a burst of events is one look."""
LONGEST_PAUSE = 30.0

_CHANGED: dict[type, str] = {
    CreateLink: "the link",
    SetLink: "the link's settings",
    AddAddress: "the link's address",
    SetRoute: "a route",
    AddRule: "a rule",
    SetFirewall: "the firewall table",
}
_ADDED: dict[type, str] = {
    DeleteLink: "a link",
    RemoveAddress: "an address",
    RemoveRoute: "a route",
    RemoveRule: "a rule",
}


def find_drift(settled: Desired | None, observed: Observed) -> list[Change]:
    """List what must be put right of what was settled before; endpoints are WireGuard's to change, for peers roam."""
    if settled is None:
        return []
    peers = {key: replace(peer, endpoint=None) for key, peer in settled.peers.items()}
    return plan(replace(settled, peers=peers), observed)


def describe(changes: Sequence[Change]) -> str:
    """Say in one sentence what was put right."""
    changed: dict[str, None] = {}
    added: dict[str, None] = {}
    for change in changes:
        match change:
            case SetPeers(peers) | SetPresharedKeys(peers):
                changed[_count(len(peers), "peer")] = None
            case RemovePeers(public_keys):
                added[_count(len(public_keys), "peer")] = None
            case _ if type(change) in _ADDED:
                added[_ADDED[type(change)]] = None
            case _:
                changed[_CHANGED[type(change)]] = None
    deeds = [f"{verb} {', '.join(what)}" for verb, what in (("changed", changed), ("added", added)) if what]
    return f"something else on this machine {' and '.join(deeds)}; all is as it should be again"


def pause(drifts: int) -> float:
    """Seconds to wait before an event causes a look, after so many looks in a row that found drift.

    Another program that undoes our work as fast as we do it would otherwise keep both busy for ever.
    """
    return float(min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(drifts, 16)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
