"""API tokens: one's own, and for administrators of the console everybody's."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache

from nodes import exports
from nodes.access import ENTER, Forbidden, may
from nodes.api_token_forms import ApiTokenForm
from nodes.models import ApiToken
from nodes.models.roles import roles_of
from nodes.services import api_tokens as services
from nodes.services.refused import Refused
from nodes.views.common import RoleMixin
from nodes.views.lists import export_one, paginate
from nodes.views.settings.frame import SettingsTab
from nodes.vitals.parts import read_vitals

MANAGE = "manage_console"


def written(now: datetime) -> exports.Export:
    """API tokens, and whether each opens anything now; the token itself is not kept anywhere."""
    return exports.Export(
        "api-tokens",
        {
            "name": lambda token: token.name,
            "owner": lambda token: token.user.get_username(),
            "sees_as": lambda token: token.role,
            "state": lambda token: token.worthless(now) or "usable",
            "last_used": lambda token: exports.moment(token.last_used),
            "created": lambda token: exports.moment(token.created),
            "expires": lambda token: exports.moment(token.expires),
            "revoked": lambda token: exports.moment(token.revoked_at),
        },
    )


@method_decorator(never_cache, name="dispatch")
class ApiTokensView(SettingsTab):
    """One's own tokens; a token itself is shown when it is made, and never again."""

    tab = "api-tokens"
    template = "settings/api-tokens.html"
    permission = ENTER

    def get(self, request):
        if kind := exports.wanted(request):
            export = written(timezone.now())
            return export_one(request, {"own": (export, self.own), "others": (export, self.others)}, kind)
        return self.draw(self.form())

    def own(self):
        """Those of whoever asks."""
        return ApiToken.objects.filter(user=self.request.user).select_related("user")

    def others(self):
        """Everybody else's. Raises PermissionDenied for who may not see them."""
        if not may(self.request.user, MANAGE):
            raise PermissionDenied(Forbidden(MANAGE, None).reason)
        return ApiToken.objects.exclude(user=self.request.user).select_related("user")

    def post(self, request):
        form = self.form(request.POST)
        if not form.is_valid():
            form.count_faults()
            return self.draw(form, 400)
        given = form.cleaned_data
        try:
            token, plain = services.create_api_token(
                request.user, name=given["name"], role=given["role"], lifetime=given["lifetime"], now=timezone.now()
            )
        except Refused as refusal:
            form.refuse(refusal)
            return self.draw(form, refusal.status)
        example = (
            f"curl -H 'Authorization: Bearer {plain}' '{settings.KUBESPAN_URL}{reverse('node-list')}?_export=json'"
        )
        return self.draw(self.form(), token=token, plain=plain, example=example)

    def form(self, data=None):
        return ApiTokenForm(roles_of(self.request.user).highest, data)

    def draw(self, form, status: int = 200, **context):
        """The page; with a token that was just made, in a dialog over it."""
        now = timezone.now()
        rows = paginate(self.request, self.own())
        others = paginate(self.request, self.others(), "others") if may(self.request.user, MANAGE) else ()
        for row in (*rows, *others):
            row.why = row.worthless(now)
        return self.show(status, form=form, rows=rows, others=others, **context)


class ApiTokenRevokeView(SettingsTab):
    """Make a token worthless."""

    tab = "api-tokens"
    permission = ENTER

    def post(self, request, uuid):
        try:
            revoked = services.revoke_api_token(request.user, uuid, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
        else:
            messages.success(request, f"{revoked.name} is revoked: it opens nothing any more.")
        return redirect("settings-api-tokens")


class HealthView(RoleMixin, View):
    """How the console's parts stand, for programs."""

    permission = ENTER

    def get(self, request):
        vitals = read_vitals(timezone.now())
        parts = {
            part.key: {"state": part.state, "text": part.text, "heard": part.heard and part.heard.isoformat()}
            for part in vitals.parts
        }
        answer = JsonResponse({"state": vitals.worst, "parts": parts, "queued": vitals.queued, "taken": vitals.taken})
        answer.headers["Cache-Control"] = "no-store"
        return answer
