"""Where a node may be reached: from what it claims, what we see, what an operator set and what its neighbours saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address

from kubespan.core import affiliate
from kubespan.core.affiliate import advertise_endpoints
from kubespan.core.endpoint import AddressFilter, Endpoint, IPAddress
from kubespan.core.options import ClusterOptions
from nodes.models import Candidate, Node

HARVEST_KEPT = timedelta(minutes=30)
"""How long a harvested endpoint lives after it was last seen: the discovery service's time to live (spec §0)."""
HARVEST_LIMIT = 64
"""Harvested endpoints of one node; beyond, the longest unseen make room."""

is_observable = affiliate.is_observable
"""For where this console, and a node's neighbours, see it."""

Source = Candidate.Source
Wanted = list[tuple[str, Candidate.Source]]


def list_candidates(node: Node, options: ClusterOptions, harvested: Iterable[str]) -> Wanted:
    """List a node's endpoints in the order in which they are advertised, each with its source."""
    if node.kind == Node.Kind.TALOS:
        wanted = dict.fromkeys(node.announced_endpoints, Source.ANNOUNCED)
        wanted |= dict.fromkeys((*node.extra_endpoints, *options.extra_endpoints), Source.CONFIGURED)
        return _with_harvested(wanted, options, harvested)
    local = [ip_address(text) for text in node.addresses]
    peer = ip_address(node.peer_address) if node.peer_address else None
    extra = [Endpoint.parse(text) for text in (*node.extra_endpoints, *options.extra_endpoints)]
    advertised = advertise_endpoints(
        local,
        own=IPv6Address(node.address),
        public_addresses=[peer] if peer is not None and is_observable(peer) else [],
        filters=[AddressFilter.parse(text) for text in options.endpoint_filters],
        extra=extra,
        port=node.listen_port,
    )
    wanted = {str(endpoint): _source(endpoint, local, extra) for endpoint in advertised}
    return _with_harvested(wanted, options, harvested)


def _with_harvested(wanted: dict[str, Candidate.Source], options: ClusterOptions, harvested: Iterable[str]) -> Wanted:
    if options.harvest_extra_endpoints:
        for endpoint in harvested:
            wanted.setdefault(endpoint, Source.HARVESTED)
    return list(wanted.items())


def _source(endpoint: Endpoint, local: Sequence[IPAddress], extra: Sequence[Endpoint]) -> Candidate.Source:
    if endpoint.ip in local:
        return Source.LOCAL
    return Source.CONFIGURED if endpoint in extra else Source.OBSERVED


def refresh(nodes: Sequence[Node], options: ClusterOptions, now: datetime) -> dict[int, list[str]]:
    """Bring these nodes' candidates up to date; give the new list of each whose list of endpoints changed.

    At most four queries, whatever their number.
    """
    present: dict[int, list[Candidate]] = {node.pk: [] for node in nodes}
    for row in Candidate.objects.filter(node__in=nodes).order_by("node_id", "order", "pk"):
        present[row.node_id].append(row)
    gone: list[int] = []
    changed: list[Candidate] = []
    made: list[Candidate] = []
    lists: dict[int, list[str]] = {}
    for node in nodes:
        rows = {row.endpoint: row for row in present[node.pk]}
        harvested = [row.endpoint for row in present[node.pk] if row.source == Source.HARVESTED]
        wanted = list_candidates(node, options, harvested)
        if [endpoint for endpoint, _ in wanted] != list(rows):
            lists[node.pk] = [endpoint for endpoint, _ in wanted]
        gone += [row.pk for endpoint, row in rows.items() if endpoint not in dict(wanted)]
        for order, (endpoint, source) in enumerate(wanted):
            known = rows.get(endpoint)
            if known is None:
                made.append(Candidate(node=node, endpoint=endpoint, source=source, order=order, seen=now))
            elif (known.source, known.order) != (source, order):
                known.source, known.order = source, order
                changed.append(known)
    _write(gone, changed, made)
    return lists


def _write(gone: list[int], changed: list[Candidate], made: list[Candidate]) -> None:
    if gone:
        Candidate.objects.filter(pk__in=gone).delete()
    if changed:
        Candidate.objects.bulk_update(changed, ["source", "order"], batch_size=500)
    if made:
        Candidate.objects.bulk_create(made)
