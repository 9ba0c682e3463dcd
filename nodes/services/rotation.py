"""Rotation of a cluster's secret: a new one is made and handed out, all switch to it at once, or it is cancelled.

The next secret lies beside the present one until the switch, which is one revision: agents hold both by then, and the
ordinary push tells them which to use (`kubespan.core.rotation`). Secrets reach a node over its own connection alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.db import transaction

from kubespan.core.cluster import KEY_BYTES, make_cluster_secret
from kubespan.core.messages import ClusterSecret, Revision
from kubespan.core.rotation import ROTATION_VERSION, Standing, lacking, may_switch_alone, standing
from kubespan.core.sealing import seal
from nodes.access import needs
from nodes.models import Change, Cluster, Node, Rotation
from nodes.secrets import Secret, Unreadable
from nodes.services import after, audit, revisions
from nodes.services.refused import Refused

log = structlog.get_logger(__name__)


@needs("rotate_secret")
def start(actor: audit.Actor, cluster: Cluster, *, automatic: bool, now: datetime) -> Rotation:
    """Make the cluster's next secret and hand it out; everybody goes on with the present one. Raises Refused."""
    with transaction.atomic():
        cluster = revisions.lock(cluster.pk)
        if under_way(cluster) is not None:
            raise Refused("rotation-under-way", f"The secret of {cluster} is being rotated already.", 409)
        rotation = Rotation(
            cluster=cluster,
            automatic=automatic,
            started=now,
            started_by=str(actor or audit.CONSOLE)[: audit.NAME_LENGTH],
        )
        _make_secret(cluster, rotation)
        audit.write(
            actor, "cluster.rotation-started", cluster, now, generation=rotation.generation, automatic=automatic
        )
        _tell(cluster)
    return rotation


def _make_secret(cluster: Cluster, rotation: Rotation) -> None:
    """Give a rotation a secret of its own, under a generation that no secret of the cluster ever had."""
    cluster.newest_generation += 1
    cluster.save(update_fields=["newest_generation"])
    rotation.generation = cluster.newest_generation
    rotation.secret = Secret(make_cluster_secret(secrets.token_bytes(KEY_BYTES)))
    rotation.save()


@needs("rotate_secret")
def switch(actor: audit.Actor, cluster: Cluster, generation: int, now: datetime) -> Revision:
    """Make the secret of that generation the cluster's: everybody who is connected uses it within a moment.

    Asked again it changes nothing. Raises Refused where no such rotation is under way.
    """
    with transaction.atomic():
        cluster = revisions.lock(cluster.pk)
        if cluster.secret_generation == generation:
            return cluster.current
        rotation = _find(cluster, generation)
        _check_readable(rotation)
        left_behind = [node.name for node, stand in standings(cluster, rotation) if stand is not Standing.READY]
        cluster.secret = rotation.secret
        cluster.secret_generation = rotation.generation
        cluster.save(update_fields=["secret", "secret_generation"])
        rotation.delete()
        revision = revisions.append(cluster, Change.Kind.SECRET, now=now)
        audit.write(
            actor, "cluster.secret-switched", cluster, now, generation=generation, not_ready=left_behind[:NAMED_AT_MOST]
        )
        _tell(cluster)
    return revision


NAMED_AT_MOST = 50
"""Machines that an audit row names."""


@needs("rotate_secret")
def cancel(actor: audit.Actor, cluster: Cluster, generation: int, now: datetime) -> None:
    """Forget the next secret; whoever has it forgets it too. Raises Refused where no such rotation is under way."""
    with transaction.atomic():
        cluster = revisions.lock(cluster.pk)
        _find(cluster, generation).delete()
        audit.write(actor, "cluster.rotation-cancelled", cluster, now, generation=generation)
        _tell(cluster)


def renew(cluster: Cluster, removed: Node, now: datetime) -> None:
    """Make the next secret anew where one is handed out, under the cluster's lock: a removed node may have it."""
    rotation = under_way(cluster)
    if rotation is None:
        return
    _make_secret(cluster, rotation)
    reason = f"{removed} was removed"
    audit.write(None, "cluster.rotation-renewed", cluster, now, generation=rotation.generation, because=reason)
    _tell(cluster)


def under_way(cluster: Cluster) -> Rotation | None:
    """The rotation of a cluster that is handed out and not switched to yet."""
    return Rotation.objects.filter(cluster=cluster).first()


def _find(cluster: Cluster, generation: int) -> Rotation:
    rotation = under_way(cluster)
    if rotation is None:
        raise Refused(
            "rotation-none",
            f"No rotation of the secret of {cluster} is under way; its secret is of generation "
            f"{cluster.secret_generation}.",
            409,
        )
    if rotation.generation != generation:
        raise Refused(
            "rotation-other",
            f"Generation {rotation.generation} of the secret of {cluster} is being handed out now, not {generation}; "
            "look again at who has it.",
            409,
        )
    return rotation


