"""Two nodes and the link between them, as rows and last reports have it: what kubespan.core.reason judges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

from kubespan.core.affiliate import is_observable
from kubespan.core.endpoint import AddressFilter, Endpoint, filter_addresses
from kubespan.core.findings import STOPPING
from kubespan.core.peer_spec import filter_endpoints
from kubespan.core.peer_status import PeerState
from kubespan.core.reason import End, Link, Reason, Sight, explain
from nodes import live
from nodes.history.reading import UNCOUNTED, Lately
from nodes.live import Seen
from nodes.models import Candidate, Cluster, Node, Obstacle, Transition

PROBING_VERSION = 2
"""Version of the agents' protocol from which on reports have round trips."""

ADDRESS = "address"
"""What a refused claim of an address is called in Node.refused_claims."""


class Why(NamedTuple):
    """Why a link is not up, and which end says since when."""

    reason: Reason
    lost: Seen | None = None
    """As nodes.pairs.lost_first has it."""

    @property
    def since(self) -> datetime | None:
        """Since when it is not up."""
        return since(self.lost)

    @property
    def at_least(self) -> bool:
        """Whether it may be so for longer."""
        return self.lost is not None and self.lost.at_least


def lost_first(sights: Iterable[Seen | None]) -> Seen | None:
    """The end that lost the other first, of those that do not see it up: their link is that old."""
    said = [seen for seen in sights if seen is not None and seen.state != "up"]
    return min(said, key=lambda seen: (seen.since or 0, not seen.at_least), default=None)


def since(seen: Seen | None) -> datetime | None:
    """Since when a link is as it was seen."""
    return datetime.fromtimestamp(seen.since, UTC) if seen is not None and seen.since else None


class Try(NamedTuple):
    """What came of an endpoint when it was last in use."""

    at: datetime
    result: Literal["answered", "no answer", "tried"]
    """`tried` where nothing more was heard of it."""


@dataclass(frozen=True, slots=True)
class Tried:
    """An endpoint of a node as another one tries it."""

    candidate: Candidate
    used: bool
    """Whether WireGuard has it now."""
    left_out: bool
    """Whether the cluster's filters keep it from being tried."""
    last: Try | None = None
    """Its last try before, as transitions tell; none where they know of none."""


@dataclass(frozen=True, slots=True)
class View:
    """One end's side of a pair: how it sees the other, and where it tries it."""

    node: Node
    peer: Node
    seen: Seen | None
    tried: list[Tried]

    @property
    def said(self) -> datetime | None:
        """When it said so."""
        return None if self.seen is None else datetime.fromtimestamp(self.seen.at, UTC)

    @property
    def handshake(self) -> datetime | None:
        """When the last handshake was."""
        if self.seen is None or self.seen.handshake is None:
            return None
        return datetime.fromtimestamp(self.seen.handshake, UTC)

    @property
    def since(self) -> datetime | None:
        """Since when it is up, or is not."""
        return since(self.seen)

    @property
    def roamed(self) -> str:
        """The endpoint that WireGuard has and that nobody told it: the peer came from there."""
        told = {one.candidate.endpoint for one in self.tried}
        return "" if self.seen is None or self.seen.endpoint in told else self.seen.endpoint


def read_link(here: Node, there: Node) -> tuple[Seen | None, Seen | None]:
    """How each of two nodes last saw the other: `here`'s view first. One call to Redis; raises redis.RedisError."""
    return live.read_links_to(there, [here.pk]).get(here.pk), live.read_links_to(here, [there.pk]).get(there.pk)


JUDGED = (
    "cluster_id", "index", "name", "status", "kind", "left_at", "session", "applied_epoch", "applied_number", "fault",
    "clock_skew", "protocol", "refused_claims", "listen_port", "peer_address", "addresses", "approved_at", "enrolled",
)  # fmt: skip
"""Columns of a node that its end of a link is judged by."""


@dataclass(slots=True)
class Around:
    """What other tables have of a node, for its end of a link."""

    endpoints: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """Codes of its obstacles."""

    @classmethod
    def of(cls, node: Node) -> Self:
        """From rows that were read with it."""
        return cls([row.endpoint for row in node.candidates.all()], [row.code for row in node.obstacles.all()])

    @classmethod
    def read(cls, pks: Collection[int]) -> dict[int, Self]:
        """Of nodes by primary key, as values: a few dozen nodes have hundreds of such rows."""
        found = {pk: cls() for pk in pks}
        for pk, endpoint in Candidate.objects.filter(node__in=pks).values_list("node_id", "endpoint"):
            found[pk].endpoints.append(endpoint)
        for pk, code in Obstacle.objects.filter(node__in=pks).values_list("node_id", "code"):
            found[pk].findings.append(code)
        return found


def read_reasons(
    ends: Collection[tuple[int, int]], clusters: Mapping[int, Cluster], now: float
) -> dict[tuple[int, int], Why]:
    """Why these links (node and peer, by primary key) are not up, and since when.

    Three queries and one call to Redis for all of them; `clusters` has those of the nodes, by primary key. Raises
    redis.RedisError.
    """
    if not ends:
        return {}
    pks = {pk for pair in ends for pk in pair}
    nodes = Node.objects.only(*JUDGED).in_bulk(pks)
    around = Around.read(pks)
    known = [pair for pair in ends if pair[0] in nodes and pair[1] in nodes]
    both = [(one, nodes[other].index) for here, there in known for one, other in ((here, there), (there, here))]
    seen = live.read_sights(both)
    found = {}
    for place, (here, there) in enumerate(known):
        cluster = clusters[nodes[here].cluster_id]
        sights = seen[2 * place], seen[2 * place + 1]
        link = link_of(nodes[here], nodes[there], cluster, sights, now, (around[here], around[there]))
        if reason := explain(link):
            found[here, there] = Why(reason, lost_first(sights))
    return found


