"""What tests of the console share: a server that agents connect to, and no connection left in a thread."""

import pytest
from django.db import connections
from django.db.backends.postgresql.operations import DatabaseOperations

from tests.players import open_console


@pytest.fixture(autouse=True)
def _close_connections(monkeypatch):
    """Threads would keep theirs for a minute, and the database could not be dropped at the end."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)


@pytest.fixture(autouse=True)
def _quick_passwords(settings):
    """A real hash takes half a second, by intent."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True, scope="session")
def _rows_are_deleted():
    """Empty PostgreSQL's tables by DELETE: most have no row, and TRUNCATE makes new files for each."""

    def delete(operations, _style, tables, **_wanted):
        rows = (f"DELETE FROM {operations.quote_name(table)}" for table in tables)
        return ["; ".join(("SET LOCAL session_replication_role = replica", *rows))] if tables else []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", delete)
        yield


@pytest.fixture
async def console(valkey):
    """A real server with the agents' end in it."""
    async with open_console() as running:
        yield running
