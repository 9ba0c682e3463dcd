"""What joining a mesh reroutes: its destinations, and the connections to them that are open at this moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from kubespan.agent.preflight.look import NETWORK, find_holders, read_table
from kubespan.core.affiliate import from_members
from kubespan.core.cluster import is_kubespan_ula
from kubespan.core.endpoint import AddressFilter, IPAddress, IPNetwork
from kubespan.core.membership import Membership
from kubespan.core.options import Options
from kubespan.core.peer_spec import PeerSpec, peer_specs

ESTABLISHED = "01"
SSH_PORT = 22
SSH = ("ssh", "sshd", "sshd-session")
SHOWN = 20
"""Destinations and sessions said in words; more are counted."""


@dataclass(frozen=True, slots=True)
class Session:
    """An open TCP connection of this machine to somebody in the mesh."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int
    peer: str
    """Whose the remote address is."""
    process: str = ""
    own: bool = False
    """The very connection by which somebody works here now."""

    @property
    def is_ssh(self) -> bool:
        """Whether it is somebody's shell."""
        return self.own or SSH_PORT in {self.local_port, self.remote_port} or self.process in SSH

    def __str__(self) -> str:
        kind = "SSH" if self.is_ssh else "TCP"
        own = " (this very session)" if self.own else ""
        by = f", {self.process}" if self.process else ""
        ends = f"{_write(self.remote, self.remote_port)} ({self.peer}) ↔ {_write(self.local, self.local_port)}"
        return f"{kind} {ends}{by}{own}"


def _write(address: IPAddress, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004 - IPv6


def destinations(specs: Iterable[PeerSpec]) -> dict[IPNetwork, str]:
    """What goes into the tunnel that does not today, and whose it is; KubeSpan's own addresses are new to everybody."""
    return {
        network: spec.label
        for spec in specs
        for network in spec.allowed_ips
        if not is_kubespan_ula(network.network_address)
    }


def destinations_of(membership: Membership, node_id: str) -> dict[IPNetwork, str]:
    """The same, of settings that are not applied yet."""
    options = membership.options
    if not options.enabled:
        return {}
    filters = [AddressFilter.parse(text) for text in options.peer_endpoint_filters]
    affiliates, _ = from_members(membership.members.values())
    return destinations(peer_specs(affiliates, node_id, filters).specs.values())


def read_sessions(rerouted: Mapping[IPNetwork, str], environment: Mapping[str, str] = os.environ) -> list[Session]:
    """Find the open TCP connections to those destinations, shells first."""
    own = environment.get("SSH_CONNECTION", "").split()
    found = []
    for local, remote, inode in _established():
        peer = find_owner(remote[0], rerouted)
        if peer is not None:
            holder = next(find_holders([inode]), None)
            process = holder.name if holder else ""
            is_own = own == [str(remote[0]), str(remote[1]), str(local[0]), str(local[1])]
            found.append(Session(*local, *remote, peer, process, is_own))
    return sorted(found, key=lambda session: (not session.own, not session.is_ssh, session.peer))


def find_owner(address: IPAddress, rerouted: Mapping[IPNetwork, str]) -> str | None:
    """Whose an address is; none where it is not of the mesh."""
    return next((name for network, name in rerouted.items() if address in network), None)


def _established() -> Iterator[tuple[tuple[IPAddress, int], tuple[IPAddress, int], str]]:
    for name in ("tcp", "tcp6"):
        for fields in read_table(NETWORK / name):
            if fields[3] == ESTABLISHED:
                yield parse_end(fields[1]), parse_end(fields[2]), fields[9]


def parse_end(text: str) -> tuple[IPAddress, int]:
    """Read an address and port of /proc/net/tcp: words of 32 bits in this machine's order of bytes, in hex."""
    address, _, port = text.partition(":")
    raw = b"".join(int(address[i : i + 8], 16).to_bytes(4, _ORDER) for i in range(0, len(address), 8))
    if len(raw) == 4:  # noqa: PLR2004 - bytes of an IPv4 address
        return IPv4Address(raw), int(port, 16)
    six = IPv6Address(raw)
    return six.ipv4_mapped or six, int(port, 16)


_ORDER: Literal["little", "big"] = sys.byteorder


def tell(rerouted: Mapping[IPNetwork, str], sessions: Sequence[Session], options: Options) -> list[str]:
    """Say it in lines."""
    if not rerouted:
        return ["nothing is rerouted: there is nobody else in the cluster yet"]
    if options.force_from_start and not options.allow_down_peer_bypass:
        when = "from the start, whether they answer or not"
    elif options.allow_down_peer_bypass:
        when = "while the peer is up"
    else:
        when = "once the peer's first handshake is there, and whatever happens from then on"
    lines = [f"goes into the tunnel, {when}:"]
    lines += [f"  {network} ({name})" for network, name in list(rerouted.items())[:SHOWN]]
    lines += _count_rest(len(rerouted))
    if sessions:
        lines.append("open now, and moved into the tunnel with it; keep another way in until you have seen them go on:")
        lines += [f"  {session}" for session in sessions[:SHOWN]]
        lines += _count_rest(len(sessions))
    else:
        lines.append("no connection to any of them is open now")
    return lines


def _count_rest(number: int) -> list[str]:
    return [f"  and {number - SHOWN} more"] if number > SHOWN else []
