"""What a machine may say of its own addresses and networks (docs/security.md).

Node addresses and advertised networks become everybody's allowed IPs: who may claim any of them may draw any traffic to
itself. So each claim is checked, and what is not believed is kept with its reason.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv6Network, ip_network
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from kubespan.core import text as texts
from kubespan.core.cluster import is_kubespan_ula, ula_prefix
from kubespan.core.endpoint import IPAddress, IPNetwork, parse_address, parse_network
from nodes.models import Candidate, Cluster, Node
from nodes.models.members import NodeQuerySet

CLAIMS_LIMIT = 128
"""Addresses or networks that one machine may claim; more are refused together."""

RESOLVED_SECONDS = 300
"""How long the console's own name is not looked up again, whether it was found or not."""

FORBIDDEN_RANGES: tuple[tuple[IPNetwork, str], ...] = (
    (ip_network("127.0.0.0/8"), "loopback"),
    (ip_network("::1/128"), "loopback"),
    (ip_network("224.0.0.0/4"), "multicast"),
    (ip_network("ff00::/8"), "multicast"),
    (ip_network("169.254.0.0/16"), "link-local"),
    (ip_network("fe80::/10"), "link-local"),
    (ip_network("0.0.0.0/8"), "no machine's"),
    (ip_network("::/128"), "no machine's"),
    (ip_network("255.255.255.255/32"), "broadcast"),
)

log = structlog.get_logger(__name__)

printable = texts.printable
"""For what machines say of themselves."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the other members of a cluster have already, each with the member's name; texts in canonical form."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """By address alone."""
    networks: Sequence[tuple[IPNetwork, str]] = ()
    console: frozenset[IPAddress] = frozenset()
    prefix: IPv6Network | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What of a machine's claims is believed, and what is not."""

    addresses: list[str]
    networks: list[str]
    refused: list[dict[str, str]]
    """Each with `kind` (address, network, limit), `claim` and `reason`."""


def judge(
    addresses: Iterable[str],
    networks: Iterable[str],
    *,
    own: str,
    peer: IPAddress | None,
    read: Callable[[Collection[str] | None], Neighbours],
) -> Verdict:
    """Check all claims of a machine; `own` is its KubeSpan address, `peer` where its connection comes from.

    `read` gives the neighbours that have or cover any of these addresses, or all. It is asked for the very texts that
    are judged: beside a neighbour that was not read, any address would be free.
    """
    verdict = Verdict([], [], [])
    addresses, networks = _limited(addresses, verdict), _limited(networks, verdict)
    neighbours = read(None if networks else canonical(addresses))
    for claim in addresses:
        try:
            address = parse_address(claim)
            if str(address) == own:
                continue  # it is given, not claimed
            _check_address(address, peer, neighbours)
        except ValueError as error:
            verdict.refused.append(_refusal("address", claim, str(error)))
        else:
            verdict.addresses.append(str(address))
    for claim in networks:
        try:
            network = parse_network(claim)
            check_network(network, neighbours)
        except ValueError as error:
            verdict.refused.append(_refusal("network", claim, str(error)))
        else:
            verdict.networks.append(str(network))
    return verdict


def _limited(claims: Iterable[str], verdict: Verdict) -> list[str]:
    distinct = list(dict.fromkeys(printable(claim) for claim in claims))
    if len(distinct) > CLAIMS_LIMIT:
        left_out = len(distinct) - CLAIMS_LIMIT
        verdict.refused.append(_refusal("limit", f"{left_out} more", f"a machine may claim at most {CLAIMS_LIMIT}"))
    return distinct[:CLAIMS_LIMIT]


def _refusal(kind: str, claim: str, reason: str) -> dict[str, str]:
    return {"kind": kind, "claim": claim, "reason": reason}


