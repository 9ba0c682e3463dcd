"""The change log: numbers in commit order, frames between any two of them, pushes that are few and never forgotten."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
import redis
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from kubespan.core.membership import Membership
from kubespan.core.messages import Delta, Revision, Snapshot, parse_from_console
from kubespan.core.options import ClusterOptions, Options
from nodes import tasks
from nodes.fanout import News, channel_name, parse_parcel
from nodes.management.commands import run
from nodes.models import Audit, Change, Cluster, Console, Node
from nodes.services import clusters, nodes, revisions, sessions
from tests.factories import NOW, Machine, enrol, fill, make_cluster
from tests.heard import heard_by

pytestmark = pytest.mark.django_db

KIND = Change.Kind


def read(cluster, since=None):
    frame = revisions.frame(cluster.pk, since)
    message = parse_from_console(frame.bytes)
    assert message.revision == frame.revision
    assert frame.since == (message.since if isinstance(message, Delta) else None)
    return message


def at(cluster, number):
    return Revision(cluster.epoch, number)


# Frames.


def test_a_snapshot_holds_every_member_and_nobody_else():
    cluster = make_cluster(mtu=1380)
    first = enrol(cluster, Machine(addresses=("10.0.0.1",)))
    enrol(cluster, approval_required=True)
    gone = enrol(cluster, Machine("gone"))
    nodes.remove_node("tests", gone, "gone", NOW)
    message = read(cluster)

    assert isinstance(message, Snapshot)
    assert message.options == Options(mtu=1380)
    assert [member.index for member in message.members] == [first.index]
    assert message.members[0].endpoints == ("10.0.0.1:51820", "198.51.100.7:51820")
    assert message.revision == at(cluster, 3)


def test_a_frame_holds_no_secret():
    cluster = make_cluster()
    enrol(cluster)
    assert cluster.secret.reveal().encode() not in revisions.frame(cluster.pk, None).bytes


def test_a_delta_holds_what_changed_since():
    cluster = make_cluster()
    first, second, third = enrol(cluster), enrol(cluster), enrol(cluster, Machine("third"))
    held = at(cluster, 3)
    nodes.set_node_options(
        "tests", second, extra_endpoints=["203.0.113.1:1"], advertised_networks=[], excluded_networks=[], now=NOW
    )
    nodes.remove_node("tests", third, "third", NOW)
    message = read(cluster, held)

    assert isinstance(message, Delta)
    assert ([member.index for member in message.changed], message.gone) == ([second.index], (third.index,))
    assert (message.options, message.since, message.revision) == (None, held, at(cluster, 5))
    assert first.index not in [member.index for member in message.changed]


def test_a_delta_holds_options_only_when_they_changed():
    cluster = make_cluster()
    enrol(cluster)
    clusters.set_options("tests", cluster, ClusterOptions(mtu=1380), NOW)

    assert read(cluster, at(cluster, 0)).options == Options(mtu=1380)
    assert read(cluster, at(cluster, 2)) == Delta(since=at(cluster, 2), revision=at(cluster, 2), secret_generation=1)


def test_one_that_came_and_went_is_gone():
    cluster = make_cluster()
    node = enrol(cluster, Machine("brief"))
    nodes.remove_node("tests", node, "brief", NOW)
    message = read(cluster, at(cluster, 0))
    assert (message.changed, message.gone) == ((), (node.index,))


@pytest.mark.parametrize("since", [None, (99, 1), (None, 77)], ids=["nothing held", "another epoch", "the future"])
def test_who_holds_what_the_log_does_not_know_gets_a_snapshot(since):
    cluster = make_cluster()
    enrol(cluster)
    held = since and Revision(since[0] or cluster.epoch, since[1])
    assert isinstance(read(cluster, held), Snapshot)


def test_where_the_log_does_not_reach_back_there_is_a_snapshot():
    cluster = make_cluster()
    for _ in range(3):
        enrol(cluster)
    Change.objects.filter(number__lte=2).delete()

    assert isinstance(read(cluster, at(cluster, 1)), Snapshot)
    assert isinstance(read(cluster, at(cluster, 2)), Delta)


def test_every_way_leads_to_the_same_membership():
    """From any revision held, one frame leads to what a snapshot says."""
    cluster = make_cluster()
    held = []
    for step in range(12):
        held.append(Membership().apply(read(cluster)))
        if step % 4 == 3:
            node = Node.objects.approved().order_by("?").first()
            nodes.remove_node("tests", node, node.name, NOW)
        elif step % 4 == 2:
            clusters.set_options("tests", cluster, ClusterOptions(mtu=1300 + step), NOW)
        else:
            enrol(cluster)
    cluster.refresh_from_db()
    present = Membership().apply(read(cluster))
    for before in held:
        assert before.apply(read(cluster, before.revision)) == present


def from_nothing(cluster):
    """A snapshot for which nothing was kept; what was, is kept again."""
    kept = revisions._snapshots.pop(cluster.uuid)
    found = read(cluster)
    revisions._snapshots[cluster.uuid] = kept
    return found


def test_a_snapshot_that_grew_says_what_one_from_nothing_says():
    cluster = make_cluster()
    early = enrol(cluster, approval_required=True)
    excluding = ClusterOptions(exclude_advertised_networks=["10.9.0.0/16"])
    steps = [
        lambda: enrol(cluster, Machine("one", addresses=("10.0.0.1",))),
        lambda: [enrol(cluster, Machine("two")), enrol(cluster, Machine("three"))],
        lambda: nodes.approve_node("tests", early, NOW),
        lambda: clusters.set_options("tests", cluster, excluding, NOW),
        lambda: nodes.rename_node("tests", Node.objects.get(name="one"), "uno", NOW),
        lambda: nodes.remove_node("tests", Node.objects.get(name="two"), "two", NOW),
        lambda: nodes.set_node_options(
            "tests",
            Node.objects.get(name="three"),
            extra_endpoints=["203.0.113.1:1"],
            advertised_networks=[],
            excluded_networks=[],
            now=NOW,
        ),
        lambda: Cluster.objects.filter(pk=cluster.pk).update(epoch=77),
    ]
    before = read(cluster)
    for step in steps:
        step()
        grown = read(cluster)
        assert grown != before
        assert grown == from_nothing(cluster)
        before = grown


def read_by_index(cluster):
    """Read a snapshot; how many members it has, and whether they were asked for one by one."""
    with CaptureQueriesContext(connection) as queries:
        count = len(read(cluster).members)
    asked = [query["sql"] for query in queries if 'FROM "nodes_node" WHERE' in query["sql"]]
    return count, [bool(re.search(r'"index" IN', sql)) for sql in asked]


def test_a_snapshot_grows_by_what_changed_alone():
    cluster = make_cluster()
    fill(cluster, 30)
    assert read_by_index(cluster) == (30, [False])
    enrol(cluster)
    assert read_by_index(cluster) == (31, [True])
    assert read_by_index(cluster) == (31, [])
    fill(cluster, revisions.NAMED_AT_MOST)
    assert read_by_index(cluster) == (31 + revisions.NAMED_AT_MOST, [True])
    fill(cluster, revisions.NAMED_AT_MOST + 1)
    assert read_by_index(cluster) == (32 + 2 * revisions.NAMED_AT_MOST, [False]), "the log need not hold so many"


def test_frames_cost_the_same_for_any_number_of_members(django_assert_num_queries):
    for count in (10, 100, 1000):
        cluster = make_cluster()
        fill(cluster, count)
        with django_assert_num_queries(3):
            assert len(read(cluster).members) == count
        with django_assert_num_queries(4):
            assert len(read(cluster, at(cluster, 0)).changed) == count
        with django_assert_num_queries(1):
            read(cluster)  # kept, encoded
        with django_assert_num_queries(2):
            read(cluster, at(cluster, count))


def visits(queries):
    """How often PostgreSQL goes through a table or an index for these queries: what they cost, whatever the time."""

    def loops(node):
        return node["Actual Loops"] + sum(map(loops, node.get("Plans", ())))

    found = 0
    with connection.cursor() as cursor:
        for query in queries:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query['sql']}")
            found += loops(cursor.fetchone()[0][0]["Plan"])
    return found


@pytest.mark.skipif(connection.vendor != "postgresql", reason="plans by statistics: PostgreSQL")
def test_a_frame_costs_no_more_where_the_database_believes_its_tables_empty():
    """PostgreSQL does, from when the last of many rows are deleted until it next counts them."""
    gone = make_cluster()
    fill(gone, 100)
    gone.delete()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    cluster = make_cluster()
    fill(cluster, 20)
    with CaptureQueriesContext(connection) as asked:
        assert len(read(cluster, at(cluster, 0)).changed) == 20
    assert visits(asked.captured_queries) < 10 * 20


# Numbers.


@pytest.mark.django_db(transaction=True)
def test_numbers_have_no_gap_and_no_double_whoever_takes_them_at_once():
    cluster = make_cluster()
    workers, each = 6, 10
    start = Barrier(workers)

    def work(_):
        start.wait()
        try:
            for _ in range(each):
                with transaction.atomic():
                    revisions.append(revisions.lock(cluster.pk), KIND.OPTIONS, now=NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))

    numbers = Change.objects.order_by("number").values_list("number", flat=True)
    assert list(numbers) == list(range(1, workers * each + 1))
    assert revisions.current(cluster.pk) == at(cluster, workers * each)


def test_a_change_that_is_rolled_back_leaves_no_number():
    cluster = make_cluster()
    with transaction.atomic():
        revisions.append(revisions.lock(cluster.pk), KIND.OPTIONS, now=NOW)
        transaction.set_rollback(True)
    assert revisions.current(cluster.pk) == at(cluster, 0)
    assert not Change.objects.exists()


# Pushes.


@pytest.fixture
def listen(valkey):
    """Read what has been published on a cluster's channel since the last call."""
    client = redis.Redis.from_url(valkey.url)
    subscriptions = []

    def subscribe(cluster):
        subscription = client.pubsub()
        subscription.subscribe(channel_name(cluster.pk))
        assert heard_by(subscription) == []
        subscriptions.append(subscription)

        def read_all():
            return [parcel for parcel in map(parse_parcel, heard_by(subscription)) if isinstance(parcel, News)]

        return read_all

    yield subscribe
    for subscription in subscriptions:
        subscription.close()
    client.close()


