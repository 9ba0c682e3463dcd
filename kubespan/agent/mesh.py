"""This machine's mesh: the settings it was given, what is known of its peers, and what should be done about them.

No IO and no clock: times are arguments, on the machine's own timeline. A decision is taken on what was observed, and
becomes what is known only once the kernel has it (`settle`); else the next look decides again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address

from kubespan.agent.handshakes import Handshakes
from kubespan.agent.reports import NOT_MEASURED, Row
from kubespan.core.affiliate import Affiliate, from_members
from kubespan.core.desired import desired
from kubespan.core.endpoint import AddressFilter, Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.listed import add_endpoints
from kubespan.core.membership import Membership
from kubespan.core.messages import Member, Revision
from kubespan.core.peer_spec import PeerSpec, peer_specs
from kubespan.core.peer_status import (
    NEVER,
    TICK,
    PeerState,
    PeerStatus,
    adopt,
    expect_retries,
    observe,
    pick_endpoint,
    step,
    use_endpoint,
)
from kubespan.core.plan import NOTHING, Desired, Observed, PeerCounters

FIRST_LOOK = 0.5
"""Seconds after an endpoint was given until somebody looks whether it answers; then ever less often."""
JOIN_SECONDS = 20.0
"""For the push that brings a machine's own join; the console finds one that was lost within 15 s."""


Measure = Callable[[int], tuple[float | None, float | None]]
"""Gives a member's round trip in seconds and loss from 0 to 1, none for what is not measured."""


def not_measured(_: int) -> tuple[None, None]:
    """Know nothing of anybody."""
    return None, None


def _whole(rtt: float | None, loss: float | None) -> tuple[int, int]:
    """As reports have them: microseconds and per mille."""
    return (
        NOT_MEASURED if rtt is None else round(rtt * 1_000_000),
        NOT_MEASURED if loss is None else round(loss * 1000),
    )


class Misfit(Exception):
    """The settings are not for this machine; the sentence says in what. What is there stays as it is."""


@dataclass(frozen=True, slots=True)
class Own:
    """Who this machine is."""

    keys: KeyPair
    node_id: str
    address: IPv6Address | None
    """None while this machine waits for approval: it follows from the cluster, which is not known before."""
    listen_port: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be, and what will be known of the peers once it is."""

    desired: Desired
    revision: Revision | None
    """Of the settings that it follows."""
    complete: bool
    """False while the settings are: members without the cluster's secret are no mesh yet."""
    statuses: Mapping[str, PeerStatus] = field(default_factory=dict)
    tried: frozenset[int] = frozenset()
    warnings: tuple[str, ...] = ()
    """What was odd about the members; the others are meshed with all the same."""


