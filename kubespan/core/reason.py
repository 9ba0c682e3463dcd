"""Why a link is not up: one sentence and what to do, from what both ends say of it and what is known of them.

The cases stand in `CASES`, what explains most first; the first one that fits is the reason. Handshakes alone make a
link `up`, so one that is up may still carry nothing: `STRAINS` has these cases. Ages are seconds, judged by whoever
asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kubespan.core.duration import age
from kubespan.core.peer_status import CONNECT_TIMEOUT, PeerState

Standing = Literal["pending", "approved", "left", "removed"]

CLOCK_SECONDS = 60.0
"""A clock that is behind by more than this explains a silence: WireGuard takes no handshake older than the last one."""

LOSSY = 0.5
"""Share of the probes without an answer, from which on a link that is up is told of. A way that is cut comes to less at
the usual pace, one probe of twenty every 30 s, before the link is `down`."""

ARRIVED = 0.5
"""Share of the bytes sent below which large packets are lost: handshakes, keepalives and probes are small."""

UNANSWERED_SECONDS = 300.0
"""After which somebody who answers probes at all has answered one."""

IDLE_BYTES = 20.0
"""A second, over the whole time: handshakes and keepalives come to 3, the few probes of a watched link to 10 more."""

SESSION_SECONDS = 180.0
"""A session that is older is refused (WireGuard's Reject-After-Time), so nothing comes through it any more. Where
handshakes pass there is a new one after 120 s, and it is told within half a minute."""

Strain = Literal["", "lossy", "mute", "fading"]
"""What a link that is up suffers from, as its probes tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How one end sees the link, as it last said."""

    state: PeerState
    endpoint: str = ""
    handshake: float | None = None
    """Seconds since the last one; none where there never was one."""
    received: int = 0
    loss: float | None = None
    """Share of its last probes that the other did not answer, 0 to 1; none while not measured."""
    measured: bool = True
    """Whether the other has answered a probe of it since they met."""
    lasting: float = 0.0
    """Seconds for which it has seen the other so, at least."""
    hears: bool | None = None
    """Whether anything came from the other in the last minutes; none where counters were not kept."""
    arrived: float | None = None
    """Of the bytes that it sent in the last minutes the share that arrived; none where these were few, or not kept."""

    @property
    def strain(self) -> Strain:
        """What the link suffers from though this end sees it up; empty where that is nothing."""
        if self.state is not PeerState.UP or self.loss is None or self.loss < LOSSY:
            return ""
        if self.handshake is not None and self.handshake > SESSION_SECONDS:
            return "fading"
        return "lossy" if self.loss < 1 else "mute"

    @property
    def gets(self) -> bool | None:
        """Whether anything of the other's arrives, be it what a handshake begins with; none where that is not known."""
        if self.state is PeerState.UP:
            return True
        if self.hears is None and self.handshake is None:
            return self.received > 0
        return self.hears


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
    """Why addresses that it claims are not believed, so that nobody tries it there: another member has them, mostly."""
    endpoints: int = 0
    """At which the other end may try it."""
    own: int = 0
    """Of these, the ones at addresses that it has itself: no NAT must let anybody in there."""
    filtered: int = 0
    """That are known, and left out by the cluster's filters."""
    translated: bool = False
    """Whether a NAT stands before it: its connection comes from an address that is none of its own."""
    port: int = 51820
    probes: bool = False
    """Whether its agent measures round trips."""
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
    for case in STRAINS if link.up else CASES:
        reason = case(link)
        if reason is not None:
            return reason
    return None if link.up else _unsaid(link)


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
    """Of a machine whose own addresses are all refused; what a NAT has for it may be no way in."""
    if any(end.sight is not None and end.sight.state is PeerState.UP for end in link.ends):
        return None
    silent = any(link.is_silent(end, other) for end, other in link.ways)
    if not silent and any(end.endpoints for end in link.ends):
        return None
    for end in link.ends:
        if end.refused and not end.own:
            nowhere = ", and it answers nowhere else" if end.endpoints else ""
            text = f"Nobody tries {end.name} at its own address{nowhere}: {end.refused[0]}."
            remedy = f"Give one of the two machines another address; or {end.name} a further endpoint, on its page."
            return Reason("conflict", text, remedy)
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
        return _filtered(filtered)
    text = "No endpoint is known of either end, so neither can begin."
    return Reason("no-endpoint", text, "Give one of them a further endpoint, such as a forwarded port, on its page.")


def _filtered(ends: Sequence[End], besides: str = "") -> Reason:
    names = " and ".join(end.name for end in ends)
    text = f"The cluster's endpoint filters leave out every endpoint that is known of {names}{besides}."
    return Reason("filtered", text, "Let one of them through, in the cluster's options.")


def _one_way(link: Link) -> Reason | None:
    for hearing, deaf in link.ways:
        if hearing.sight is None or deaf.sight is None or not link.is_silent(deaf, hearing):
            continue
        # A handshake takes both directions: what one end alone hears is how the other one begins, again and again.
        begun = link.is_silent(hearing, deaf) and hearing.sight.gets and deaf.sight.gets is False
        if hearing.sight.state is PeerState.UP or begun:
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
        if not other.endpoints and other.filtered:
            return _filtered([other], f", and {other.name} does not reach {end.name} either")
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
    unanswered = _strained(link, "mute")
    if not unanswered:
        return None
    end, other = unanswered[0]
    if len(unanswered) > 1:
        text = f"Handshakes pass between {end.name} and {other.name}, but no probe is answered in either direction."
        where = "both machines"
    else:
        text = f"Handshakes pass, but {other.name} answers no probe of {end.name}."
        where = other.name
    remedy = (
        f"Look for a firewall on {where} that keeps out what comes by the interface kubespan, or for one on the way "
        "that lets nothing but handshakes through. Where all is cut, the link is down within five minutes."
    )
    return Reason("mute", text, remedy, "handshakes pass, but no probe is answered")


def _fading(link: Link) -> Reason | None:
    if not _strained(link, "fading"):
        return None
    text = f"Nothing passes between {link.here.name} and {link.there.name} any more, and no handshake either."
    return Reason(
        "fading", text, "The link is down within two minutes; its endpoints are tried then, one after another."
    )


def _lossy(link: Link) -> Reason | None:
    for end, other in _strained(link, "lossy"):
        lost = _percent(end.sight.loss if end.sight is not None else None)
        text = f"{other.name} does not answer {lost} of the probes of {end.name}, though handshakes pass."
        remedy = (
            "Look for a line on the way that is full or bad, or for a firewall that limits how much it lets through."
        )
        return Reason("lossy", text, remedy)
    return None


def is_short(arrived: float | None) -> bool:
    """Whether a share of bytes that arrived is so small that large packets must have been lost."""
    return arrived is not None and arrived < ARRIVED


def _strained(link: Link, strain: Strain) -> list[tuple[End, End]]:
    return [(end, other) for end, other in link.ways if end.sight is not None and end.sight.strain == strain]


def _shortened(link: Link) -> Reason | None:
    """Small packets pass, large ones do not."""
    for end, other in link.ways:
        arrived = None if end.sight is None else end.sight.arrived
        if is_short(arrived):
            share = _percent(arrived)
            text = f"Of the bytes that {end.name} sent in the last minutes {share} arrived at {other.name}."
            remedy = (
                "Large packets may be lost on the way: lower the MTU in the cluster's options; or look at firewalls."
            )
            return Reason("mtu", text, remedy)
    return None


def _unanswered(link: Link) -> Reason | None:
    """Never a probe, and no more bytes than there are anyway: it may be a firewall that keeps out echoes alone."""
    probing = [end.sight for end in link.ends if end.probes and end.sight is not None]
    unknown = [sight for sight in probing if not sight.measured and sight.lasting > UNANSWERED_SECONDS]
    if len(unknown) < len(probing) or all(sight.received > IDLE_BYTES * sight.lasting for sight in probing):
        return None
    text = f"Handshakes pass between {link.here.name} and {link.there.name}, but no probe was ever answered."
    remedy = (
        "If other traffic passes, a firewall keeps out ICMPv6 echoes alone, and all is well. If not, look on both "
        "machines for one that keeps out what comes by the interface kubespan."
    )
    return Reason("unanswered", text, remedy)


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.0f} %"


STRAINS: tuple[Callable[[Link], Reason | None], ...] = (_mute, _fading, _lossy, _shortened, _unanswered)
"""Of a link that is up by its handshakes, what keeps the rest from coming through."""
