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
    SetRoute,
    plan,
)

SHORTEST_PAUSE = 0.1
"""Seconds between a kernel event and the look it causes, so that a burst of events is one look."""
LONGEST_PAUSE = 30.0

_WORDS: dict[type, str] = {
    CreateLink: "the link",
    DeleteLink: "a foreign link",
    SetLink: "the link's settings",
    AddAddress: "the link's address",
    RemoveAddress: "a foreign address",
    SetRoute: "a route",
    RemoveRoute: "a foreign route",
    AddRule: "a rule",
    RemoveRule: "a foreign rule",
    SetFirewall: "the firewall table",
}


def find_drift(settled: Desired | None, observed: Observed) -> list[Change]:
    """List what must be put right of what was settled before; endpoints are WireGuard's to change, for peers roam."""
    if settled is None:
        return []
    peers = {key: replace(peer, endpoint=None) for key, peer in settled.peers.items()}
    return plan(replace(settled, peers=peers), observed)


def describe(changes: Sequence[Change]) -> str:
    """Say in one sentence what was put right."""
    parts: dict[str, None] = {}
    for change in changes:
        match change:
            case SetPeers(peers):
                parts[_count(len(peers), "peer")] = None
            case RemovePeers(public_keys):
                parts[_count(len(public_keys), "foreign peer")] = None
            case _:
                parts[_WORDS[type(change)]] = None
    return f"something else on this machine changed {', '.join(parts)}; it is as it should be again"


def pause(drifts: int) -> float:
    """Seconds to wait before an event causes a look, after so many looks in a row that found drift.

    Another program that undoes our work as fast as we do it would otherwise keep both busy for ever.
    """
    return float(min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(drifts, 16)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
