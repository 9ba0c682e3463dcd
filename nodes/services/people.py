"""People: the first administrator, who proves to be at the machine by a code that the console printed at its start."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from nodes.models import Console
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
        user = _make_user(username, password)
        console.first_code = ""
        console.save(update_fields=["first_code"])
        audit.write(user, "user.created", user, now, first=True)
    return user


def _make_user(username: str, password: str) -> User:
    user = User(username=User.normalize_username(username), is_staff=True, is_superuser=True)
    try:
        user.clean_fields(exclude=["password"])
    except ValidationError as error:
        raise Refused("username", " ".join(error.messages)) from None
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise Refused("password", " ".join(error.messages)) from None
    user.set_password(password)
    user.save()
    return user
