"""Coming in for the first time, and one's own account."""

from __future__ import annotations

import secrets

import requests
import structlog
from allauth.account import app_settings as account_settings
from allauth.account.utils import perform_login
from allauth.account.views import LoginView
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.providers.openid_connect import views as openid
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import FormView

from nodes.accounts.adapter import INVITED
from nodes.accounts.confirm import ask_again
from nodes.accounts.provider import tell_former
from nodes.forms import FirstAdministratorForm, PersonForm
from nodes.models import Grant
from nodes.models.roles import roles_of
from nodes.services import audit, invitations, people
from nodes.services.refused import Refused
from nodes.services.tokens import digest_token
from nodes.views.settings.frame import sections_for

log = structlog.get_logger(__name__)

LINKING = "sign-on-linking"
"""In a session: the key without which single sign-on is not linked to the account that is signed in."""


def sign_on_name() -> str:
    """What single sign-on is called; empty where there is none."""
    return settings.OIDC_NAME if settings.OIDC_ISSUER else ""


def come_in(request, user):
    """Sign in whoever just made an account."""
    return perform_login(request, user, email_verification=account_settings.EmailVerificationMethod.NONE)


@method_decorator(never_cache, name="dispatch")
@method_decorator(sensitive_post_parameters(), name="dispatch")
class FirstAdministratorView(FormView):
    """Make the first administrator; the page exists only while there is no user."""

    template_name = "people/first.html"
    form_class = FirstAdministratorForm

    def dispatch(self, request, *args, **kwargs):
        if get_user_model().objects.exists():
            raise Http404
        return super().dispatch(request, *args, **kwargs)

    def form_valid(self, form):
        given = form.cleaned_data
        try:
            user = people.create_first_administrator(
                given["code"].strip(), given["username"], given["password"], timezone.now()
            )
        except Refused as refusal:
            form.refuse(refusal)
            return self.form_invalid(form)
        messages.success(self.request, f"Welcome, {user.get_username()}. Begin with a cluster.")
        return come_in(self.request, user)


class SignInView(LoginView):
    """Sign in; while there is nobody yet, make the first administrator."""

    def dispatch(self, request, *args, **kwargs):
        if not get_user_model().objects.exists():
            return redirect("first-run")
        return super().dispatch(request, *args, **kwargs)


@method_decorator(never_cache, name="dispatch")
@method_decorator(sensitive_post_parameters(), name="dispatch")
class InvitationView(View):
    """Where an invitation's link leads: choose name and password, or go on with single sign-on."""

    def get(self, request, token):
        invitation = invitations.find_open(digest_token(token), timezone.now())
        if invitation is None:
            return render(request, "people/invitation_gone.html", status=410)
        request.session[INVITED] = invitation.digest
        return self.show(invitation, PersonForm(initial={"username": invitation.name.replace(" ", ".").lower()}))

    def post(self, request, token):
        invitation = invitations.find_open(digest_token(token), timezone.now())
        if invitation is None:
            return render(request, "people/invitation_gone.html", status=410)
        form = PersonForm(request.POST)
        if not form.is_valid():
            return self.show(invitation, form, 400)
        try:
            user = invitations.accept(
                token, form.cleaned_data["username"], form.cleaned_data["password"], timezone.now()
            )
        except Refused as refusal:
            form.refuse(refusal)
            return self.show(invitation, form, refusal.status)
        request.session.pop(INVITED, None)
        messages.success(request, f"Welcome, {user.get_username()}.")
        return come_in(request, user)

    def show(self, invitation, form, status=200):
        context = {"invitation": invitation, "form": form, "sign_on": sign_on_name()}
        return render(self.request, "people/invitation.html", context, status=status)


class AccountView(LoginRequiredMixin, View):
    """Everything about how one signs in, and what one may."""

    def get(self, request):
        user = request.user
        factors = {kind: [] for kind in Authenticator.Type.values}
        for factor in Authenticator.objects.filter(user=user).order_by("created_at"):
            factors[factor.type].append(factor.wrap())
        codes = factors["recovery_codes"][0].get_unused_codes() if factors["recovery_codes"] else []
        sessions = UserSession.objects.purge_and_list(user)
        sessions.sort(key=lambda one: (not one.is_current(), one.created_at))
        links = tell_former(SocialAccount.objects.filter(user=user)).order_by("pk")
        request.session[LINKING] = request.session.get(LINKING) or secrets.token_urlsafe(16)
        context = {
            "tab": "account",
            "sections": sections_for(user),
            "app": factors["totp"][0].instance if factors["totp"] else None,
            "keys": factors["webauthn"],
            "codes_left": len(codes),
            "second_factor": bool(factors["totp"] or factors["webauthn"]),
            "required": people.needs_second_factor(user),
            "sessions": sessions,
            "sign_on": sign_on_name(),
            "linked": links.filter(former=False).exists(),
            "former": links.filter(former=True),
            "linking": request.session[LINKING],
            "roles": roles_of(user),
            "grants": Grant.objects.filter(user=user).exclude(cluster=None).select_related("cluster"),
        }
        return render(request, "people/account.html", context)


class SessionEndView(LoginRequiredMixin, View):
    """Sign out somewhere else: in one browser, or in all others."""

    def post(self, request):
        others = UserSession.objects.filter(user=request.user).exclude(session_key=request.session.session_key)
        if pk := request.POST.get("session"):
            others = [get_object_or_404(others, pk=pk if pk.isdecimal() else None)]
        ended = [session.end() for session in others]
        audit.write(request.user, "user.sessions-ended", request.user, timezone.now(), sessions=len(ended))
        messages.success(request, "Signed out there." if pk else "Signed out everywhere else.")
        return redirect("account")


class SignOnUnlinkView(LoginRequiredMixin, View):
    """Take the link to single sign-on away, or those to former providers, for whoever has another way in."""

    def post(self, request):
        if (asked := ask_again(request, reverse("account"))) is not None:
            return asked
        former, links = "former" in request.POST, tell_former(SocialAccount.objects.filter(user=request.user))
        if not request.user.has_usable_password() and not (former and links.filter(former=False).exists()):
            messages.error(request, "Set a password first: without it there would be no way in.")
            return redirect("account")
        people.unlink_sign_on(request.user, links.filter(former=former), timezone.now())
        whom = "with a former provider no more" if former else "no more"
        messages.success(request, f"Your account is linked {whom}.")
        return redirect("account")


def sign_on(request, provider_id):
    """Go to the provider; to link it to the account that is signed in takes that account's own page.

    Else another site could send a browser here, and so link whomever it is signed in as at the provider.
    """
    if request.GET.get("process") == "connect":
        key = request.session.get(LINKING)
        if not (request.user.is_authenticated and key and constant_time_compare(request.GET.get("key", ""), key)):
            raise PermissionDenied("Link it from your own page: Settings, Sign-in.")
        if request.user.has_usable_password() and (asked := ask_again(request, request.get_full_path())) is not None:
            return asked
    try:
        return openid.login(request, provider_id)
    except (requests.RequestException, ValueError) as error:  # an address that is none may be either
        log.warning("the provider of single sign-on does not answer", error=str(error))
        return render(request, "socialaccount/authentication_error.html", status=502)
