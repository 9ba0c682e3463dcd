"""API tokens: make, revoke, and find out whose one is. The token itself is given once and not kept."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction

from nodes.access import ENTER, may, needs
from nodes.models import ApiToken, Role
from nodes.models.roles import limit_roles, roles_of
from nodes.services import audit, people
from nodes.services.refused import Refused
from nodes.services.tokens import digest_token

TOKEN_BYTES = 32
TOKEN_MARK = "kapi_"  # noqa: S105 - lets a person, and scanners of leaked secrets, tell what it is
LONGEST = timedelta(days=366)
NAME_LENGTH = 63
MOST = 50
"""Tokens that one person may have that are still worth something."""
USED_EVERY = timedelta(minutes=1)
"""The last use is noted no more often: a program may ask many times a second."""


@needs(ENTER)
def create_api_token(
    actor: audit.Actor, *, name: str, role: str, lifetime: timedelta, now: datetime
) -> tuple[ApiToken, str]:
    """Make a token of one's own; gives it with its text, which is not to be had again."""
    if not isinstance(actor, User):
        raise Refused("actor", "A token is somebody's: who makes one can sign in.", 403)
    highest = roles_of(actor).highest
    if not 0 < len(name.strip()) <= NAME_LENGTH or not name.isprintable():
        raise Refused("name", f"Give the token a name of 1 to {NAME_LENGTH} characters.")
    if role not in Role.values or highest is None or not highest.includes(Role(role)):
        raise Refused("role", f"A token may see no more than you: at most what a {highest} may.", 403)
    if not timedelta(0) < lifetime <= LONGEST:
        raise Refused("lifetime", f"A token lives for more than no time and at most {LONGEST.days} days.")
    plain = TOKEN_MARK + secrets.token_urlsafe(TOKEN_BYTES)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=actor.pk)  # two may not both see room for the last one
        if ApiToken.objects.filter(user=actor, revoked_at=None, expires__gt=now).count() >= MOST:
            raise Refused("too-many", f"You have {MOST} tokens already: revoke one that nobody needs any more.", 409)
        token = ApiToken.objects.create(
            user=actor, name=name.strip(), digest=digest_token(plain), role=role, created=now, expires=now + lifetime
        )
        audit.write(actor, "api-token.created", token, now, role=role, expires=token.expires.isoformat())
    return token, plain


@needs(ENTER)
def revoke_api_token(actor: audit.Actor, uuid: UUID, now: datetime) -> ApiToken:
    """Make a token of one's own worthless at once; again changes nothing. Who may change the console may revoke any."""
    with transaction.atomic():
        rows = ApiToken.objects.select_for_update().select_related(None)
        token = rows.filter(uuid=uuid).first()
        mine = token is not None and isinstance(actor, User) and token.user_id == actor.pk
        if token is None or not (mine or may(actor, "manage_console")):
            raise Refused("api-token-unknown", "This token is no longer there.", 404)
        if token.revoked_at is None:
            token.revoked_at = now
            token.save(update_fields=["revoked_at"])
            owner = {} if mine else {"of": token.user.get_username()}
            audit.write(actor, "api-token.revoked", token, now, **owner)
    return token


def authenticate(plain: str, now: datetime) -> User:
    """Whose token it is, with no more roles than it gives; raises Refused."""
    token = ApiToken.objects.select_related("user").filter(digest=digest_token(plain)).first()
    if token is None:
        raise Refused("api-token-unknown", "This token is not known here.", 401)
    if why := token.worthless(now):
        raise Refused(f"api-token-{why}", f"This token is {why}; make another under Settings → API tokens.", 401)
    if not token.user.is_active:
        raise Refused("api-token-user", "Whose token this is may not sign in any more.", 401)
    if people.lacks_second_factor(token.user):
        raise Refused("second-factor", "Whose token this is must add a second factor first.", 403)
    if token.last_used is None or now - token.last_used >= USED_EVERY:
        ApiToken.objects.filter(pk=token.pk).update(last_used=now)
    return limit_roles(token.user, Role(token.role))
