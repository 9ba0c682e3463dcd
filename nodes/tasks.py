"""Services on a timetable, or off the request. What a broken part leaves undone, the next turn of it finds again."""

from __future__ import annotations

import redis
import structlog
from celery import shared_task
from django.utils import timezone

from nodes import live
from nodes.connections import sync_redis
from nodes.health import WORKER_KEY
from nodes.models import Node
from nodes.services import nodes, revisions, rollouts, rotation, sessions, transitions

HEARTBEAT_SECONDS = 45
"""How long a worker counts as living after its last beat, which comes every 10 s."""

log = structlog.get_logger(__name__)


@shared_task
def push_cluster(cluster_pk: int) -> None:
    """Send a cluster's nodes what has changed since the last push."""
    try:
        revisions.push(cluster_pk)
    except redis.RedisError as error:
        log.warning("not pushed", cluster=cluster_pk, error=str(error))


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
    """Forget what is too old: harvested endpoints, changes, transitions."""
    now = timezone.now()
    nodes.expire_candidates(now)
    revisions.prune(now)
    transitions.prune(now)


@shared_task
def advance_rollouts() -> None:
    """Look how far upgrades of agents are, and tell who is next."""
    rollouts.advance_all(timezone.now())


@shared_task
def heartbeat() -> None:
    """Let the readiness probe see that a worker takes tasks, and beat sends them."""
    sync_redis().set(WORKER_KEY, 1, ex=HEARTBEAT_SECONDS)
