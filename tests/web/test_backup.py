"""`manage.py backup` and `restore` as an operator runs them: from one machine, and one kind of database, to another."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from django.db.migrations.loader import MigrationLoader

from nodes import embedded
from nodes.backups import content
from nodes.backups.content import Backup
from tests.consoles import ROWS, place_rows
from tests.nodes.test_migrations import APP, PREVIOUS_RELEASE
from tests.postgresql import PostgreSQL, find_programs

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "a passphrase of tests"
TABLES = "import json; from tests.rows import read_tables; print(json.dumps(read_tables()))"
FILL = "from tests.rows import fill_tables; fill_tables(); "

REVEAL = "\nfrom nodes.models import *; print(json.dumps(Cluster.objects.get(name='office').secret.reveal()))"
GO_ON = "\nfrom tests.rows import make_row; [make_row(model) for model in (Node, Audit, Token)]"

# Consoles with rows in every table are made once a file, by one worker.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("backups")]


class Place:
    """Where a console lives: a data directory of its own, or a database elsewhere and keys in the environment."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.environ = {
            "PATH": os.environ["PATH"],
            "KUBESPAN_BACKUP_PASSPHRASE": PASSPHRASE,
            "LOG_LEVEL": "WARNING",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            **environ,
        }

    def run(self, *words: str, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "manage.py", *words]
        return subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, check=False, **options)

    def call(self, *words: str, **options) -> str:
        done = self.run(*words, text=True, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, *words: str, **options) -> str:
        done = self.run(*words, text=True, **options)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr

    def shell(self, code: str) -> str:
        return self.call("shell", "-v", "0", "-c", code)

    def tables(self) -> dict:
        return json.loads(self.shell(TABLES))

    def fill(self) -> dict:
        """Put rows into every table, which must be there; these rows."""
        return json.loads(self.shell(FILL + TABLES))


def at_home(directory: Path) -> Place:
    """What `manage.py run` makes: SQLite, and keys and certificate of its own."""
    directory.mkdir(mode=0o700)
    embedded.make_keys(directory)
    for name in embedded.TLS_FILES:
        embedded.make_private((directory / name).parent)
        embedded.write_private(directory / name, f"{name} of {directory.name}\n")
    return nothing_yet(directory)


def nothing_yet(directory: Path) -> Place:
    """A machine with nothing but the program."""
    return Place(directory, KUBESPAN_DATA=str(directory))


