"""A console is migrated while web processes and workers of the release before still run: they must not notice."""

from __future__ import annotations

import pytest
from django.db import connection, migrations
from django.db.migrations.loader import MigrationLoader
from django.db.utils import DatabaseError
from jsonschema import Draft202012Validator

from kubespan.core.options import ClusterOptions
from nodes.services import clusters
from tests.dialogues.recorded import PREVIOUS
from tests.factories import NOW
from tests.rows import make_row

APP = "nodes"
PREVIOUS_RELEASE = "0001_initial"
"""The newest migration of the release before this one: whoever releases sets it to the newest of what is released."""

UNSURVIVABLE = (
    migrations.RemoveField,
    migrations.RenameField,
    migrations.RenameModel,
    migrations.DeleteModel,
    migrations.AlterModelTable,
)
"""What takes away a name that the release before uses. A column goes over two releases: the first one's models forget
it (`SeparateDatabaseAndState` with state operations alone), the second one's migration drops it (database ones)."""

pytestmark = pytest.mark.django_db


def names() -> list[str]:
    """This app's migrations from the release before on, oldest first."""
    graph = MigrationLoader(None).graph
    (leaf,) = graph.leaf_nodes(APP)
    plan = [name for app, name in graph.forwards_plan(leaf) if app == APP]
    return plan[plan.index(PREVIOUS_RELEASE) :]


def work_as(name: str) -> None:
    """Insert, read, change and delete a row of each model as it was after that migration; raises DatabaseError."""
    old = MigrationLoader(connection).project_state((APP, name)).apps
    for model in old.get_app_config(APP).get_models(include_auto_created=True):
        for full in (False, True):
            row = make_row(model, full=full)
            row.save(force_update=True)
            for field in model._meta.local_concrete_fields:
                if not field.primary_key:
                    row.save(update_fields=[field.name])
            assert model._default_manager.filter(pk=row.pk).first() == row
    connection.check_constraints()
    for model in old.get_app_config(APP).get_models(include_auto_created=True):
        model._default_manager.all().delete()
    connection.check_constraints()


@pytest.mark.parametrize("name", names()[:-1])
def test_the_release_before_goes_on_working_with_the_newest_schema(name):
    work_as(name)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("ALTER TABLE nodes_token RENAME COLUMN name TO title", id="a column renamed"),
        pytest.param("ALTER TABLE nodes_transition DROP COLUMN text", id="a column dropped"),
        pytest.param("ALTER TABLE nodes_change RENAME TO nodes_changes", id="a table renamed"),
    ],
)
def test_what_would_stop_it_is_found(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
    with pytest.raises(DatabaseError):
        work_as(PREVIOUS_RELEASE)


def test_a_column_that_must_have_a_value_and_has_none_by_itself_is_found():
    if connection.vendor == "sqlite":
        pytest.skip("SQLite itself refuses to add such a column")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE nodes_token ADD COLUMN colour text NOT NULL")
    with pytest.raises(DatabaseError):
        work_as(PREVIOUS_RELEASE)


@pytest.mark.parametrize("recorded", PREVIOUS, ids=lambda recorded: f"version {recorded.version}")
def test_the_release_before_reads_the_options_that_this_one_writes(recorded):
    cluster, _ = clusters.create_cluster(None, name="office", now=NOW)
    clusters.set_options(None, cluster, ClusterOptions(mtu=1380, peer_endpoint_filters=("10.0.0.0/8",)), NOW)
    cluster.refresh_from_db()
    assert cluster.kubespan.mtu == 1380
    definitions = recorded.schema["console"]["$defs"]
    Draft202012Validator({"$ref": "#/$defs/Options", "$defs": definitions}).validate(cluster.options)
    # One that only this release knows is for when the other one is gone.
    clusters.set_options(None, cluster, ClusterOptions(approved_networks=("10.0.0.0/8",)), NOW)
    cluster.refresh_from_db()
    assert cluster.kubespan.approved_networks == ("10.0.0.0/8",)


def faults(migration) -> list[str]:
    """What a migration must not do, by the rules of CONTRIBUTING.md."""
    found = [] if migration.atomic else ["it is not atomic: half of it may be there when it fails"]
    for operation in migration.operations:
        kind = type(operation).__name__
        if isinstance(operation, UNSURVIVABLE):
            found.append(f"{kind} takes away what the release before uses")
        if isinstance(operation, migrations.AddField):
            field = operation.field
            if not (field.null or field.many_to_many or field.has_db_default()):
                found.append(f"{operation.name} needs db_default: the release before inserts rows without it")
        if isinstance(operation, migrations.RunPython | migrations.RunSQL) and not operation.reversible:
            found.append(f"{kind} has no way back")
    return found


@pytest.mark.parametrize("name", names()[1:])
def test_migrations_keep_the_rules(name):
    assert faults(MigrationLoader(None).get_migration(APP, name)) == []


def test_a_migration_against_the_rules_is_found():
    from django.db import models  # noqa: PLC0415 - what a migration's file would import

    bad = migrations.Migration("9999_bad", APP)
    bad.atomic = False
    bad.operations = [
        migrations.RemoveField("token", "name"),
        migrations.RenameField("token", "name", "title"),
        migrations.DeleteModel("Change"),
        migrations.AddField("token", "colour", models.TextField(default="red")),
        migrations.AddField("token", "weight", models.IntegerField(default=1, db_default=1)),
        migrations.AddField("token", "owner", models.TextField(null=True)),
        migrations.RunSQL("SELECT 1"),
    ]
    assert len(faults(bad)) == 6