def _check_readable(rotation: Rotation) -> None:
    """Refuse a switch to a secret that no key opens: nobody who lacks it could ever be given it."""
    try:
        rotation.secret.reveal()
    except Unreadable as error:
        raise Refused("secret-unreadable", f"The next secret of {rotation.cluster} {error}.", 503) from None


def _tell(cluster: Cluster) -> None:
    after.hand_out(cluster.pk)
    after.announce(cluster.pk, "cluster.changed")


# Who has it.


def standings(cluster: Cluster, rotation: Rotation) -> list[tuple[Node, Standing]]:
    """Each member and how far it is, the worst first, among equals whoever has been away for longest."""
    rows = [(node, stand_of(node, rotation)) for node in Node.objects.approved().filter(cluster=cluster)]
    order = list(Standing)
    return sorted(rows, key=lambda row: (order.index(row[1]), row[0].last_seen or row[0].enrolled, row[0].name))


def stand_of(node: Node, rotation: Rotation) -> Standing:
    """How far one member is."""
    return standing(
        kept=node.secret_kept, following=rotation.generation, connected=bool(node.session), version=node.protocol
    )


def not_following(cluster: Cluster) -> tuple[datetime | None, list[Node]]:
    """When the cluster last switched, and the members that do not use the new secret yet; those away first."""
    change = cluster.changes.filter(kind=Change.Kind.SECRET).order_by("-number").first()
    if change is None:
        return None, []
    # Numbers go on over a restore, so one that has not been back since is late by the epoch before, too. Whoever never
    # applied anything has no old secret to go on with.
    late = Node.objects.approved().filter(cluster=cluster, applied_number__lt=change.number, applied_epoch__gt=0)
    return change.at, sorted(late, key=lambda node: (bool(node.session), node.last_seen or node.enrolled))


def record_kept(kept: Mapping[int, int], now: datetime) -> None:
    """Note which generation each node stored; whoever waited for nothing else switches now."""
    groups: dict[int, list[int]] = {}
    for node_pk, generation in kept.items():
        groups.setdefault(generation, []).append(node_pk)
    for generation, pks in groups.items():
        Node.objects.filter(pk__in=pks).update_in_order(secret_kept=generation, last_seen=now)
    switch_where_all_are_ready(now)


def switch_where_all_are_ready(now: datetime) -> list[Cluster]:
    """Switch the clusters whose operator wished so, and where that cuts nobody off; gives them."""
    switched = []
    for rotation in Rotation.objects.filter(automatic=True).select_related("cluster"):
        if not may_switch_alone(stand for _, stand in standings(rotation.cluster, rotation)):
            continue
        try:
            switch(None, rotation.cluster, rotation.generation, now)
        except Refused as refusal:
            log.warning("no switch by itself", cluster=rotation.cluster.name, reason=refusal.reason)
        else:
            switched.append(rotation.cluster)
    return switched


# Giving it.


@dataclass(frozen=True, slots=True)
class Holding:
    """What a connected node was last given, or said that it has."""

    generation: int
    version: int
    """Of the protocol that it speaks."""


def seal_for(node: Node, cluster: Cluster, rotation: Rotation | None, holding: Holding) -> tuple[ClusterSecret, ...]:
    """Seal to one member what it lacks, in the order in which to send it; what cannot be read is left out."""
    following = rotation if rotation is not None and holding.version >= ROTATION_VERSION else None
    wanted = lacking(holding.generation, cluster.secret_generation, following.generation if following else None)
    sealed = []
    for generation in wanted:
        stored = following.secret if following and generation == following.generation else cluster.secret
        try:
            secret = stored.reveal()
        except Unreadable as error:
            # The rest of the conversation does not need it; a node that holds a secret goes on meshing.
            log.error("cluster secret not handed out", cluster=cluster.name, error=str(error))  # noqa: TRY400 - no trace
            break
        text = seal(secret, node.public_key, cluster=str(cluster.uuid), node_id=node.node_id, generation=generation)
        sealed.append(ClusterSecret(generation=generation, sealed=text))
    return tuple(sealed)


def seal_all(cluster_pk: int, held: Mapping[int, Holding]) -> dict[int, tuple[ClusterSecret, ...]]:
    """Seal to each of these nodes what it lacks; two queries, a third where somebody lacks something."""
    cluster = Cluster.objects.filter(pk=cluster_pk).first()
    if cluster is None:
        return {}
    rotation = under_way(cluster)
    newest = rotation.generation if rotation else cluster.secret_generation
    short = [pk for pk, holding in held.items() if holding.generation != newest]
    if not short:
        return {}
    nodes = Node.objects.approved().filter(cluster=cluster, pk__in=short).only("pk", "public_key", "node_id", "cluster")
    sealed = {node.pk: seal_for(node, cluster, rotation, held[node.pk]) for node in nodes}
    return {pk: secrets for pk, secrets in sealed.items() if secrets}
