"""What django-allauth does to somebody's account is an audit row, as what services do."""

from __future__ import annotations

from typing import Any

from allauth.account import signals as account
from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa import signals as mfa
from allauth.mfa.models import Authenticator
from allauth.socialaccount import signals as social
from django.dispatch import receiver
from django.utils import timezone

from nodes.accounts.adapter import NOWHERE
from nodes.services import audit

KINDS = {"totp": "an authenticator app", "webauthn": "a key", "recovery_codes": "recovery codes"}
WAYS = {"password": "password", "mfa": "second factor", "socialaccount": "single sign-on"}


def _write(verb: str, user: Any, request: Any, **details: object) -> None:
    address = request.META.get("REMOTE_ADDR") or NOWHERE
    audit.write(user, verb, user, timezone.now(), address=address, **details)


def _kind(authenticator: Authenticator | None) -> str:
    return KINDS.get(authenticator.type, authenticator.type) if authenticator is not None else ""


@receiver(account.user_logged_in)
def note_sign_in(request: Any, user: Any, **_signal: Any) -> None:
    """Somebody is in, by the ways that they took."""
    records = get_authentication_records(request, user)
    by = {"passkey" if one.get("passwordless") else WAYS.get(one["method"], "another way") for one in records}
    _write("user.signed-in", user, request, by=sorted(by))


@receiver(account.password_changed)
@receiver(account.password_set)
def note_password(request: Any, user: Any, **_signal: Any) -> None:
    """Somebody has another password."""
    _write("user.password-changed", user, request)


@receiver(mfa.authenticator_added)
def note_factor_added(request: Any, user: Any, authenticator: Any, **_signal: Any) -> None:
    """Somebody has one more second factor."""
    _write("user.second-factor-added", user, request, what=_kind(authenticator))


@receiver(mfa.authenticator_removed)
def note_factor_removed(request: Any, user: Any, authenticator: Any, **_signal: Any) -> None:
    """Somebody has one less."""
    _write("user.second-factor-removed", user, request, what=_kind(authenticator))


@receiver(mfa.authenticator_reset)
def note_codes_made(request: Any, user: Any, **_signal: Any) -> None:
    """The former recovery codes are worthless."""
    _write("user.recovery-codes-made", user, request)


@receiver(mfa.authentication_failed)
def note_factor_failed(request: Any, user: Any, authenticator: Any, **_signal: Any) -> None:
    """Somebody who has the password had not the second factor."""
    _write("user.second-factor-failed", user, request, what=_kind(authenticator))


@receiver(social.social_account_added)
def note_linked(request: Any, sociallogin: Any, **_signal: Any) -> None:
    """Somebody may sign in by single sign-on too."""
    _write("user.sign-on-linked", sociallogin.user, request)
