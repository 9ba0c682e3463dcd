"""Webhooks, what they have told, and which outages they watch."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.urls import reverse

from nodes.models.clusters import Cluster
from nodes.models.members import Node
from nodes.secrets import SecretField


class Webhook(models.Model):
    """Where to tell of what; `audit` and `transition` are how far it has read those rows (nodes.services.alerts)."""

    class Format(models.TextChoices):
        """How it is said."""

        JSON = "json", "JSON, signed"
        SLACK = "slack", "Slack, or what takes its messages"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=63, unique=True)
    url = SecretField(verbose_name="address", help_text="Whoever knows it may often write there: kept as a secret.")
    host = models.CharField(max_length=255, help_text="The part of the address that may be shown.")
    secret = SecretField(help_text="Signs what is sent.")
    format = models.CharField(max_length=16, choices=Format, default=Format.JSON)
    kinds = models.JSONField(default=list, help_text="Kinds of events.")
    everywhere = models.BooleanField(default=True, help_text="Of all clusters, also of those that are yet to come.")
    clusters = models.ManyToManyField(Cluster, blank=True, related_name="webhooks")
    down_seconds = models.PositiveIntegerField(default=60, help_text="How long a link is down before it is told.")

    audit = models.PositiveBigIntegerField(default=0)
    transition = models.PositiveBigIntegerField(default=0)
    audit_ahead = models.PositiveBigIntegerField(default=0)
    transition_ahead = models.PositiveBigIntegerField(default=0)
    ahead_at = models.DateTimeField(null=True, blank=True)

    failures = models.PositiveIntegerField(default=0, help_text="Attempts in a row that failed.")
    next_at = models.DateTimeField(null=True, blank=True, help_text="Before this nothing is tried; set by a failure.")
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_reason = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Where it is changed."""
        return reverse("settings-webhook", args=[self.uuid])


class Delivery(models.Model):
    """An event for one webhook: waiting, or what became of it."""

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting", "waiting"
        DELIVERED = "delivered", "delivered"
        FAILED = "failed", "failed"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    kind = models.CharField(max_length=32)
    event = models.JSONField(help_text="What is told, in the form of nodes.notify.Event.")
    text = models.TextField(help_text="The event as a sentence.")
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    result = models.TextField(blank=True, help_text="What the last attempt met.")
    milliseconds = models.PositiveIntegerField(null=True, blank=True, help_text="What the last attempt took.")
    created = models.DateTimeField()
    ended = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-pk",)
        indexes = (models.Index(fields=("webhook", "state", "id"), name="delivery_waiting"),)
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return f"{self.kind} for {self.webhook_id}"


class Outage(models.Model):
    """A link that went down, as a webhook follows it; gone once the link is up."""

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="outages")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="+")
    peer = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="+")
    since = models.DateTimeField()
    told = models.BooleanField(default=False)

    class Meta:
        ordering = ("since", "pk")
        constraints = (models.UniqueConstraint(fields=("webhook", "node", "peer"), name="outage_once"),)

    def __str__(self) -> str:
        return f"{self.node} → {self.peer}"
