"""Which keys there are, what each encrypts, and what none of them opens; the keys themselves stay where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.models import Max

from nodes.models import Audit, Cluster
from nodes.secrets import newest_key, sealed


@dataclass(frozen=True)
class Key:
    """A key by its name: whether this console holds it, whether it is the one that encrypts, and what needs it."""

    name: str
    held: bool
    newest: bool
    values: dict[str, int]
    """By what they are, such as `secret of clusters`."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.values.values())


@dataclass(frozen=True)
class Keys:
    """All of them, the newest first, those that are missing last."""

    keys: Sequence[Key]
    unreadable: Sequence[str]
    """A sentence for each value that no key opens."""

    @property
    def newest(self) -> Key:
        """The one that encrypts."""
        return self.keys[0]

    @property
    def outdated(self) -> int:
        """Values that another key than the newest encrypts, and that can be encrypted anew."""
        return sum(key.total for key in self.keys if key.held and not key.newest)


def read_keys() -> Keys:
    """Open every value once, to know whether it can be."""
    values = list(sealed())
    needed = Counter((one.secret.key_name, one.kind) for one in values)
    unreadable = [f"The {one.name} {fault}." for one in values if (fault := one.fault)]
    names = list(dict.fromkeys([*settings.KUBESPAN_KEYS, *(name for name, _ in needed)]))
    keys = [
        Key(
            name,
            held=name in settings.KUBESPAN_KEYS,
            newest=name == newest_key(),
            values={what: count for (key, what), count in sorted(needed.items()) if key == name},
        )
        for name in names
    ]
    return Keys(keys, unreadable)


@dataclass(frozen=True)
class ClusterSecret:
    """A cluster's secret: its generation, since when it is in use, and the one that is handed out, if any."""

    cluster: Cluster
    since: datetime
    handing_out: int | None


def read_cluster_secrets() -> list[ClusterSecret]:
    """Every cluster's, the oldest first; two queries."""
    clusters = Cluster.objects.select_related("rotation")
    switched = dict(
        Audit.objects.filter(verb="cluster.secret-switched", cluster__in=clusters)
        .order_by()
        .values("cluster")
        .annotate(last=Max("at"))
        .values_list("cluster", "last")
    )
    found = [
        ClusterSecret(
            one, switched.get(one.pk, one.created), one.rotation.generation if hasattr(one, "rotation") else None
        )
        for one in clusters
    ]
    return sorted(found, key=lambda secret: secret.since)
