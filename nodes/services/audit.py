"""Who did what: one row for each change, and for each look at a secret."""

from __future__ import annotations

from datetime import datetime

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser

from nodes.models import Audit, Cluster, Node, Token

Actor = AbstractBaseUser | AnonymousUser | str | None
"""A signed-in person, or the words for who else acts, such as `node NAME`; none is the console itself."""

CONSOLE = "console"
NAME_LENGTH = 150


def write(actor: Actor, verb: str, target: object, now: datetime, **details: object) -> Audit:
    """Note an act, within the transaction of what was done; the details are for people and hold no secret."""
    return Audit.objects.create(
        at=now,
        actor_id=actor.pk if isinstance(actor, AbstractBaseUser) else None,
        actor_name=str(actor or CONSOLE)[:NAME_LENGTH],
        verb=verb,
        cluster_id=_cluster_pk(target),
        node_id=target.pk if isinstance(target, Node) else None,
        target=str(target)[: Audit._meta.get_field("target").max_length],
        details=details,
    )


def _cluster_pk(target: object) -> int | None:
    if isinstance(target, Cluster):
        return target.pk
    return target.cluster_id if isinstance(target, Node | Token) else None