RESULTS: dict[str, Literal["answered", "no answer", "tried"]] = {
    "up": "answered",
    "down": "no answer",
    "unknown": "tried",
}


def last_tries(transitions: Iterable[Transition]) -> dict[str, Try]:
    """What came of each endpoint, from one end's transitions of a link, the newest first.

    A link that leaves an endpoint without having been up there had no answer from it.
    """
    found: dict[str, Try] = {}
    for row in transitions:
        left, _, taken = row.text.removeprefix("endpoint ").rpartition(" → ")
        found.setdefault(taken, Try(row.at, RESULTS.get(row.after, "tried")))
        if left:
            found.setdefault(left, Try(row.at, "answered" if row.before == "up" else "no answer"))
    return found


def try_order(
    node: Node, cluster: Cluster, seen: Seen | None, tries: Mapping[str, Try] = MappingProxyType({})
) -> list[Tried]:
    """A node's endpoints in the order in which another one tries them, then those that filters leave out."""
    rows = {row.endpoint: row for row in node.candidates.all()}
    passed = [str(endpoint) for endpoint in _filter(rows, cluster)]
    ordered = [*passed, *(text for text in rows if text not in set(passed))]
    now = seen.endpoint if seen else ""
    return [Tried(rows[text], text == now, text not in passed, tries.get(text)) for text in ordered]


def _filter(endpoints: Iterable[str], cluster: Cluster) -> tuple[Endpoint, ...]:
    filters = [AddressFilter.parse(entry) for entry in cluster.kubespan.peer_endpoint_filters]
    return filter_endpoints([Endpoint.parse(text) for text in endpoints], filters)


def link_of(
    here: Node,
    there: Node,
    cluster: Cluster,
    seen: tuple[Seen | None, Seen | None],
    now: float,
    around: tuple[Around, Around] | None = None,
    lately: tuple[Lately, Lately] = (UNCOUNTED, UNCOUNTED),
) -> Link:
    """The link between two nodes of a cluster; `seen` is how each last saw it, and `now` Unix time.

    `around` is of each what other tables have, where it was not read with the nodes; `lately` what its counters came
    to, where somebody keeps them.
    """
    around_here, around_there = around or (Around.of(here), Around.of(there))
    sights = [None if one is None else sight_of(one, now, counted) for one, counted in zip(seen, lately, strict=True)]
    return Link(
        _end(here, around_here, cluster, sights[0]),
        _end(there, around_there, cluster, sights[1]),
        enabled=cluster.kubespan.enabled,
        known=min(now - (node.approved_at or node.enrolled).timestamp() for node in (here, there)),
    )


def _end(node: Node, around: Around, cluster: Cluster, sight: Sight | None) -> End:
    passed = _filter(around.endpoints, cluster)
    return End(
        name=node.name,
        standing=node.status,  # type: ignore[arg-type] # its choices are the same words
        talos=node.is_talos,
        connected=node.is_here,
        behind=node.behind(cluster),
        fault=node.fault,
        stopping=tuple(code for code in around.findings if code in STOPPING),
        skew=node.clock_skew,
        refused=tuple(claim["reason"] for claim in node.refused_claims if claim["kind"] == ADDRESS),
        endpoints=len(passed),
        own=sum(str(endpoint.ip) in node.addresses for endpoint in passed),
        filtered=len(around.endpoints) - len(passed) + _unadvertised(node, cluster),
        translated=_is_translated(node),
        port=node.listen_port,
        probes=cluster.kubespan.probes and node.protocol >= PROBING_VERSION,
        sight=sight,
    )


def _unadvertised(node: Node, cluster: Cluster) -> int:
    """How many of its addresses the cluster's filters keep from being announced, so that no endpoint comes of them."""
    filters = [AddressFilter.parse(entry) for entry in cluster.kubespan.endpoint_filters]
    if not filters or node.is_talos:  # which announces by itself
        return 0
    texts = dict.fromkeys((*node.addresses, *filter(None, [node.peer_address])))
    known = [address for address in map(ip_address, texts) if is_observable(address)]
    return len(known) - len(filter_addresses(known, filters))


def _is_translated(node: Node) -> bool:
    """Whether its connection to the console comes from an address that is none of its own, nor of this machine."""
    if node.peer_address is None or ip_address(node.peer_address).is_loopback:
        return False
    return bool(node.addresses) and node.peer_address not in node.addresses


def is_measured(seen: Seen) -> bool:
    """Whether there is a round trip or a loss: none while no probe was ever answered."""
    return seen.rtt is not None or seen.loss is not None


def sight_of(seen: Seen, now: float, lately: Lately = UNCOUNTED) -> Sight:
    """What kubespan.core.reason takes of what an end said, and of what its counters came to."""
    return Sight(
        state=PeerState[seen.state.upper()],
        endpoint=seen.endpoint,
        handshake=None if seen.handshake is None else now - seen.handshake,
        received=seen.received,
        loss=seen.loss,
        measured=is_measured(seen),
        lasting=now - seen.since if seen.since else 0.0,
        hears=lately.hears,
        arrived=lately.arrived,
    )
