"""The patch that gives Talos machines a cluster's id and secret."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from kubespan.core.talos.eras import Era
from kubespan.core.talos.patches import Patch
from nodes import talos
from nodes.access import needs
from nodes.models import Cluster
from nodes.secrets import Unreadable
from nodes.services import audit
from nodes.services.refused import Refused


@needs("reveal_secret")
def reveal_patch(
    actor: audit.Actor, cluster: Cluster, era: Era, *, kubespan: bool, beside: bool, legacy: bool, now: datetime
) -> Patch:
    """Give the patch with id and secret in it to somebody who asked for it; each look is an audit row."""
    with transaction.atomic():
        cluster = Cluster.objects.get(pk=cluster.pk)
        try:
            identity = (cluster.cluster_id, cluster.secret.reveal())
        except Unreadable as error:
            raise Refused("secret-unreadable", f"The secret of {cluster} {error}.", 503) from None
        audit.write(actor, "cluster.patch-shown", cluster, now, release=era.name)
    return talos.write_patch(cluster, era, kubespan=kubespan, beside=beside, legacy=legacy, identity=identity)
