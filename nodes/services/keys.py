"""The keys that encrypt secrets at rest: taking a new one into use everywhere."""

from __future__ import annotations

from datetime import datetime

from allauth.mfa.models import Authenticator
from django.db import transaction

from nodes.access import needs
from nodes.secrets import FACTOR_SECRETS, Secret, Unreadable, newest_key, secret_fields, unreadable
from nodes.services import audit


@needs("manage_console")
def rotate_keys(actor: audit.Actor, now: datetime) -> tuple[int, list[str]]:
    """Encrypt with the newest key whatever another one encrypts; gives how many, and what no key opens.

    Row by row, so that it may be ended and begun again at any time.
    """
    rotated = _rotate_second_factors()
    for model, field in secret_fields():
        for pk in model._default_manager.values_list("pk", flat=True):
            with transaction.atomic():
                row = model._default_manager.select_for_update().get(pk=pk)
                secret = getattr(row, field.attname)
                if secret is None or secret.key_name == newest_key():
                    continue
                try:
                    setattr(row, field.attname, secret.reveal())
                except Unreadable:
                    continue
                row.save(update_fields=[field.attname])
                rotated += 1
    audit.write(actor, "keys.rotated", "", now, key=newest_key(), secrets=rotated)
    return rotated, unreadable()


def _rotate_second_factors() -> int:
    rotated = 0
    for pk in Authenticator.objects.values_list("pk", flat=True):
        with transaction.atomic():
            row = Authenticator.objects.select_for_update().get(pk=pk)
            stale = [name for name in FACTOR_SECRETS if name in row.data and _needs_rotation(row.data[name])]
            try:
                for name in stale:
                    row.data[name] = Secret(Secret(stored=row.data[name]).reveal()).dump()
            except Unreadable:
                continue
            if stale:
                row.save(update_fields=["data"])
                rotated += 1
    return rotated


def _needs_rotation(stored: str) -> bool:
    return Secret(stored=stored).key_name != newest_key()