KEYS = {"KUBESPAN_SECRET_KEY": "x" * 50, "KUBESPAN_KEYS": "mine:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}


def elsewhere(directory: Path) -> Place:
    """SQLite in that directory, by an address and keys that the environment names."""
    return Place(directory, DATABASE_URL=f"sqlite:///{directory / ROWS}", **KEYS)


def on_postgresql(url: str) -> Place:
    """PostgreSQL, and keys in the environment."""
    return Place(ROOT, DATABASE_URL=url, KUBESPAN_URL="https://console.example", **KEYS)


class Filled:
    """Consoles with rows in every table: the first of each kind is filled, those that tests get are copies of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def at_home(self, directory: Path) -> tuple[Place, dict]:
        """One with keys and certificate of its own, and its rows."""
        first, rows = self._first(at_home)
        shutil.copytree(first, directory)
        return nothing_yet(directory), rows

    def elsewhere(self, directory: Path) -> tuple[Place, dict]:
        """One whose keys are the environment's, and its rows."""
        first, rows = self._first(elsewhere)
        shutil.copytree(first, directory)
        return elsewhere(directory), rows

    @cache  # noqa: B019 - it lives no longer than its module's tests
    def _first(self, make: Callable[[Path], Place]) -> tuple[Path, dict]:
        directory = self._directory / make.__name__
        place = make(directory)
        place_rows(directory)
        return directory, place.fill()


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Filled:
    """Consoles to be backed up."""
    return Filled(tmp_path_factory.mktemp("filled"))


@pytest.fixture(scope="module")
def filled_on_postgresql(databases):
    """The same on PostgreSQL: each call makes one, with its rows."""
    url = databases()
    first = on_postgresql(url)
    first.call("migrate", "-v", "0")
    rows = first.fill()
    return lambda: (on_postgresql(databases(url.rpartition("/")[2])), rows)


@pytest.fixture(scope="module")
def databases():
    """Makes PostgreSQL databases, empty or as another one is, and gives their addresses."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install -y --no-install-recommends postgresql")
    with tempfile.TemporaryDirectory(prefix="kubespan-postgresql-") as directory:
        server = PostgreSQL(programs, Path(directory))
        server.make()
        server.start()
        numbers = iter(range(100))

        def make(template: str = "template1") -> str:
            name = f"console{next(numbers)}"
            command = [programs / "createdb", "-h", directory, "-U", "console", "-T", template, name]
            subprocess.run(command, check=True, cwd="/")
            return server.url.rpartition("/")[0] + f"/{name}"

        yield make
        server.stop()


def differences(before: dict, after: dict) -> set:
    return {
        (label, column)
        for label, rows in before.items()
        for old, new in zip(rows, after[label], strict=False)
        for column in old
        if old[column] != new[column]
    }


OF_A_RESTORE = {
    ("nodes.Console", "epoch"), ("nodes.Cluster", "epoch"), ("nodes.Cluster", "pushed"), ("nodes.Node", "session")
}  # fmt: skip


def test_into_an_empty_directory(tmp_path, filled):
    (old, rows), new = filled.at_home(tmp_path / "old"), nothing_yet(tmp_path / "new")
    file = tmp_path / "backup"
    said = old.run("backup", str(file), text=True)
    assert (said.returncode, said.stdout) == (0, "")
    assert "and 3 files" in said.stderr
    assert "keep them" not in said.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".backup*")) == []

    said = new.call("restore", str(file))
    assert "restored as of " in said
    assert "enrol them again with a new token" in said
    assert "members again" in said
    assert differences(rows, new.tables()) == OF_A_RESTORE
    for name in (*embedded.TLS_FILES, embedded.KEY_FILE):
        assert (new.directory / name).read_bytes() == (old.directory / name).read_bytes()
        assert stat.S_IMODE((new.directory / name).stat().st_mode) == 0o600
    assert "has clusters already" in new.fail("restore", str(file))


@pytest.mark.parametrize(
    ("source", "target"),
    [("s", "p"), ("p", "p"), ("p", "s")],
    ids=lambda kind: {"s": "SQLite", "p": "PostgreSQL"}[kind],
)
def test_from_one_database_to_another_through_pipes(tmp_path, databases, filled, filled_on_postgresql, source, target):
    old, before = filled.elsewhere(tmp_path / "old") if source == "s" else filled_on_postgresql()
    new = elsewhere(tmp_path) if target == "s" else on_postgresql(databases())
    done = old.run("backup", "-")
    assert b"KUBESPAN_KEYS (mine) and KUBESPAN_SECRET_KEY come from the environment and are not in it" in done.stderr
    restored = new.run("restore", "-", input=done.stdout)
    assert restored.returncode == 0, restored.stderr
    after, secret = map(json.loads, new.shell(TABLES + REVEAL + GO_ON).splitlines())
    assert differences(before, after) == OF_A_RESTORE
    assert secret


def test_keys_of_the_environment_must_be_there_before_anything_changes(tmp_path, filled):
    old, _ = filled.elsewhere(tmp_path / "old")
    file = tmp_path / "backup"
    old.call("backup", str(file))
    new = nothing_yet(tmp_path / "new")
    said = new.fail("restore", str(file))
    assert "needs key 'mine'" in said
    assert [path.name for path in new.directory.iterdir()] == ["running.lock"]
    new.environ |= KEYS
    new.call("restore", str(file))
    assert not (new.directory / embedded.KEY_FILE).exists()


def test_keys_in_the_backup_can_be_taken_out_for_another_environment(tmp_path, filled):
    old, _ = filled.at_home(tmp_path / "old")
    file = tmp_path / "backup"
    old.call("backup", str(file))
    new = elsewhere(tmp_path)
    said = new.fail("restore", str(file))
    assert "needs key 'first'" in said
    assert "The backup holds them: --extract DIRECTORY" in said
    new.call("restore", str(file), "--extract", str(tmp_path / "out"))
    assert (tmp_path / "out" / embedded.KEY_FILE).read_bytes() == (old.directory / embedded.KEY_FILE).read_bytes()
    new.environ |= embedded.read_keys(tmp_path / "out")
    assert "the backup has keys.env, tls/certificate.pem, tls/key.pem" in new.call("restore", str(file))


def test_a_wrong_passphrase_half_a_file_and_a_used_place_change_nothing(tmp_path):
    old, new = at_home(tmp_path / "old"), nothing_yet(tmp_path / "new")
    place_rows(old.directory)
    file, half, words = tmp_path / "backup", tmp_path / "half", tmp_path / "words"
    old.call("backup", str(file))
    half.write_bytes(file.read_bytes()[:-50])
    words.write_text("some other passphrase\n")
    assert "does not open this backup" in new.fail("restore", str(file), "--passphrase-file", str(words))
    assert "ends too early" in new.fail("restore", str(half))
    assert "No such file" in new.fail("restore", str(tmp_path / "nowhere"))
    assert list(new.directory.iterdir()) == []
    with embedded.only_one(embedded.make_private(new.directory)):
        assert "another console runs on" in new.fail("restore", str(file))
    del new.environ["KUBESPAN_BACKUP_PASSPHRASE"]
    assert "no passphrase: give it by" in new.fail("restore", str(file), stdin=subprocess.DEVNULL)
    assert "at least 12 characters" in old.fail("backup", str(tmp_path / "x"), "--passphrase-file", "/dev/null")
    assert not (tmp_path / "x").exists()


def test_a_backup_that_cannot_be_written_leaves_the_one_before(tmp_path):
    old = at_home(tmp_path / "old")
    file = tmp_path / "backup"
    file.write_bytes(b"the one before")
    assert "run manage.py migrate before" in old.fail("backup", str(file))
    assert file.read_bytes() == b"the one before"
    assert list(tmp_path.glob(".backup*")) == []


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_a_backup_of_the_release_before_is_migrated(tmp_path, request, filled, kind):
    """Rows of the old form go into tables of the old form, and then through the migrations."""
    old, _ = filled.elsewhere(tmp_path / "old")
    file, older = tmp_path / "backup", tmp_path / "older"
    old.call("backup", str(file))
    rows = write_as_of(PREVIOUS_RELEASE, file, older)
    new = on_postgresql(request.getfixturevalue("databases")()) if kind == "PostgreSQL" else elsewhere(tmp_path)
    assert f"{rows} rows" not in new.call("restore", str(older))
    assert "no migrations to apply" in new.call("migrate").lower()
    assert new.tables()["nodes.Node"]
    stale = elsewhere(tmp_path / "stale")
    place_rows(stale.directory)
    assert "tables of a newer release than the backup's" in stale.fail("restore", str(older))


def write_as_of(name: str, file: Path, target: Path) -> int:
    """The same backup, had it been made by the release whose newest migration that was."""
    saved = Backup(io.BytesIO(file.read_bytes()), PASSPHRASE, lambda rows: None)
    loader = MigrationLoader(None)
    state = loader.project_state((APP, name)).apps
    later = set(loader.graph.forwards_plan(loader.graph.leaf_nodes(APP)[0])) - set(
        loader.graph.forwards_plan((APP, name))
    )
    models = {model._meta.label_lower: model for model in content.stored_models(state)}
    lines = []
    for row in saved.rows():
        if row["model"].startswith(f"{APP}."):
            if row["model"] not in models:
                continue
            known = {field.name for field in models[row["model"]]._meta.fields}
            row["fields"] = {column: value for column, value in row["fields"].items() if column in known}
        lines.append(json.dumps(row) + "\n")
    head = json.loads(content._dump(saved.head))
    head["migrations"] = [key for key in head["migrations"] if tuple(key) not in later]
    head["counts"] = {"all": len(lines)}
    with target.open("wb") as stream:
        content.write_lines(stream, PASSPHRASE, [json.dumps(head) + "\n", *lines, f'{{"end":{len(lines)}}}\n'])
    return len(lines)
