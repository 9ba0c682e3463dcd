"""Why a link is not up: one sentence and what to do, from what both ends say of it and what is known of them.

The cases stand in `CASES`, what explains most first; the first one that fits is the reason. Ages are seconds, judged
by whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kubespan.core.duration import age
from kubespan.core.peer_status import CONNECT_TIMEOUT, PeerState

Standing = Literal["pending", "approved", "left", "removed"]

CLOCK_SECONDS = 60.0
"""A clock that is behind by more than this explains a silence: WireGuard takes no handshake older than the last one."""

HANDSHAKE_BYTES = 4096
"""What handshakes and keepalives alone come to, and rather more: beyond it, somebody sent something."""

MUCH_BYTES = 64 * 1024
"""Sent, while nothing but handshakes arrived at the other end: no chance any more."""


SESSION_SECONDS = 180.0
"""A session that is older is refused (WireGuard's Reject-After-Time), so nothing comes through it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How one end sees the link, as it last said."""

    state: PeerState
    endpoint: str = ""
    handshake: float | None = None
    """Seconds since the last one; none where there never was one."""
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a link, and how it sees the other; what is left out is as it should be."""

    name: str
    standing: Standing = "approved"
    talos: bool = False
    """Whether discovery alone speaks for it: it reports nothing, and applies nothing of ours."""
    connected: bool = True
    """Whether its agent is; of a Talos machine, whether discovery lists it."""
    behind: int = 0
    """Revisions that it has yet to apply."""
    fault: str = ""
    """Why it cannot apply the newest one."""
    stopping: tuple[str, ...] = ()
    """Codes of what its preflight found and stops traffic."""
    skew: float | None = None
    """Seconds by which its clock is ahead of the console's."""
    refused: tuple[str, ...] = ()
    """Addresses that it claims and another member has."""
    endpoints: int = 0
    """At which the other end may try it."""
    filtered: int = 0
    """That are known, and left out by the cluster's filters."""
    translated: bool = False
    """Whether a NAT stands before it: its connection comes from an address that is none of its own."""
    port: int = 51820
    sight: Sight | None = None
    """How it sees the other; none where it has not said so."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a link is not up."""

    code: str
    text: str
    """One sentence."""
    remedy: str
    """What to do, or what to wait for."""
    brief: str = ""
    """The same in a few words, after the names of both ends; empty where `text` is short enough."""


@dataclass(frozen=True, slots=True)
class Link:
    """Two ends, and whether their cluster has KubeSpan on."""

    here: End
    there: End
    enabled: bool = True
    known: float = 0.0
    """Seconds for which both have been members, and so have had each other to try."""

    @property
    def ends(self) -> tuple[End, End]:
        """Both of them."""
        return self.here, self.there

    @property
    def ways(self) -> tuple[tuple[End, End], tuple[End, End]]:
        """Both directions: who sees, and who is seen."""
        return (self.here, self.there), (self.there, self.here)

    @property
    def up(self) -> bool:
        """Whether everybody who says anything sees it up, and somebody does."""
        sights = [end.sight for end in self.ends if end.sight is not None]
        return bool(sights) and all(sight.state is PeerState.UP for sight in sights)

    def is_silent(self, end: End, other: End) -> bool:
        """Whether one end hears nothing of the other: it says so, or it has tried each endpoint and is at it again.

        For a peer of several endpoints `down` lasts for a moment only, until the next one has its 15 s of `unknown`.
        """
        sight = end.sight
        if sight is None or sight.state is PeerState.UP:
            return False
        trying = self.known if sight.handshake is None else sight.handshake - SESSION_SECONDS
        return sight.state is PeerState.DOWN or trying > CONNECT_TIMEOUT * (other.endpoints + 1)


def explain(link: Link) -> Reason | None:
    """Why a link is not up, or carries nothing though it is; none where all is well."""
    if link.up:
        return _mute(link)
    for case in CASES:
        reason = case(link)
        if reason is not None:
            return reason
    return _unsaid(link)


def _switched_off(link: Link) -> Reason | None:
    if link.enabled:
        return None
    return Reason("off", "KubeSpan is switched off in this cluster.", "Switch it on in the cluster's options.")


def _no_member(link: Link) -> Reason | None:
    for end in link.ends:
        if end.standing == "pending":
            return Reason(
                "pending", f"{end.name} waits for approval, and is nobody's peer yet.", f"Approve {end.name}."
            )
        if end.standing == "removed":
            return Reason("removed", f"{end.name} was removed from the cluster.", "Enrol it again, by a new token.")
        if end.standing == "left":
            remedy = f"Look at its discovery on {end.name}; it returns by itself when it publishes itself again."
            return Reason("left", f"{end.name} has left discovery, and nobody heard it any more.", remedy)
    return None


def _at_fault(link: Link) -> Reason | None:
    for end in link.ends:
        if end.fault:
            remedy = f"Mend that on {end.name}; it tries again by itself."
            return Reason("fault", f"{end.name} cannot apply its settings: {end.fault.removesuffix('.')}.", remedy)
    return None


def _stopped(link: Link) -> Reason | None:
    for end in link.ends:
        if end.stopping:
            text = f"Something on {end.name} keeps traffic out of the mesh ({', '.join(end.stopping)})."
            return Reason("obstacle", text, f"The page of {end.name} has each finding with the command that mends it.")
    return None


def _clock_set_back(link: Link) -> Reason | None:
    for end in link.ends:
        if end.skew is not None and end.skew < -CLOCK_SECONDS:
            text = f"The clock of {end.name} is behind: if it was set back, its handshakes are refused as old."
            return Reason("clock", text, f"Set the clock of {end.name}, and keep it by a time server.")
    return None


def _conflict(link: Link) -> Reason | None:
    for end in link.ends:
        if end.refused and end.sight is None:
            text = f"{end.name} claims what another member has: {', '.join(end.refused)}."
            return Reason("conflict", text, "Give one of the two machines another address.")
    return None


def _away(link: Link) -> Reason | None:
    for end in link.ends:
        if end.connected:
            continue
        if end.talos:
            text = f"Discovery lists {end.name} no more: it is switched off, or cannot reach the discovery service."
            return Reason("unlisted", text, f"See whether {end.name} runs, and reaches the discovery service.")
        text = f"The agent of {end.name} is away: the machine is off, or cannot reach this console."
        return Reason("away", text, f"On {end.name}: kubespan-agent status says why it is not connected.")
    return None


def _behind(link: Link) -> Reason | None:
    for end in link.ends:
        if end.behind:
            revisions = f"{end.behind:,} revision{'s' if end.behind > 1 else ''}"
            text = f"{end.name} is behind by {revisions}, and may not know the other end as it is now."
            return Reason("behind", text, "It follows within seconds; if it does not, look at its page.")
    return None


def _no_endpoint(link: Link) -> Reason | None:
    if any(end.endpoints for end in link.ends):
        return None
    filtered = [end for end in link.ends if end.filtered]
    if filtered:
        names = " and ".join(end.name for end in filtered)
        text = f"The cluster's endpoint filters leave out every endpoint that is known of {names}."
        return Reason("filtered", text, "Let one of them through, in the cluster's options.")
    text = "No endpoint is known of either end, so neither can begin."
    return Reason("no-endpoint", text, "Give one of them a further endpoint, such as a forwarded port, on its page.")


def _one_way(link: Link) -> Reason | None:
    for hearing, deaf in link.ways:
        if hearing.sight is None or deaf.sight is None:
            continue
        if hearing.sight.state is PeerState.UP and link.is_silent(deaf, hearing):
            text = (
                f"{hearing.name} hears {deaf.name}, but {deaf.name} does not hear {hearing.name}: one direction only."
            )
            remedy = f"Look for a firewall that lets nothing in to UDP port {deaf.port} of {deaf.name}."
            return Reason("one-way", text, remedy)
    return None


def _trying(link: Link) -> Reason | None:
    if any(link.is_silent(end, other) for end, other in link.ways):
        return None
    for end, other in link.ways:
        if end.sight is not None and end.sight.state is PeerState.UNKNOWN and end.sight.endpoint:
            text = f"{end.name} is trying {other.name} at {end.sight.endpoint}."
            return Reason("trying", text, "Each endpoint has 15 s; then the next one is tried.")
    return None


def _both_translated(link: Link) -> Reason | None:
    if not all(end.translated for end in link.ends):
        return None
    text = f"{link.here.name} and {link.there.name} are both behind a NAT, and neither lets the other in."
    remedy = "Forward a UDP port to one of them and give it as a further endpoint; or harvest endpoints (options)."
    return Reason("nat", text, remedy)


def _silent(link: Link) -> Reason | None:
    for end, other in link.ways:
        if end.sight is None or not link.is_silent(end, other):
            continue
        if not other.endpoints:
            text = f"{end.name} knows no endpoint of {other.name}, and {other.name} does not reach it either."
            return Reason("silent", text, f"Let UDP port {end.port} of {end.name} be reached by {other.name}.")
        where = "its endpoint" if other.endpoints == 1 else f"any of its {other.endpoints} endpoints"
        so_far = "so far" if end.sight.handshake is None else f"for {age(end.sight.handshake)}"
        text = f"{other.name} has not answered {end.name} at {where} {so_far}."
        remedy = f"Check that UDP port {other.port} of {other.name} can be reached from {end.name}; then try again."
        known = other.endpoints + other.filtered
        brief = f"no handshake on {other.endpoints} of {known} endpoint{'' if known == 1 else 's'}, {so_far}"
        return Reason("silent", text, remedy, brief)
    return None


CASES: tuple[Callable[[Link], Reason | None], ...] = (
    _switched_off,
    _no_member,
    _at_fault,
    _stopped,
    _clock_set_back,
    _away,
    _behind,
    _conflict,
    _no_endpoint,
    _one_way,
    _trying,
    _both_translated,
    _silent,
)


def _unsaid(link: Link) -> Reason:
    if all(end.talos for end in link.ends):
        text = "Both ends are Talos machines: they report to nobody, so nothing is known of this link."
        return Reason("unsaid", text, "On one of them: talosctl get kubespanpeerstatuses.")
    return Reason("unsaid", "Neither end has said anything of this link yet.", "It does within half a minute.")


def _mute(link: Link) -> Reason | None:
    """Up by its handshakes, and yet nothing else arrives."""
    for sending, hearing in link.ways:
        if sending.sight is None or hearing.sight is None:
            continue
        if sending.sight.sent > MUCH_BYTES and hearing.sight.received <= HANDSHAKE_BYTES:
            text = f"Handshakes pass, but nothing else that {sending.name} sends arrives at {hearing.name}."
            remedy = (
                "Large packets may be lost on the way: lower the MTU in the cluster's options; or look at firewalls."
            )
            return Reason("mute", text, remedy)
    return None
