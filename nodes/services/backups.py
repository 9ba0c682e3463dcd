"""A console as one encrypted file, and such a file as a console again.

A backup is one picture of a running console: one transaction that sees one state of the database, and the files that it
keeps itself. A restore looks at the whole file and at the keys first, then does everything in one transaction: the
schema of the backup's time, its rows, the migrations since, and a new epoch. What fails leaves the empty console as it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import BinaryIO

from cryptography.fernet import Fernet, InvalidToken
from django.apps.registry import Apps
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.core.management.color import no_style
from django.core.serializers.base import DeserializationError
from django.db import IntegrityError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from kubespan import __version__
from nodes.backups.content import (
    Backup,
    Head,
    Progress,
    load_rows,
    secret_columns,
    stored_models,
    write,
)
from nodes.models import Cluster, Node
from nodes.services import audit, revisions
from nodes.services.refused import Refused

SHORTEST_PASSPHRASE = 12

Migrations = set[tuple[str, str]]


def backup(target: BinaryIO, passphrase: str, files: Mapping[str, str], now: datetime, progress: Progress) -> Head:
    """Write this console, and what it keeps in files, encrypted; gives what is in the backup. Raises Refused."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise Refused("passphrase", f"A backup's passphrase has at least {SHORTEST_PASSPHRASE} characters.")
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise Refused("not-migrated", "The database is older than this release: run manage.py migrate before.")
    audit.write(None, "backup.made", "", now, files=sorted(files))
    with _one_picture():
        head = Head(
            release=__version__,
            made=now.isoformat(timespec="seconds"),
            database=connection.vendor,
            migrations=sorted(MigrationRecorder(connection).applied_migrations()),
            secrets=secret_columns(),
            counts={model._meta.label_lower: model._default_manager.count() for model in stored_models()},
            files=dict(files),
        )
        write(target, passphrase, head, progress)
    return head


@contextmanager
def _one_picture() -> Iterator[None]:
    """See one state of the database throughout, and keep nobody from writing meanwhile."""
    connection.ensure_connection()
    if connection.vendor != "sqlite":
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield
        return
    # In WAL mode a reader sees the state of its first look; IMMEDIATE, which the settings ask for, is for writers.
    mode, connection.transaction_mode = connection.transaction_mode, "DEFERRED"  # type: ignore[attr-defined] # SQLite's own
    try:
        with transaction.atomic():
            yield
    finally:
        connection.transaction_mode = mode  # type: ignore[attr-defined] # as above


def check_keys(secrets: list[tuple[str, str]], keys: Mapping[str, str]) -> list[str]:
    """One sentence for each stored secret that none of these keys opens, naming row and key."""
    faults = []
    for what, stored in secrets:
        name, _, token = stored.partition("$")
        try:
            Fernet(keys[name]).decrypt(token.encode())
        except KeyError:
            faults.append(f"{what} needs key {name!r}")
        except InvalidToken:
            faults.append(f"{what} does not open with the key {name!r} that is here: another one bore that name")
    return faults


def restore(
    saved: Backup, keys: Mapping[str, str], place_files: Callable[[], None], now: datetime, progress: Progress
) -> tuple[int, list[Cluster]]:
    """Make this empty console the one of the backup; gives its new epoch and its clusters. Raises Refused.

    `place_files` puts where they belong the files that the backup holds: last of all, before the database's commit.
    """
    if faults := check_keys(saved.secrets, keys):
        raise Refused(
            "keys",
            f"KUBESPAN_KEYS does not open the secrets of this backup: {'; '.join(faults)}. Add the missing keys.",
        )
    _check_empty()
    schema = _check_migrations({(app, name) for app, name in saved.head.migrations})
    # SQLite changes a table only while it checks no foreign keys, and that must be said before the transaction.
    with connection.constraint_checks_disabled(), transaction.atomic():
        try:
            _load(saved, schema, progress)
        except (DeserializationError, IntegrityError) as error:
            raise Refused("unusable", f"The backup's rows do not fit together: {error}") from None
        call_command("migrate", interactive=False, verbosity=0)
        Node.objects.connected().update(session="")
        epoch = revisions.start_epoch(None, now, push=False)  # nobody is connected yet
        audit.write(None, "backup.restored", "", now, made=saved.head.made, release=saved.head.release)
        connection.check_constraints()
        place_files()
    return epoch, list(Cluster.objects.all())


def _check_empty() -> None:
    """Refuse a console that somebody has begun to use; one that has only been started may be taken."""
    tables = connection.introspection.table_names()
    for model in (Cluster, get_user_model()):
        if model._meta.db_table in tables and model._default_manager.exists():
            raise Refused(
                "not-empty",
                f"This console has {model._meta.verbose_name_plural} already, and nothing of them is overwritten: "
                "restore into an empty data directory, or an empty database.",
                409,
            )


def _check_migrations(wanted: Migrations) -> Migrations:
    """Refuse a backup of a newer release, and a database with the tables of another; gives what is still to be done."""
    executor = MigrationExecutor(connection)
    if unknown := sorted(wanted - set(executor.loader.disk_migrations)):
        names = ", ".join(f"{app}.{name}" for app, name in unknown)
        raise Refused(
            "newer", f"The backup is of a newer release (this one does not know {names}): restore it with that."
        )
    present = set(MigrationRecorder(connection).applied_migrations())
    if present and present != wanted:
        raise Refused(
            "another-schema",
            "The database holds the tables of a newer release than the backup's: give it an empty one, without tables.",
            409,
        )
    return wanted


def _load(saved: Backup, schema: Migrations, progress: Progress) -> None:
    """Bring the tables to the form of the backup's time, and put every row into them."""
    executor = MigrationExecutor(connection)
    of: Apps = executor.migrate(_leaves(executor, schema)).apps
    for model in stored_models(of):  # what a first start has made: names of kinds of rows, the console's own
        model._default_manager.all().delete()
    load_rows(saved.rows(), of, progress)
    # PostgreSQL alters no table that has rows whose foreign keys it has yet to look at.
    connection.check_constraints()
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), stored_models(of)):
            cursor.execute(statement)
    ContentType.objects.clear_cache()


def _leaves(executor: MigrationExecutor, schema: Migrations) -> list[tuple[str, str]]:
    """The newest of these migrations in each app."""
    graph = executor.loader.graph
    followed = {parent.key for key in schema for parent in graph.node_map[key].parents if parent.key[0] == key[0]}
    return sorted(schema - followed)
