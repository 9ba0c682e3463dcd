"""What is inside a backup: one JSON object a line: a head, a row each, and an end that counts them.

Rows are in the form of Django's own `jsonl` serializer, with three differences: times keep their microseconds, a secret
goes as the database keeps it, encrypted with KUBESPAN_KEYS, and tables between two models are tables like any other.
Not in it are LEFT_OUT, and Redis, which is refilled.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO, TypeVar

import msgspec
from django.apps import apps
from django.apps.registry import Apps
from django.core.serializers.base import DeserializationError
from django.core.serializers.python import Deserializer, Serializer
from django.db import models

from nodes.backups.crypt import EncryptingWriter, Sealed, Unusable
from nodes.secrets import Secret, SecretField, secret_fields

LEFT_OUT = frozenset({"sessions.session", "usersessions.usersession"})
"""Who is signed in: everybody signs in again."""

CHUNK = 2000
"""Rows that are in memory at a time."""

Progress = Callable[[int], None]


class Head(msgspec.Struct, frozen=True):
    """The first line."""

    release: str
    made: str
    """Time of the snapshot, ISO 8601."""
    database: str
    """What kind of database the rows came from."""
    migrations: list[tuple[str, str]]
    """App and name of each that was applied: the form that the rows have."""
    secrets: dict[str, list[str]]
    """Which columns hold what KUBESPAN_KEYS encrypted, by model."""
    counts: dict[str, int]
    """Rows of each model."""
    files: dict[str, str]
    """Content of what the console keeps itself besides, by path in its data directory."""

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.counts.values())


class End(msgspec.Struct, frozen=True):
    """The last line."""

    end: int
    """How many rows there were."""


def stored_models(of: Apps = apps) -> list[type[models.Model]]:
    """Every model whose rows are kept, those of tables between two models among them, in one order for all times."""
    found = (model for model in of.get_models(include_auto_created=True) if model._meta.managed)
    kept = [model for model in found if not model._meta.proxy and model._meta.label_lower not in LEFT_OUT]
    return sorted(kept, key=lambda model: model._meta.label_lower)


def secret_columns() -> dict[str, list[str]]:
    """The columns that `Head.secrets` names."""
    found: dict[str, list[str]] = {}
    for model, field in secret_fields():
        found.setdefault(model._meta.label_lower, []).append(field.name)
    return found


class _RowSerializer(Serializer):
    """Makes a row what a line holds."""

    def handle_field(self, obj: models.Model, field: models.Field) -> None:
        """Take a secret as it is stored: nobody looks at it."""
        if isinstance(field, SecretField):
            secret: Secret | None = getattr(obj, field.attname)
            self._current[field.name] = None if secret is None else secret.dump()  # type: ignore[attr-defined] # its own
        else:
            super().handle_field(obj, field)

    def handle_m2m_field(self, obj: models.Model, field: models.Field) -> None:
        """Leave them to their own table."""


def _dump_rows(progress: Progress) -> Iterator[str]:
    """Give the lines of some rows at a time; `progress` hears how many there are so far."""
    done = 0
    for model in stored_models():
        rows = model._default_manager.order_by("pk").iterator(chunk_size=CHUNK)
        for chunk in _chunks(rows):
            yield "".join(_dump(row) for row in _RowSerializer().serialize(chunk))
            done += len(chunk)
            progress(done)


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _RowDeserializer(Deserializer):
    """Makes a row of the models of the time of the backup."""

    def __init__(self, rows: Iterator[dict[str, Any]], of: Apps) -> None:
        super().__init__(rows)
        self._apps = of

    def _get_model_from_node(self, model_identifier: str) -> type[models.Model]:
        try:
            return self._apps.get_model(model_identifier)
        except LookupError:
            raise DeserializationError(f"there is no model {model_identifier}") from None

    def _handle_object(self, obj: dict[str, Any]) -> Iterator[Any]:
        for field in self._get_model_from_node(obj["model"])._meta.fields:
            stored = obj["fields"].get(field.name)
            if isinstance(field, SecretField) and stored is not None:
                obj["fields"][field.name] = Secret(stored=stored)
        yield from super()._handle_object(obj)  # type: ignore[misc] # its own


def load_rows(rows: Iterator[dict[str, Any]], of: Apps, progress: Progress) -> int:
    """Insert every row as it was, by the models of `of`; how many.

    `of` belongs to the caller: its models lose their automatic times, which would say when the backup was restored.
    """
    for model in stored_models(of):
        for field in model._meta.local_fields:
            if isinstance(field, models.DateField):
                field.auto_now = field.auto_now_add = False
    done, kind = 0, None
    waiting: list[models.Model] = []

    def insert() -> None:
        if waiting:
            type(waiting[0])._default_manager.bulk_create(waiting, batch_size=CHUNK)
            progress(done)
            waiting.clear()

    for loaded in _RowDeserializer(rows, of):
        if type(loaded.object) is not kind or len(waiting) == CHUNK:
            insert()
        kind = type(loaded.object)
        waiting.append(loaded.object)
        done += 1
    insert()
    return done


def write(target: BinaryIO, passphrase: str, head: Head, progress: Progress) -> None:
    """Write a whole backup."""
    write_lines(target, passphrase, chain([_dump(head)], _dump_rows(progress), [_dump(End(end=head.rows))]))


def write_lines(target: BinaryIO, passphrase: str, lines: Iterable[str]) -> None:
    """Write these lines, packed and encrypted."""
    writer = EncryptingWriter(target, passphrase)
    packing = gzip.GzipFile(fileobj=writer, mode="wb", mtime=0)
    with packing, io.TextIOWrapper(packing, "utf-8", newline="\n") as text:
        text.writelines(lines)
    writer.finish()


class Backup:
    """A file that was read through once and found whole; its rows are read from it again, a few at a time."""

    def __init__(self, source: BinaryIO, passphrase: str, progress: Progress) -> None:
        """Check all of it; raises Unusable. The source can be gone back in."""
        self._sealed = Sealed(source, passphrase)
        self.secrets: list[tuple[str, str]] = []
        """Every stored secret: of which row, and in its encrypted form."""
        with self._lines() as lines:
            self.head = _parse(next(lines, ""), Head)
            rows = self._look_at_all(lines, progress)
        if rows != self.head.rows:
            raise Unusable(f"The backup has {rows} rows and should have {self.head.rows}: nothing of it is used.")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, once more."""
        with self._lines() as lines:
            next(lines)
            for line in lines:
                if not _is_end(line):
                    yield json.loads(line)

    def _look_at_all(self, lines: Iterator[str], progress: Progress) -> int:
        for rows, line in enumerate(lines):
            if _is_end(line):
                _parse(line, End)
                if next(lines, None) is not None:  # only who reads to the end knows that all of it is right
                    raise Unusable("The backup has more after its end: nothing of it is used.")
                return rows
            self._note_secrets(_parse(line, _Row))
            progress(rows)
        raise Unusable("The backup ends too early: nothing of it is used.")

    def _note_secrets(self, row: _Row) -> None:
        for column in self.head.secrets.get(row.model, ()):
            if stored := row.fields.get(column):
                title = row.fields.get("name", row.pk)
                self.secrets.append((f"the {column} of {row.model.partition('.')[2]} {title}", stored))

    @contextlib.contextmanager
    def _lines(self) -> Iterator[Iterator[str]]:
        try:
            with (
                gzip.GzipFile(fileobj=self._sealed.open()) as packed,
                io.TextIOWrapper(packed, "utf-8", newline="\n") as text,
            ):
                yield iter(text)
        except (gzip.BadGzipFile, EOFError, UnicodeError) as error:
            raise Unusable(f"The backup cannot be read ({error}): nothing of it is used.") from None


class _Row(msgspec.Struct, frozen=True):
    """A row's line, as far as it is looked at before anything changes."""

    model: str
    pk: Any
    fields: dict[str, Any]


Form = TypeVar("Form", bound=msgspec.Struct)


def _is_end(line: str) -> bool:
    return line.startswith('{"end"')


def _dump(value: object) -> str:
    return msgspec.json.encode(value).decode() + "\n"


def _parse(line: str, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(line, type=form)
    except msgspec.DecodeError as error:
        raise Unusable(f"The backup cannot be read ({error}): nothing of it is used.") from None
