"""The discovery service's rows: each change is one transaction under the cluster's row, and gets a number.

Decisions are `kubespan.discovery.state`'s; here they are fed from rows and written back. Only the affiliates that a
change touches are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import msgspec
import redis
import structlog
from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Sum
from django.utils import timezone
from kombu.exceptions import OperationalError

from kubespan.discovery.limits import Exhausted
from kubespan.discovery.registry import NotServed
from kubespan.discovery.state import (
    ClusterState,
    Deletion,
    Event,
    Outcome,
    SealedAffiliate,
    SealedEndpoint,
    Update,
    due,
)
from nodes.connections import sync_redis
from nodes.discovery.parcels import CHANNEL, Parcel, dump_parcel
from nodes.models import Cluster, DiscoveryAffiliate, DiscoveryClock, DiscoveryCluster

DOWNTIME_AFTER = 30.0
"""Seconds without any discovery process after which the time counts as downtime."""
BATCH = 500
"""Rows of one statement."""
COLUMNS = ("data", "endpoints", "endpoint_count", "expires", "due", "address")
KEPT_FREE = 10
"""Of the affiliates that the service keeps in all, one in so many is for clusters of this console alone."""
EMPTY_KEPT = timedelta(minutes=10)
"""How long a cluster without an affiliate, which nobody watches, is remembered."""

Operation = Update | Deletion

log = structlog.get_logger(__name__)

_endpoints = msgspec.msgpack.Decoder(tuple[tuple[bytes, float], ...])
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of several operations on one cluster, and the numbers of the changes that they made."""

    cluster: int
    outcomes: tuple[Outcome, ...]
    since: int
    """The number before the first of the changes."""

    @property
    def events(self) -> tuple[Event, ...]:
        """The changes, in order."""
        return tuple(outcome.event for outcome in self.outcomes if outcome.event is not None)

    def parcel(self) -> Parcel:
        """The changes as they travel to other processes."""
        return Parcel(self.cluster, self.since, tuple((event.id, event.affiliate) for event in self.events))


@dataclass(frozen=True, slots=True)
class Contents:
    """All affiliates of a cluster as of a number."""

    cluster: int
    number: int
    affiliates: dict[str, SealedAffiliate]


@dataclass(frozen=True, slots=True)
class Totals:
    """What the service keeps over all clusters."""

    clusters: int
    affiliates: int
    endpoints: int


FOLLOW_GATHER = 0.5
"""Seconds for which changes are gathered before they are followed: machines come in bursts."""
FOLLOW_MARKER_SECONDS = 30


def find(cluster_id: str, *, serve_all: bool) -> int:
    """The row of a cluster, made where it is served and has none yet; raises NotServed, and Exhausted at the cap."""
    row = DiscoveryCluster.objects.filter(cluster_id=cluster_id).values_list("pk", flat=True).first()
    ours = Cluster.objects.filter(cluster_id=cluster_id).only("options").first()
    if not (ours.kubespan.discovery if ours else serve_all):
        raise NotServed
    if row is not None:
        return row
    if ours is None and DiscoveryCluster.objects.count() >= settings.DISCOVERY_CLUSTERS:
        raise Exhausted("too many clusters in the service")
    cluster, made = DiscoveryCluster.objects.get_or_create(cluster_id=cluster_id)
    if made:
        ask_follow(cluster_id)  # from now on the console's own nodes are published there
    return cluster.pk


def asked_for(cluster: Cluster) -> int | None:
    """The row of a cluster, if anybody has asked discovery for it yet."""
    return DiscoveryCluster.objects.filter(cluster_id=cluster.cluster_id).values_list("pk", flat=True).first()


def apply(cluster_pk: int, operations: Sequence[Operation], now: float) -> Applied:
    """Do what was asked, in order. `now` is discovery time, as everywhere here."""
    with transaction.atomic():
        cluster = DiscoveryCluster.objects.select_for_update().get(pk=cluster_pk)
        touched = {operation.id for operation in operations}
        rows = {row.affiliate_id: row for row in cluster.affiliates.filter(affiliate_id__in=touched)}
        state = ClusterState({row.affiliate_id: value(row) for row in rows.values()})
        if touched - rows.keys():  # only new ones need room
            state.elsewhere, state.room = cluster.affiliates.count() - len(rows), _room(cluster)
        before = dict(state.affiliates)
        outcomes = tuple(state.apply(operation, now) for operation in operations)
        _write(cluster, rows, before, state.affiliates)
        since = cluster.number
        _count(cluster, sum(outcome.event is not None for outcome in outcomes))
        if cluster.number > since:
            transaction.on_commit(partial(ask_follow, cluster.cluster_id), robust=True)
    return Applied(cluster.pk, outcomes, since)


