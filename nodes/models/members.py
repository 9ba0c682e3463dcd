"""Nodes, where they may be reached, and the tombstones of those that were removed."""

from __future__ import annotations

from datetime import datetime

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import connections, models, transaction
from django.urls import reverse

from nodes.models.clusters import Cluster
from nodes.models.roles import Role, within
from nodes.models.tokens import Token

HERE = models.Q(kind="talos", left_at__isnull=True) | models.Q(kind="linux") & ~models.Q(session="")
"""Whose agent is connected, or which discovery lists."""
FRESH = models.Q(applied_epoch=models.F("cluster__epoch"), applied_number__gte=models.F("cluster__revision"))
"""Which applied their cluster's newest revision."""


class NodeQuerySet(models.QuerySet["Node"]):
    """Reading nodes."""

    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> NodeQuerySet:
        """Those of the clusters that somebody may see."""
        return within(self, user, Role.VIEWER, "cluster")

    def approved(self) -> NodeQuerySet:
        """Those that may take part."""
        return self.filter(status=Node.Status.APPROVED)

    def pending(self) -> NodeQuerySet:
        """Those that wait for an operator."""
        return self.filter(status=Node.Status.PENDING)

    def present(self) -> NodeQuerySet:
        """All but the removed ones."""
        return self.exclude(status=Node.Status.REMOVED)

    def connected(self) -> NodeQuerySet:
        """Those with a connection to the console."""
        return self.exclude(session="")

    def here(self) -> NodeQuerySet:
        """Those whose agent is connected, or that discovery lists."""
        return self.filter(HERE)

    def gone(self) -> NodeQuerySet:
        """The others."""
        return self.exclude(HERE)

    def configured(self) -> NodeQuerySet:
        """Members whose agents apply settings and say how that went; of Talos machines nobody hears it."""
        return self.approved().filter(kind="linux")

    def behind(self, cluster: Cluster) -> NodeQuerySet:
        """Those that have not applied the cluster's newest revision."""
        ours = self.filter(kind=Node.Kind.LINUX)
        return ours.exclude(applied_epoch=cluster.epoch, applied_number__gte=cluster.revision)

    def not_cut_off(self, tombstone: Tombstone) -> NodeQuerySet:
        """Members that may still have the removed node as a peer: what they applied is older than its removal.

        And Talos machines, which take their peers from discovery: whatever others apply, they may have it.
        """
        newer = models.Q(applied_epoch__gt=tombstone.epoch)
        applied = models.Q(applied_epoch=tombstone.epoch, applied_number__gte=tombstone.number)
        dropped = models.Q(kind="linux") & (newer | applied)
        return self.approved().filter(cluster=tombstone.cluster_id).exclude(dropped)

    def update_in_order(self, **columns: object) -> int:
        """`update`, with the rows locked by primary key: of two that write the same nodes, neither waits for both."""
        with transaction.atomic(savepoint=False):
            return self.lock_in_order().update(**columns)

    def lock_in_order(self) -> NodeQuerySet:
        """Lock the rows, within a transaction; gives those. Where a database locks no rows, nothing is asked of it."""
        if not connections[self.db].features.has_select_for_update:
            return self
        rows = self.order_by("pk").select_for_update(no_key=True)
        return Node.objects.filter(pk__in=list(rows.values_list("pk", flat=True)))


