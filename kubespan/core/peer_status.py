"""What a peer is: unknown, up or down, and which endpoint to try next (spec/kubespan.md §6.1, §7).

Times are seconds on one monotonic timeline of the machine; what never happened was at NEVER. The state machine in
one picture::

    endpoint given ──► unknown ──15 s without a handshake──► down ──► next endpoint given ──► unknown …
                          │ handshake since then                ▲
                          ▼                                     │
                          up ─── 275 s after the last handshake ┘

A handshake counts for an endpoint only when it came after that endpoint was given. Once 275 s have passed since the
last change, only the handshake's age counts: WireGuard renews a session every 120 s, and gives up 90 s after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from math import inf

from kubespan.core.cluster import is_kubespan_ula
from kubespan.core.endpoint import Endpoint, IPNetwork
from kubespan.core.options import Options
from kubespan.core.peer_spec import PeerSpec
from kubespan.core.ranges import FAMILIES, network_range, prefixes, unite

NEVER = -inf

CONNECT_TIMEOUT = 15.0
"""Seconds that an endpoint has for its first handshake."""
PEER_DOWN_AFTER = 275.0
"""Seconds after which a session is over for certain: 180 (expired) + 5 (retry) + 90 (given up)."""
TICK = 30.0
"""Seconds between looks at the peers when nothing else asks for one."""


class PeerState(IntEnum):
    """The number travels in reports and in Talos' resources, the word is what people read."""

    UNKNOWN = 0
    UP = 1
    DOWN = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What WireGuard last told us of a peer, and which endpoint we last gave it."""

    label: str = ""
    endpoint: Endpoint | None = None
    """As WireGuard has it; a peer may roam to one that we never gave."""
    last_used_endpoint: Endpoint | None = None
    """The one that we gave."""
    endpoint_changed: float = NEVER
    """When we gave it; roaming changes neither."""
    last_handshake: float = NEVER
    met: bool = False
    """Whether there ever was a handshake; it stays true when the link is made anew and WireGuard counts from zero."""
    received: int = 0
    sent: int = 0

    def state(self, now: float) -> PeerState:
        """Impatient just after an endpoint was given, patient once the tunnel has settled."""
        since_change = now - self.endpoint_changed
        if since_change > PEER_DOWN_AFTER:
            alive = now - self.last_handshake < PEER_DOWN_AFTER
        else:
            alive = self.last_handshake > self.endpoint_changed
        if alive:
            return PeerState.UP
        if since_change < CONNECT_TIMEOUT or self.last_used_endpoint is None:
            return PeerState.UNKNOWN
        return PeerState.DOWN

    def should_change_endpoint(self, now: float) -> bool:
        """Say whether it is time for another endpoint; `unknown` alone is no reason."""
        return self.last_used_endpoint is None or self.state(now) is PeerState.DOWN


def observe(status: PeerStatus, endpoint: Endpoint | None, handshake: float, received: int, sent: int) -> PeerStatus:
    """Note what WireGuard says of a peer; the handshake is already on the machine's timeline."""
    return replace(
        status,
        endpoint=endpoint,
        last_handshake=handshake,
        met=status.met or handshake > NEVER,
        received=received,
        sent=sent,
    )


def adopt(
    spec: PeerSpec, endpoint: Endpoint | None, handshake: float, received: int, sent: int, now: float
) -> PeerStatus:
    """Take over a peer that WireGuard has already when the agent starts: its endpoint counts as the one we gave.

    A working link stays as it is. An endpoint that does not work now gets its time from the beginning, so that agents
    which start again and again do not race through the endpoints.
    """
    status = observe(PeerStatus(label=spec.label, last_used_endpoint=endpoint), endpoint, handshake, received, sent)
    if endpoint is not None and status.state(now) is not PeerState.UP:
        return replace(status, endpoint_changed=now)
    return status


def pick_endpoint(status: PeerStatus, endpoints: Sequence[Endpoint]) -> Endpoint | None:
    """Pick the endpoint after the last used one, round and round; none when there is no other (§7.3)."""
    if not endpoints:
        return None
    if status.last_used_endpoint not in endpoints:
        return endpoints[0]
    if len(endpoints) == 1 and status.endpoint == status.last_used_endpoint:
        return None
    return endpoints[(endpoints.index(status.last_used_endpoint) + 1) % len(endpoints)]


def use_endpoint(status: PeerStatus, endpoint: Endpoint, now: float) -> PeerStatus:
    """Note that the peer is given an endpoint: the one event that counts as a change (§7.4)."""
    return replace(status, endpoint=endpoint, last_used_endpoint=endpoint, endpoint_changed=now)


def expect_retries(status: PeerStatus, now: float) -> PeerStatus:
    """Give an endpoint that is being tried its time anew, because handshakes may fail for a moment that are no fault
    of it: the preshared key changes, and the two ends never do that at the same instant.
    """
    connecting = status.last_used_endpoint is not None and status.state(now) is PeerState.UNKNOWN
    return replace(status, endpoint_changed=now) if connecting else status


def step(spec: PeerSpec, status: PeerStatus, now: float) -> tuple[PeerStatus, Endpoint | None]:
    """Take one look at a peer: its status afterwards, and the endpoint to tell WireGuard (§6.1, steps 3 and 4).

    No endpoint means that WireGuard's own is to be left alone: the peer has none, or has roamed.
    """
    if status.should_change_endpoint(now):
        picked = pick_endpoint(status, spec.endpoints)
        if picked is not None:
            status = use_endpoint(status, picked, now)
    given = status.last_used_endpoint
    if given is not None and status.endpoint in (None, given):
        return replace(status, endpoint=given), given
    return status, None


def routed(
    specs: Mapping[str, PeerSpec], statuses: Mapping[str, PeerStatus], options: Options, now: float
) -> frozenset[IPNetwork]:
    """Give what is forced into the tunnel, in the fewest prefixes (§6.1, step 5).

    KubeSpan addresses are left out: the link's own /64 routes them.
    """
    networks = [
        network
        for key, spec in specs.items()
        if _is_forced(statuses.get(key, PeerStatus()), options, now)
        for network in spec.allowed_ips
        if not is_kubespan_ula(network.network_address)
    ]
    return frozenset(_fewest(networks))


def _is_forced(status: PeerStatus, options: Options, now: float) -> bool:
    if options.allow_down_peer_bypass:
        return status.state(now) is PeerState.UP
    return status.met or options.force_from_start


def _fewest(networks: Iterable[IPNetwork]) -> Iterable[IPNetwork]:
    networks = list(networks)
    for family in FAMILIES:
        ranges = unite(network_range(network) for network in networks if network.version == family)
        yield from prefixes(ranges, family)
