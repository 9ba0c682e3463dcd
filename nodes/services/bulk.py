"""One deed done to many nodes, or tokens: each by its own service and with its own audit row.

What belongs to one cluster is one transaction, so its machines hear of it all in one push. Whatever is refused for one
keeps none of the others back, and is told by name; so is what somebody's role does not include, in that cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TypeVar

from django.db import transaction

from kubespan.core.endpoint import parse_network
from nodes.access import ENTER, needs
from nodes.models import Cluster, Node, Token
from nodes.services import audit, nodes, revisions, rollouts, tokens
from nodes.services.refused import Refused

LIMIT = 1000
"""At most so many at a time: the members of the largest cluster."""


Subject = TypeVar("Subject", Node, Token)


@dataclass
class Outcome:
    """What became of a deed, by name."""

    done: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Each with the reason."""


@needs(ENTER)
def approve_nodes(actor: audit.Actor, chosen: Sequence[Node], now: datetime) -> Outcome:
    """Let pending nodes in. Raises Refused for too many at a time, as all of these do."""
    return _each(chosen, lambda node: nodes.approve_node(actor, node, now))


@needs(ENTER)
def try_nodes_again(actor: audit.Actor, chosen: Sequence[Node], now: datetime) -> Outcome:
    """Have nodes take the next endpoint of every peer."""

    def tell(node: Node) -> None:
        if node.is_talos:
            raise Refused("node-talos", "A Talos machine goes through endpoints by itself.", 409)
        if not node.session:
            raise Refused("node-away", "It is not connected, so it cannot be told.", 409)
        nodes.try_again(actor, node, None, now)

    return _each(chosen, tell)


@needs(ENTER)
def remove_nodes(actor: audit.Actor, chosen: Sequence[Node], typed_count: str, now: datetime) -> Outcome:
    """Cut nodes off, for whoever types how many they are; one alone goes by its name (nodes.remove_node)."""
    if len(chosen) == 1:
        raise Refused("typed-name", f"Remove {chosen[0].name} on its own page, by its name.")
    if typed_count.strip() != str(len(chosen)):
        raise Refused("typed-count", f"Type the number of nodes, {len(chosen)}, to remove them.")
    return _each(chosen, lambda node: nodes.remove_node(actor, node, node.name, now))


@needs(ENTER)
def leave_out(
    actor: audit.Actor, chosen: Sequence[Node], networks: Sequence[str], now: datetime, *, again: bool = False
) -> Outcome:
    """Have others not route these networks to the nodes; `again` takes that back. What else is left out stays."""
    try:
        named = [str(parse_network(network)) for network in networks]
    except ValueError as error:
        raise Refused("networks", f"{error}.") from None
    if not named:
        raise Refused("networks", "Name at least one network.")

    def set_one(node: Node) -> None:
        node.refresh_from_db()  # under the cluster's lock: somebody may have set another option meanwhile
        kept = [network for network in node.excluded_networks if network not in named]
        nodes.set_node_options(
            actor,
            node,
            extra_endpoints=node.extra_endpoints,
            advertised_networks=node.networks,
            excluded_networks=kept if again else [*kept, *named],
            now=now,
        )

    return _each(chosen, set_one)


@needs(ENTER)
def upgrade_nodes(actor: audit.Actor, chosen: Sequence[Node], now: datetime) -> Outcome:
    """Begin an upgrade in each cluster of these nodes, of those of them that run an older agent."""
    _check_number(chosen)
    outcome = Outcome()
    for cluster, members in _by_cluster(chosen):
        try:
            rollout = rollouts.start_rollout(actor, cluster, now, only={node.pk for node in members})
        except Refused as refusal:
            outcome.refused.append((cluster.name, refusal.reason))
        else:
            outcome.done += rollout.steps.values_list("node__name", flat=True)
    return outcome


@needs(ENTER)
def revoke_tokens(actor: audit.Actor, chosen: Sequence[Token], now: datetime) -> Outcome:
    """Make tokens worthless at once."""
    return _each(chosen, lambda token: tokens.revoke_token(actor, token, now))


def _each(chosen: Sequence[Subject], act: Callable[[Subject], object]) -> Outcome:
    _check_number(chosen)
    outcome = Outcome()
    for cluster, subjects in _by_cluster(chosen):
        try:
            with transaction.atomic():
                revisions.lock(cluster.pk)
                for subject in subjects:
                    _act(subject, act, outcome)
        except Refused as refusal:  # its cluster was deleted this moment
            outcome.refused += [(str(subject), refusal.reason) for subject in subjects]
    return outcome


def _act(subject: Subject, act: Callable[[Subject], object], outcome: Outcome) -> None:
    try:
        with transaction.atomic():
            act(subject)
    except Refused as refusal:
        outcome.refused.append((str(subject), refusal.reason))
    else:
        outcome.done.append(str(subject))


def _by_cluster(chosen: Iterable[Subject]) -> Iterable[tuple[Cluster, list[Subject]]]:
    """By primary key, as whoever locks several clusters does."""
    ordered = sorted(chosen, key=lambda subject: (subject.cluster_id, subject.pk))
    for _, subjects in groupby(ordered, key=lambda subject: subject.cluster_id):
        group = list(subjects)
        yield group[0].cluster, group


def _check_number(chosen: Sequence[Node | Token]) -> None:
    if not chosen:
        raise Refused("nothing-chosen", "Choose at least one.")
    if len(chosen) > LIMIT:
        raise Refused("too-many", f"At most {LIMIT} at a time; {len(chosen)} are chosen. Filter the list further.")
