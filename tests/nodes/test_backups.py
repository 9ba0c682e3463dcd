"""Backup and restore as services, on whichever database the tests use: what comes back, and what changes nothing."""

from __future__ import annotations

import io
import json
import threading
from datetime import timedelta

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import connection

from nodes.backups import content, crypt
from nodes.backups.content import Backup
from nodes.backups.crypt import Unusable
from nodes.models import Audit, Cluster, Console, Node, Transition
from nodes.services import backups, clusters, revisions
from nodes.services.refused import Refused
from tests.factories import NOW
from tests.rows import fill_tables, make_row, read_tables

PASSPHRASE = "a passphrase of tests"
LATER = NOW + timedelta(days=1)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    """The same key derivation, in a moment."""
    monkeypatch.setattr(crypt, "COST", 4)


def make_backup(files=None, progress=lambda rows: None) -> io.BytesIO:
    target = io.BytesIO()
    backups.backup(target, PASSPHRASE, files or {}, NOW, progress)
    return target


def empty() -> None:
    """What a machine has on which a console was only just started."""
    call_command("flush", interactive=False, verbosity=0)
    revisions.console_settings()


def look(file: io.BytesIO) -> Backup:
    return Backup(file, PASSPHRASE, lambda rows: None)


def restore(file: io.BytesIO, *, keys=None, place_files=lambda: None):
    return backups.restore(look(file), keys or settings.KUBESPAN_KEYS, place_files, LATER, lambda rows: None)


def test_everything_comes_back_at_a_new_epoch():
    fill_tables()
    assert all(read_tables().values())
    Session.objects.create(session_key="signed-in", session_data="", expire_date=LATER)
    file = make_backup()
    before = read_tables()
    empty()
    epoch, restored = restore(file)
    after = read_tables()

    assert epoch == int(LATER.timestamp())
    assert {cluster.epoch for cluster in restored} == {epoch} == {Console.objects.get().epoch}
    changed = {
        (label, column)
        for label, rows in before.items()
        for old, new in zip(rows, after[label], strict=False)
        for column in old
        if old[column] != new[column]
    }
    assert changed == {
        ("nodes.Console", "epoch"), ("nodes.Cluster", "epoch"), ("nodes.Cluster", "pushed"), ("nodes.Node", "session")
    }  # fmt: skip
    added = {label: len(after[label]) - len(rows) for label, rows in before.items() if len(after[label]) != len(rows)}
    assert added == {"nodes.Audit": 2}
    assert not Node.objects.connected().exists()
    assert not Session.objects.exists()
    assert Cluster.objects.get(name="office").secret.reveal()


def test_what_is_made_afterwards_gets_numbers_of_its_own():
    fill_tables()
    file = make_backup()
    empty()
    restore(file)
    fresh = make_row(Transition)
    assert fresh.pk > max(row["id"] for row in read_tables()["nodes.Transition"] if row["id"] != fresh.pk)


def test_backup_and_restore_are_in_the_audit():
    file = make_backup({"tls/key.pem": "secret"})
    empty()
    restore(file)
    verbs = {row.verb: row.details for row in Audit.objects.all()}
    assert verbs["backup.made"] == {"files": ["tls/key.pem"]}
    assert verbs["backup.restored"]["made"] == NOW.isoformat()
    assert verbs["console.restored"] == {"epoch": int(LATER.timestamp())}


def test_a_running_console_writes_on_and_the_picture_is_of_one_moment():
    fill_tables()
    wrote = []

    def write_meanwhile(rows):
        def work():
            cluster, _ = clusters.create_cluster(None, name=f"later {rows}", now=NOW)
            wrote.append(cluster.name)
            connection.close()

        if not wrote:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    file = make_backup(progress=write_meanwhile)
    assert len(wrote) == 1
    assert Cluster.objects.filter(name=wrote[0]).exists()
    empty()
    _, restored = restore(file)
    assert "office" in {cluster.name for cluster in restored}
    assert wrote[0] not in {cluster.name for cluster in restored}


