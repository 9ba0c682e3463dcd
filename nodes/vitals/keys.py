"""Which keys there are, what each encrypts, and what none of them opens; the keys themselves stay where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.models import Max

from nodes.models import Audit, Cluster
from nodes.secrets import Unreadable, newest_key, secret_fields


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
    """Open every value once, to know whether it can be: one query a column that holds secrets."""
    needed: Counter[tuple[str, str]] = Counter()
    unreadable = []
    for model, field in secret_fields():
        what = f"{field.verbose_name} of {model._meta.verbose_name_plural}"
        for row in model._default_manager.exclude(**{field.attname: None}):
            secret = getattr(row, field.attname)
            needed[secret.key_name, what] += 1
            try:
                secret.reveal()
            except Unreadable as fault:
                unreadable.append(f"The {field.verbose_name} of {model._meta.verbose_name} {row} {fault}.")
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