def queued(valkey):
    with valkey.client() as client:
        return sum(client.llen(key) for key in client.keys("kubespan:celery:*") if client.type(key) == "list")


def test_a_hundred_changes_ask_for_one_push_that_carries_the_last(
    valkey, listen, django_capture_on_commit_callbacks, monkeypatch
):
    monkeypatch.setattr(revisions, "PUSH_MARKER_SECONDS", 300)  # however long they take here
    cluster = make_cluster()
    news = listen(cluster)
    for number in range(100):
        with django_capture_on_commit_callbacks(execute=True):
            clusters.set_options("tests", cluster, ClusterOptions(mtu=1281 + number), NOW)
    assert queued(valkey) == 1

    tasks.push_cluster(cluster.pk)
    (parcel,) = news()
    message = parse_from_console(parcel.frame)
    assert (parcel.since, parcel.revision) == (at(cluster, 0), at(cluster, 100))
    assert message.options.mtu == 1380
    cluster.refresh_from_db()
    assert cluster.pushed == 100


def test_a_change_after_a_push_began_asks_for_another(valkey, django_capture_on_commit_callbacks):
    cluster = make_cluster()
    for mtu in (1300, 1301):
        with django_capture_on_commit_callbacks(execute=True):
            clusters.set_options("tests", cluster, ClusterOptions(mtu=mtu), NOW)
        tasks.push_cluster(cluster.pk)
    assert queued(valkey) == 2


