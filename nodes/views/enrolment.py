"""Enrolment: making a token and waiting for its machine; the list of tokens."""

from __future__ import annotations

from functools import cached_property

from django.contrib import messages
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache

from nodes import access, delivery, exports
from nodes.forms import TokenForm
from nodes.models import Cluster, Token
from nodes.services import tokens as services
from nodes.services.refused import Refused
from nodes.tables import TokenTable
from nodes.templatetags.shell import ENROLMENT_KINDS
from nodes.views.bulk import TOKEN_DEEDS
from nodes.views.common import RoleMixin
from nodes.views.lists import ListView


class TokenListView(ListView):
    """All tokens; a token itself is never shown again."""

    template = "enrolment/list.html"
    table_class = TokenTable
    deeds = TOKEN_DEEDS
    bulk_name = "token-bulk"

    def rows(self):
        return Token.objects.visible_to(self.request.user).select_related("cluster", "created_by")

    def export(self):
        return exports.tokens(timezone.now())

    def context(self, table):
        clusters = access.clusters_where(self.request.user, "create_token")
        return {
            "any": bool(table.rows),
            "clusters": clusters,
            "visible": Cluster.objects.visible_to(self.request.user).exists(),
            "token_form": TokenForm(clusters),
        }


@method_decorator(never_cache, name="dispatch")
class EnrolmentView(RoleMixin, View):
    """Make a token inside the dialog (or on a page of its own), show the one line, wait in place."""

    permission = "create_token"

    def kind(self) -> str:
        """Which kind of machine is to come; the first unless the page says another one."""
        asked = self.request.POST.get("kind") or self.request.GET.get("kind")
        return asked if asked in dict(ENROLMENT_KINDS) else ENROLMENT_KINDS[0][0]

    @cached_property
    def subject(self) -> Cluster:
        return get_object_or_404(Cluster.objects.visible_to(self.request.user), uuid=self.kwargs["uuid"])

    def choices(self):
        """The clusters that a token may be made for."""
        return access.clusters_where(self.request.user, "create_token")

    def get(self, request, uuid):
        return self.show(TokenForm(self.choices(), initial={"cluster": uuid}))

    def post(self, request, uuid):
        form = TokenForm(self.choices(), request.POST)
        if not form.is_valid():
            return self.show(form, 400)
        given = form.cleaned_data
        try:
            token, plain = services.create_token(
                request.user,
                given["cluster"],
                name=given["name"] or f"{given['cluster'].name} {timezone.now():%Y-%m-%d %H:%M}",
                uses=given["uses"],
                lifetime=given["lifetime"],
                approval_required=given["approval_required"],
                now=timezone.now(),
            )
        except Refused as refusal:
            form.refuse(refusal)
            return self.show(form, refusal.status)
        release = delivery.read_release()
        if self.kind() == "container" and release:
            line = delivery.write_container_line(plain, release)
        else:
            line = delivery.write_line(plain, release)
        return self.show(form, token=token, line=line, release=release)

    def show(self, form, status: int = 200, **context):
        page = "enrolment/_dialog.html" if self.request.htmx else "enrolment/page.html"
        context = {"cluster": self.subject, "token_form": form, "kind": self.kind(), "release": None} | context
        if not context.get("token"):
            context["release"] = delivery.read_release()
        # A fragment is swapped in whatever it says: a fault belongs into the dialog.
        return render(self.request, page, context, status=200 if self.request.htmx else status)


class TokenRevokeView(RoleMixin, View):
    """Make a token worthless."""

    permission = "revoke_token"

    @cached_property
    def subject(self) -> Token:
        tokens = Token.objects.visible_to(self.request.user).select_related("cluster")
        return get_object_or_404(tokens, uuid=self.kwargs["uuid"])

    def post(self, request, uuid):
        token = self.subject
        try:
            services.revoke_token(request.user, token, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
        else:
            messages.success(request, f"{token.name} is revoked: it enrols nobody any more.")
        return redirect("token-list")
