"""Alerts: rows of what happened become deliveries, for each webhook its own, which are carried out in their order.

Nothing depends on a message between processes. What happened is a row already (Audit, Transition), and each webhook
keeps how far it has read them; what is to be told is a row (Delivery) until it has arrived, or the webhook is given up.

Rows may become visible out of the order of their keys, because a transaction that took its key earlier may commit
later. So a webhook reads only up to the key that was the newest SETTLE ago: what was under way then is committed now.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from ipaddress import ip_network

import redis
import structlog
from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import Max, Q
from kombu.exceptions import OperationalError

from nodes import live
from nodes.models import Audit, Cluster, Delivery, Node, Outage, Transition, Webhook
from nodes.notify import Event, events, signed, slack
from nodes.notify.carry import Undelivered, post
from nodes.secrets import Unreadable
from nodes.services import after, audit

SETTLE = timedelta(seconds=5)
"""How long rows rest before they are read; no transaction of the console takes as long."""

ROWS = 2000
"""Rows of each kind that one look takes; the next goes on there."""

AT_ONCE = 20
"""Deliveries of one webhook in one task: others want the worker too."""

BUSY_SECONDS = 200.0
"""After which a task begins no further one: its lock (nodes.tasks.DELIVERY_SECONDS) must outlast the last it began."""

DISABLE_AFTER = 50
"""Attempts in a row that fail until a webhook is disabled: some eight hours, at the pace of `pause`."""

QUICK = 6
"""Attempts that Celery makes within about a minute; after them the webhook rests."""

FIRST_PAUSE = timedelta(minutes=5)
LONGEST_PAUSE = timedelta(hours=2)

KEPT_FOR = timedelta(days=30)
"""How long it is known what became of a delivery."""

Came = tuple[Cluster, Node, Node, datetime]
"""A link that came up, and when that was."""

log = structlog.get_logger(__name__)


def gather(now: datetime) -> int:
    """Make deliveries of what happened, for every webhook, and have them carried out; how many were made."""
    made = 0
    for pk in Webhook.objects.filter(disabled_at=None).values_list("pk", flat=True):
        made += _gather_for(pk, now)
    due = Q(webhook__next_at=None) | Q(webhook__next_at__lte=now)
    waiting = Delivery.objects.filter(due, state=Delivery.State.WAITING).order_by()
    for pk in waiting.values_list("webhook", flat=True).distinct():
        _ask(pk)
    return made


def _gather_for(pk: int, now: datetime) -> int:
    with transaction.atomic():
        webhook = Webhook.objects.select_for_update().filter(pk=pk, disabled_at=None).first()
        if webhook is None:
            return 0
        rested = webhook.ahead_at is not None and now - webhook.ahead_at >= SETTLE
        found = _read(webhook, now) if rested else []
        if rested or webhook.ahead_at is None:
            webhook.audit_ahead = Audit.objects.aggregate(last=Max("pk"))["last"] or 0
            webhook.transition_ahead = Transition.objects.aggregate(last=Max("pk"))["last"] or 0
            webhook.ahead_at = now
            webhook.save(update_fields=["audit", "transition", "audit_ahead", "transition_ahead", "ahead_at"])
        found += _read_recovered(webhook, now)
        found += _due_outages(webhook, now)
        made = enqueue(webhook, found, now)
        if made:
            after.announce(None, "alerts.changed")
    return len(made)


def enqueue(webhook: Webhook, found: Iterable[Event], now: datetime) -> list[Delivery]:
    """Keep what is to be told, and have it told once that is committed."""
    made = Delivery.objects.bulk_create(
        Delivery(webhook=webhook, kind=event.kind, event=event.dump(), text=event.text, created=now) for event in found
    )
    if made and (webhook.next_at is None or webhook.next_at <= now):
        transaction.on_commit(partial(_ask, webhook.pk), robust=True)
    return made


def _ask(pk: int) -> None:
    try:
        current_app.send_task("nodes.tasks.deliver_alerts", [pk])
    except OperationalError as error:  # asked for again by the next `gather`
        log.warning("alerts wait for the broker", webhook=pk, error=str(error))


def _read(webhook: Webhook, now: datetime) -> list[Event]:
    """What happened since the last look, up to what has settled; moves the webhook on."""
    ours = Q() if webhook.everywhere else Q(cluster__in=webhook.clusters.all())
    acts = list(
        Audit.objects.filter(
            ours, pk__gt=webhook.audit, pk__lte=webhook.audit_ahead, verb__in=events.verbs_of(webhook.kinds)
        )
        .select_related("cluster", "node")
        .order_by("pk")[:ROWS]
    )
    moves = list(
        Transition.objects.filter(
            ours, pk__gt=webhook.transition, pk__lte=webhook.transition_ahead, kind__in=_kinds(webhook)
        )
        .select_related("cluster", "node", "peer")
        .order_by("pk")[:ROWS]
    )
    webhook.audit = acts[-1].pk if len(acts) == ROWS else webhook.audit_ahead
    webhook.transition = moves[-1].pk if len(moves) == ROWS else webhook.transition_ahead
    found = [events.of_audit(row, webhook.kinds) for row in acts]
    found += [events.of_transition(row, webhook.kinds) for row in moves]
    links = [row for row in moves if row.kind == Transition.Kind.LINK]
    return [event for event in found if event is not None] + _follow_links(webhook, links, now)


def _kinds(webhook: Webhook) -> list[str]:
    wanted = {
        Transition.Kind.LINK: ("link.down", "link.up"),
        Transition.Kind.NODE: ("node.away", "node.back"),
        Transition.Kind.FAULT: ("configuration.fault",),
    }
    return [kind for kind, ours in wanted.items() if set(ours) & set(webhook.kinds)]


def _follow_links(webhook: Webhook, rows: Sequence[Transition], now: datetime) -> list[Event]:
    """Note which links went down; those that came up are told, if it was told that they were down."""
    concerned = webhook.outages.filter(node__in={row.node_id for row in rows if row.node_id})
    outages = {(one.node_id, one.peer_id): one for one in concerned}
    over: list[int] = []
    up: list[Came] = []
    for row in rows:
        if row.node is None or row.peer is None:
            continue
        link = row.node.pk, row.peer.pk
        if row.after == "down" and link not in outages:
            outages[link] = Outage(webhook=webhook, node_id=link[0], peer_id=link[1], since=row.at)
        elif row.after == "up" and link in outages:
            outage = outages.pop(link)
            if outage.told:
                up.append((row.cluster, row.node, row.peer, row.at))
            if outage.pk:
                over.append(outage.pk)
    webhook.outages.filter(pk__in=over).delete()
    Outage.objects.bulk_create([one for one in outages.values() if not one.pk])
    return _of_recovered(webhook, up, now)


def _read_recovered(webhook: Webhook, now: datetime) -> list[Event]:
    """Links that are up again though no row says so: their node was away for long, or too many changed at once."""
    outages = list(webhook.outages.select_related("node__cluster", "peer").order_by("pk")[:ROWS])
    try:
        seen = live.read_sights((one.node_id, one.peer.index) for one in outages)
    except redis.RedisError as error:
        log.warning("it is not known which links came up", error=str(error))
        return []
    up = [one for one, sight in zip(outages, seen, strict=True) if sight is not None and sight.state == "up"]
    webhook.outages.filter(pk__in=[one.pk for one in up]).delete()
    return _of_recovered(webhook, [(one.node.cluster, one.node, one.peer, now) for one in up if one.told], now)


def _of_recovered(webhook: Webhook, up: Iterable[Came], now: datetime) -> list[Event]:
    """One message a cluster."""
    if "link.up" not in webhook.kinds:
        return []
    by_cluster: dict[Cluster, list[tuple[Node, Node, datetime]]] = defaultdict(list)
    for cluster, node, peer, at in up:
        by_cluster[cluster].append((node, peer, at))
    return [events.of_links("link.up", cluster, links, timedelta(0), now) for cluster, links in by_cluster.items()]


def _due_outages(webhook: Webhook, now: datetime) -> list[Event]:
    """Links that are down for long enough now; one message a cluster."""
    waited = timedelta(seconds=webhook.down_seconds)
    members = Node.objects.present().values("pk")
    webhook.outages.exclude(node__in=members, peer__in=members).delete()  # nobody reports of them any more
    due = webhook.outages.filter(told=False, since__lte=now - waited).select_related("node__cluster", "peer")
    by_cluster: dict[int, list[Outage]] = defaultdict(list)
    for outage in due:
        by_cluster[outage.node.cluster_id].append(outage)
    if by_cluster:
        webhook.outages.filter(pk__in=[one.pk for found in by_cluster.values() for one in found]).update(told=True)
    if "link.down" not in webhook.kinds:
        return []
    return [
        events.of_links(
            "link.down",
            outages[0].node.cluster,
            [(one.node, one.peer, one.since) for one in outages],
            waited,
            now,
        )
        for outages in by_cluster.values()
    ]


def deliver(webhook_pk: int, now: datetime) -> int:
    """Carry out what waits for a webhook, in its order, up to the first that fails; how many arrived.

    Raises Undelivered, after which it is worth trying again soon. No transaction is open while others are waited for.
    """
    arrived, begun = 0, time.monotonic()
    waiting = Delivery.objects.filter(webhook=webhook_pk, state=Delivery.State.WAITING).order_by("pk")
    for delivery in waiting.select_related("webhook")[:AT_ONCE]:
        if delivery.webhook.disabled_at is not None or time.monotonic() - begun > BUSY_SECONDS:
            break  # the rest comes with the next turn
        _carry(delivery, now)
        arrived += 1
    return arrived


def _carry(delivery: Delivery, now: datetime) -> None:
    begun = time.monotonic()
    fault: Undelivered | None = None
    try:
        result = f"{send(delivery.webhook, delivery, int(time.time()))}"
    except (Undelivered, Unreadable) as error:
        fault = error if isinstance(error, Undelivered) else Undelivered(f"Its address or secret {error}.")
        result = str(fault)
    took = round((time.monotonic() - begun) * 1000)
    with transaction.atomic():
        webhook = Webhook.objects.select_for_update().filter(pk=delivery.webhook_id).first()
        if webhook is None:  # deleted meanwhile, with all that it waited for
            return
        delivery.attempts += 1
        delivery.result, delivery.milliseconds = result, took
        if fault is None:
            delivery.state, delivery.ended = Delivery.State.DELIVERED, now
            webhook.failures, webhook.next_at = 0, None
        else:
            _count_failure(webhook, fault, now)
            if webhook.disabled_at is not None:
                delivery.state, delivery.ended = Delivery.State.FAILED, now
        delivery.save()
        webhook.save(update_fields=["failures", "next_at", "disabled_at", "disabled_reason"])
        after.announce(None, "alerts.changed")
    if fault is not None:
        raise fault


def send(webhook: Webhook, delivery: Delivery, now: int) -> str:
    """One attempt, at `now` (seconds since 1970); what it met, in words. Raises Undelivered."""
    if webhook.format == Webhook.Format.SLACK:
        body, headers = slack.encode(delivery.event, str(delivery.uuid)), {}
    else:
        body = signed.encode(delivery.event, str(delivery.uuid))
        headers = signed.headers(body, webhook.secret.reveal(), now)
    headers |= {
        "Content-Type": "application/json",
        "User-Agent": "kubespan-web",
        "X-KubeSpan-Event": delivery.kind,
        "X-KubeSpan-Delivery": str(delivery.uuid),
    }
    networks = [ip_network(network) for network in settings.WEBHOOK_NETWORKS]
    return f"Answered {post(webhook.url.reveal(), body, headers, networks).status}"


def _count_failure(webhook: Webhook, fault: Undelivered, now: datetime) -> None:
    webhook.failures += 1
    webhook.next_at = now + pause(webhook.failures)
    if webhook.disabled_at is None and (fault.gone or webhook.failures >= DISABLE_AFTER):
        why = "nobody wants it any more" if fault.gone else f"{webhook.failures} attempts in a row failed"
        stop(webhook, f"{why}; the last: {fault}", now)
        audit.write(None, "webhook.gave-up", webhook, now, reason=webhook.disabled_reason)


def pause(failures: int) -> timedelta:
    """How long a webhook rests after so many failures in a row, once Celery's own attempts are over."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << max(0, (failures - 1) // QUICK)))


def stop(webhook: Webhook, reason: str, now: datetime) -> None:
    """Tell it nothing more; what waited has failed. Within a transaction that has the row's lock."""
    webhook.disabled_at, webhook.disabled_reason = now, reason
    webhook.save(update_fields=["disabled_at", "disabled_reason"])
    waiting = webhook.deliveries.filter(state=Delivery.State.WAITING)
    waiting.update(state=Delivery.State.FAILED, ended=now, result="The webhook was disabled.")
    webhook.outages.all().delete()


def prune(now: datetime) -> int:
    """Forget what became of old deliveries; how many."""
    over = Delivery.objects.exclude(state=Delivery.State.WAITING)
    return over.filter(created__lt=now - KEPT_FOR).delete()[0]
