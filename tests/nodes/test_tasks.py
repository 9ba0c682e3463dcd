"""The timetable's tasks, and a real worker that takes them."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta

import pytest
import redis
from celery.contrib.testing.worker import start_worker
from django.utils import timezone

from kubespan.core.options import ClusterOptions
from kubespan_web.celery import RECONNECT_SECONDS, app
from nodes import live, tasks
from nodes.fanout import News, channel_name, parse_parcel
from nodes.health import WORKER_KEY
from nodes.models import Change, Node, Transition
from nodes.services import clusters, endpoints, revisions, sessions
from tests.factories import NOW, enrol, fill, make_cluster
from tests.heard import heard_by

pytestmark = pytest.mark.django_db


def test_every_row_of_the_timetable_names_a_task():
    names = {row["task"] for row in app.conf.beat_schedule.values()}
    wanted = (
        "heartbeat", "gather_alerts", "advance_rollouts", "check_lag", "mark_silent_nodes", "keep_affiliates",
        "note_history", "expire",
    )  # fmt: skip
    assert names == {f"nodes.tasks.{task}" for task in wanted}
    assert all(name in app.tasks or hasattr(tasks, name.rpartition(".")[2]) for name in names)


def test_workers_look_for_redis_every_second_or_so_and_for_ever():
    waits = []

    def note(_error, wait):
        waits.append(wait)
        if len(waits) == 3:
            raise LookupError

    connection = app.connection_for_read("redis://127.0.0.1:1/0")
    with pytest.raises(LookupError):
        connection.ensure_connection(note, app.conf.broker_connection_max_retries)
    assert waits == [0.2, 0.5, 0.8]
    assert RECONNECT_SECONDS["interval_max"] < 2
    assert app.conf.broker_connection_max_retries is None


def test_a_heartbeat_lasts_for_some_beats(valkey):
    tasks.heartbeat()
    with valkey.client() as client:
        assert 10 < client.ttl(WORKER_KEY) <= tasks.HEARTBEAT_SECONDS


def test_presence_is_what_the_last_reports_say(valkey):
    cluster = make_cluster()
    here, gone, fresh = fill(cluster, 3)
    long_ago = timezone.now() - sessions.SILENT_AFTER * 2
    Node.objects.update(session="x", away=False, last_seen=long_ago)
    Node.objects.filter(pk=fresh.pk).update(last_seen=timezone.now())
    with valkey.client() as client:
        client.set(live.summary_key(here.pk), live.Table().summary("x"))
    tasks.mark_silent_nodes()

    assert set(Node.objects.connected()) == {here, fresh}
    assert [row.node for row in Transition.objects.all()] == [gone]


def test_while_redis_is_away_nobody_is_taken_for_silent(valkey):
    fill(make_cluster(), 2)
    Node.objects.update(session="x", away=False, last_seen=NOW)
    valkey.stop()
    tasks.mark_silent_nodes()
    assert Node.objects.connected().count() == 2


def test_what_is_too_old_is_forgotten():
    cluster = make_cluster(harvest_extra_endpoints=True)
    node = enrol(cluster)
    node.candidates.create(
        endpoint="203.0.113.5:1", source="harvested", order=9, seen=timezone.now() - endpoints.HARVEST_KEPT * 2
    )
    Transition.objects.create(cluster=cluster, kind="link", at=timezone.now() - timedelta(days=99))
    tasks.expire()

    assert not node.candidates.filter(source="harvested").exists()
    assert not Transition.objects.exists()
    assert Change.objects.count() == 2


@pytest.fixture
def worker(valkey, transactional_db):
    """A real worker, which takes tasks from the real broker in a thread; it starts when it is entered."""
    app.set_current()
    app.loader.import_default_modules()
    return start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=30, loglevel="WARNING")


@contextmanager
def pushes(cluster, valkey):
    """A function that gives what is pushed to a cluster, until a revision was among it."""
    with redis.Redis.from_url(valkey.url) as client, client.pubsub() as subscription:
        subscription.subscribe(channel_name(cluster.pk))
        assert heard_by(subscription) == []

        def until(revision):
            pushed = []
            while not pushed or pushed[-1].revision != revision:
                message = subscription.get_message(timeout=60)
                assert message, f"{revision} was not pushed: {pushed}"
                parcel = parse_parcel(message["data"])
                if isinstance(parcel, News):
                    pushed.append(parcel)
            return pushed

        yield until


def commit_a_hundred_times(cluster):
    for number in range(100):
        clusters.set_options("tests", cluster, ClusterOptions(mtu=1281 + number), timezone.now())
    return revisions.current(cluster.pk)


@pytest.mark.django_db(transaction=True)
def test_a_hundred_commits_before_a_push_are_one_push(worker, valkey):
    cluster = make_cluster()
    with pushes(cluster, valkey) as until:
        last = commit_a_hundred_times(cluster)
        with worker:
            pushed = until(last)
    assert [(one.since.number, one.revision.number) for one in pushed] == [(0, 100)]


@pytest.mark.django_db(transaction=True)
def test_commits_beside_a_worker_are_pushed_without_a_gap_to_the_last(worker, valkey):
    cluster = make_cluster()
    with pushes(cluster, valkey) as until, worker:
        pushed = until(commit_a_hundred_times(cluster))
    assert [one.since.number for one in pushed][1:] == [one.revision.number for one in pushed][:-1]
    assert pushed[0].since.number == 0
