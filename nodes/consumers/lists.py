"""Sockets of lists whose rows are only added to or used up: tokens, and what happened."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from nodes import access
from nodes.consumers.base import FollowingConsumer, Gone, Sent
from nodes.consumers.following import ClusterOverviewConsumer, OverviewConsumer
from nodes.models import ApiToken, Audit, Token, Transition
from nodes.models.activity import AuditQuerySet
from nodes.models.roles import ScopedQuerySet
from nodes.pages import Flushed


class TokensConsumer(OverviewConsumer):
    """Enrolment tokens of all clusters."""

    def find(self) -> set[int | None]:
        """Every cluster; there need not be one."""
        self._tokens: Sent[int, tuple[Any, ...]] = Sent()
        return super().find()

    def read(self) -> None:
        """Two queries: the clusters by name, and of each token what changes once it is made, and whether it expired."""
        now = timezone.now()
        self._clusters_seen.now = {row[0]: row for row in self.shown().values_list("pk", "name")}
        tokens = Token.objects.filter(cluster__in=self.shown()).order_by()
        tokens = tokens.only("name", "cluster", "uses", "used", "expires", "last_used", "revoked_at")
        self._tokens.now = {
            token.pk: (token.cluster_id, token.name, token.uses, token.used, token.last_used, token.worthless(now))
            for token in tokens
        }

    def take(self, flushed: Flushed) -> bool:
        """What agents report is not shown."""
        return False

    def differs(self) -> bool:
        """A token that was made, used, revoked or has expired, or a cluster."""
        news = [one.news() for one in (self._clusters_seen, self._tokens)]  # each is asked, whatever the other says
        return any(changed or gone for changed, gone in news)


class ApiTokensConsumer(FollowingConsumer):
    """API tokens: one's own, and for administrators of the console everybody's; their use is announced to nobody."""

    permission = access.ENTER

    def find(self) -> set[int | None]:
        """They are of no cluster."""
        self._tokens: Sent[int, tuple[Any, ...]] = Sent()
        return {None}

    def read(self) -> None:
        """One query."""
        now, shown = timezone.now(), ApiToken.objects.order_by()
        if not access.may(self.user, "manage_console"):
            shown = shown.filter(user=self.user)
        self._tokens.now = {token.pk: (token.last_used, token.worthless(now)) for token in shown}

    def take(self, flushed: Flushed) -> bool:
        """What agents report is not shown."""
        return False

    def differs(self) -> bool:
        """A token that was made, used, revoked or has expired."""
        return any(self._tokens.news())


class ActivityConsumer(OverviewConsumer):
    """What happened in all clusters."""

    def find(self) -> set[int | None]:
        """Every cluster; there need not be one."""
        self._newest: Sent[str, tuple[Any, ...] | None] = Sent()
        return super().find()

    def read(self) -> None:
        """Three queries."""
        self._clusters_seen.now = {row[0]: row for row in self.shown().values_list("pk")}
        self._newest.now = newest(Transition.objects.visible_to(self.user), Audit.objects.visible_to(self.user))

    def take(self, flushed: Flushed) -> bool:
        """What agents report may have become rows."""
        self.look_again()
        return False

    def differs(self) -> bool:
        """Something more happened."""
        return any(self._newest.news())


class ClusterActivityConsumer(ClusterOverviewConsumer):
    """What happened in one cluster."""

    def find(self) -> set[int | None]:
        """The cluster of the address."""
        self._newest: Sent[str, tuple[Any, ...] | None] = Sent()
        return super().find()

    def read(self) -> None:
        """Three queries."""
        self._clusters_seen.now = {row[0]: row for row in self.shown().values_list("pk")}
        if not self._clusters_seen.now:
            raise Gone
        here = {"cluster__in": list(self._clusters_seen.now)}
        self._newest.now = newest(Transition.objects.filter(**here), Audit.objects.filter(**here))

    take = ActivityConsumer.take
    differs = ActivityConsumer.differs


def newest(transitions: ScopedQuerySet, audits: AuditQuerySet) -> dict[str, tuple[Any, ...] | None]:
    """The newest row of each; that which counts what was left out says more without being another."""
    return {
        "links": transitions.values_list("pk", "count").first(),
        "audit": audits.values_list("pk").first(),
    }
