"""The cluster's change log: taking the next revision, telling everybody, and the frame from one revision to another.

A number is taken under the cluster's row lock, so commit order is number order. A frame always carries the members'
present values, not those of its revision: applying one twice, or one newer than its number says, does no harm.
"""

from __future__ import annotations

import builtins
import secrets
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import redis
import structlog
from celery import current_app
from django.db import models, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Greatest
from kombu.exceptions import OperationalError

from kubespan.core.messages import Delta, Member, Revision, Snapshot, dump, parse_from_console
from nodes import fanout
from nodes.access import needs
from nodes.connections import sync_redis
from nodes.models import Candidate, Change, Cluster, Console, Node
from nodes.services import audit
from nodes.services.refused import Refused

PUSH_GATHER = (50, 1000)
"""Least and most milliseconds between two pushes of a cluster. A change at rest is pushed at once; within a burst the
time doubles from push to push, for each costs a frame to every node, and a thousand machines may join at once."""
PUSH_MARKER_SECONDS = 5
"""A push that was asked for and not begun within this time is asked for again by the next change."""
LAG_AFTER = timedelta(seconds=15)
"""What a node may take to apply a push, and a new connection to be told of one."""
CHANGES_KEPT = 10_000
CHANGES_KEPT_FOR = timedelta(days=7)
"""The log reaches back at least so many changes of a cluster and so many days; who holds less gets a snapshot."""
NAMED_AT_MOST = 500
"""Members that a query names one by one: databases limit how many values a statement may carry."""
SNAPSHOTS_CACHED = 16
"""Clusters whose newest snapshot a process keeps, with the members of it: about 1 MB each at 1,000 members."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """An encoded Snapshot (`since` is none) or Delta, the same for every node of the cluster."""

    bytes: builtins.bytes
    since: Revision | None
    revision: Revision


def console_settings() -> tuple[int, str]:
    """Epoch and key of this console; the row is made at the first call."""
    console, _ = Console.objects.get_or_create(pk=1, defaults={"key": secrets.token_hex(16)})
    return console.epoch, console.key


def lock(cluster_pk: int) -> Cluster:
    """Take the cluster's row for this transaction; every change of a cluster begins so. Raises Refused."""
    try:
        return Cluster.objects.select_for_update().get(pk=cluster_pk)
    except Cluster.DoesNotExist:
        raise Refused("cluster-unknown", "This cluster is no longer there: it was deleted.", 409) from None


def append(cluster: Cluster, kind: Change.Kind, node: Node | None = None, *, now: datetime) -> Revision:
    """Take the next revision for one change, within the caller's transaction and under the cluster's lock."""
    return append_all(cluster, [(kind, node.index if node else None)], now=now)


def append_all(cluster: Cluster, changes: Iterable[tuple[Change.Kind, int | None]], *, now: datetime) -> Revision:
    """Take a revision for each change (kind and member index); agents hear of them in one push after the commit."""
    rows = [
        Change(cluster=cluster, number=number, kind=kind, index=index, at=now)
        for number, (kind, index) in enumerate(changes, cluster.revision + 1)
    ]
    if rows:
        Change.objects.bulk_create(rows)
        cluster.revision = rows[-1].number
        cluster.save(update_fields=["revision", "next_index"])  # the latter where a member joins
        cluster_pk = cluster.pk
        transaction.on_commit(lambda: ask_push(cluster_pk), robust=True)
    return cluster.current


def current(cluster_pk: int) -> Revision:
    """The cluster's newest revision."""
    return Revision(*Cluster.objects.values_list("epoch", "revision").get(pk=cluster_pk))


def ask_push(cluster_pk: int) -> None:
    """Have a worker push the cluster: now, or once a while has passed since the last push; many askings are one push.

    Without Redis nothing happens: the periodic check finds the cluster again.
    """
    try:
        with sync_redis().pipeline(transaction=False) as pipeline:
            pipeline.set(_marker(cluster_pk), 1, nx=True, ex=PUSH_MARKER_SECONDS)
            pipeline.get(_gather(cluster_pk)).pttl(_gather(cluster_pk))
            mine, gather, left = pipeline.execute()
        if mine:
            wait = push_wait(int(gather or 0), left)
            current_app.send_task("nodes.tasks.push_cluster", [cluster_pk], countdown=wait, retry=False)
    except (redis.RedisError, OperationalError) as error:
        log.warning("push not asked for", cluster=cluster_pk, error=str(error))


def push_wait(gather: int, left: int) -> float | None:
    """Seconds until the next push may be, none for now; `left` is what remains of twice `gather` since the last one."""
    wait = min(left, 2 * gather) - gather
    return wait / 1000 if wait > 0 else None


def next_gather(gather: int) -> int:
    """Milliseconds to gather after a push that came `gather` after another; 0 where there was none lately."""
    least, most = PUSH_GATHER
    return min(most, 2 * gather) if gather else least


