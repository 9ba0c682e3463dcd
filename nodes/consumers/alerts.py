"""Sockets of the pages about webhooks."""

from __future__ import annotations

from typing import Any

from nodes.consumers.base import FollowingConsumer, Gone, Sent
from nodes.models import Delivery, Webhook
from nodes.pages import Flushed

DELIVERIES = 50
"""The newest, which a page may show."""


class AlertsConsumer(FollowingConsumer):
    """All webhooks, or one: how they stand, and what became of what they told."""

    permission = "manage_console"

    def find(self) -> set[int | None]:
        """They are about no cluster in particular."""
        self._webhooks: Sent[int, tuple[Any, ...]] = Sent()
        self._deliveries: Sent[int, tuple[Any, ...]] = Sent()
        self._uuid = self.scope["url_route"]["kwargs"].get("webhook")
        return {None}

    def read(self) -> None:
        """Two queries."""
        rows = Webhook.objects.filter(uuid=self._uuid) if self._uuid else Webhook.objects.all()
        found = rows.order_by().values_list("pk", "name", "failures", "disabled_at", "kinds", "format", "host")
        self._webhooks.now = {row[0]: row for row in found}
        if self._uuid and not self._webhooks.now:
            raise Gone
        told = Delivery.objects.filter(webhook__in=self._webhooks.now).order_by("-pk")
        self._deliveries.now = {row[0]: row for row in told.values_list("pk", "state", "attempts")[:DELIVERIES]}

    def take(self, flushed: Flushed) -> bool:
        """What agents report is not shown."""
        return False

    def differs(self) -> bool:
        """A webhook, or what became of a delivery."""
        news = [one.news() for one in (self._webhooks, self._deliveries)]  # each is asked, whatever the other says
        return any(changed or gone for changed, gone in news)