def test_many_rows_go_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(content, "CHUNK", 100)
    node = make_row(Node)
    Transition.objects.bulk_create(
        Transition(cluster_id=node.cluster_id, node=node, kind="link", before="up", after="down", at=NOW)
        for _ in range(1050)
    )
    heard = []
    file = make_backup(progress=heard.append)
    assert max(after - before for before, after in zip([0, *heard], heard, strict=False)) <= 100
    empty()
    restore(file)
    assert Transition.objects.count() == 1050


def test_a_console_in_use_is_not_overwritten():
    fill_tables()
    file = make_backup()
    before = read_tables()
    with pytest.raises(Refused, match=r"has clusters already.*empty data directory, or an empty database"):
        restore(file)
    assert read_tables() == before
    empty()
    get_user_model().objects.create_user("somebody")
    with pytest.raises(Refused, match="has users already"):
        restore(file)


def test_a_missing_key_is_named_and_nothing_changes():
    fill_tables()
    file = make_backup()
    empty()
    before = read_tables()
    other = {"other": "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB="}
    with pytest.raises(Refused, match="the secret of cluster office needs key 'tests'"):
        restore(file, keys=other)
    with pytest.raises(Refused, match="another one bore that name"):
        restore(file, keys={"tests": other["other"]})
    assert read_tables() == before


def test_what_fails_at_the_end_leaves_the_empty_console_as_it_was():
    fill_tables()
    file = make_backup()
    empty()
    before = read_tables()

    def no_room():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        restore(file, place_files=no_room)
    assert read_tables() == before
    restore(file)
    assert Cluster.objects.filter(name="office").exists()


def rewritten(file: io.BytesIO, change) -> io.BytesIO:
    """The backup with other lines."""
    with look(file)._lines() as lines:
        changed = change(list(lines))
    target = io.BytesIO()
    content.write_lines(target, PASSPHRASE, iter(changed))
    return target


def head(lines, **fields):
    return [json.dumps(json.loads(lines[0]) | fields) + "\n", *lines[1:]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(lambda lines: [*lines[:2], *lines[3:]], "has [0-9]+ rows and should have", id="a row less"),
        pytest.param(lambda lines: lines[:-1], "ends too early", id="no end"),
        pytest.param(lambda lines: [*lines, lines[0]], "more after its end", id="two backups"),
        pytest.param(lambda lines: ["[]\n", *lines], "cannot be read", id="another head"),
    ],
)
def test_what_does_not_count_up_is_refused_before_anything_changes(change, sentence):
    make_row(Cluster)
    with pytest.raises(Unusable, match=sentence):
        look(rewritten(make_backup(), change))


def test_a_backup_of_a_newer_release_is_refused_by_name():
    file = rewritten(make_backup(), lambda lines: head(lines, migrations=[["nodes", "9999_of_the_future"]]))
    with pytest.raises(Refused, match=r"newer release \(this one does not know nodes.9999_of_the_future\)"):
        restore(file)


def test_rows_that_point_nowhere_are_refused():
    make_row(Node)
    file = make_backup()

    def without_clusters(lines):
        kept = [line for line in lines if not line.startswith('{"model":"nodes.cluster"')]
        return head(kept, counts={"all": len(kept) - 2})

    file = rewritten(file, without_clusters)
    empty()
    before = read_tables()
    with pytest.raises(Refused, match="backup's rows"):
        restore(file)
    assert read_tables() == before


def test_a_short_passphrase_is_refused():
    with pytest.raises(Refused, match="at least 12 characters"):
        backups.backup(io.BytesIO(), "short", {}, NOW, lambda rows: None)


def test_nothing_of_it_can_be_read_without_the_passphrase():
    fill_tables()
    secret = Cluster.objects.get(name="office").secret
    raw = make_backup().getvalue()
    for known in (secret.reveal(), secret.dump(), "office", "nodes.cluster"):
        assert known.encode() not in raw
    with pytest.raises(Unusable):
        Backup(io.BytesIO(raw), "another passphrase", lambda rows: None)


def test_every_table_is_either_kept_or_left_out_by_name():
    kept = {model._meta.label_lower for model in content.stored_models()}
    others = {model._meta.label_lower for model in apps.get_models(include_auto_created=True)} - kept
    assert others == content.LEFT_OUT
