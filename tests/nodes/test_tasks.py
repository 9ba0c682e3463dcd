"""The timetable's tasks, and a real worker that takes them."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
from celery.contrib.testing.worker import start_worker
from django.utils import timezone

from kubespan.core.options import Options
from kubespan_web.celery import app
from nodes import live, tasks
from nodes.fanout import News, _decoder, channel_name
from nodes.health import WORKER_KEY
from nodes.models import Change, Cluster, Node, Transition
from nodes.services import clusters, endpoints, revisions, sessions
from tests.factories import NOW, enrol, fill, make_cluster

pytestmark = pytest.mark.django_db


def test_every_row_of_the_timetable_names_a_task():
    names = {row["task"] for row in app.conf.beat_schedule.values()}
    assert names == {f"nodes.tasks.{task}" for task in ("heartbeat", "check_lag", "mark_silent_nodes", "expire")}
    assert all(name in app.tasks or hasattr(tasks, name.rpartition(".")[2]) for name in names)


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
    """A real worker, taking tasks from the real broker in a thread."""
    app.set_current()
    app.loader.import_default_modules()
    with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=30, loglevel="WARNING"):
        yield


@pytest.mark.django_db(transaction=True)
def test_a_hundred_commits_are_few_pushes_and_the_last_is_among_them(worker, valkey):
    cluster = make_cluster()
    client = redis.Redis.from_url(valkey.url)
    with client.pubsub() as subscription:
        subscription.subscribe(channel_name(cluster.pk))
        subscription.get_message(timeout=5)
        for number in range(100):
            clusters.set_options("tests", cluster, Options(mtu=1281 + number), timezone.now())
        pushed = []
        last = revisions.current(cluster.pk)
        while not pushed or pushed[-1].revision != last:
            message = subscription.get_message(timeout=20)
            assert message, f"the last revision {last} was not pushed: {pushed}"
            parcel = _decoder.decode(message["data"])
            if isinstance(parcel, News):
                pushed.append(parcel)
    client.close()

    assert last.number == 100
    assert len(pushed) < 50
    assert [one.since.number for one in pushed][1:] == [one.revision.number for one in pushed][:-1]
    assert Cluster.objects.unpushed().count() <= 1
