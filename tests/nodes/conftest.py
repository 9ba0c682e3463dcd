"""What tests of the console share: a server that agents connect to, and no connection left in a thread."""

import pytest
from django.core.management.commands import flush
from django.db import connections

from tests.players import open_console


@pytest.fixture(autouse=True)
def _close_connections(monkeypatch):
    """Threads would keep theirs for a minute, and the database could not be dropped at the end."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    """A real hash takes half a second, by intent."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


KEPT = {"django_content_type", "auth_permission"}
"""Tables that `migrate` fills, and that no test changes."""


@pytest.fixture(autouse=True, scope="session")
def _tables_are_emptied_cheaply():
    """After hundreds of tests; Django fills again what it emptied, which takes ten times as long as emptying it all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "sql_flush", _empty)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *_, **__: None)
        yield


def _empty(style, connection, **_wanted):
    every = connection.introspection.django_table_names(only_existing=True, include_views=False)
    tables = [table for table in every if table not in KEPT]
    if connection.vendor != "postgresql":
        return connection.ops.sql_flush(style, tables)
    # Most have no row, and TRUNCATE would make new files for each.
    rows = (f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables)
    return ["; ".join(("SET LOCAL session_replication_role = replica", *rows))]


@pytest.fixture
async def console(valkey):
    """A real server with the agents' end in it."""
    async with open_console() as running:
        yield running
