"""What tests of the console share: a server that agents connect to, and no connection left in a thread."""

import pytest
from django.db import connections

from tests.players import open_console


@pytest.fixture(autouse=True)
def _close_connections(monkeypatch):
    """Threads would keep theirs for a minute, and the database could not be dropped at the end."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)


@pytest.fixture
async def console(valkey):
    """A real server with the agents' end in it."""
    async with open_console() as running:
        yield running
