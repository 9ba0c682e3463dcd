"""Where django-allauth asks this console: who may come in, from where, and how secrets are kept."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.utils import is_mfa_enabled
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.utils import timezone

from nodes.accounts.provider import known_as
from nodes.counters import count
from nodes.secrets import Secret
from nodes.services import invitations, people
from nodes.services.refused import Refused

INVITED = "invitation"
"""In a session: the digest of the invitation that its browser came with."""

NOWHERE = "0.0.0.0"  # noqa: S104  nobody listens there; it stands for an address that is not known


class AccountAdapter(DefaultAccountAdapter):
    """Local accounts: no mail, no signing up, and guesses counted for each address and name together."""

    error_messages = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": "Name and password do not fit. Passwords tell capitals from small letters.",
        "too_many_login_attempts": "Too many failed attempts from your address. Wait five minutes, then try again.",
        "incorrect_password": "That is not your password.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """People come in by invitation."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """As our own server puts it there, which believes TRUSTED_PROXIES alone (kubespan_web/asgi.py)."""
        return request.META.get("REMOTE_ADDR") or NOWHERE

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """One address at one name: who guesses somebody's password keeps only themselves out."""
        return f"{self.get_client_ip(request)}\n{credentials.get('username', '').lower()}"

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count whom the limit stops."""
        try:
            super().pre_authenticate(request, **credentials)
        except Exception:
            count("sign-in.throttled")
            raise

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        """Note it, where the name is somebody's: what else is typed there may be a password."""
        count("sign-in.failed")
        people.note_failure(credentials.get("username", ""), self.get_client_ip(request), timezone.now())

    def get_reauthentication_methods(self, user: AbstractBaseUser | AnonymousUser) -> list[dict[str, Any]]:
        """Whoever has a second factor confirms by that: a password alone may have been looked at."""
        methods = super().get_reauthentication_methods(user)
        if is_mfa_enabled(user):
            methods = [method for method in methods if method["id"] != "reauthenticate"]
        return methods

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        """Whoever has only single sign-on has nothing yet to confirm with, and may add something."""
        if app == "allauth.mfa" and not self.get_reauthentication_methods(context.request.user):
            return False
        return super().is_reauthentication_required(app=app, **kwargs)

    def send_notification_mail(self, *args: Any, **kwargs: Any) -> None:
        """The console sends no mail; Activity says what changed."""


class SecondFactorAdapter(DefaultMFAAdapter):
    """Second factors: what they are made from is encrypted with KUBESPAN_KEYS."""

    error_messages = DefaultMFAAdapter.error_messages | {
        "incorrect_code": "That code does not fit. It changes every 30 seconds: try the one that is shown now.",
        "cannot_delete_authenticator": "A second factor is required here: add another one before you take this away.",
    }

    def encrypt(self, text: str) -> str:
        """As any secret of the console."""
        return Secret(text).dump()

    def decrypt(self, encrypted_text: str) -> str:
        """Raises nodes.secrets.Unreadable where the key is missing."""
        return Secret(stored=encrypted_text).reveal()

    def get_totp_label(self, user: AbstractBaseUser) -> str:
        """Told apart from the same person's account at another console."""
        return f"{user.get_username()} at {context.request.get_host()}"

    def can_delete_authenticator(self, authenticator: Any) -> bool:
        """Not the last one of somebody who must have one."""
        user = authenticator.user
        others = user.authenticator_set.exclude(pk=authenticator.pk).exclude(type="recovery_codes")
        return others.exists() or not people.needs_second_factor(user)


class SignOnAdapter(DefaultSocialAccountAdapter):
    """Single sign-on: for those whose account is linked, who bring an invitation, or whom OIDC_ROLE lets in."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Whether somebody whom the provider knows and the console doesn't may have an account."""
        if invitations.find_open(request.session.get(INVITED, ""), timezone.now()) is not None:
            return True
        return settings.OIDC_ROLE != "invited"

    def populate_user(self, request: HttpRequest, sociallogin: Any, data: Any) -> User:
        """Say who it is, before it is looked for whether they are known."""
        sociallogin.account.uid = known_as(sociallogin.account)
        user: User = super().populate_user(request, sociallogin, data)
        return user

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        """Make the account, with the role of the invitation or of OIDC_ROLE."""
        user: User = super().save_user(request, sociallogin, form)
        now = timezone.now()
        digest = request.session.pop(INVITED, "")
        try:
            invitations.accept_by_sign_on(digest, user, now)
        except Refused:
            people.welcome_signed_on(user, settings.OIDC_ROLE, now)
        return user