@pytest.mark.parametrize(
    ("gather", "left", "expected"),
    [
        pytest.param(0, -2, None, id="none lately: at once"),
        pytest.param(50, 100, 0.05, id="this moment: the whole time"),
        pytest.param(50, 80, 0.03, id="a moment ago: what is left of it"),
        pytest.param(50, 40, None, id="longer ago: at once"),
        pytest.param(1000, 2000, 1.0, id="a long burst"),
        pytest.param(50, 5000, 0.05, id="never longer, whatever a clock does"),
    ],
)
def test_a_push_waits_for_what_is_left_since_the_last(gather, left, expected):
    assert revisions.push_wait(gather, left) == expected


def test_pushes_of_a_burst_are_further_and_further_apart():
    times = [0]
    for _ in range(7):
        times.append(revisions.next_gather(times[-1]))
    assert times[1:] == [50, 100, 200, 400, 800, 1000, 1000]


def test_a_change_at_rest_is_pushed_at_once_and_one_just_after_a_push_waits(
    valkey, django_capture_on_commit_callbacks, monkeypatch
):
    asked = []
    monkeypatch.setattr(revisions.current_app, "send_task", lambda *_, countdown, **__: asked.append(countdown))
    monkeypatch.setattr(revisions, "PUSH_GATHER", (5000, 20_000))  # so that a slow machine is soon enough
    cluster = make_cluster()
    for mtu in (1300, 1301):
        with django_capture_on_commit_callbacks(execute=True):
            clusters.set_options("tests", cluster, ClusterOptions(mtu=mtu), NOW)
        revisions.push(cluster.pk)
    assert asked[0] is None
    assert 0 < asked[1] <= 5.0
    with valkey.client() as client:
        assert client.get(f"kubespan:pushed:{cluster.pk}") == "10000"


