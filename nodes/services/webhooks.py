"""Webhooks: make, change, renew, stop, try, delete."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction
from django.db.models import Max

from nodes.access import needs
from nodes.models import Audit, Cluster, Delivery, Transition, Webhook
from nodes.notify import KINDS, events
from nodes.notify.carry import check_url
from nodes.services import after, alerts, audit
from nodes.services.refused import Refused

SECRET_BYTES = 32
SECRET_MARK = "whsec_"  # noqa: S105 - lets a person, and scanners of leaked secrets, tell what it is
NAME_LENGTH = 63
LONGEST_DOWN = timedelta(days=1)


@dataclass(frozen=True)
class Wanted:
    """What a webhook is to be; an empty `url` keeps the one there is."""

    name: str
    url: str
    format: str
    kinds: Collection[str]
    clusters: Collection[Cluster]
    """None of them stands for all, also for those that are yet to come."""
    down: timedelta

    def check(self) -> None:
        """Raises Refused."""
        if not 0 < len(self.name.strip()) <= NAME_LENGTH or not self.name.isprintable():
            raise Refused("name", f"Give the webhook a name of 1 to {NAME_LENGTH} characters.")
        if self.format not in Webhook.Format.values:
            raise Refused("format", f"A webhook is written in {' or '.join(Webhook.Format.values)}.")
        if not self.kinds or set(self.kinds) - KINDS.keys():
            raise Refused("kinds", "Choose at least one kind of event; otherwise there is nothing to tell.")
        if not timedelta(0) <= self.down <= LONGEST_DOWN:
            raise Refused("down_seconds", "A link is told to be down after nought seconds to a day.")
        if self.url:
            try:
                check_url(self.url)
            except ValueError as error:
                raise Refused("url", str(error)) from None


@needs("manage_console")
def create_webhook(actor: audit.Actor, wanted: Wanted, now: datetime) -> tuple[Webhook, str]:
    """Make a webhook, which is told of what happens from now on; gives it with its secret."""
    wanted.check()
    if not wanted.url:
        raise Refused("url", "Give the address to which events are sent.")
    secret = _make_secret()
    with transaction.atomic():
        webhook = Webhook(secret=secret, created_by_id=actor.pk if isinstance(actor, AbstractBaseUser) else None)
        _begin_here(webhook)
        _take(webhook, wanted)
        audit.write(actor, "webhook.created", webhook, now, kinds=sorted(wanted.kinds), host=webhook.host)
        after.announce(None, "alerts.changed")
    return webhook, secret


@needs("manage_console")
def change_webhook(actor: audit.Actor, pk: int, wanted: Wanted, now: datetime) -> Webhook:
    """Have it tell of other things, elsewhere, or otherwise."""
    wanted.check()
    with transaction.atomic():
        webhook = lock(pk)
        _take(webhook, wanted)
        if not webhook.everywhere:
            webhook.outages.exclude(node__cluster__in=webhook.clusters.all()).delete()
        audit.write(actor, "webhook.changed", webhook, now, kinds=sorted(wanted.kinds), host=webhook.host)
        after.announce(None, "alerts.changed")
    return webhook


@needs("manage_console")
def renew_secret(actor: audit.Actor, pk: int, now: datetime) -> tuple[Webhook, str]:
    """Sign with another secret from now on; gives it."""
    secret = _make_secret()
    with transaction.atomic():
        webhook = lock(pk)
        webhook.secret = secret
        webhook.save(update_fields=["secret"])
        audit.write(actor, "webhook.secret-renewed", webhook, now)
        after.announce(None, "alerts.changed")
    return webhook, secret


@needs("manage_console")
def disable_webhook(actor: audit.Actor, pk: int, now: datetime) -> Webhook:
    """Tell it nothing more until it is enabled."""
    with transaction.atomic():
        webhook = lock(pk)
        if webhook.disabled_at is None:
            alerts.stop(webhook, f"by {actor or audit.CONSOLE}", now)
            audit.write(actor, "webhook.disabled", webhook, now)
            after.announce(None, "alerts.changed")
    return webhook


@needs("manage_console")
def enable_webhook(actor: audit.Actor, pk: int, now: datetime) -> Webhook:
    """Tell it again, of what happens from now on."""
    with transaction.atomic():
        webhook = lock(pk)
        if webhook.disabled_at is not None:
            webhook.disabled_at, webhook.disabled_reason = None, ""
            webhook.failures, webhook.next_at = 0, None
            _begin_here(webhook)
            webhook.save()
            audit.write(actor, "webhook.enabled", webhook, now)
            after.announce(None, "alerts.changed")
    return webhook


@needs("manage_console")
def send_test(actor: audit.Actor, pk: int, now: datetime) -> Delivery:
    """Have a message sent that says that messages arrive; waiting for an earlier failure ends with it."""
    with transaction.atomic():
        webhook = lock(pk)
        if webhook.disabled_at is not None:
            raise Refused("disabled", "This webhook is disabled: enable it, and then send a test.", 409)
        webhook.next_at = None
        webhook.save(update_fields=["next_at"])
        event = events.of_test(str(actor or audit.CONSOLE), webhook.name, now)
        (delivery,) = alerts.enqueue(webhook, [event], now)
        audit.write(actor, "webhook.tested", webhook, now)
        after.announce(None, "alerts.changed")
    return delivery


@needs("manage_console")
def delete_webhook(actor: audit.Actor, pk: int, typed_name: str, now: datetime) -> None:
    """Let it go, with the history of what it told."""
    with transaction.atomic():
        webhook = lock(pk)
        if typed_name.strip() != webhook.name:
            raise Refused("typed-name", f"Type the webhook's name, {webhook.name}, to delete it.")
        audit.write(actor, "webhook.deleted", webhook, now)
        webhook.delete()
        after.announce(None, "alerts.changed")


def lock(pk: int) -> Webhook:
    """The row, for this transaction. Raises Refused."""
    try:
        return Webhook.objects.select_for_update().get(pk=pk)
    except Webhook.DoesNotExist:
        raise Refused("webhook-unknown", "This webhook is no longer there: it was deleted.", 409) from None


def _make_secret() -> str:
    return SECRET_MARK + secrets.token_urlsafe(SECRET_BYTES)


def _take(webhook: Webhook, wanted: Wanted) -> None:
    webhook.name = wanted.name.strip()
    if Webhook.objects.filter(name=webhook.name).exclude(pk=webhook.pk).exists():
        raise Refused("name", f"There is a webhook of the name {webhook.name} already.", 409)
    webhook.format = wanted.format
    webhook.kinds = [kind for kind in KINDS if kind in wanted.kinds]
    webhook.everywhere = not wanted.clusters
    webhook.down_seconds = round(wanted.down.total_seconds())
    if wanted.url:
        webhook.url, webhook.host = wanted.url, check_url(wanted.url)
        webhook.failures, webhook.next_at = 0, None
    webhook.save()
    webhook.clusters.set(wanted.clusters)


def _begin_here(webhook: Webhook) -> None:
    """What happened before is not told."""
    webhook.audit = webhook.audit_ahead = Audit.objects.aggregate(last=Max("pk"))["last"] or 0
    webhook.transition = webhook.transition_ahead = Transition.objects.aggregate(last=Max("pk"))["last"] or 0
    webhook.ahead_at = None
