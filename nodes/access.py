"""Who may do what: one table of actions, each with the least role that it needs.

Services ask it (`@needs`), and so do pages, their sockets and templates. A new action gets a line in ACTIONS; what
has no line, nobody may. Roles themselves are rows (nodes.models.people); whoever is no user of the console - a node,
a command, the console itself - acts on its own authority.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Model, Q, QuerySet

from nodes.models import Cluster, Grant, Role, RolloutStep
from nodes.models.clusters import ClusterQuerySet
from nodes.models.roles import roles_of, within
from nodes.services.audit import Actor
from nodes.services.refused import Refused

P = ParamSpec("P")
R = TypeVar("R")


class Action(NamedTuple):
    """What somebody may do, given the role."""

    role: Role
    words: str
    """Completes "to …"."""


ENTER = "enter_console"
"""Whoever has a role for anything may open the pages about everything, which then show what is theirs to see."""

ACTIONS = {
    ENTER: Action(Role.VIEWER, "open the console"),
    # In a cluster.
    "view_cluster": Action(Role.VIEWER, "see the cluster"),
    "approve_node": Action(Role.OPERATOR, "approve a machine"),
    "change_node": Action(Role.OPERATOR, "change a node"),
    "remove_node": Action(Role.OPERATOR, "remove a node"),
    "try_again": Action(Role.OPERATOR, "have a node try another endpoint"),
    "keep_history": Action(Role.OPERATOR, "have the history of a link kept"),
    "create_token": Action(Role.OPERATOR, "enrol a machine"),
    "revoke_token": Action(Role.OPERATOR, "revoke a token"),
    "change_options": Action(Role.OPERATOR, "change the cluster's options"),
    "upgrade_agents": Action(Role.OPERATOR, "upgrade agents"),
    "reveal_id": Action(Role.OPERATOR, "see the cluster id in clear"),
    "open_discoveryaffiliate": Action(Role.OPERATOR, "see what affiliates at discovery say"),
    "reveal_secret": Action(Role.ADMINISTRATOR, "see the cluster secret"),
    "rotate_secret": Action(Role.ADMINISTRATOR, "rotate the cluster secret"),
    "delete_cluster": Action(Role.ADMINISTRATOR, "delete the cluster"),
    "manage_people": Action(Role.ADMINISTRATOR, "decide who may do what"),
    # In the console as a whole.
    "view_strangers": Action(Role.VIEWER, "see other people's clusters at discovery"),
    "create_cluster": Action(Role.ADMINISTRATOR, "create or import a cluster"),
    "manage_console": Action(Role.ADMINISTRATOR, "change the console itself"),
}


def cluster_of(subject: Model | None) -> int | None:
    """The cluster that a row belongs to, by its primary key; none is the whole console."""
    if subject is None:
        return None
    if isinstance(subject, User):
        return None
    if isinstance(subject, Cluster):
        return subject.pk
    if isinstance(subject, RolloutStep):
        return subject.rollout.cluster_id
    field = subject._meta.get_field("cluster")
    if field.related_model is not Cluster:
        raise TypeError(f"{type(subject).__name__} belongs to no cluster of the console")
    return subject.cluster_id  # type: ignore[attr-defined]


class Forbidden(Refused):
    """Somebody asked for what their role does not include."""

    def __init__(self, action: str, subject: Model | None) -> None:
        needed = ACTIONS[action]
        pk = cluster_of(subject)
        where = "the whole console" if pk is None else f"the cluster {Cluster.objects.only('name').get(pk=pk)}"
        super().__init__(
            "forbidden",
            f"To {needed.words} you need the role {needed.role.label} for {where}. {_who_can_give(pk)}",
            403,
        )


GIVERS_NAMED = 3
"""People whom a refusal names as those to ask."""


def _who_can_give(cluster: int | None) -> str:
    names = [person.get_username() for person in administrators(cluster)[: GIVERS_NAMED + 1]]
    if not names:
        return "Nobody can give it at present: whoever runs the console makes an administrator there."
    others = " or another administrator" if len(names) > GIVERS_NAMED else ""
    return f"It is given by {' or '.join(names[:GIVERS_NAMED])}{others}."


def administrators(cluster: int | None) -> QuerySet[User]:
    """Those who may give roles for a cluster, or with none for the whole console."""
    grants = Grant.objects.filter(Q(cluster=None) | Q(cluster=cluster), role=Role.ADMINISTRATOR)
    able = Q(is_superuser=True) | Q(pk__in=grants.values("user"))
    return User.objects.filter(able, is_active=True).order_by("username")


def may(actor: Actor, action: str, subject: Model | None = None) -> bool:
    """Whether somebody may do that to a row, or with none to the console as a whole."""
    needed = ACTIONS[action].role
    if not isinstance(actor, AbstractBaseUser | AnonymousUser):
        return True
    roles = roles_of(actor)
    if action == ENTER:
        return bool(roles)
    given = roles.of(cluster_of(subject))
    return given is not None and given.includes(needed)


def may_somewhere(user: AbstractBaseUser | AnonymousUser, action: str) -> bool:
    """Whether there is a cluster in which somebody may do that, or they may in all."""
    return roles_of(user).at_least(ACTIONS[action].role) != frozenset()


def clusters_where(user: AbstractBaseUser | AnonymousUser, action: str) -> ClusterQuerySet:
    """The clusters in which somebody may do that."""
    return within(Cluster.objects.all(), user, ACTIONS[action].role, "pk")


def require(actor: Actor, action: str, subject: Model | None = None) -> None:
    """Raise Forbidden where `may` says no."""
    if not may(actor, action, subject):
        raise Forbidden(action, subject)


def needs(action: str) -> Callable[[Callable[Concatenate[Actor, P], R]], Callable[Concatenate[Actor, P], R]]:
    """Let a service be used by those alone who may do `action` to what its second argument is.

    That is a row, or rows, each of which is asked about; else it is about the console as a whole.
    """
    if action not in ACTIONS:
        raise KeyError(action)

    def guard(service: Callable[Concatenate[Actor, P], R]) -> Callable[Concatenate[Actor, P], R]:
        second = [*inspect.signature(service).parameters, "", ""][1]

        def guarded(actor: Actor, /, *args: P.args, **kwargs: P.kwargs) -> R:
            for subject in _subjects(args[0] if args else kwargs.get(second)):
                require(actor, action, subject)
            return service(actor, *args, **kwargs)

        functools.update_wrapper(guarded, service)
        guarded.action = action  # type: ignore[attr-defined]
        return guarded

    return guard


def _subjects(given: Any) -> Iterable[Model | None]:
    if isinstance(given, Model):
        return [given]
    if isinstance(given, QuerySet | list | tuple) and given and all(isinstance(one, Model) for one in given):
        return given
    return [None]
