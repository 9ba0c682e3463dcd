"""Whose request it is (spec/discovery-protocol.md §5.2, §7 gotchas 4 and 5), and which release they say they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from urllib.parse import unquote

from kubespan.core.endpoint import IPAddress, IPNetwork, parse_address

REAL_IP = "x-real-ip"
FORWARDED_FOR = "x-forwarded-for"


def client_address(
    peer: str, metadata: Iterable[tuple[str, str | bytes]], trusted: Collection[IPNetwork] = ()
) -> IPAddress | None:
    """The address that a request comes from, as it would be an endpoint; none where nobody can say.

    `peer` is gRPC's word for the other end of the connection. Only where that is a trusted proxy do its headers count:
    upstream believes them of everybody, which lets anybody give anybody's address.
    """
    socket = _peer_address(peer)
    if socket is not None and not any(socket in network for network in trusted):
        return socket
    if socket is None and not (trusted and peer.startswith("unix:")):
        return None
    headers = {name: value for name, value in reversed(list(metadata)) if isinstance(value, str)}
    for said in (headers.get(REAL_IP, ""), headers.get(FORWARDED_FOR, "").partition(",")[0]):
        try:
            return parse_address(said.strip())
        except ValueError:
            continue
    return socket


def _peer_address(peer: str) -> IPAddress | None:
    kind, _, rest = unquote(peer).partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return None
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return parse_address(host)
    except ValueError:
        return None


UNKNOWN = "unknown"
"""For the release of whoever does not say it as Talos machines do."""
_VERSION = re.compile(r"(v[^.]{0,2}\.[^.]{0,2})\.")


def version_label(version: str) -> str:
    """A client's release as a label of few values: `v1.8`, `v1.8-pre`, or `unknown`."""
    release, dash, _ = version.partition("-")
    found = _VERSION.match(release)
    if found is None or not re.fullmatch(r"v[0-9]+\.[0-9]+", found[1]):
        return UNKNOWN
    return found[1] + ("-pre" if dash else "")