def _room(cluster: DiscoveryCluster) -> int:
    """How many more affiliates there may be, over all clusters; for strangers' less, so that they crowd out nobody."""
    limit = settings.DISCOVERY_AFFILIATES
    if not Cluster.objects.filter(cluster_id=cluster.cluster_id).exists():
        limit -= limit // KEPT_FREE
    return limit - DiscoveryAffiliate.objects.count()


def collect(now: float) -> list[Applied]:
    """Forget what has expired, cluster by cluster."""
    clusters = DiscoveryCluster.objects.filter(affiliates__due__lte=now).distinct()
    found = [_collect(cluster_pk, now) for cluster_pk in clusters.values_list("pk", flat=True)]
    return [applied for applied in found if applied is not None]


def _collect(cluster_pk: int, now: float) -> Applied | None:
    with transaction.atomic():
        cluster = DiscoveryCluster.objects.select_for_update().filter(pk=cluster_pk).first()
        if cluster is None:
            return None  # another process was faster
        rows = {row.affiliate_id: row for row in cluster.affiliates.filter(due__lte=now)}
        state = ClusterState({row.affiliate_id: value(row) for row in rows.values()})
        before = dict(state.affiliates)
        outcomes = tuple(Outcome(event) for event in state.collect(now))
        _write(cluster, rows, before, state.affiliates)
        since = cluster.number
        _count(cluster, len(outcomes))
        transaction.on_commit(partial(ask_follow, cluster.cluster_id), robust=True)
    return Applied(cluster.pk, outcomes, since)


def note_used(cluster_pks: Iterable[int], now: datetime) -> None:
    """Note that somebody watches these clusters."""
    DiscoveryCluster.objects.filter(pk__in=list(cluster_pks)).update(used=now)


def forget_empty(now: datetime) -> int:
    """Forget clusters of which nobody speaks any more; how many they were."""
    empty = DiscoveryCluster.objects.filter(affiliates=None, used__lt=now - EMPTY_KEPT)
    return sum(_forget_empty(cluster_pk, now) for cluster_pk in empty.values_list("pk", flat=True))


def _forget_empty(cluster_pk: int, now: datetime) -> bool:
    with transaction.atomic():
        unused = DiscoveryCluster.objects.select_for_update().filter(pk=cluster_pk, used__lt=now - EMPTY_KEPT).first()
        if unused is None or unused.affiliates.exists():
            return False
        unused.delete()
    return True


def forget(cluster: Cluster) -> None:
    """Forget all that is kept of a cluster that is to be served no longer."""
    transaction.on_commit(partial(ask_follow, cluster.cluster_id), robust=True)
    DiscoveryCluster.objects.filter(cluster_id=cluster.cluster_id).delete()


def _count(cluster: DiscoveryCluster, events: int) -> None:
    if events:
        cluster.number += events
        cluster.used = timezone.now()
        cluster.save(update_fields=["number", "used"])


def _write(
    cluster: DiscoveryCluster,
    rows: dict[str, DiscoveryAffiliate],
    before: dict[str, SealedAffiliate],
    after: dict[str, SealedAffiliate],
) -> None:
    """Write what is different; at most two statements for any number of affiliates."""
    gone = [rows[affiliate_id].pk for affiliate_id in before.keys() - after.keys()]
    if gone:
        DiscoveryAffiliate.objects.filter(pk__in=gone).delete()
    written: list[DiscoveryAffiliate] = []
    for affiliate_id, affiliate in after.items():
        if affiliate_id in rows and affiliate == before[affiliate_id]:
            continue
        row = DiscoveryAffiliate(cluster=cluster, affiliate_id=affiliate_id)
        row.data, row.expires, row.due = affiliate.data, affiliate.expires, due(affiliate)
        row.endpoints = _encoder.encode([(endpoint.data, endpoint.expires) for endpoint in affiliate.endpoints])
        row.endpoint_count, row.address = len(affiliate.endpoints), affiliate.address or None
        written.append(row)
    if written:
        DiscoveryAffiliate.objects.bulk_create(
            written,
            batch_size=BATCH,
            update_conflicts=True,
            unique_fields=("cluster", "affiliate_id"),
            update_fields=COLUMNS,
        )


