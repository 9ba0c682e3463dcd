"""What a node should have beside what it applied; computed from rows and its last report, no IO here.

The change log says what changed, not to what: values of options are rewound by the audit rows of those who set them,
and of a peer is known whether the node has it and whether it was told anew since. What nobody knows is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from kubespan.core.options import Options
from nodes.models import Audit, Change, Cluster, Node

NOT_KNOWN = "not known"
NOTHING = "—"

LABELS = {
    "enabled": "KubeSpan",
    "mtu": "MTU of the link",
    "allow_down_peer_bypass": "Bypass while a peer is down",
    "force_from_start": "Force before the first handshake",
    "harvest_extra_endpoints": "Harvest endpoints",
    "advertise_kubernetes_networks": "Advertise Kubernetes networks",
    "endpoint_filters": "Endpoints that machines offer",
    "peer_endpoint_filters": "Endpoints that machines try",
    "exclude_advertised_networks": "Networks left out",
    "probes": "Measure round trip and loss",
}
"""Of the options that a machine acts on, by their names."""


class Line(NamedTuple):
    """One value: as it should be, and as the node has it."""

    label: str
    desired: str
    applied: str

    @property
    def differs(self) -> bool:
        """Whether the node has another one, as far as that is known."""
        return self.applied not in (self.desired, NOT_KNOWN)


Applied = Literal["the same", "not yet", "an older word of it", "still has it", "not known"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another member, and what the node has of it; `index` is none for one that is a member no more."""

    name: str
    pk: int | None
    index: int | None
    applied: Applied

    @property
    def differs(self) -> bool:
        """Whether the node has it otherwise than it should."""
        return self.applied not in ("the same", "not known")


@dataclass(frozen=True, slots=True)
class Member:
    """Of another member, all that is compared."""

    pk: int
    index: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Since:
    """What the log has of the revisions that a node has yet to apply.

    `reaches` is whether it has all of them; of an epoch that is over, or of changes that were pruned, nothing is known.
    """

    changes: Sequence[Change]
    reaches: bool

    def indexes(self, kind: str) -> set[int]:
        """Members with a change of that kind."""
        return {change.index for change in self.changes if change.kind == kind and change.index is not None}


def compare_options(cluster: Cluster, node: Node, since: Since, audits: Iterable[Audit]) -> list[Line]:
    """Each option that machines act on, as it should be and as the node has it.

    `audits` are those of options that were set since, in any order.
    """
    desired = msgspec.structs.asdict(cluster.kubespan.for_machines())
    applied = _rewind(desired, since, audits)
    lines = [_revision_line(cluster, node)]
    for name in Options.__struct_fields__:
        was = NOTHING if not node.applied_epoch else NOT_KNOWN if applied is None else _word(applied[name])
        lines.append(Line(LABELS[name], _word(desired[name]), was))
    kept = str(node.secret_kept) if node.secret_kept else NOT_KNOWN
    lines.append(Line("Generation of the cluster secret", str(cluster.secret_generation), kept))
    return lines


def _revision_line(cluster: Cluster, node: Node) -> Line:
    applied = f"{node.applied_epoch}.{node.applied_number}" if node.applied_epoch else NOTHING
    return Line("Revision", str(cluster.current), applied)


def _rewind(desired: Mapping[str, object], since: Since, audits: Iterable[Audit]) -> dict[str, object] | None:
    if not since.reaches:
        return None
    found = dict(desired)
    times = [change.at for change in since.changes if change.kind == Change.Kind.OPTIONS]
    if not times:
        return found
    for audit in sorted(audits, key=lambda row: (row.at, row.pk), reverse=True):
        if audit.at < min(times):
            continue
        for name, (before, _) in audit.details.get("changes", {}).items():
            if name in found:
                found[name] = before
    return found


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or NOTHING
    return str(value)


def compare_peers(
    node: Node, members: Iterable[Member], gone: Mapping[int, str], since: Since, held: set[int] | None
) -> list[Peer]:
    """Each other member, those first that the node has otherwise; `held` are the peers that it reports, if it does.

    `gone` names members that are no more, by index.
    """
    told = since.indexes(Change.Kind.MEMBER)
    found = [
        Peer(member.name, member.pk, member.index, _of_member(node, member.index, since, told, held))
        for member in members
        if member.pk != node.pk
    ]
    found += [
        Peer(gone[index], None, None, "still has it")
        for index in since.indexes(Change.Kind.GONE)
        if index in gone and (held is None or index in held)
    ]
    return sorted(found, key=lambda peer: (not peer.differs, peer.name))


def _of_member(node: Node, index: int | None, since: Since, told: set[int], held: set[int] | None) -> Applied:
    if not node.applied_epoch:
        return "not yet"
    if index in told:
        return "an older word of it" if held is not None and index in held else "not yet"
    if held is not None:
        return "the same" if index in held else "not yet"
    return "the same" if since.reaches else "not known"
