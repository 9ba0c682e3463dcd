"""Roles: what a person may do, in one cluster or in the whole console. What each includes is said in nodes.access."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models

Q = TypeVar("Q", bound="models.QuerySet[Any]")
U = TypeVar("U", bound=AbstractBaseUser)


class Role(models.TextChoices):
    """What a person may do; each includes those before it."""

    VIEWER = "viewer", "viewer"
    OPERATOR = "operator", "operator"
    ADMINISTRATOR = "administrator", "administrator"

    @property
    def rank(self) -> int:
        """The higher, the more it may."""
        return list(Role).index(self)

    def includes(self, other: Role) -> bool:
        """Whether whoever has this one may all that the other may."""
        return self.rank >= other.rank


@dataclass(frozen=True)
class Roles:
    """All roles of one person."""

    console: Role | None = None
    """The one for the whole console, and so for each cluster."""

    clusters: dict[int, Role] = field(default_factory=dict)
    """Those for one cluster alone, by its primary key."""

    def of(self, cluster: int | None) -> Role | None:
        """The role for a cluster, or with none for the whole console."""
        found = [role for role in (self.console, self.clusters.get(cluster) if cluster else None) if role]
        return max(found, key=lambda role: role.rank) if found else None

    def at_least(self, role: Role) -> frozenset[int] | None:
        """The clusters in which somebody has that role or more; none stands for each there is."""
        if self.console is not None and self.console.includes(role):
            return None
        return frozenset(pk for pk, given in self.clusters.items() if given.includes(role))

    @property
    def highest(self) -> Role | None:
        """The most that somebody may anywhere; none where they may nothing."""
        found = [role for role in (self.console, *self.clusters.values()) if role is not None]
        return max(found, key=lambda role: role.rank) if found else None

    def __bool__(self) -> bool:
        return self.console is not None or bool(self.clusters)


NOTHING = Roles()


_KEPT = "_kubespan_roles"


def roles_of(user: AbstractBaseUser | AnonymousUser) -> Roles:
    """Somebody's roles, read once for each object that stands for them: a request, a look of a page's socket."""
    if not (user.is_authenticated and user.is_active):
        return NOTHING
    found: Roles | None = getattr(user, _KEPT, None)
    if found is None:
        found = _read(user)
        setattr(user, _KEPT, found)
    return found


def forget_roles(user: AbstractBaseUser | AnonymousUser) -> None:
    """Read them anew when they are asked for next."""
    if hasattr(user, _KEPT):
        delattr(user, _KEPT)


def limit_roles(user: U, most: Role) -> U:
    """Have this object stand for somebody with no more than one role anywhere; nothing of it is to be saved."""

    def lower(role: Role) -> Role:
        return role if most.includes(role) else most

    given = roles_of(user)
    user.is_superuser = user.is_staff = False  # type: ignore[attr-defined] # who is one may everything
    clusters = {pk: lower(role) for pk, role in given.clusters.items()}
    setattr(user, _KEPT, Roles(lower(given.console) if given.console else None, clusters))
    return user


def _read(user: AbstractBaseUser) -> Roles:
    if getattr(user, "is_superuser", False):
        return Roles(Role.ADMINISTRATOR)
    given = dict(user.grants.values_list("cluster", "role"))  # type: ignore[attr-defined]
    console = given.pop(None, None)
    return Roles(Role(console) if console else None, {pk: Role(role) for pk, role in given.items()})


def within(queryset: Q, user: AbstractBaseUser | AnonymousUser, role: Role, column: str) -> Q:
    """The rows whose cluster, by the name of its column, is one in which somebody has that role or more."""
    clusters = roles_of(user).at_least(role)
    return queryset if clusters is None else queryset.filter(**{f"{column}__in": clusters})


class ScopedQuerySet(models.QuerySet[Any]):
    """Rows that each belong to a cluster."""

    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        """Those of the clusters that somebody may see."""
        return within(self, user, Role.VIEWER, "cluster")