def push(cluster_pk: int) -> Revision | None:
    """Send what was not pushed yet to all nodes of the cluster; none when there was nothing.

    The marker goes first: a change committed from here on asks for a push of its own.
    """
    with sync_redis().pipeline(transaction=False) as pipeline:
        pipeline.delete(_marker(cluster_pk))
        pipeline.get(_gather(cluster_pk))
        _, before = pipeline.execute()
    cluster = Cluster.objects.filter(pk=cluster_pk).unpushed().first()
    if cluster is None:
        return None
    gather = next_gather(int(before or 0))
    sync_redis().set(_gather(cluster_pk), gather, px=2 * gather)
    news = frame(cluster_pk, Revision(cluster.epoch, cluster.pushed))
    fanout.publish_frame(cluster_pk, news)
    same_epoch = Cluster.objects.filter(pk=cluster_pk, epoch=news.revision.epoch)
    same_epoch.update(pushed=Greatest(F("pushed"), news.revision.number))
    return news.revision


def find_unpushed() -> list[int]:
    """Clusters with changes that no push has carried, because Redis or the workers were away."""
    return list(Cluster.objects.unpushed().values_list("pk", flat=True))


def push_again(now: datetime) -> int:
    """Send connected members that lag behind what was pushed the difference once more; to how many clusters.

    Those that say why they cannot follow, and those that have only just connected, are left alone.
    """
    settled = Node.objects.approved().connected().filter(fault="", connected_at__lt=now - LAG_AFTER)
    lagging = settled.filter(cluster__epoch=F("applied_epoch"), applied_number__lt=F("cluster__pushed")).exclude(
        cluster__changes__number=F("cluster__pushed"), cluster__changes__at__gte=now - LAG_AFTER
    )
    rows = lagging.order_by().values_list("cluster_id", "applied_epoch")
    oldest = rows.annotate(number=models.Min("applied_number"))
    for cluster_pk, epoch, number in oldest:
        fanout.publish_frame(cluster_pk, frame(cluster_pk, Revision(epoch, number)))
    return len(oldest)


def _marker(cluster_pk: int) -> str:
    return f"kubespan:push:{cluster_pk}"


def _gather(cluster_pk: int) -> str:
    return f"kubespan:pushed:{cluster_pk}"


def frame(cluster_pk: int, since: Revision | None) -> Frame:
    """Encode what happened after `since`: a Delta, or a Snapshot where the log does not reach back so far.

    The number of queries is the same for any number of members and changes.
    """
    cluster = _with_reach(cluster_pk, since)
    if since is None or not cluster.reaches:  # type: ignore[attr-defined] # annotated
        return _snapshot(cluster)
    return _delta(cluster, since)


def read_snapshot(cluster_pk: int) -> Snapshot:
    """What a machine that knows nothing yet would be told of the cluster; no query more than its frame needs."""
    told = parse_from_console(frame(cluster_pk, None).bytes)
    assert isinstance(told, Snapshot)  # noqa: S101 - from nothing leads a snapshot
    return told


def _with_reach(cluster_pk: int, since: Revision | None) -> Cluster:
    """Read the cluster and whether its log holds every change after `since`."""
    if since is None:
        return Cluster.objects.get(pk=cluster_pk)
    next_change = Change.objects.filter(cluster=OuterRef("pk"), number=since.number + 1)
    reaches = Q(epoch=since.epoch) & (Q(revision=since.number) | Exists(next_change))
    return Cluster.objects.annotate(
        reaches=models.Case(models.When(reaches, then=True), default=False, output_field=models.BooleanField())
    ).get(pk=cluster_pk)


def _delta(cluster: Cluster, since: Revision) -> Frame:
    kinds, indexes = _changed(cluster, since)
    present = _members(cluster, indexes) if indexes else {}
    changed = tuple(member for index, member in sorted(present.items()) if index in indexes)
    delta = Delta(
        since=since,
        revision=cluster.current,
        secret_generation=cluster.secret_generation,
        options=cluster.kubespan.for_machines() if Change.Kind.OPTIONS in kinds else None,
        changed=changed,
        gone=tuple(sorted(indexes - present.keys())),
    )
    return Frame(dump(delta), since, cluster.current)


def _changed(cluster: Cluster, since: Revision) -> tuple[set[str], set[int]]:
    changes = cluster.changes.filter(number__gt=since.number, number__lte=cluster.revision)
    rows = list(changes.order_by().values_list("kind", "index").distinct())
    return {kind for kind, _ in rows}, {index for _, index in rows if index is not None}


@dataclass(frozen=True, slots=True)
class _Whole:
    """A cluster's snapshot, and the members by index that it was made from."""

    frame: Frame
    members: Mapping[int, Member]


_snapshots: OrderedDict[UUID, _Whole] = OrderedDict()
_snapshots_lock = threading.Lock()


def _snapshot(cluster: Cluster) -> Frame:
    """Encode everything; the newest of each cluster is kept, for when all nodes return at once, or all join."""
    with _snapshots_lock:
        kept = _snapshots.get(cluster.uuid)
    if kept is not None and kept.frame.revision == cluster.current:
        return kept.frame
    members = (None if kept is None else _advance(cluster, kept)) or _members(cluster)
    snapshot = Snapshot(
        revision=cluster.current,
        secret_generation=cluster.secret_generation,
        options=cluster.kubespan.for_machines(),
        members=tuple(members.values()),
    )
    made = Frame(dump(snapshot), None, cluster.current)
    with _snapshots_lock:
        _snapshots[cluster.uuid] = _Whole(made, members)
        _snapshots.move_to_end(cluster.uuid)
        while len(_snapshots) > SNAPSHOTS_CACHED:
            _snapshots.popitem(last=False)
    return made