def value(row: DiscoveryAffiliate) -> SealedAffiliate:
    """A row as the discovery room knows it."""
    return _sealed(row.affiliate_id, row.expires, row.data, row.endpoints, row.address)


SEALED = ("affiliate_id", "expires", "data", "endpoints", "address")
"""The columns of that, in the order of `_sealed`."""


def _sealed(
    affiliate_id: str, expires: float, data: bytes | memoryview, endpoints: bytes | memoryview, address: str | None
) -> SealedAffiliate:
    several = tuple(SealedEndpoint(*pair) for pair in _endpoints.decode(endpoints)) if endpoints else ()
    return SealedAffiliate(affiliate_id, expires, bytes(data), several, address or "")


def read(cluster_pk: int) -> Contents:
    """All affiliates of a cluster, and the number that they are as of."""
    with transaction.atomic():
        # Locked, so that the number and the rows are of one moment on every database.
        cluster = DiscoveryCluster.objects.select_for_update().get(pk=cluster_pk)
        rows = list(cluster.affiliates.order_by("pk").values_list(*SEALED))
    return Contents(cluster.pk, cluster.number, {row[0]: _sealed(*row) for row in rows})


def numbers(cluster_pks: Iterable[int], *, serve_all: bool) -> dict[int, int]:
    """The newest number of each of these clusters that is served."""
    rows = list(DiscoveryCluster.objects.filter(pk__in=list(cluster_pks)).values_list("pk", "number", "cluster_id"))
    ours = Cluster.objects.filter(cluster_id__in=[cluster_id for _, _, cluster_id in rows]).only(
        "cluster_id", "options"
    )
    served = {cluster.cluster_id: cluster.kubespan.discovery for cluster in ours}
    return {pk: number for pk, number, cluster_id in rows if served.get(cluster_id, serve_all)}


def totals() -> Totals:
    """Count what is kept."""
    kept = DiscoveryAffiliate.objects.aggregate(affiliates=Count("pk"), endpoints=Sum("endpoint_count", default=0))
    return Totals(DiscoveryCluster.objects.count(), **kept)


def beat(wall: float) -> float:
    """Note that a discovery process is alive; gives the downtime so far, to which a gap since the last one is added."""
    with transaction.atomic():
        DiscoveryClock.objects.get_or_create(pk=1, defaults={"seen": wall})
        clock = DiscoveryClock.objects.select_for_update().get(pk=1)
        if wall - clock.seen > DOWNTIME_AFTER:
            clock.downtime += wall - clock.seen
        clock.seen = max(wall, clock.seen)
        clock.save()
    return clock.downtime


def discovery_time(wall: float) -> float:
    """What time it is for affiliates: the wall's, less the downtime."""
    return wall - downtime()


def downtime() -> float:
    """Seconds for which no discovery process has served so far, and nothing aged."""
    return DiscoveryClock.objects.values_list("downtime", flat=True).filter(pk=1).first() or 0.0


def tell(applied: Applied) -> None:
    """Have all discovery processes hear of changes that were made elsewhere; without Redis they compare numbers."""
    if not applied.events:
        return
    try:
        sync_redis().publish(CHANNEL, dump_parcel(applied.parcel()))
    except redis.RedisError as error:
        log.warning("discovery processes were not told", error=str(error))


def ask_follow(cluster_id: str) -> None:
    """Have a worker bring the console's nodes up to date with a cluster's affiliates; many askings are one turn.

    Without Redis nothing happens: the timetable finds the cluster again.
    """
    cluster_pk = Cluster.objects.filter(cluster_id=cluster_id).values_list("pk", flat=True).first()
    if cluster_pk is None:
        return
    try:
        if sync_redis().set(_marker(cluster_pk), 1, nx=True, ex=FOLLOW_MARKER_SECONDS):
            send = current_app.send_task
            send("nodes.tasks.follow_discovery", [cluster_pk], countdown=FOLLOW_GATHER, retry=False)
    except (redis.RedisError, OperationalError) as error:
        log.warning("discovery is not followed yet", cluster=cluster_pk, error=str(error))


def begin_to_follow(cluster_pk: int) -> None:
    """What changes from here on asks for a turn of its own."""
    sync_redis().delete(_marker(cluster_pk))


def _marker(cluster_pk: int) -> str:
    return f"kubespan:follow:{cluster_pk}"
