"""Clusters, their secret and options, and the append-only log whose numbers are the revisions."""

from __future__ import annotations

import uuid

import msgspec
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.urls import reverse

from kubespan.core.cluster import ula_prefix
from kubespan.core.messages import Revision
from kubespan.core.options import ClusterOptions
from nodes.models.roles import Role, within
from nodes.secrets import SecretField


class Console(models.Model):
    """This console itself: one row. A restored backup gets a new epoch, which every agent then notices."""

    key = models.CharField(max_length=64, help_text="Public name of this console; part of what agents sign.")
    epoch = models.PositiveBigIntegerField(default=1)
    first_code = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the code that the first administrator's page asks for."
    )
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "console"

    def __str__(self) -> str:
        return f"console {self.key[:8]}"


class ClusterQuerySet(models.QuerySet["Cluster"]):
    """Reading clusters."""

    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> ClusterQuerySet:
        """Those that somebody may see."""
        return within(self, user, Role.VIEWER, "pk")

    def with_counts(self) -> ClusterQuerySet:
        """Add `approved_count` and `pending_count`."""
        approved = models.Count("nodes", filter=models.Q(nodes__status="approved"))
        pending = models.Count("nodes", filter=models.Q(nodes__status="pending"))
        return self.annotate(approved_count=approved, pending_count=pending)

    def unpushed(self) -> ClusterQuerySet:
        """Those with changes that no push has carried yet."""
        return self.filter(pushed__lt=models.F("revision"))


class Cluster(models.Model):
    """The machines that share one cluster id and secret."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=63, unique=True)
    cluster_id = models.CharField(
        max_length=256,
        unique=True,
        help_text="Kept verbatim: discovery and the address prefix depend on it.",
    )
    secret = SecretField(help_text="Encrypted at rest; shown only after signing in again, with an audit row.")
    secret_generation = models.PositiveIntegerField(default=1)
    newest_generation = models.PositiveIntegerField(
        default=1, db_default=1, help_text="Of every secret that was ever made; one that was cancelled never returns."
    )
    options = models.JSONField(default=dict, help_text="KubeSpan options, in the form of kubespan.core.options.")
    revision = models.PositiveBigIntegerField(default=0, help_text="Number of the newest change.")
    epoch = models.PositiveBigIntegerField(default=1)
    pushed = models.PositiveBigIntegerField(default=0, help_text="Number of the newest change that was pushed.")
    next_index = models.PositiveIntegerField(default=0, help_text="The member index that the next approved node gets.")
    created = models.DateTimeField(auto_now_add=True)

    objects = ClusterQuerySet.as_manager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Where the cluster's page is."""
        return reverse("cluster", args=[self.uuid])

    @property
    def kubespan(self) -> ClusterOptions:
        """The options as the core reads them."""
        return msgspec.convert(self.options, ClusterOptions)

    @property
    def current(self) -> Revision:
        """The newest revision."""
        return Revision(self.epoch, self.revision)

    @property
    def prefix(self) -> str:
        """The cluster's KubeSpan prefix (spec/kubespan.md §1.4)."""
        return str(ula_prefix(self.cluster_id))


class Rotation(models.Model):
    """The next secret of a cluster, while it is handed out and not yet switched to; there is one at most."""

    cluster = models.OneToOneField(Cluster, on_delete=models.CASCADE, related_name="rotation")
    generation = models.PositiveIntegerField()
    secret = SecretField(help_text="Encrypted at rest; takes the present one's place at the switch.")
    automatic = models.BooleanField(default=False, help_text="Switch as soon as that cuts nobody off.")
    started = models.DateTimeField()
    started_by = models.CharField(max_length=150)

    class Meta:
        ordering = ("cluster",)

    def __str__(self) -> str:
        return f"generation {self.generation} of {self.cluster}"


class Change(models.Model):
    """One change of a cluster's members or options; its number is the revision that it made."""

    class Kind(models.TextChoices):
        """What changed; the present value is read from the row, so the log holds no copy."""

        MEMBER = "member", "member added or changed"
        GONE = "gone", "member gone"
        OPTIONS = "options", "options"
        SECRET = "secret", "secret"

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="changes")
    number = models.PositiveBigIntegerField()
    kind = models.CharField(max_length=16, choices=Kind)
    index = models.PositiveIntegerField(null=True, blank=True, help_text="Which member, by its index.")
    at = models.DateTimeField()

    class Meta:
        ordering = ("cluster", "number")
        constraints = (models.UniqueConstraint(fields=("cluster", "number"), name="change_number_once"),)

    def __str__(self) -> str:
        return f"{self.cluster_id}.{self.number} {self.kind}"