class Mesh:
    """One machine's part in its cluster."""

    def __init__(self, own: Own) -> None:
        self.own = own
        self.membership = Membership()
        """The newest settings."""
        self.followed = Membership()
        """The settings that affiliates, specs and statuses belong to."""
        self.secret = ""
        self.exempt: frozenset[int] = frozenset()
        """TCP ports of a console on this machine; its connections stay outside the tunnel."""
        self.affiliates: list[Affiliate] = []
        self.reckonings = 0
        """Counts how often affiliates and specs were made anew."""
        self.specs: dict[str, PeerSpec] = {}
        self.statuses: dict[str, PeerStatus] = {}
        self._listed: Mapping[str, Affiliate] = {}
        self._warnings: tuple[str, ...] = ()
        self._stale = False
        self._rekeyed = False
        """Whether the secret is another one since the kernel was last brought up to date."""
        self._indexes: dict[str, int] = {}
        self._handshakes = Handshakes()
        self._to_try: frozenset[int] = frozenset()
        self._missing_since: float | None = None

    def take(self, membership: Membership, secret: str) -> None:
        """Go by these settings from the next decision on; many changes in between cost one reckoning."""
        self._rekeyed |= bool(self.secret) and secret != self.secret
        self.membership, self.secret = membership, secret
        self._stale = True

    def learn(self, listed: Mapping[str, Affiliate]) -> None:
        """Know what discovery lists, by node id: further endpoints of the members, and nothing else of it."""
        self._stale |= listed != self._listed
        self._listed = listed

    def _reckon(self) -> None:
        if not self._stale:
            return
        self._stale = False
        self.reckonings += 1
        membership = self.followed = self.membership
        filters = [AddressFilter.parse(text) for text in membership.options.peer_endpoint_filters]
        named, unread = from_members(membership.members.values())
        self.affiliates = add_endpoints(named, self._listed)
        found = peer_specs(self.affiliates, self.own.node_id, filters)
        # A peer with this machine's own key cannot be (and would be added at every look, for WireGuard ignores it).
        self.specs = {key: spec for key, spec in found.specs.items() if key != self.own.keys.public_key}
        self._warnings = (*unread, *found.warnings)
        self._indexes = {member.public_key: index for index, member in membership.members.items()}

    def join(self, address: IPv6Address) -> None:
        """Take the address that this machine has in the cluster that it was let into."""
        self.own = replace(self.own, address=address)

    def try_again(self, members: Iterable[int]) -> None:
        """Give these members their next endpoint at the next look, whatever their state."""
        self._to_try |= frozenset(members)

    def decide(self, observed: Observed, *, wall: float, now: float) -> Decision:
        """Say what should be. Raises Misfit; `wall` is Unix time."""
        self._reckon()
        revision = self.membership.revision
        address = self.own.address
        if revision is None or not self.secret or address is None or not self.membership.options.enabled:
            self.statuses = {}
            complete = revision is not None and bool(self.secret) and address is not None
            return Decision(NOTHING, revision, complete=complete)
        warnings = (*self._warnings, *self._check_own(now))
        self._look(observed, wall, now)
        statuses: dict[str, PeerStatus] = {}
        endpoints: dict[str, Endpoint | None] = {}
        tried = self._to_try
        for key, spec in self.specs.items():
            status = self._retry(spec, now) if self._indexes[key] in tried else self.statuses[key]
            status = expect_retries(status, now) if self._rekeyed else status
            statuses[key], endpoints[key] = step(spec, status, now)
        wanted = desired(
            keys=self.own.keys,
            address=address,
            secret=self.secret,
            options=self.membership.options,
            specs=self.specs,
            statuses=statuses,
            endpoints=endpoints,
            now=now,
            listen_port=self.own.listen_port,
            exempt=self.exempt,
        )
        return Decision(wanted, revision, complete=True, statuses=statuses, tried=tried, warnings=warnings)

    def settle(self, decision: Decision) -> None:
        """Note that the kernel has what was decided."""
        self.statuses = dict(decision.statuses)
        self._to_try -= decision.tried
        self._rekeyed = False

    def targets(self, now: float) -> dict[int, IPv6Address]:
        """Whom to probe, by member index: the peers that are up, at their KubeSpan addresses."""
        if not self.followed.options.probes:
            return {}
        return {
            self._indexes[key]: self.specs[key].address
            for key, status in self.statuses.items()
            if key in self._indexes and key in self.specs and status.state(now) is PeerState.UP
        }

    def measured(self, measure: Measure) -> dict[str, tuple[float | None, float | None]]:
        """Round trip and loss by public key."""
        return {key: measure(self._indexes[key]) for key in self.statuses if key in self._indexes}

    def rows(self, now: float, measure: Measure = not_measured) -> dict[int, Row]:
        """What a report says of each peer, by member index."""
        return {
            self._indexes[key]: Row(
                int(status.state(now)),
                str(status.endpoint or ""),
                status.last_handshake,
                status.received,
                status.sent,
                *_whole(*measure(self._indexes[key])),
            )
            for key, status in self.statuses.items()
            if key in self._indexes
        }

    def next_look(self, now: float) -> float:
        """Seconds until the peers should be looked at again: soon after an endpoint was given, else at the tick."""
        connecting = [
            now - status.endpoint_changed
            for status in self.statuses.values()
            if status.endpoint_changed > NEVER and status.state(now) is PeerState.UNKNOWN
        ]
        return min(TICK, max(FIRST_LOOK, min(connecting) / 2)) if connecting else TICK

    def _check_own(self, now: float) -> tuple[str, ...]:
        """Compare what the console knows of this machine; returns what is odd, raises Misfit where it cannot be."""
        own = self._find_own()
        if own is None:
            return self._wait_for_join(now)
        self._missing_since = None
        if own.address != str(self.own.address):
            raise Misfit(
                f"the console gives this machine the address {own.address}, but {self.own.address} follows from its "
                "cluster and hardware address; remove the node at the console and enrol it again"
            )
        if own.public_key != self.own.keys.public_key:
            raise Misfit(
                "the console knows this machine by another public key; remove the node there and enrol it again"
            )
        return ()

    def _wait_for_join(self, now: float) -> tuple[str, ...]:
        if self._missing_since is None:
            self._missing_since = now
        if now - self._missing_since < JOIN_SECONDS:
            return ()
        return ("this machine is not among the cluster's members, so no other one will answer it",)

    def _find_own(self) -> Member | None:
        members = self.membership.members.values()
        return next((member for member in members if member.node_id == self.own.node_id), None)

    def _look(self, observed: Observed, wall: float, now: float) -> None:
        self._handshakes.keep(frozenset(self.specs))
        self.statuses = {key: self._see(spec, observed, wall, now) for key, spec in self.specs.items()}

    def _see(self, spec: PeerSpec, observed: Observed, wall: float, now: float) -> PeerStatus:
        key = spec.public_key
        status = self.statuses.get(key)
        peer = observed.peers.get(key)
        if peer is None:
            return PeerStatus(label=spec.label) if status is None else _lost(status, now)
        counters = observed.counters.get(key, PeerCounters())
        handshake = self._handshakes.convert(key, counters.last_handshake, wall=wall, now=now)
        if status is None:
            return adopt(spec, peer.endpoint, handshake, counters.received, counters.sent, now)
        return observe(status, peer.endpoint, handshake, counters.received, counters.sent)

    def _retry(self, spec: PeerSpec, now: float) -> PeerStatus:
        status = self.statuses[spec.public_key]
        endpoint = pick_endpoint(status, spec.endpoints) or status.last_used_endpoint
        return status if endpoint is None else use_endpoint(status, endpoint, now)


def _lost(status: PeerStatus, now: float) -> PeerStatus:
    """A peer that WireGuard knew is gone from it, as a rule with the whole link; it will be given its endpoint anew.

    Judged by its old handshake it would count as `down` at the next look, and lose an endpoint that works.
    """
    if status.last_used_endpoint is None:
        return observe(status, None, NEVER, 0, 0)
    return use_endpoint(observe(status, None, NEVER, 0, 0), status.last_used_endpoint, now)
