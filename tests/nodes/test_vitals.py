"""How the console itself stands: each part, by what it last said; and the page that shows it."""

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from nodes import tasks
from nodes.counters import count
from nodes.services import discovery
from nodes.vitals import kept, parts, workers
from tests.factories import make_cluster, make_user

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


@pytest.fixture(autouse=True)
def _no_mark(monkeypatch):
    monkeypatch.setattr(workers, "_marked", {})


@pytest.mark.parametrize(
    ("marks", "state", "text"),
    [
        pytest.param(None, "unknown", "not known while Redis is away", id="no Redis"),
        pytest.param([], "down", "none is heard: nothing is pushed or expired", id="never one"),
        pytest.param([("a", ago(31))], "down", "none is heard: nothing is pushed or expired", id="silent"),
        pytest.param([("a", ago(3))], "up", "1 worker lives", id="one"),
        pytest.param([("b", ago(1)), ("a", ago(29))], "up", "2 workers live", id="two"),
        pytest.param([("b", ago(1)), ("a", ago(99))], "up", "1 worker lives, 1 no longer heard", id="one of two"),
    ],
)
def test_workers(marks, state, text):
    part = parts.workers_part(marks, NOW)
    assert (part.state, part.text) == (state, text)


def said(tick, *marks):
    return parts.InRedis("Valkey 8", 0, tick, marks, 0, 0)


@pytest.mark.parametrize(
    ("found", "state"),
    [
        pytest.param(None, "unknown", id="no Redis"),
        pytest.param(said(ago(4), ("a", ago(1))), "up", id="kept"),
        pytest.param(said(None, ("a", ago(1))), "down", id="a worker and no turn"),
        pytest.param(said(None, ("a", ago(99))), "unknown", id="no worker that would take a turn"),
    ],
)
def test_the_timetable(found, state):
    assert parts.beat_part(found, NOW).state == state


@pytest.mark.parametrize(
    ("queued", "state", "text"),
    [
        pytest.param(0, "up", "0 tasks wait, 2 under way", id="none"),
        pytest.param(1, "up", "1 task waits, 2 under way", id="one"),
        pytest.param(1001, "unknown", "1,001 tasks wait, 2 under way: workers do not keep up", id="too many"),
    ],
)
def test_the_queue(queued, state, text):
    part = parts.queue_part(queued, 2)
    assert (part.state, part.text) == (state, text)


def test_a_worker_leaves_its_mark_and_those_that_went_are_forgotten(valkey):
    heart = SimpleNamespace(eventer=SimpleNamespace(hostname="celery@old"))
    assert workers.mark("celery@gone", clock=0.0, wall=1.0)
    workers.note_worker(sender=heart, signal=None)
    assert not workers.mark("celery@old", clock=0.0, wall=2.0), "it left one a moment ago"
    found = parts.read_vitals(timezone.now())
    (part,) = [part for part in found.parts if part.key == "workers"]
    assert (part.state, part.text) == ("up", "1 worker lives")


def test_tasks_that_wait_are_counted(valkey):
    tasks.check_lag.delay()
    assert parts.read_vitals(timezone.now()).queued == 1


def test_parts_that_are_away_are_named(valkey):
    valkey.stop()
    states = {part.key: part.state for part in parts.read_vitals(timezone.now()).parts}
    assert states == {
        "database": "up", "redis": "down", "workers": "unknown", "beat": "unknown", "discovery": "none"
    }  # fmt: skip
    assert parts.read_vitals(timezone.now()).worst == "down"


def test_migrations_are_looked_for_until_none_is_left(monkeypatch):
    def look(checked, pinged="ok"):
        monkeypatch.setattr(parts, "check_database", lambda: checked)
        monkeypatch.setattr(parts, "ping_database", lambda: pinged)
        part, *_ = parts.read_vitals(NOW).parts
        return part.state

    monkeypatch.setattr(parts, "_migrated", threading.Event())
    assert look("1 migrations are not applied") == "down"
    assert look("ok") == "up"
    assert look("not asked") == "up"
    assert look("not asked", "cannot connect: OperationalError") == "down"


def test_discovery_is_up_while_somebody_serves(valkey):
    discovery.beat(NOW.timestamp())

    def state(now):
        return {part.key: part.state for part in parts.read_vitals(now).parts}["discovery"]

    assert (state(NOW + timedelta(seconds=5)), state(NOW + timedelta(minutes=5))) == ("up", "down")


def test_every_table_is_counted_by_one_query(django_assert_max_num_queries):
    make_cluster("production")
    with django_assert_max_num_queries(2):
        tables = {table.name: table for table in kept.read_tables()}
    assert (tables["clusters"].rows, tables["clusters"].forgotten) == (1, "never")
    assert tables["transitions"].forgotten == "after 30 days"
    assert tables["changes"].forgotten == "after 7 days, but for the newest 10,000 of a cluster"
    assert kept.database_size() > 0


PAGE = "settings-about"
ADMIN = 'href="/admin/"'


def test_an_administrator_sees_all_of_it(client, valkey, django_assert_max_num_queries):
    client.force_login(User.objects.create_superuser("alice"))
    count("enrol.token-expired", 1234)
    with django_assert_max_num_queries(20):
        page = client.get(reverse(PAGE)).content.decode()
    for wanted in ("What is kept", "enrol.token-expired", "1,234", "Django", "none is heard", ADMIN):
        assert wanted in page


def test_others_see_how_the_parts_stand_and_no_more(client, valkey):
    client.force_login(make_user("bob", "operator"))
    count("enrol.token-expired")
    page = client.get(reverse(PAGE)).content.decode()
    assert "Health" in page
    for hidden in ("What is kept", "enrol.token-expired", ADMIN):
        assert hidden not in page


def test_the_page_is_drawn_without_redis(client, valkey):
    client.force_login(User.objects.create_superuser("alice"))
    valkey.stop()
    page = client.get(reverse(PAGE))
    assert page.status_code == 200
    assert "not known while Redis is away" in page.content.decode()


def test_settings_lead_to_a_page_that_everybody_may_see(client, valkey):
    client.force_login(make_user("bob", "operator"))
    assert client.get(reverse("settings"), follow=True).status_code == 200