def _advance(cluster: Cluster, kept: _Whole) -> dict[int, Member] | None:
    """The members by index, of whom only those are read that changed since; none where all are to be read.

    A thousand machines that join one after another would else each have all that came before them read anew. It holds
    because whatever changes of a member is a Change of its own.
    """
    since = kept.frame.revision
    if since.epoch != cluster.epoch or not 0 < cluster.revision - since.number <= NAMED_AT_MOST:
        return None  # of so few changes the log holds each
    kinds, indexes = _changed(cluster, since)
    if Change.Kind.OPTIONS in kinds:
        return None  # what the cluster excludes is written into each member
    present = _members(cluster, indexes) if indexes else {}
    still = {index: member for index, member in kept.members.items() if index not in indexes}
    return dict(sorted((still | {index: present[index] for index in indexes & present.keys()}).items()))


def _members(cluster: Cluster, wanted: Collection[int] | None = None) -> dict[int, Member]:
    """At least the wanted members by index, in two queries; every one where none or many are named.

    Nothing is asked for by a query within a query: a database whose statistics are of a table that was empty tries
    each row of one with each row of the other, and was seen to take half a minute for forty members.
    """
    members = Node.objects.filter(cluster=cluster, status=Node.Status.APPROVED).order_by("index")
    candidates = Candidate.objects.filter(node__cluster=cluster, node__status=Node.Status.APPROVED)
    if wanted is not None and len(wanted) <= NAMED_AT_MOST:
        members = members.filter(index__in=wanted)
        candidates = candidates.filter(node__index__in=wanted)
    candidates = candidates.order_by("node_id", "order", "pk")
    endpoints: dict[int, list[str]] = {}
    for node_pk, endpoint in candidates.values_list("node_id", "endpoint"):
        endpoints.setdefault(node_pk, []).append(endpoint)
    excluded = cluster.kubespan.exclude_advertised_networks
    return {
        node.index: member(node, endpoints.get(node.pk, ()), excluded) for node in members if node.index is not None
    }


def member(node: Node, endpoints: Iterable[str], excluded: Iterable[str]) -> Member:
    """What every other machine must know of an approved node; the cluster's exclusions hold for each machine."""
    assert node.index is not None  # noqa: S101 - a constraint of the table
    return Member(
        index=node.index,
        node_id=node.node_id,
        name=node.name,
        public_key=node.public_key,
        address=node.address,
        addresses=tuple(node.addresses),
        endpoints=tuple(endpoints),
        networks=tuple(node.advertised_networks),
        excluded=tuple(dict.fromkeys((*node.excluded_networks, *excluded))),
        hostname=node.hostname,
        machine_type=node.machine_type,
        operating_system=node.operating_system,
    )


def prune(now: datetime) -> int:
    """Forget changes that are older than the log promises to reach back, in any cluster; how many they were."""
    deleted = 0
    for cluster in Cluster.objects.filter(revision__gt=CHANGES_KEPT):
        young = cluster.changes.filter(at__gte=now - CHANGES_KEPT_FOR).aggregate(first=models.Min("number"))["first"]
        # By number, not by time: the log must have no holes, even where a clock was set back.
        last = min(cluster.revision - CHANGES_KEPT, (young or cluster.revision + 1) - 1)
        deleted += cluster.changes.filter(number__lte=last).delete()[0]
    return deleted


@needs("manage_console")
def start_epoch(actor: audit.Actor, now: datetime, *, push: bool = True) -> int:
    """Begin a new epoch after a backup was restored: whatever agents hold of the old one, they get a snapshot.

    The epoch is the present time, so that two restorations of one backup differ.
    """
    return _start_epoch("console.restored", actor, now, push=push)


@needs("manage_console")
def start_epoch_after_boot(actor: audit.Actor, now: datetime) -> int:
    """Begin one before anybody connects, for revisions that agents hold may have gone with the machine's power."""
    return _start_epoch("console.rebooted", actor, now, push=False)


@transaction.atomic
def _start_epoch(verb: str, actor: audit.Actor, now: datetime, *, push: bool) -> int:
    console_settings()
    console = Console.objects.select_for_update().get(pk=1)
    console.epoch = max(console.epoch + 1, int(now.timestamp()))
    console.save(update_fields=["epoch"])
    Cluster.objects.update(epoch=console.epoch, pushed=0)
    audit.write(actor, verb, console, now, epoch=console.epoch)
    for cluster_pk in Cluster.objects.values_list("pk", flat=True) if push else ():
        transaction.on_commit(lambda cluster_pk=cluster_pk: ask_push(cluster_pk), robust=True)  # type: ignore[misc]
    return console.epoch
