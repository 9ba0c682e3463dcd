"""Machines that discovery lists and that are no node yet: which may become one, why the others may not, their names.

A thousand may come at once, and be listed for good though they may not: so what they are compared with is read once
for all of them, in a handful of queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Self

from django.db.models import Q

from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import is_public_key
from nodes.models import Cluster, Node, Tombstone
from nodes.services.claims import printable

PENDING_LIMIT = 256
"""Machines of one cluster that may wait for a yes; whoever knows a cluster id can announce any number."""
NAME_LIMIT = 200


@dataclass(slots=True)
class Company:
    """What those who are there, and those who were removed, have that no stranger may have too."""

    prefix: IPv6Network
    removed: set[str]
    """Node ids and keys of the cluster's; the two cannot be taken for one another."""
    keys: set[str]
    """Of all clusters, as far as the strangers have them."""
    addresses: set[str]
    names: set[str]
    room: int
    """How many more may wait for a yes."""

    @classmethod
    def read(cls, cluster: Cluster, strangers: Sequence[Affiliate]) -> Self:
        """Read it as it is now; four queries."""
        # The others are no nodes whatever there is, and not every database can be asked for every text.
        sound = [one for one in strangers if can_be_shown(one.node_id) and is_public_key(one.public_key)]
        ids = [one.node_id for one in sound]
        keys = [one.public_key for one in sound]
        same = Q(node_id__in=ids) | Q(public_key__in=keys)
        tombstones = Tombstone.objects.filter(same, cluster=cluster).values_list("node_id", "public_key")
        present = cluster.nodes.present().order_by().values_list("address", "name")
        equals = Node.objects.present().filter(public_key__in=keys).order_by()
        return cls(
            prefix=ula_prefix(cluster.cluster_id),
            removed={text for pair in tombstones for text in pair},
            keys=set(equals.values_list("public_key", flat=True)),
            addresses={address for address, _ in present},
            names={name for _, name in present},
            room=PENDING_LIMIT - cluster.nodes.pending().count(),
        )

    def fault(self, stranger: Affiliate) -> str:
        """Why it is no node, as a counter's name; empty for none."""
        if not is_public_key(stranger.public_key):
            return "no-kubespan"
        if stranger.address is None or stranger.address not in self.prefix:
            return "address"
        if not can_be_shown(stranger.node_id):
            return "id"
        if {stranger.node_id, stranger.public_key} & self.removed:
            return "removed"
        if stranger.public_key in self.keys or str(stranger.address) in self.addresses:
            return "duplicate"
        return "" if self.room > 0 else "crowded"

    def name(self, stranger: Affiliate) -> str:
        """What it calls itself, as far as that can be shown, and something more where another has that name."""
        said = (stranger.nodename, stranger.hostname, stranger.node_id)
        name = next(filter(None, (printable(text, NAME_LIMIT).strip() for text in said)))
        further = (f"{name}-{number}" for number in itertools.count(2))
        wanted = itertools.chain((name, f"{name}-{stranger.node_id[:8]}"), further)
        return next(text for text in wanted if text not in self.names)

    def admit(self, stranger: Affiliate, name: str) -> None:
        """From now on it is one of those who are there."""
        self.keys.add(stranger.public_key)
        self.addresses.add(str(stranger.address))
        self.names.add(name)
        self.room -= 1

    def choose(self, strangers: Iterable[Affiliate]) -> tuple[list[Affiliate], list[str]]:
        """Those who may become nodes one after another, and why each of the others may not."""
        welcome, faults = [], []
        for stranger in strangers:
            if reason := self.fault(stranger):
                faults.append(reason)
            else:
                self.admit(stranger, self.name(stranger))
                welcome.append(stranger)
        return welcome, faults


def can_be_shown(node_id: str) -> bool:
    """Whether it is something to see, and nothing that a terminal obeys."""
    return node_id.isprintable() and bool(node_id.strip())
