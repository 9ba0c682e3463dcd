"""Clusters: make or import, set options, look at the secret, delete."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec
from django.db import IntegrityError, transaction

from kubespan.core.cluster import (
    KEY_BYTES,
    check_cluster_id,
    make_cluster_id,
    make_cluster_secret,
    parse_cluster_secret,
)
from kubespan.core.messages import Removed, Revision
from kubespan.core.options import ClusterOptions
from nodes import fanout
from nodes.access import needs
from nodes.models import Change, Cluster, Node
from nodes.secrets import Unreadable
from nodes.services import affiliates, after, audit, claims, discovery, endpoints, revisions
from nodes.services.refused import Refused

NAME_FORM = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,61}[A-Za-z0-9])?")


BATCH = 500
"""Rows of one UPDATE; databases limit how many values a statement may carry."""


@needs("create_cluster")
def create_cluster(
    actor: audit.Actor,
    *,
    name: str,
    cluster_id: str = "",
    secret: str = "",
    options: ClusterOptions | None = None,
    now: datetime,
) -> tuple[Cluster, list[str]]:
    """Make a cluster, or import one by its id and secret; gives it with warnings on an id of odd form.

    With an import those come in that discovery lists at that moment.
    """
    _check_name(name)
    options = options or ClusterOptions()
    _check_options(options)
    warnings = _check_identity(cluster_id, secret)
    imported = bool(cluster_id or secret)
    cluster = Cluster(
        name=name,
        cluster_id=cluster_id or make_cluster_id(secrets.token_bytes(KEY_BYTES)),
        secret=secret or make_cluster_secret(secrets.token_bytes(KEY_BYTES)),
        options=options.to_row(),
        epoch=revisions.console_settings()[0],
    )
    try:
        with transaction.atomic():
            _check_new(cluster)
            cluster.save()
            audit.write(actor, "cluster.created", cluster, now, imported=imported)
            after.announce(None, "cluster.created")
    except IntegrityError:  # another one was made between our look and our write
        _check_new(cluster)
        raise
    if imported:
        affiliates.admit_listed(actor, cluster, now)
    return cluster, warnings


def _check_name(name: str) -> None:
    if not NAME_FORM.fullmatch(name):
        raise Refused(
            "name",
            "A cluster's name has 1 to 63 letters, digits, spaces, dots, hyphens or underscores, "
            "and begins and ends with a letter or digit.",
        )


def _check_options(options: ClusterOptions) -> None:
    try:
        options.check()
    except ValueError as error:
        raise Refused("options", f"{error}.") from None


def _check_identity(cluster_id: str, secret: str) -> list[str]:
    if bool(cluster_id) != bool(secret):
        raise Refused("identity", "Give both cluster id and secret to import a cluster, or neither to make one.")
    if not cluster_id:
        return []
    try:
        warnings = check_cluster_id(cluster_id)
    except ValueError as error:
        raise Refused("cluster-id", f"{error}.") from None
    if "\x00" in cluster_id:  # the one character that PostgreSQL cannot keep
        raise Refused("cluster-id", "The cluster id holds a NUL character, which the database cannot keep.")
    try:
        parse_cluster_secret(secret)
    except ValueError as error:
        raise Refused("secret", f"{error}.") from None
    return warnings


def _check_new(cluster: Cluster) -> None:
    if Cluster.objects.filter(name=cluster.name).exists():
        raise Refused("duplicate-name", f"There is a cluster named {cluster.name} already; choose another name.", 409)
    if other := Cluster.objects.filter(cluster_id=cluster.cluster_id).first():
        raise Refused(
            "duplicate-id",
            f"This console holds the cluster with this id already, as {other.name}. Enrol machines there, "
            "or delete it before importing the id again.",
            409,
        )


@needs("change_options")
def set_options(actor: audit.Actor, cluster: Cluster, options: ClusterOptions, now: datetime) -> Revision | None:
    """Give the cluster new options; gives the revision that they became, or none where nothing differs."""
    _check_options(options)
    with transaction.atomic():
        cluster = revisions.lock(cluster.pk)
        before = cluster.kubespan
        if options == before:
            return None
        cluster.options = options.to_row()
        cluster.save(update_fields=["options"])
        if before.discovery and not options.discovery:
            discovery.forget(cluster)
        touched = _refresh_members(cluster, before, options, now)
        changes = [(Change.Kind.MEMBER, index) for index in touched]
        revision = revisions.append_all(cluster, [(Change.Kind.OPTIONS, None), *changes], now=now)
        audit.write(actor, "cluster.options-set", cluster, now, changes=_differences(before, options))
        after.announce(cluster.pk, "cluster.changed")
    return revision


def _refresh_members(cluster: Cluster, before: ClusterOptions, options: ClusterOptions, now: datetime) -> list[int]:
    """Do what the options change of the members themselves; gives the indexes of those that others see changed."""
    nodes = list(cluster.nodes.present().order_by("index"))
    lists = endpoints.refresh(nodes, options, now)
    everybody = options.exclude_advertised_networks != before.exclude_advertised_networks
    members = [node for node in nodes if node.status == Node.Status.APPROVED]
    ruled: list[Node] = []
    if options.approved_networks != before.approved_networks:
        ruled = claims.rule_again(cluster, members, options.approved_networks)
        Node.objects.filter(pk__in=[node.pk for node in ruled]).lock_in_order()
        Node.objects.bulk_update(ruled, ["claimed_networks", "ruled_networks"], batch_size=BATCH)
    return [node.index for node in members if everybody or node.pk in lists or node in ruled]  # type: ignore[misc] # a constraint of the table


def _differences(before: ClusterOptions, after_: ClusterOptions) -> dict[str, list[object]]:
    old, new = msgspec.structs.asdict(before), msgspec.structs.asdict(after_)
    return {name: msgspec.to_builtins([old[name], new[name]]) for name in new if old[name] != new[name]}


def preview_options(cluster: Cluster, options: ClusterOptions) -> list[str]:
    """Say in sentences what these options would change; none where nothing differs."""
    _check_options(options)
    before = cluster.kubespan
    changed = _differences(before, options)
    sentences = [_sentence(name, options) for name in changed]
    if changed:
        members = cluster.nodes.approved().count()
        sentences.append(f"{members} {'machine' if members == 1 else 'machines'} will be told at once.")
    return sentences


def _sentence(name: str, options: ClusterOptions) -> str:
    value = getattr(options, name)
    match name:
        case "mtu":
            return f"The link's MTU becomes {value} on every machine; larger packets are split or refused."
        case _ if name in _LIST_SENTENCES:
            some, none = _LIST_SENTENCES[name]
            return some.format(_enumerate(value)) if value else none
        case _:
            return _SWITCH_SENTENCES[name][bool(value)]


_SWITCH_SENTENCES = {
    "enabled": (
        "KubeSpan is switched off: every machine takes its tunnel, routes and rules away.",
        "KubeSpan is switched on: every machine builds its tunnels.",
    ),
    "allow_down_peer_bypass": (
        "Traffic for a peer that is not up waits in the tunnel: nothing leaves unencrypted.",
        "Traffic for a peer that is not up goes around the tunnel, unencrypted.",
    ),
    "force_from_start": (
        "Traffic for a new peer goes around the tunnel until the first handshake with it.",
        "Traffic for a new peer is forced into the tunnel before the first handshake: until then it is unreachable.",
    ),
    "harvest_extra_endpoints": (
        "Endpoints that neighbours saw are no longer shared, and those shared so far are forgotten.",
        "Endpoints that neighbours see a machine at are shared with all others; not for more than 50 machines.",
    ),
    "discovery": (
        "The discovery service serves this cluster no longer and forgets what it keeps of it; Talos machines leave.",
        "The discovery service serves this cluster.",
    ),
    "probes": (
        "Machines no longer measure the round trip and loss of their links; what was measured stays in the charts.",
        "Machines measure the round trip and loss of their links, by one small packet to each peer every 30 seconds.",
    ),
    "advertise_kubernetes_networks": (
        "Linux machines no longer ask to advertise their pod networks; those that somebody said yes to stay.",
        "Linux machines that are nodes of Kubernetes ask to advertise their pod networks; each waits for a yes.",
    ),
}
_LIST_SENTENCES = {
    "endpoint_filters": (
        "Machines advertise only endpoints that pass {}, in this order.",
        "Machines advertise all their endpoints.",
    ),
    "peer_endpoint_filters": (
        "Machines try only those endpoints of a peer that pass {}, in this order.",
        "Machines try all endpoints of a peer.",
    ),
    "exclude_advertised_networks": (
        "Traffic for {} stays out of the tunnels, whoever advertises it.",
        "No network is left out of the tunnels.",
    ),
    "extra_endpoints": (
        "Every machine is also tried at {}.",
        "No machine is tried at an endpoint of the whole cluster's any more.",
    ),
    "approved_networks": (
        "A network within {} that a machine claims is advertised without a further yes.",
        "Each network that a machine claims waits for a yes; those advertised so far stay.",
    ),
}


def _enumerate(values: Iterable[str]) -> str:
    return ", ".join(values)


@needs("reveal_secret")
def reveal_secret(actor: audit.Actor, cluster: Cluster, now: datetime) -> str:
    """Give the cluster secret to somebody who asked for it; each look is an audit row."""
    with transaction.atomic():
        try:
            secret = Cluster.objects.get(pk=cluster.pk).secret.reveal()
        except Unreadable as error:
            raise Refused("secret-unreadable", f"The secret of {cluster} {error}.", 503) from None
        audit.write(actor, "cluster.secret-shown", cluster, now)
    return secret


@needs("reveal_id")
def reveal_id(actor: audit.Actor, cluster: Cluster, now: datetime) -> str:
    """Give the cluster id to somebody who asked: who knows it may write to discovery. Each look is an audit row."""
    with transaction.atomic():
        cluster_id = Cluster.objects.get(pk=cluster.pk).cluster_id
        audit.write(actor, "cluster.id-shown", cluster, now)
    return cluster_id


@needs("delete_cluster")
def delete_cluster(actor: audit.Actor, cluster: Cluster, typed_name: str, now: datetime) -> None:
    """Delete a cluster with all that belongs to it; connected machines are told to take the mesh down."""
    if typed_name != cluster.name:
        raise Refused("name-mismatch", f"Type the cluster's name, {cluster.name}, to delete it.")
    with transaction.atomic():
        cluster = revisions.lock(cluster.pk)
        cluster_pk = cluster.pk
        members = list(cluster.nodes.present().values_list("pk", flat=True))
        waiting = set(cluster.nodes.pending().values_list("pk", flat=True))
        audit.write(actor, "cluster.deleted", cluster, now, nodes=len(members))
        cluster.delete()
        farewell = f"the cluster {cluster.name} was deleted"
        transaction.on_commit(lambda: _dismiss(cluster_pk, members, waiting, farewell), robust=True)
        after.announce(cluster_pk, "cluster.deleted")


def _dismiss(cluster_pk: int, nodes: Iterable[int], waiting: Collection[int], farewell: str) -> None:
    for node_pk in nodes:
        # A machine that waited was never told of which cluster.
        reason = "its cluster was deleted" if node_pk in waiting else farewell
        fanout.publish_to_node(node_pk, cluster_pk, Removed(reason=reason))
