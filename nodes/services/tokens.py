"""Enrolment tokens: make, revoke. The token itself is given once and not kept."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction

from nodes.access import needs
from nodes.models import Cluster, Token
from nodes.services import after, audit
from nodes.services.refused import Refused

TOKEN_BYTES = 32
TOKEN_MARK = "kst_"  # noqa: S105 - lets a person, and scanners of leaked secrets, tell what it is
LONGEST = timedelta(days=365)
MOST_USES = 10_000
NAME_LENGTH = 63


def digest_token(plain: str) -> str:
    """What is kept of a token: it is random and long, so a plain hash cannot be turned back."""
    return hashlib.sha256(plain.encode()).hexdigest()


@needs("create_token")
def create_token(
    actor: audit.Actor,
    cluster: Cluster,
    *,
    name: str,
    uses: int,
    lifetime: timedelta,
    approval_required: bool,
    now: datetime,
) -> tuple[Token, str]:
    """Make a token for so many machines and so long; gives it with its text, which is not to be had again."""
    if not 0 < len(name.strip()) <= NAME_LENGTH or not name.isprintable():
        raise Refused("name", f"Give the token a name of 1 to {NAME_LENGTH} characters.")
    if not 1 <= uses <= MOST_USES:
        raise Refused("uses", f"A token enrols from 1 to {MOST_USES} machines.")
    if not timedelta(0) < lifetime <= LONGEST:
        raise Refused("lifetime", f"A token lives for more than no time and at most {LONGEST.days} days.")
    plain = TOKEN_MARK + secrets.token_urlsafe(TOKEN_BYTES)
    with transaction.atomic():
        token = Token.objects.create(
            cluster=cluster,
            name=name.strip(),
            digest=digest_token(plain),
            uses=uses,
            expires=now + lifetime,
            approval_required=approval_required,
            created_by_id=actor.pk if isinstance(actor, AbstractBaseUser) else None,
        )
        details = {"uses": uses, "expires": token.expires.isoformat(), "approval_required": approval_required}
        audit.write(actor, "token.created", token, now, **details)
        after.announce(cluster.pk, "token.changed", token=token.pk)
    return token, plain


@needs("revoke_token")
def revoke_token(actor: audit.Actor, token: Token, now: datetime) -> Token:
    """Make a token worthless at once; what it enrolled stays. Revoking it again changes nothing."""
    with transaction.atomic():
        token = Token.objects.select_for_update().get(pk=token.pk)
        if token.revoked_at is None:
            token.revoked_at = now
            token.save(update_fields=["revoked_at"])
            audit.write(actor, "token.revoked", token, now)
            after.announce(token.cluster_id, "token.changed", token=token.pk)
    return token
