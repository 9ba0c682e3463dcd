"""People: who has an account, with which roles.

The first administrator proves to be at the machine by a code that the console printed at its start; others are invited
(nodes.services.invitations), or come by single sign-on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime

from allauth.mfa.models import Authenticator
from allauth.mfa.utils import is_mfa_enabled
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet

from nodes.access import administrators, needs
from nodes.models import Cluster, Console, Grant, Role
from nodes.models.roles import forget_roles, roles_of
from nodes.services import audit, revisions
from nodes.services.refused import Refused

CODE_BYTES = 12


def first_code(now: datetime) -> str | None:
    """Make a new code for the first administrator's page, which replaces any earlier one; none once there is a user."""
    revisions.console_settings()
    with transaction.atomic():
        console = Console.objects.select_for_update().get(pk=1)
        if get_user_model().objects.exists():
            return None
        code = secrets.token_hex(CODE_BYTES)
        console.first_code = _digest(code)
        console.save(update_fields=["first_code"])
        audit.write(None, "console.first-code-made", console, now)
    return code


def _digest(code: str) -> str:
    return hashlib.sha256(code.strip().lower().encode()).hexdigest()


def create_first_administrator(code: str, username: str, password: str, now: datetime) -> User:
    """Make the first user, who may do everything; raises Refused when there is one, or the code is wrong."""
    revisions.console_settings()
    with transaction.atomic():
        console = Console.objects.select_for_update().get(pk=1)
        if User.objects.exists():
            raise Refused("not-first", "There is an administrator already; sign in, or ask them for an account.", 409)
        if not console.first_code or not hmac.compare_digest(_digest(code), console.first_code):
            raise Refused("code", "This is not the code that the console printed at its latest start.", 403)
        user = make_user(username, password)
        user.is_staff = user.is_superuser = True
        user.save(update_fields=["is_staff", "is_superuser"])
        console.first_code = ""
        console.save(update_fields=["first_code"])
        audit.write(user, "user.created", user, now, first=True)
    return user


def make_user(username: str, password: str) -> User:
    """Make an account that may nothing yet; raises Refused where name or password will not do."""
    user = User(username=User.normalize_username(username.strip()))
    try:
        user.clean_fields(exclude=["password"])
        user.validate_unique()
    except ValidationError as error:
        raise Refused("username", " ".join(error.messages)) from None
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise Refused("password", " ".join(error.messages)) from None
    user.set_password(password)
    user.save()
    return user


FACTORS = [Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN]
"""Second factors; recovery codes only stand in for one."""


def _lock_people() -> None:
    """One change at a time: of two administrators who dismiss each other, one is the last."""
    revisions.console_settings()
    Console.objects.select_for_update().get(pk=1)


def _keep_an_administrator(besides: User) -> None:
    """Raises Refused where nobody else could give roles any more."""
    if not administrators(None).exclude(pk=besides.pk).exists():
        reason = f"{besides} is the last administrator of the console. Make somebody else one first."
        raise Refused("last-administrator", reason, 409)


@needs("manage_people")
def give_role(actor: audit.Actor, cluster: Cluster | None, user: User, role: Role, now: datetime) -> Grant:
    """Give somebody a role in one cluster, or with none in the whole console, in place of the one they had there."""
    with transaction.atomic():
        _lock_people()
        if cluster is None and role != Role.ADMINISTRATOR and roles_of(user).console == Role.ADMINISTRATOR:
            _keep_an_administrator(user)
        grant = put_grant(str(actor or audit.CONSOLE), cluster, user, role, now)
        audit.write(actor, "user.role-given", cluster or user, now, user=str(user), role=role.value)
    return grant


def put_grant(giver: str, cluster: Cluster | None, user: User, role: Role, now: datetime) -> Grant:
    """The row of a role, and for Django's admin the flags that go with it; within the transaction of what it is for."""
    grant, _ = Grant.objects.update_or_create(
        user=user, cluster=cluster, defaults={"role": role, "at": now, "given_by": giver}
    )
    if cluster is None:
        _set_flags(user, whole=role == Role.ADMINISTRATOR)
    forget_roles(user)
    return grant


