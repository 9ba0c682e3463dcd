"""Django's admin: every row to search and look at. What only services may change is not changed here: they alone take
revisions, write audit rows and tell agents. Secrets are never shown.
"""

from __future__ import annotations

from typing import Any

import allauth.account.admin
import allauth.mfa.admin
import allauth.socialaccount.admin
import allauth.usersessions.admin  # noqa: F401  these register what is taken back below
import django.contrib.auth.admin  # noqa: F401  it registers what is taken back below
import redis
from allauth.account.models import EmailAddress, EmailConfirmation
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe

from nodes import access, counters
from nodes.models import (
    ApiToken,
    Audit,
    Candidate,
    Change,
    Cluster,
    Console,
    Delivery,
    DiscoveryAffiliate,
    DiscoveryClock,
    DiscoveryCluster,
    FollowedLink,
    Grant,
    HistoryMark,
    Invitation,
    LinkHistory,
    Node,
    NodeHistory,
    Obstacle,
    Outage,
    Rollout,
    RolloutStep,
    Rotation,
    Token,
    Tombstone,
    Transition,
    Webhook,
)
from nodes.secrets import SecretField


class Shown(admin.ModelAdmin):
    """Rows to look at: nothing is added, changed or deleted here, and no secret or hash of one is shown."""

    hidden: tuple[str, ...] = ()
    list_per_page = 50
    show_full_result_count = False  # counting all rows of a history takes longer than showing a page of it

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """Every column but the secret ones."""
        columns = [field for field in self.model._meta.fields if not isinstance(field, SecretField)]
        return [field.name for field in columns if field.name not in self.hidden]

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whoever comes in sees all of it: roles for one cluster alone let nobody in."""
        return access.may(request.user, "manage_console")

    def has_module_permission(self, request: HttpRequest) -> bool:
        """The same."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Rows are made by services."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Rows are changed by services."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Rows are deleted by services."""
        return False

    @admin.display(description="page")
    def page(self, row: Any) -> str:
        """Where the row is dealt with: on its own page, or that of its node or cluster."""
        subjects = (row, getattr(row, "node", None), getattr(row, "cluster", None))
        found = next((one for one in subjects if hasattr(one, "get_absolute_url")), None)
        if found is None:
            return "—"
        return format_html('<a href="{}">{}</a>', found.get_absolute_url(), "open" if found is row else found)


class CandidateInline(admin.TabularInline):
    """A node's endpoints on its page."""

    model = Candidate
    fields = ("endpoint", "source", "order", "seen")
    extra = 0
    can_delete = False

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whoever sees the node."""
        return access.may(request.user, "manage_console")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Endpoints come from claims, connections and neighbours."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """See above."""
        return False


class ObstacleInline(CandidateInline):
    """What a node's preflight found, on its page."""

    model = Obstacle
    fields = ("code", "text", "remedy", "since")


@admin.register(Console)
class ConsoleAdmin(Shown):
    """This console."""

    hidden = ("first_code",)
    list_display = ("key", "epoch", "created")
    search_fields = ("key",)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """Its columns, and what it counted."""
        return [*super().get_fields(request, obj), "counted"]

    @admin.display(description="counted since Redis was emptied")
    def counted(self, console: Console) -> str:
        """How often what was refused, lost or stalled."""
        try:
            found = counters.read_counters()
        except redis.RedisError:
            return "not known while Redis is away"
        return format_html_join(mark_safe("<br>"), "{}: {}", sorted(found.items())) or "nothing"


@admin.register(Cluster)
class ClusterAdmin(Shown):
    """Clusters."""

    hidden = ("cluster_id",)  # a capability: shown on the cluster's page, with an audit row
    list_display = ("name", "uuid", "revision", "pushed", "created", "page")
    search_fields = ("name", "uuid")


@admin.register(Rotation)
class RotationAdmin(Shown):
    """Secrets that are handed out and not switched to yet."""

    list_display = ("cluster", "generation", "automatic", "started", "started_by", "page")
    list_select_related = ("cluster",)
    search_fields = ("cluster__name", "started_by")


@admin.register(Rollout)
class RolloutAdmin(Shown):
    """Upgrades of agents."""

    list_display = ("cluster", "version", "state", "started", "started_by", "ended", "page")
    list_filter = ("state", "cluster")
    list_select_related = ("cluster",)
    search_fields = ("cluster__name", "version", "sha256", "started_by")