def test_with_nothing_new_nothing_is_pushed(listen):
    cluster = make_cluster()
    news = listen(cluster)
    enrol(cluster)
    assert revisions.push(cluster.pk) == at(cluster, 1)
    assert revisions.push(cluster.pk) is None
    assert revisions.push(987_654) is None
    assert len(news()) == 1


def test_without_redis_the_change_stands_and_is_pushed_later(valkey, listen, django_capture_on_commit_callbacks):
    cluster = make_cluster()
    valkey.stop()
    with django_capture_on_commit_callbacks(execute=True):
        clusters.set_options("tests", cluster, ClusterOptions(mtu=1380), NOW)
    tasks.push_cluster(cluster.pk)
    cluster.refresh_from_db()
    assert (cluster.revision, cluster.pushed) == (1, 0)

    valkey.start()
    news = listen(cluster)
    tasks.check_lag()
    assert [parcel.revision for parcel in news()] == [at(cluster, 1)]
    assert Cluster.objects.get().pushed == 1


def test_a_node_that_lags_is_told_once_more(listen):
    cluster = make_cluster()
    behind, faulty, new, level, away = (enrol(cluster) for _ in range(5))
    revisions.push(cluster.pk)
    long_ago = NOW + timedelta(seconds=1)
    for node, connected in ((behind, long_ago), (faulty, long_ago), (level, long_ago), (new, NOW + timedelta(hours=1))):
        Node.objects.filter(pk=node.pk).update(session=f"session {node.pk}", connected_at=connected)
    sessions.record_applied(
        [(behind.pk, at(cluster, 2), ""), (faulty.pk, at(cluster, 1), "no nft"), (level.pk, at(cluster, 5), "")], NOW
    )
    sessions.record_applied([(away.pk, at(cluster, 1), "")], NOW)
    news = listen(cluster)

    assert revisions.push_again(NOW + timedelta(seconds=10)) == 0
    assert revisions.push_again(NOW + timedelta(seconds=60)) == 1
    assert [(parcel.since, parcel.revision) for parcel in news()] == [(at(cluster, 2), at(cluster, 5))]


# How long it lasts.


def test_the_log_reaches_back_as_far_as_is_promised():
    cluster = make_cluster()
    old, young = NOW - timedelta(days=8), NOW - timedelta(days=6)
    total = revisions.CHANGES_KEPT + 50
    Change.objects.bulk_create(
        Change(cluster=cluster, number=number, kind=KIND.OPTIONS, at=old if number <= 20 else young)
        for number in range(1, total + 1)
    )
    Cluster.objects.update(revision=total)

    assert revisions.prune(NOW) == 20  # the other thirty are too young
    assert revisions.prune(NOW + timedelta(days=2)) == 30
    assert revisions.prune(NOW + timedelta(days=99)) == 0
    assert Change.objects.count() == revisions.CHANGES_KEPT


def test_a_small_log_is_kept_whole():
    cluster = make_cluster()
    enrol(cluster)
    assert revisions.prune(NOW + timedelta(days=999)) == 0


def test_a_restored_backup_starts_an_epoch_that_agents_have_not_seen():
    cluster = make_cluster()
    enrol(cluster)
    held = at(cluster, 1)
    epoch = revisions.start_epoch("tests", NOW)
    again = revisions.start_epoch("tests", NOW)

    assert epoch == NOW.timestamp()
    assert again == epoch + 1
    cluster.refresh_from_db()
    assert cluster.epoch == again
    assert isinstance(read(cluster, held), Snapshot)
    assert make_cluster().epoch == again
    assert Audit.objects.filter(verb="console.restored").count() == 2


def test_a_machine_that_was_started_anew_begins_an_epoch_for_sqlite_may_have_lost_the_last_revisions(tmp_path):
    cluster = make_cluster()
    enrol(cluster)
    epochs = []
    for boot in ("first", "first", "second", "second"):
        run.note_boot(tmp_path, boot)
        cluster.refresh_from_db()
        epochs.append(cluster.epoch)
    assert epochs[0] == epochs[1] < epochs[2] == epochs[3]
    assert Audit.objects.filter(verb="console.rebooted").count() == 1


def test_the_consoles_key_is_made_once():
    first = revisions.console_settings()
    assert revisions.console_settings() == first
    assert Console.objects.count() == 1


def test_the_command_after_a_restore_says_the_new_epoch(capsys):
    make_cluster()
    call_command("start_epoch")
    assert capsys.readouterr().out == f"epoch {Cluster.objects.get().epoch}\n"
