"""Services on a timetable, or off the request. What a broken part leaves undone, the next turn of it finds again."""

from __future__ import annotations

import time

import redis
import structlog
from celery import shared_task
from celery.signals import heartbeat_sent
from django.core.cache import cache
from django.db import IntegrityError
from django.utils import timezone

from nodes import live
from nodes.announce import announce
from nodes.connections import sync_redis
from nodes.health import WORKER_KEY
from nodes.models import Cluster, Node
from nodes.notify.carry import Undelivered
from nodes.services import (
    affiliates,
    alerts,
    discovery,
    history,
    nodes,
    revisions,
    rollouts,
    rotation,
    sessions,
    transitions,
)
from nodes.vitals import workers

HEARTBEAT_SECONDS = 45
"""How long a worker counts as living after its last beat, which comes every 10 s."""

DELIVERY_SECONDS = 300
"""After so long another may carry out a webhook's deliveries: whoever began has died with its worker."""

log = structlog.get_logger(__name__)

heartbeat_sent.connect(workers.note_worker)  # here, for every worker loads its tasks


@shared_task
def push_cluster(cluster_pk: int) -> None:
    """Send a cluster's nodes what has changed since the last push."""
    try:
        revisions.push(cluster_pk)
    except redis.RedisError as error:
        log.warning("not pushed", cluster=cluster_pk, error=str(error))
    publish_affiliates(cluster_pk)


@shared_task
def check_lag() -> None:
    """Push what was committed and not pushed, tell nodes that lag once more, and switch secrets that all have."""
    for cluster_pk in revisions.find_unpushed():
        push_cluster(cluster_pk)
    try:
        revisions.push_again(timezone.now())
    except redis.RedisError as error:
        log.warning("lagging nodes not told", error=str(error))
    rotation.switch_where_all_are_ready(timezone.now())


@shared_task
def mark_silent_nodes() -> None:
    """Find nodes that are not heard of any more."""
    connected = Node.objects.present().connected().values_list("pk", flat=True)
    try:
        heard = live.read_summaries_of(connected)
    except redis.RedisError as error:
        log.warning("presence not known", error=str(error))
        return
    sessions.mark_silent(heard, timezone.now())


@shared_task
def expire() -> None:
    """Forget what is too old: harvested endpoints, changes, transitions, history."""
    now = timezone.now()
    nodes.expire_candidates(now)
    revisions.prune(now)
    alerts.prune(now)
    transitions.prune(now)
    history.prune(now)


@shared_task
def note_history() -> None:
    """Note what nodes and links are like this minute, and roll up the quarters of an hour that are over."""
    now = timezone.now()
    for cluster_pk in Cluster.objects.values_list("pk", flat=True):
        try:
            history.note_minute(cluster_pk, now)
            history.roll_up(cluster_pk, now)
        except redis.RedisError as error:
            log.warning("a minute of history is missing", cluster=cluster_pk, error=str(error))
        except IntegrityError as error:  # the cluster was deleted meanwhile
            log.warning("history not kept", cluster=cluster_pk, error=str(error))


@shared_task
def advance_rollouts() -> None:
    """Look how far upgrades of agents are, and tell who is next."""
    rollouts.advance_all(timezone.now())


@shared_task
def follow_discovery(cluster_pk: int) -> None:
    """Take in what discovery lists for a cluster, and publish what it does not list yet."""
    try:
        discovery.begin_to_follow(cluster_pk)
    except redis.RedisError as error:
        log.warning("discovery may be followed once more than needed", error=str(error))
    keep_the_same(cluster_pk)
    announce(cluster_pk, "cluster.changed")


def keep_the_same(cluster_pk: int) -> None:
    """Take in what discovery lists for a cluster, if it is still there, and publish what it does not list yet."""
    if Cluster.objects.filter(pk=cluster_pk).exists():
        affiliates.follow(cluster_pk, timezone.now())
        publish_affiliates(cluster_pk)


@shared_task
def publish_affiliates(cluster_pk: int) -> None:
    """Publish a cluster's connected nodes where that is news to discovery, or would expire."""
    applied = affiliates.publish(cluster_pk, discovery.discovery_time(time.time()))
    if applied is not None:
        discovery.tell(applied)


@shared_task
def keep_affiliates() -> None:
    """Publish and follow all clusters, and let go of Talos machines that left and that nobody hears."""
    for cluster_pk in Cluster.objects.values_list("pk", flat=True):
        keep_the_same(cluster_pk)
    now = timezone.now()
    try:
        affiliates.drop_left(affiliates.find_unheard(now), now)
    except redis.RedisError as error:
        log.warning("who is heard is not known", error=str(error))


@shared_task
def gather_alerts() -> None:
    """Make deliveries of what happened, for every webhook."""
    alerts.gather(timezone.now())


@shared_task(
    autoretry_for=(Undelivered,),
    max_retries=alerts.QUICK - 1,
    retry_backoff=2,
    retry_backoff_max=60,
    throws=(Undelivered,),
)
def deliver_alerts(webhook_pk: int) -> None:
    """Carry out what waits for one webhook; a second one for the same finds it busy, and leaves it to the first."""
    name = f"webhook-{webhook_pk}"
    if not cache.add(name, 1, DELIVERY_SECONDS):
        return
    try:
        alerts.deliver(webhook_pk, timezone.now())
    finally:
        cache.delete(name)


@shared_task
def heartbeat() -> None:
    """Let the readiness probe see that a worker takes tasks, and beat sends them."""
    sync_redis().set(WORKER_KEY, time.time(), ex=HEARTBEAT_SECONDS)