@admin.register(RolloutStep)
class RolloutStepAdmin(Shown):
    """What became of each node in an upgrade."""

    list_display = ("rollout", "node", "order", "state", "before", "told", "ended", "page")
    list_filter = ("state",)
    list_select_related = ("rollout__cluster", "node")
    search_fields = ("node__name", "reason")


@admin.register(DiscoveryCluster)
class DiscoveryClusterAdmin(Shown):
    """Clusters at the discovery service."""

    hidden = ("cluster_id",)  # a capability
    list_display = ("pk", "number", "used")
    search_fields = ("=pk",)
    ordering = ("pk",)


@admin.register(DiscoveryAffiliate)
class DiscoveryAffiliateAdmin(Shown):
    """Affiliates at the discovery service; what they say is sealed."""

    hidden = ("data", "endpoints")
    list_display = ("affiliate_id", "cluster", "address", "expires")
    list_filter = ("cluster",)
    list_select_related = ("cluster",)
    search_fields = ("affiliate_id",)
    ordering = ("cluster", "affiliate_id")


@admin.register(DiscoveryClock)
class DiscoveryClockAdmin(Shown):
    """How long nobody served discovery."""

    list_display = ("seen", "downtime")
    search_fields = ("=pk",)


@admin.register(Change)
class ChangeAdmin(Shown):
    """The change log."""

    list_display = ("number", "cluster", "kind", "index", "at")
    list_filter = ("kind", "cluster")
    list_select_related = ("cluster",)
    search_fields = ("cluster__name", "=number", "=index")
    ordering = ("-at", "-number")


@admin.register(Node)
class NodeAdmin(Shown):
    """Nodes."""

    list_display = ("name", "cluster", "status", "address", "applied_number", "last_seen", "agent_version", "page")
    list_filter = ("status", "cluster", "backend")
    list_select_related = ("cluster",)
    search_fields = ("name", "hostname", "node_id", "public_key", "address", "candidates__endpoint")
    inlines = (CandidateInline, ObstacleInline)


@admin.register(Obstacle)
class ObstacleAdmin(Shown):
    """What nodes' preflights found."""

    list_display = ("code", "node", "text", "since", "page")
    list_filter = ("code",)
    list_select_related = ("node",)
    search_fields = ("code", "text", "node__name")


@admin.register(Candidate)
class CandidateAdmin(Shown):
    """Endpoints."""

    list_display = ("endpoint", "node", "source", "order", "seen", "page")
    list_filter = ("source", "node__cluster")
    list_select_related = ("node",)
    search_fields = ("endpoint", "node__name")


@admin.register(Tombstone)
class TombstoneAdmin(Shown):
    """What was removed."""

    list_display = ("removed_node", "cluster", "at", "number", "address")
    list_filter = ("cluster",)
    list_select_related = ("cluster", "removed_node")
    search_fields = ("removed_node__name", "node_id", "public_key", "address")


@admin.register(Token)
class TokenAdmin(Shown):
    """Enrolment tokens."""

    hidden = ("digest",)
    list_display = (
        "name",
        "cluster",
        "used",
        "uses",
        "expires",
        "approval_required",
        "revoked_at",
        "created_by",
        "page",
    )
    list_filter = ("cluster", "approval_required")
    list_select_related = ("cluster", "created_by")
    search_fields = ("name", "uuid", "cluster__name", "created_by__username")


@admin.register(Grant)
class GrantAdmin(Shown):
    """Who has which role; superusers have every one without a row."""

    list_display = ("user", "role", "cluster", "at", "given_by")
    list_filter = ("role", "cluster")
    list_select_related = ("user", "cluster")
    search_fields = ("user__username", "cluster__name")


@admin.register(Invitation)
class InvitationAdmin(Shown):
    """Who is invited to which role."""

    hidden = ("digest",)
    list_display = ("name", "role", "cluster", "made", "made_by", "expires", "accepted_by")
    list_filter = ("role", "cluster")
    list_select_related = ("cluster", "accepted_by")
    search_fields = ("name", "made_by", "cluster__name")


# Accounts are changed on people's own pages and by nodes.services.people alone; what second factors are made from
# is shown nowhere. Of django-allauth's own pages of the admin, which know neither, two come back without it.
for _shown_by_allauth in (
    EmailAddress,
    EmailConfirmation,
    Authenticator,
    SocialAccount,
    SocialApp,
    SocialToken,
    UserSession,
):
    if admin.site.is_registered(_shown_by_allauth):
        admin.site.unregister(_shown_by_allauth)


