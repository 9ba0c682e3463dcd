"""What the discovery service keeps: sealed affiliates, which nobody reads here without the cluster secret."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone


class DiscoveryCluster(models.Model):
    """A cluster that the discovery service serves, whether or not this console holds its secret."""

    cluster_id = models.CharField(max_length=256, unique=True, help_text="Kept verbatim.")
    number = models.PositiveBigIntegerField(default=0, help_text="Number of the newest change that watchers hear of.")
    used = models.DateTimeField(
        default=timezone.now, db_default=Now(), help_text="When it was last written or watched, to a minute or so."
    )

    def __str__(self) -> str:
        return f"discovery cluster {self.pk}"


class DiscoveryAffiliate(models.Model):
    """One affiliate, sealed. Times are seconds of discovery time (nodes.services.discovery), which downtime stops."""

    cluster = models.ForeignKey(DiscoveryCluster, on_delete=models.CASCADE, related_name="affiliates")
    affiliate_id = models.CharField(max_length=256)
    data = models.BinaryField(default=b"", help_text="Sealed; empty where only others spoke of its endpoints.")
    endpoints = models.BinaryField(default=b"", help_text="Sealed endpoints, each with when it expires; msgpack.")
    endpoint_count = models.PositiveSmallIntegerField(default=0, db_default=0)
    address = models.GenericIPAddressField(
        null=True, blank=True, help_text="Where its own words last came from; none where the console speaks for it."
    )
    expires = models.FloatField()
    due = models.FloatField(db_index=True, help_text="When something of it expires next.")

    class Meta:
        constraints = (models.UniqueConstraint(fields=("cluster", "affiliate_id"), name="discovery_affiliate_once"),)
        permissions = (("open_discoveryaffiliate", "Can see what affiliates at discovery say"),)

    def __str__(self) -> str:
        return f"affiliate {self.pk} of {self.cluster_id}"


class DiscoveryClock(models.Model):
    """One row: how long nobody served. Discovery time is the wall's less this, so downtime makes nobody older."""

    seen = models.FloatField(help_text="When a discovery process was last alive, in seconds since 1970.")
    downtime = models.FloatField(default=0.0, help_text="Seconds for which none was, in all.")

    def __str__(self) -> str:
        return "discovery clock"