def _set_flags(user: User, *, whole: bool) -> None:
    user.is_staff = user.is_superuser = whole
    user.save(update_fields=["is_staff", "is_superuser"])


@needs("manage_people")
def take_role(actor: audit.Actor, cluster: Cluster | None, user: User, now: datetime) -> None:
    """Take somebody's role in one cluster away, or with none that in the whole console."""
    with transaction.atomic():
        _lock_people()
        if cluster is None and roles_of(user).console == Role.ADMINISTRATOR:
            _keep_an_administrator(user)
        gone, _ = Grant.objects.filter(user=user, cluster=cluster).delete()
        if not gone and not (cluster is None and user.is_superuser):
            raise Refused("no-role", f"{user} has no role there.", 409)
        if cluster is None:
            _set_flags(user, whole=False)
        forget_roles(user)
        audit.write(actor, "user.role-taken", cluster or user, now, user=str(user))


@needs("manage_people")
def deactivate(actor: audit.Actor, user: User, now: datetime) -> None:
    """Let somebody in no more, and end what they have open; their name stays with what they did."""
    with transaction.atomic():
        _lock_people()
        _keep_an_administrator(user)
        user.is_active = False
        user.save(update_fields=["is_active"])
        for session in UserSession.objects.filter(user=user):
            session.end()
        audit.write(actor, "user.deactivated", user, now)


@needs("manage_people")
def activate(actor: audit.Actor, user: User, now: datetime) -> None:
    """Let somebody in again, with the roles they had."""
    with transaction.atomic():
        user.is_active = True
        user.save(update_fields=["is_active"])
        audit.write(actor, "user.activated", user, now)


@needs("manage_people")
def reset_second_factor(actor: audit.Actor, user: User, now: datetime) -> None:
    """Take somebody's second factors away, who lost them: they sign in with their password, and add another."""
    with transaction.atomic():
        gone, _ = Authenticator.objects.filter(user=user).delete()
        if not gone:
            raise Refused("no-second-factor", f"{user} has no second factor.", 409)
        audit.write(actor, "user.second-factor-reset", user, now)


def console_role(user: User) -> Role | None:
    """Somebody's role for the whole console, whether or not they are let in at present."""
    if user.is_superuser:
        return Role.ADMINISTRATOR
    given = Grant.objects.filter(user=user, cluster=None).values_list("role", flat=True).first()
    return Role(given) if given else None


def needs_second_factor(user: User) -> bool:
    """Whether the console requires one of somebody (SECOND_FACTOR)."""
    if settings.SECOND_FACTOR != "administrators":
        return bool(settings.SECOND_FACTOR == "everybody")
    return roles_of(user).highest == Role.ADMINISTRATOR


def lacks_second_factor(user: User) -> bool:
    """Whether somebody must add one before anything else."""
    return needs_second_factor(user) and not is_mfa_enabled(user, FACTORS)


def unlink_sign_on(user: User, links: QuerySet[SocialAccount], now: datetime) -> None:
    """Forget who somebody is at a provider of single sign-on."""
    with transaction.atomic():
        links.filter(user=user).delete()
        audit.write(user, "user.sign-on-unlinked", user, now)


def note_failure(username: str, address: str, now: datetime) -> None:
    """Note that somebody's password was not given; of names that nobody has, nothing is kept."""
    user = User.objects.filter(username__iexact=username.strip()).first()
    if user is not None:
        audit.write("somebody", "user.sign-in-failed", user, now, address=address)


def welcome_signed_on(user: User, role: str, now: datetime) -> None:
    """Note a new account of single sign-on, with the role that all of those get, if any."""
    with transaction.atomic():
        audit.write(user, "user.created", user, now, by="single sign-on", role=role)
        if role in Role.values:
            put_grant("single sign-on", None, user, Role(role), now)