def _check_address(address: IPAddress, peer: IPAddress | None, neighbours: Neighbours) -> None:
    for forbidden, kind in FORBIDDEN_RANGES:
        if address in forbidden:
            raise ValueError(f"{address} is {kind}, and means another machine everywhere")
    if is_kubespan_ula(address):
        raise ValueError(f"{address} is a KubeSpan address, but not this machine's own")
    if address in neighbours.console:
        raise ValueError(f"{address} is this console's own address")
    if name := neighbours.addresses.get(str(address)):
        raise ValueError(f"{address} is an address of {name} already; equal ones cannot be told apart in one mesh")
    # Behind one NAT all are seen at the router's address, and the router may join too: who comes from it, has it.
    if address != peer and (name := neighbours.endpoints.get(str(address))):
        raise ValueError(f"{name} is reached at {address}")
    for network, name in neighbours.networks:
        if address in network:
            raise ValueError(f"{address} lies in {network}, which {name} advertises")


def check_network(network: IPNetwork, neighbours: Neighbours) -> None:
    """Raise ValueError with the reason why a machine may not advertise this network, whoever asks for it."""
    if network.prefixlen == 0:
        raise ValueError(f"{network} is a default route")
    taken: list[tuple[IPNetwork, str]] = [*FORBIDDEN_RANGES, *_taken(neighbours)]
    for other, whose in taken:
        if other.version == network.version and network.overlaps(other):
            raise ValueError(f"{network} overlaps {other}, which is {whose}")


def _taken(neighbours: Neighbours) -> Iterator[tuple[IPNetwork, str]]:
    if neighbours.prefix is not None:
        yield neighbours.prefix, "for the cluster's KubeSpan addresses"
    yield from ((ip_network(address), "this console's own address") for address in neighbours.console)
    yield from ((ip_network(text), f"an address of {name}") for text, name in neighbours.addresses.items())
    yield from ((ip_network(text), f"an endpoint of {name}") for text, name in neighbours.endpoints.items())
    yield from ((network, f"advertised by {name}") for network, name in neighbours.networks)


def read_neighbours(cluster: Cluster, but: int | None, touching: Collection[str] | None = None) -> Neighbours:
    """Read what all members of the cluster have, but the one of this primary key; two queries.

    With `touching`, addresses in canonical form, only what has or covers one of these is sure to be there: enough to
    judge them, and of a thousand members that is next to nothing.
    """
    members = cluster.nodes.approved()
    if but is not None:
        members = members.exclude(pk=but)
    # Where a neighbour saw it is that one's word: whoever lies so would keep the true owner from its own address.
    own = Candidate.objects.exclude(source=Candidate.Source.HARVESTED)
    candidates = own.filter(node__in=members.values("pk")).order_by()
    if touching is not None:
        members, candidates = _narrow(members, candidates, touching)
    addresses: dict[str, str] = {}
    networks: list[tuple[IPNetwork, str]] = []
    columns = ("name", "address", "addresses", "networks", "ruled_networks")
    for name, given, believed, approved, ruled in members.values_list(*columns):
        addresses.update(dict.fromkeys((given, *believed), name))
        networks += [(parse_network(text), name) for text in (*approved, *ruled)]
    # What every machine is tried at says nothing of any of them.
    candidates = candidates.exclude(endpoint__in=cluster.kubespan.extra_endpoints)
    endpoints = {
        endpoint.rpartition(":")[0].strip("[]"): name
        for endpoint, name in candidates.values_list("endpoint", "node__name")
    }
    return Neighbours(addresses, endpoints, networks, console_addresses(), ula_prefix(cluster.cluster_id))


def _narrow(
    members: NodeQuerySet, candidates: QuerySet[Candidate], addresses: Collection[str]
) -> tuple[NodeQuerySet, QuerySet[Candidate]]:
    """Leave out members without a network that have none of these addresses, and other addresses' endpoints."""
    written = {name: Cast(name, TextField()) for name in ("addresses", "networks", "ruled_networks")}
    holds = Q(address__in=addresses) | ~Q(networks_text="[]") | ~Q(ruled_networks_text="{}")
    reached = Q(pk__in=())
    for address in addresses:
        holds |= Q(addresses_text__contains=f'"{address}"')
        reached |= Q(endpoint__startswith=f"[{address}]:" if ":" in address else f"{address}:")
    texts = {f"{name}_text": text for name, text in written.items()}
    return members.annotate(**texts).filter(holds), candidates.filter(reached)


def canonical(claims: Iterable[str]) -> list[str]:
    """The addresses among these texts, as `str` of an address would write them."""
    found = []
    for claim in claims:
        try:
            found.append(str(parse_address(claim)))
        except ValueError:
            continue  # what is none is refused by itself
    return found


