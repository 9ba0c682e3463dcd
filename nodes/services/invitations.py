"""Invitations: an administrator names a role, and hands over a one-time link; no mail server is needed."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db import transaction

from nodes.access import needs
from nodes.models import Cluster, Invitation, Role
from nodes.services import audit, people
from nodes.services.refused import Refused
from nodes.services.tokens import digest_token

TOKEN_BYTES = 24
LONGEST = timedelta(days=30)
"""A link that lies about longer is one that somebody else finds."""


@needs("manage_people")
def invite(
    actor: audit.Actor, cluster: Cluster | None, *, name: str, role: Role, lifetime: timedelta, now: datetime
) -> tuple[Invitation, str]:
    """Make an invitation to a role in one cluster, or with none in the whole console; the token is in no row."""
    name = " ".join(name.split())
    if not name:
        raise Refused("name", "Say whom the invitation is for.")
    if not timedelta() < lifetime <= LONGEST:
        raise Refused("lifetime", f"An invitation lasts at most {LONGEST.days} days.")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with transaction.atomic():
        invitation = Invitation.objects.create(
            name=name[: Invitation._meta.get_field("name").max_length],
            digest=digest_token(token),
            cluster=cluster,
            role=role,
            made=now,
            made_by=str(actor or audit.CONSOLE),
            expires=now + lifetime,
        )
        audit.write(actor, "invitation.made", invitation, now, role=role.value, cluster=str(cluster or "every cluster"))
    return invitation, token


@needs("manage_people")
def withdraw(actor: audit.Actor, invitation: Invitation, now: datetime) -> None:
    """Make an invitation worthless."""
    with transaction.atomic():
        row = Invitation.objects.select_for_update().get(pk=invitation.pk)
        if why := row.worthless(now):
            raise Refused(f"invitation-{why}", f"The invitation is {why} already.", 409)
        row.withdrawn_at = now
        row.save(update_fields=["withdrawn_at"])
        audit.write(actor, "invitation.withdrawn", row, now)


def find_open(digest: str, now: datetime) -> Invitation | None:
    """The invitation of a link, while it lets somebody in."""
    found = Invitation.objects.filter(digest=digest).select_related("cluster").first()
    return found if found is not None and found.worthless(now) is None else None


def accept(token: str, username: str, password: str, now: datetime) -> User:
    """Make the account that somebody was invited to; raises Refused, and then the link stays good."""
    with transaction.atomic():
        invitation = _take(digest_token(token), now)
        user = people.make_user(username, password)
        _give(invitation, user, now)
    return user


def accept_by_sign_on(digest: str, user: User, now: datetime) -> None:
    """Give a new account of single sign-on what its invitation says. Raises Refused where there is none."""
    with transaction.atomic():
        _give(_take(digest, now), user, now)


def _take(digest: str, now: datetime) -> Invitation:
    row = Invitation.objects.select_for_update().filter(digest=digest).first()
    why = row.worthless(now) if row is not None else "unknown"
    if row is None or why is not None:
        raise Refused(f"invitation-{why}", "This link lets nobody in any more. Ask who invited you for a new one.", 410)
    return row


def _give(invitation: Invitation, user: User, now: datetime) -> None:
    invitation.accepted_at, invitation.accepted_by = now, user
    invitation.save(update_fields=["accepted_at", "accepted_by"])
    role = Role(invitation.role)
    audit.write(user, "user.created", user, now, invited_by=invitation.made_by, role=role.value)
    people.put_grant(invitation.made_by, invitation.cluster, user, role, now)
