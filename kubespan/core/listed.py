"""What discovery lists, and what of it a machine believes.

Discovery is not authenticated: whoever knows a cluster id deletes there, lets expire, and replays what was sealed. Who
holds the cluster secret says what they like.

A machine without a console goes by KubeSpan's own rule: who is listed, sealed with the secret, is a member
(spec/kubespan.md §4). But one that is listed no longer stays for a while, and for as long as its handshakes go on.

A machine that has a console takes endpoints alone, and only of members that the console has named, by id and key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Network

from kubespan.core.affiliate import Affiliate, is_observable
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import MAX_NODE_ID_BYTES, is_public_key
from kubespan.core.text import printable

LEFT_KEPT = 300.0
"""Seconds for which a machine that discovery lists no longer stays a member, whether it is heard or not."""
MOST_ENDPOINTS = 64
"""Of one machine; a service keeps no more (spec/discovery-protocol.md §5.1)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of a machine without a console."""

    affiliate: Affiliate
    left: float | None = None
    """Since when it is listed no longer; none while it is."""


def follow(
    known: Mapping[str, Entry], listed: Mapping[str, Affiliate], up: Collection[str], now: float
) -> dict[str, Entry]:
    """Say who is a member now, by node id; `up` are the public keys whose handshakes go on."""
    found = {node_id: Entry(affiliate) for node_id, affiliate in listed.items()}
    for node_id, entry in known.items():
        if node_id in found:
            continue
        left = now if entry.left is None else entry.left
        if now - left < LEFT_KEPT or entry.affiliate.public_key in up:
            found[node_id] = replace(entry, left=left)
    return found


def tidy(affiliate: Affiliate, prefix: IPv6Network) -> Affiliate | None:
    """Give what can be stored, shown and meshed with of an affiliate; none where it cannot even be named.

    `prefix` is the cluster's: an address outside it belongs to no machine of the cluster.
    """
    node_id = affiliate.node_id
    if not node_id.isprintable() or not 0 < len(node_id.encode(errors="replace")) <= MAX_NODE_ID_BYTES:
        return None
    return replace(
        affiliate,
        hostname=printable(affiliate.hostname),
        nodename=printable(affiliate.nodename),
        operating_system=printable(affiliate.operating_system),
        public_key=affiliate.public_key if is_public_key(affiliate.public_key) else "",
        address=affiliate.address if affiliate.address is not None and affiliate.address in prefix else None,
        endpoints=tuple(_usable(affiliate.endpoints))[:MOST_ENDPOINTS],
    )


class Reading:
    """Reads what is listed, again and again; who says the same as before is not read anew."""

    def __init__(self, prefix: IPv6Network) -> None:
        self._prefix = prefix
        self._read: dict[str, tuple[Affiliate, Affiliate | None]] = {}

    def read(self, listed: Iterable[Affiliate]) -> dict[str, Affiliate]:
        """Give what is left of them, by node id."""
        before = self._read
        self._read = {one.node_id: self._tidy(one, before.get(one.node_id)) for one in listed}
        return {node_id: tidied for node_id, (_, tidied) in self._read.items() if tidied is not None}

    def _tidy(
        self, one: Affiliate, before: tuple[Affiliate, Affiliate | None] | None
    ) -> tuple[Affiliate, Affiliate | None]:
        return before if before is not None and before[0] is one else (one, tidy(one, self._prefix))


def add_endpoints(named: Iterable[Affiliate], listed: Mapping[str, Affiliate]) -> list[Affiliate]:
    """Add the endpoints that discovery lists, behind those that were named, and nothing else of it.

    Whose key is another one there is somebody else, or somebody who says so.
    """
    found = []
    for one in named:
        other = listed.get(one.node_id)
        if other is not None and one.public_key and other.public_key == one.public_key:
            further = (endpoint for endpoint in other.endpoints if endpoint not in one.endpoints)
            found.append(replace(one, endpoints=(*one.endpoints, *further)))
        else:
            found.append(one)
    return found


def find_doubles(own: Affiliate, others: Iterable[Affiliate]) -> list[str]:
    """Say in sentences who claims this machine's name or address: a copied disk, or a machine that was set up anew."""
    found = []
    for other in others:
        if own.nodename and other.nodename == own.nodename:
            found.append(f"another machine ({other.node_id}) has this one's name, {own.nodename}; rename one of them")
        if other.address is not None and other.address == own.address:
            found.append(
                f"another machine ({other.nodename or other.node_id}) has this one's address, {own.address}: "
                "was one copied from the other? Then: kubespan-agent uninstall on one, and let it join anew"
            )
    return found


def _usable(endpoints: Iterable[Endpoint]) -> Iterable[Endpoint]:
    return (endpoint for endpoint in endpoints if endpoint.port and is_observable(endpoint.ip))