def console_addresses() -> frozenset[IPAddress]:
    """Where browsers and agents find this console; loopback is forbidden to everybody anyway."""
    hosts = {urlsplit(url).hostname or "" for url in (settings.KUBESPAN_URL, settings.KUBESPAN_AGENT_URL)}
    return frozenset[IPAddress]().union(*map(_host_addresses, hosts))


def _host_addresses(host: str) -> frozenset[IPAddress]:
    try:
        return frozenset({parse_address(host)})
    except ValueError:
        return _resolve(host, int(time.monotonic() // RESOLVED_SECONDS))


_last_resolved: dict[str, frozenset[IPAddress]] = {}
"""By name: while no name server answers, nobody takes the console's address."""


@lru_cache(maxsize=4)  # asked under a cluster's lock: a name server that is away is waited for once in a while only
def _resolve(host: str, _period: int) -> frozenset[IPAddress]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        known = _last_resolved.get(host, frozenset())
        log.warning("the console's own name was not found", host=host, known=[*map(str, known)], error=str(error))
        return known
    _last_resolved[host] = frozenset(parse_address(str(info[4][0]).partition("%")[0]) for info in found)
    return _last_resolved[host]


def node_claims(node: Node) -> tuple[list[str], list[str]]:
    """Addresses and networks that a node claimed when it last spoke, believed or not."""
    refused = [(entry["kind"], entry["claim"]) for entry in node.refused_claims]
    addresses = [*node.addresses, *(claim for kind, claim in refused if kind == "address")]
    networks = [*node.claimed_networks, *node.ruled_networks]
    return addresses, [*networks, *(claim for kind, claim in refused if kind == "network")]


def rule(networks: Iterable[str], ranges: Iterable[str]) -> dict[str, str]:
    """Say which of these networks a cluster's rule lets in: each with the first range that it lies within."""
    parsed = [parse_network(text) for text in ranges]
    found = {}
    for text in networks:
        network = parse_network(text)
        by = next((one for one in parsed if one.version == network.version and network.subnet_of(one)), None)  # type: ignore[arg-type] # of one version
        if by is not None:
            found[text] = str(by)
    return found


def rule_again(cluster: Cluster, members: Sequence[Node], ranges: Sequence[str]) -> list[Node]:
    """Judge by new rules what the members ask to advertise, without saving; gives those for whom that made a change.

    What a rule let in before goes first, so that of two members with equal networks the one that has it keeps it.
    """
    waiting = []
    changed: dict[int, Node] = {}
    for node in members:
        before = dict(node.ruled_networks)
        node.ruled_networks = rule(before, ranges)
        node.claimed_networks = [*node.claimed_networks, *(text for text in before if text not in node.ruled_networks)]
        if node.ruled_networks != before:
            changed[node.pk] = node
        if asked := rule(node.claimed_networks, ranges):
            waiting.append((node, asked))
    if waiting:
        advertised = [(parse_network(text), node.name) for node in members for text in node.advertised_networks]
        changed |= {node.pk: node for node in _let_in(cluster, waiting, advertised)}
    return list(changed.values())


def _let_in(
    cluster: Cluster, waiting: Iterable[tuple[Node, dict[str, str]]], advertised: list[tuple[IPNetwork, str]]
) -> Iterator[Node]:
    everybody = read_neighbours(cluster, None)
    for node, asked in waiting:
        others = _without(replace(everybody, networks=advertised), node.name)
        for text, by in asked.items():
            try:
                check_network(parse_network(text), others)
            except ValueError:
                continue  # it stays on the list, and an operator who says yes is told why not
            node.ruled_networks = {**node.ruled_networks, text: by}
            node.claimed_networks = [other for other in node.claimed_networks if other != text]
            advertised.append((parse_network(text), node.name))
            yield node


def _without(neighbours: Neighbours, name: str) -> Neighbours:
    """What all but one member have."""
    return replace(
        neighbours,
        addresses={text: whose for text, whose in neighbours.addresses.items() if whose != name},
        endpoints={text: whose for text, whose in neighbours.endpoints.items() if whose != name},
        networks=[(network, whose) for network, whose in neighbours.networks if whose != name],
    )