@admin.register(Authenticator)
class AuthenticatorAdmin(Shown):
    """Second factors; what their codes are made from is not shown."""

    hidden = ("data",)
    list_display = ("user", "type", "created_at", "last_used_at")
    list_filter = ("type",)
    list_select_related = ("user",)
    search_fields = ("user__username",)


@admin.register(SocialAccount)
class SocialAccountAdmin(Shown):
    """Who is linked to single sign-on."""

    hidden = ("extra_data",)
    list_display = ("user", "provider", "uid", "date_joined", "last_login")
    list_select_related = ("user",)
    search_fields = ("user__username", "uid")


@admin.register(Transition)
class TransitionAdmin(Shown):
    """What changed by itself."""

    list_display = ("at", "cluster", "node", "peer", "kind", "before", "after", "text", "page")
    list_filter = ("kind", "cluster")
    list_select_related = ("cluster", "node", "peer")
    search_fields = ("node__name", "peer__name", "text")
    date_hierarchy = "at"


@admin.register(Audit)
class AuditAdmin(Shown):
    """Who did what."""

    list_display = ("at", "actor_name", "verb", "target", "cluster", "page")
    list_filter = ("verb", "cluster")
    list_select_related = ("cluster", "actor", "node")
    search_fields = ("actor_name", "verb", "target")
    date_hierarchy = "at"


@admin.register(Webhook)
class WebhookAdmin(Shown):
    """Whom to tell of what."""

    list_display = ("name", "host", "format", "failures", "disabled_at", "created_by", "page")
    list_filter = ("format",)
    list_select_related = ("created_by",)
    search_fields = ("name", "host")


@admin.register(Delivery)
class DeliveryAdmin(Shown):
    """What webhooks told."""

    list_display = ("created", "webhook", "kind", "state", "attempts", "result")
    list_filter = ("state", "kind")
    list_select_related = ("webhook",)
    search_fields = ("webhook__name", "text", "result")


@admin.register(Outage)
class OutageAdmin(Shown):
    """Links that are down, as webhooks follow them."""

    list_display = ("webhook", "node", "peer", "since", "told")
    list_filter = ("told",)
    list_select_related = ("webhook", "node", "peer")
    search_fields = ("node__name", "peer__name", "webhook__name")


@admin.register(ApiToken)
class ApiTokenAdmin(Shown):
    """What programs read by."""

    hidden = ("digest",)
    list_display = ("name", "user", "role", "created", "expires", "last_used", "revoked_at")
    list_filter = ("role",)
    list_select_related = ("user",)
    search_fields = ("name", "user__username")


@admin.register(NodeHistory)
class NodeHistoryAdmin(Shown):
    """What nodes were like, packed."""

    hidden = ("points",)
    list_display = ("node", "period", "start")
    list_filter = ("period", "node__cluster")
    list_select_related = ("node",)
    search_fields = ("node__name",)


@admin.register(LinkHistory)
class LinkHistoryAdmin(Shown):
    """What links were like, packed."""

    hidden = ("points",)
    list_display = ("node", "peer", "period", "start")
    list_filter = ("period", "node__cluster")
    list_select_related = ("node", "peer")
    search_fields = ("node__name", "peer__name")


@admin.register(FollowedLink)
class FollowedLinkAdmin(Shown):
    """Links whose history is kept."""

    list_display = ("node", "peer", "pinned", "looked_until", "unwell_until")
    list_filter = ("pinned", "node__cluster")
    list_select_related = ("node", "peer")
    search_fields = ("node__name", "peer__name")


@admin.register(HistoryMark)
class HistoryMarkAdmin(Shown):
    """How far history was taken."""

    list_display = ("cluster", "minute", "quarter", "left_out")
    list_select_related = ("cluster",)
    search_fields = ("cluster__name",)


admin.site.unregister(Group)  # roles are grants; nobody is in a group
admin.site.unregister(User)  # Django's own page changes people past nodes.services.people


@admin.register(User)
class UserAdmin(Shown):
    """People."""

    hidden = ("password",)
    list_display = ("username", "is_active", "is_superuser", "last_login", "date_joined")
    list_filter = ("is_active", "is_superuser")
    search_fields = ("username", "first_name", "last_name", "email")