class Node(models.Model):
    """A machine as the console keeps it."""

    class Status(models.TextChoices):
        """Whether it may take part."""

        PENDING = "pending", "pending"
        APPROVED = "approved", "approved"
        LEFT = "left", "left"
        REMOVED = "removed", "removed"

    class Kind(models.TextChoices):
        """Who speaks for it: an agent of ours, or Talos through discovery."""

        LINUX = "linux", "Linux"
        TALOS = "talos", "Talos"

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="nodes")
    index = models.PositiveIntegerField(
        null=True, blank=True, help_text="Member index; given at approval, kept for ever."
    )
    node_id = models.CharField(max_length=256)
    name = models.CharField(max_length=253)
    public_key = models.CharField(max_length=44, help_text="WireGuard public key.")
    verify_key = models.CharField(
        max_length=44,
        blank=True,
        help_text="Ed25519 public key that its connections are signed with; a Talos machine has none.",
    )
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.LINUX, db_default=Kind.LINUX)
    machine_type = models.CharField(max_length=16, default="worker", db_default="worker")
    address = models.GenericIPAddressField(protocol="IPv6", help_text="KubeSpan address.")
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    token = models.ForeignKey(Token, null=True, blank=True, on_delete=models.SET_NULL, related_name="nodes")
    enrolled = models.DateTimeField()
    approved_at = models.DateTimeField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True)
    left_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Since when discovery no longer lists a Talos machine; its peers may still keep it.",
    )

    # What the machine says of itself (its claim), as it stands after checking.
    hostname = models.CharField(max_length=253, blank=True)
    operating_system = models.CharField(max_length=128, blank=True)
    agent_version = models.CharField(max_length=64, blank=True)
    backend = models.CharField(max_length=16, blank=True, help_text="kernel or userspace WireGuard.")
    listen_port = models.PositiveIntegerField(default=51820)
    addresses = models.JSONField(default=list, blank=True, help_text="Node addresses that were believed.")
    refused_claims = models.JSONField(default=list, blank=True, help_text="Claims not believed: kind, claim, reason.")
    claimed_networks = models.JSONField(default=list, blank=True, help_text="Networks it asks to advertise.")
    ruled_networks = models.JSONField(
        default=dict,
        db_default=models.Value({}, models.JSONField()),
        blank=True,
        help_text="Networks it asks to advertise that a rule of its cluster lets in, each with the rule's range.",
    )

    # What an operator set for it.
    networks = models.JSONField(default=list, blank=True, help_text="Advertised networks that an operator said yes to.")
    announced_endpoints = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text="What a Talos machine offers.",
    )
    announced_digest = models.CharField(
        max_length=64, blank=True, default="", db_default="", help_text="Of all that it last announced: SHA-256."
    )
    excluded_networks = models.JSONField(default=list, blank=True)
    site = models.CharField(
        max_length=63, blank=True, default="", db_default="", help_text="Where it stands, in an operator's words."
    )
    extra_endpoints = models.JSONField(default=list, blank=True)

    # How it stands.
    applied_epoch = models.PositiveBigIntegerField(default=0)
    applied_number = models.PositiveBigIntegerField(default=0)
    secret_kept = models.PositiveBigIntegerField(
        default=0, db_default=0, help_text="Generation of the newest cluster secret that it said it stored."
    )
    protocol = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="Version of the agents' protocol that it last spoke; 0 before it spoke."
    )
    fault = models.TextField(blank=True, help_text="Why it could not apply the newest settings.")
    session = models.CharField(max_length=32, blank=True, help_text="Its present connection; empty when away.")
    connected_at = models.DateTimeField(null=True, blank=True)
    last_seen = models.DateTimeField(null=True, blank=True)
    away = models.BooleanField(
        default=True, help_text="Not heard of for so long that Activity has a line on it; a short reconnect has none."
    )
    peer_address = models.GenericIPAddressField(
        null=True, blank=True, help_text="Where its connection last came from; one of its endpoints' addresses."
    )
    clock_skew = models.FloatField(null=True, blank=True, help_text="Seconds by which its clock is ahead of ours.")
    obstacles_at = models.DateTimeField(
        null=True, blank=True, help_text="When what its preflight finds was last different."
    )

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ("cluster", "name")
        constraints = (
            models.UniqueConstraint(
                fields=("cluster", "name"), condition=~models.Q(status="removed"), name="node_name_once"
            ),
            models.UniqueConstraint(
                fields=("cluster", "node_id"), condition=~models.Q(status="removed"), name="node_id_once"
            ),
            models.UniqueConstraint(
                fields=("public_key",), condition=~models.Q(status="removed"), name="node_key_once"
            ),
            models.UniqueConstraint(
                fields=("verify_key",),
                condition=~models.Q(status="removed") & ~models.Q(verify_key=""),
                name="node_verify_key_once",
            ),
            models.UniqueConstraint(
                fields=("cluster", "address"), condition=~models.Q(status="removed"), name="node_address_once"
            ),
            models.UniqueConstraint(fields=("cluster", "index"), name="node_index_once"),
            models.CheckConstraint(
                condition=~models.Q(status="approved") | models.Q(index__isnull=False), name="node_member_has_index"
            ),
        )
        indexes = (
            models.Index(fields=("cluster", "status"), name="node_cluster_status"),
            # The list of all nodes is sorted by it: its first page reads 25 rows, and does not sort all of them.
            models.Index(fields=("name",), name="node_name"),
        )

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Where the node's page is."""
        return reverse("node", args=[self.pk])

    @property
    def is_talos(self) -> bool:
        """Whether it is known through discovery alone: no agent of ours speaks for it."""
        return self.kind == Node.Kind.TALOS

    @property
    def is_here(self) -> bool:
        """Whether its agent is connected, or discovery lists it."""
        return self.left_at is None if self.is_talos else bool(self.session)

    @property
    def away_since(self) -> datetime | None:
        """When it was last heard of, if it is not connected."""
        return None if self.session else self.last_seen

    @property
    def advertised_networks(self) -> list[str]:
        """Networks that every other member routes to it: by an operator's yes, or by a rule of the cluster."""
        return [*self.networks, *self.ruled_networks]

    def behind(self, cluster: Cluster) -> int:
        """By how many revisions what it applied lags behind its cluster."""
        if self.is_talos:
            return 0  # it applies what it finds by itself, and tells nobody
        if self.applied_epoch != cluster.epoch:
            return cluster.revision
        return max(0, cluster.revision - self.applied_number)


class Candidate(models.Model):
    """One endpoint at which a node may be reached, and how it became known."""

    class Source(models.TextChoices):
        """Who says so."""

        LOCAL = "local", "local"
        OBSERVED = "observed", "observed"
        CONFIGURED = "configured", "configured"
        HARVESTED = "harvested", "harvested"
        ANNOUNCED = "announced", "announced"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="candidates")
    endpoint = models.CharField(max_length=64)
    source = models.CharField(max_length=16, choices=Source)
    order = models.PositiveSmallIntegerField(default=0)
    seen = models.DateTimeField()

    class Meta:
        ordering = ("node_id", "order", "pk")
        constraints = (models.UniqueConstraint(fields=("node", "endpoint"), name="candidate_once"),)

    def __str__(self) -> str:
        return f"{self.endpoint} ({self.source})"


class Tombstone(models.Model):
    """A removed node's id, key and address: none of them comes back without an operator's yes."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="tombstones")
    removed_node = models.OneToOneField(Node, on_delete=models.CASCADE, related_name="tombstone")
    node_id = models.CharField(max_length=256)
    public_key = models.CharField(max_length=44)
    verify_key = models.CharField(max_length=44, blank=True)
    address = models.GenericIPAddressField(protocol="IPv6")
    at = models.DateTimeField()
    epoch = models.PositiveBigIntegerField(default=1)
    number = models.PositiveBigIntegerField(help_text="The revision from which on nobody has it as a peer.")
    secret_generation = models.PositiveIntegerField(
        default=1, db_default=1, help_text="Of the cluster secret that it went away with."
    )

    def __str__(self) -> str:
        return f"tombstone of {self.node_id}"
