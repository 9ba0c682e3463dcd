"""A row of any model, present or historical, made from what its columns are: for tests that hold for all of them."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import models

from nodes.backups.content import stored_models
from nodes.models import Cluster
from nodes.secrets import Secret, SecretField
from nodes.services import clusters, revisions

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

VALUES: dict[type[models.Field], Callable[[int], Any]] = {
    SecretField: lambda number: f"secret {number}",
    models.GenericIPAddressField: lambda number: f"fd00::{number:x}",
    models.DateTimeField: lambda number: START + timedelta(minutes=number),
    models.DateField: lambda number: (START + timedelta(days=number)).date(),
    models.BooleanField: lambda _: True,
    models.FloatField: lambda number: number + 0.25,
    models.IntegerField: lambda number: number % 30_000,
    models.JSONField: lambda number: {"number": number, "text": 'ä\u2028"\\'},
    models.UUIDField: lambda number: uuid.UUID(int=number),
    models.BinaryField: lambda number: bytes([number % 256, 0, 255]),
    models.TextField: lambda number: f"ä{number}",
    models.CharField: lambda number: f"ä{number}",
}
"""By kind of column, what a number becomes; the first that fits."""

_numbers = itertools.count(1)


def make_row(model: type[models.Model], *, full: bool = False, **given: Any) -> models.Model:
    """Insert a row, and those that it must point to; with `full`, also what may be null has a value."""
    values = dict(given)
    for field in model._meta.local_concrete_fields:
        if field.name in values or (field.primary_key and field.has_default()):
            continue
        if isinstance(field, models.AutoField) or field.has_default() or field.has_db_default():
            continue
        if field.null and not full:
            continue
        values[field.name] = _value(field, full=full)
    row = model._default_manager.create(**values)
    row.refresh_from_db()
    return row


def _value(field: models.Field, *, full: bool) -> Any:
    number = next(_numbers)
    if isinstance(field, models.ForeignKey):
        return make_row(field.remote_field.model, full=full and field.remote_field.model is not field.model)
    if field.choices:
        return field.choices[0][0]
    for kind, make in VALUES.items():
        if isinstance(field, kind):
            value = make(number)
            return value[: field.max_length] if isinstance(value, str) else value
    raise NotImplementedError(f"no value for {field!r}: add a line")


def fill_tables() -> None:
    """Put rows into every table of a console, with a value in every column of theirs."""
    revisions.console_settings()
    for model in stored_models():
        if model._meta.label not in {"nodes.Console", "auth.Permission", "contenttypes.ContentType"}:
            make_row(model, full=True)
    clusters.create_cluster(None, name="office", now=START)
    Cluster.objects.update(revision=7, pushed=7)


def read_tables() -> dict[str, list[dict[str, Any]]]:
    """All rows as the database gives them, secrets in their stored form."""
    rows = {model._meta.label: model._default_manager.order_by("pk").values() for model in stored_models()}
    return json.loads(json.dumps({label: list(found) for label, found in rows.items()}, default=_dump))


def _dump(value: Any) -> str:
    return value.dump() if isinstance(value, Secret) else str(value)
