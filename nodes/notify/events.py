"""Rows as events: which there is one for, and how it is said. Pure but for the addresses of pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.urls import reverse

from kubespan.core.duration import age
from nodes.models import Audit, Cluster, Node, Transition
from nodes.notify import TEST, Event
from nodes.words import count, moment

LINKS_NAMED = 20
"""Links that one message names; a network that splits takes down half a million."""

ROTATION = {
    "cluster.rotation-started": "A new secret of cluster {} is being handed out",
    "cluster.rotation-renewed": "The secret that is being handed out in cluster {} was made anew",
    "cluster.rotation-cancelled": "The rotation of the secret of cluster {} was cancelled",
    "cluster.secret-switched": "Cluster {} has switched to its new secret",
}
CLUSTER = {
    "cluster.created": "Cluster {} was made",
    "cluster.options-set": "The options of cluster {} were changed",
    "cluster.deleted": "Cluster {} was deleted",
}
VERBS = {
    "node.pending": ("node.enrolled", "node.discovered"),
    "rotation": tuple(ROTATION),
    "cluster": tuple(CLUSTER),
}
"""Audit rows that each kind is made of."""


def verbs_of(kinds: Sequence[str]) -> list[str]:
    """The audit rows that these kinds are made of."""
    return [verb for kind in kinds for verb in VERBS.get(kind, ())]


def of_audit(row: Audit, kinds: Sequence[str]) -> Event | None:
    """What an audit row is worth telling, if it is of one of these kinds."""
    if row.verb in VERBS["node.pending"] and "node.pending" in kinds:
        return _pending(row)
    for kind, sentences in (("rotation", ROTATION), ("cluster", CLUSTER)):
        if row.verb in sentences and kind in kinds:
            sentence = f"{sentences[row.verb].format(row.target)}, by {row.actor_name}."
            url = page(row.cluster.get_absolute_url()) if row.cluster else page(reverse("activity") + "?tab=audit")
            return Event(kind, moment(row.at), sentence, about(row.cluster), url=url)
    return None


def _pending(row: Audit) -> Event | None:
    waits = row.verb == "node.discovered" or row.details.get("status") == Node.Status.PENDING
    if not waits or row.node is None or row.cluster is None:
        return None
    text = f"{row.target} waits for approval in cluster {row.cluster.name}."
    return Event(
        "node.pending", moment(row.at), text, about(row.cluster), [naming(row.node)],
        url=page(row.node.get_absolute_url()),
    )  # fmt: skip


def of_transition(row: Transition, kinds: Sequence[str]) -> Event | None:
    """What a transition of a node is worth telling; links are told of together, by `of_links`."""
    if row.node is None:
        return None
    if row.kind == Transition.Kind.FAULT:
        kind, text = "configuration.fault", f"{row.node.name} cannot apply its configuration: {row.text}"
    elif row.kind == Transition.Kind.NODE and row.after in {"away", "connected"}:
        kind = "node.away" if row.after == "away" else "node.back"
        words = "is away" if row.after == "away" else "is connected again"
        text = f"{row.node.name} of cluster {row.cluster.name} {words}."
    else:
        return None
    if kind not in kinds or (kind == "node.back" and row.before != "away"):
        return None
    url = page(row.node.get_absolute_url())
    return Event(kind, moment(row.at), text, about(row.cluster), [naming(row.node)], url=url)


def of_links(
    kind: str, cluster: Cluster, links: Sequence[tuple[Node, Node, datetime]], waited: timedelta, now: datetime
) -> Event:
    """Links that are down for long enough, or up again: of one cluster, in one message. `links` is not empty."""
    node, peer, _ = links[0]
    if len(links) == 1:
        what = f"{node.name} cannot reach {peer.name}" if kind == "link.down" else f"{node.name} reaches {peer.name}"
        url = page(reverse("pair", args=[node.pk, peer.pk]))
    else:
        what = f"{count(len(links), 'link')} {'are down' if kind == 'link.down' else 'are up again'}"
        url = page(reverse("cluster-links", args=[cluster.uuid]))
    tail = f" for more than {age(waited.total_seconds())}." if kind == "link.down" else "."
    again = " again" if kind == "link.up" and len(links) == 1 else ""
    named = [
        {
            "node": one.name,
            "peer": other.name,
            "since": moment(since),
            "url": page(reverse("pair", args=[one.pk, other.pk])),
        }
        for one, other, since in links[:LINKS_NAMED]
    ]
    text = f"{what}{again} in cluster {cluster.name}{tail}"
    return Event(
        kind, moment(now), text, about(cluster), links=named, more=max(0, len(links) - LINKS_NAMED), url=url
    )  # fmt: skip


def of_test(actor: str, name: str, now: datetime) -> Event:
    """A message that says that messages arrive."""
    text = f"This is a test of the webhook {name}, asked for by {actor}."
    return Event(TEST, moment(now), text, url=page(reverse("settings-alerts")))


def page(path: str) -> str:
    """A page's whole address."""
    return f"{settings.KUBESPAN_URL}{path}"


def about(cluster: Cluster | None) -> dict[str, str] | None:
    """A cluster for programs."""
    if cluster is None:
        return None
    return {"name": cluster.name, "uuid": str(cluster.uuid), "url": page(cluster.get_absolute_url())}


def naming(node: Node) -> dict[str, str]:
    """A node for programs."""
    return {"name": node.name, "url": page(node.get_absolute_url())}
