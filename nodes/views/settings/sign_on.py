"""Single sign-on: what the environment says of its provider, whether that answers, and whose account is linked."""

from __future__ import annotations

from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.http import Http404
from django.shortcuts import render

from nodes import exports
from nodes.accounts.provider import (
    callback_path,
    check_provider,
    may_check,
    read_provider,
    recorded_issuer,
    tell_former,
)
from nodes.views.lists import export_rows, paginate
from nodes.views.settings.frame import SettingsTab

TOO_MANY_REQUESTS = 429

LINKED = exports.Export(
    "single-sign-on",
    {
        "name": lambda account: account.user.get_username(),
        "may_sign_in": lambda account: account.user.is_active,
        "issuer": recorded_issuer,
        "has_password": lambda account: account.user.has_usable_password(),
        "linked": lambda account: exports.moment(account.date_joined),
        "last_used": lambda account: exports.moment(account.last_login),
    },
)
"""Without what the provider says of them, but for its own name."""


def linked_accounts():
    """Who is linked, by name, and whether with the provider that there is now."""
    return tell_former(SocialAccount.objects.select_related("user")).order_by("user__username", "pk")


class SignOnView(SettingsTab):
    """What is read from the environment, which alone sets it; never the client's secret."""

    tab = "sign-on"
    template = "settings/sign-on.html"

    def get(self, request):
        if kind := exports.wanted(request):
            return export_rows(LINKED, linked_accounts(), kind)
        return self.show_sign_on()

    def show_sign_on(self, status=200, **context):
        path = callback_path()
        expected, here = settings.KUBESPAN_URL + path, self.request.build_absolute_uri(path)
        context = {
            "provider": read_provider(),
            "role": settings.OIDC_ROLE,
            "redirect_uri": expected,
            "elsewhere": here if here != expected else "",
            "linked": paginate(self.request, linked_accounts()),
            "former": linked_accounts().filter(former=True).count(),
        } | context
        return self.show(status, **context)


class SignOnCheckView(SignOnView):
    """Look from here whether the provider answers: where the environment says that it is, and nowhere else."""

    http_method_names = ("post",)

    def post(self, request):
        if (provider := read_provider()) is None:
            raise Http404
        if may_check():
            status, context = 200, {"found": check_provider(provider)}
        else:
            status, context = TOO_MANY_REQUESTS, {"too_soon": True}
        if request.htmx:
            return render(request, "settings/_sign-on-check.html", context)
        return self.show_sign_on(status, **context)
