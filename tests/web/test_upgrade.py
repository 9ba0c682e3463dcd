"""The way between two releases' tables, there and back, on a console with rows in every table."""

from __future__ import annotations

import json

import pytest

from tests.nodes.test_migrations import APP, PREVIOUS_RELEASE
from tests.web.test_backup import databases, filled, filled_on_postgresql  # noqa: F401 - fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("backups")]


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_rows_go_back_to_the_release_before_and_come_forward_again(tmp_path, request, kind):
    if kind == "PostgreSQL":
        console, before = request.getfixturevalue("filled_on_postgresql")()
    else:
        console, before = request.getfixturevalue("filled").elsewhere(tmp_path / "console")
    console.call("migrate", APP, PREVIOUS_RELEASE)
    assert "migrations are not applied" in console.shell(
        "from nodes.health import check_all; print(check_all()['database'])"
    )
    assert "run manage.py migrate before" in console.fail("backup", str(tmp_path / "backup"))
    console.call("migrate")
    after = console.tables()
    # What the newer release's tables and columns held is lost on the way back; all else is as it was.
    assert len(after["nodes.Node"]) == len(before["nodes.Node"])
    for label in ("nodes.Token", "nodes.Audit", "nodes.Transition", "auth.User"):
        assert json.dumps(after[label]) == json.dumps(before[label])
