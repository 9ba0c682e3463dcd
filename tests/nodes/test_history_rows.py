"""History as services write it: on the real database, from what the real Redis holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from kubespan.core.messages import Report, Revision
from nodes import live
from nodes.connections import sync_redis
from nodes.history import points
from nodes.history.points import Point
from nodes.models import Audit, FollowedLink, HistoryMark, LinkHistory, Node, NodeHistory, Period
from nodes.services import followed, history
from nodes.services.refused import Refused
from tests.factories import fill, make_cluster

pytestmark = pytest.mark.django_db

UNKNOWN, UP, DOWN = range(3)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def cluster():
    return make_cluster()


@pytest.fixture
def nodes(cluster):
    return fill(cluster, 4)


def say(node, at, states=None, received=0, sent=0):
    """What a node's agent last reported: the states of its peers, by their index."""
    states = {index: UP for index in range(4) if index != node.index} if states is None else states
    table = live.Table()
    count = len(states)
    report = Report(
        number=0, complete=True, revision=Revision(1, 1), members=tuple(states), states=tuple(states.values()),
        endpoints=("",) * count, handshakes=(-1,) * count, received=(received,) * count, sent=(sent,) * count,
    )  # fmt: skip
    table.merge(report, node.index, set(states), at.timestamp())
    sync_redis().set(live.record_key(node.pk), table.dump(), ex=600)
    sync_redis().set(live.summary_key(node.pk), table.summary("session"), ex=600)


def leave(node):
    sync_redis().delete(live.summary_key(node.pk), live.record_key(node.pk))


def of_node(node, period=Period.MINUTE):
    """A node's points by the time of day."""
    return unpacked(NodeHistory.objects.filter(node=node, period=period))


def of_link(node, peer, period=Period.MINUTE):
    return unpacked(LinkHistory.objects.filter(node=node, peer=peer, period=period))


def unpacked(rows):
    step = {row.pk: timedelta(seconds=row.period) for row in rows}
    return {
        (row.start + place * step[row.pk]).strftime("%H:%M"): point
        for row in rows
        for place, point in points.unpack(bytes(row.points))
    }


def test_each_minute_is_a_point_and_a_missed_one_is_a_gap(cluster, nodes):
    here = nodes[0]
    for minutes, states in ((0, {1: UP, 2: UP, 3: DOWN}), (1, {1: UP, 2: UNKNOWN, 3: DOWN}), (61, {1: UP})):
        say(here, NOON + minutes * MINUTE, states)
        assert history.note_minute(cluster.pk, NOON + minutes * MINUTE)
    assert of_node(here) == {
        "12:00": Point(1, 1, 2, 0, 1),
        "12:01": Point(1, 1, 1, 1, 1, received=0.0, sent=0.0),
        "13:01": Point(1, 1, 1),
    }
    assert of_node(nodes[1]) == dict.fromkeys(("12:00", "12:01", "13:01"), Point(1)), "it is away"


def test_a_minute_is_noted_once(cluster, nodes):
    say(nodes[0], NOON)
    assert history.note_minute(cluster.pk, NOON)
    leave(nodes[0])
    assert not history.note_minute(cluster.pk, NOON + timedelta(seconds=59))
    assert not history.note_minute(cluster.pk, NOON - MINUTE), "a late one does not come before"
    assert of_node(nodes[0]) == {"12:00": Point(1, 1, 3)}


def test_traffic_is_the_difference_of_counters(cluster, nodes):
    here, there = nodes[:2]
    followed.pin(None, here, there, NOON, pinned=True)
    for minutes, counted in enumerate((100, 700, 5, 65)):
        say(here, NOON + minutes * MINUTE, {1: UP}, received=counted, sent=2 * counted)
        history.note_minute(cluster.pk, NOON + minutes * MINUTE)
    for found in (of_link(here, there), of_node(here)):
        assert [(point.received, point.sent) for point in found.values()] == [
            (None, None), (10.0, 20.0), (None, None), (1.0, 2.0),
        ]  # fmt: skip


def test_without_the_counters_of_before_there_are_no_rates(cluster, nodes, valkey):
    say(nodes[0], NOON, received=100)
    history.note_minute(cluster.pk, NOON)
    valkey.empty()
    say(nodes[0], NOON + MINUTE, received=700)
    history.note_minute(cluster.pk, NOON + MINUTE)
    assert of_node(nodes[0])["12:01"] == Point(1, 1, 3)


def test_links_that_are_not_up_are_followed_for_an_hour(cluster, nodes):
    here, there = nodes[:2]
    say(here, NOON, {1: DOWN, 2: UP})
    history.note_minute(cluster.pk, NOON)
    assert list(FollowedLink.objects.values_list("node", "peer")) == [(here.pk, there.pk)]
    for minutes in (59, 61):
        say(here, NOON + minutes * MINUTE, {1: UP, 2: UP})
        history.note_minute(cluster.pk, NOON + minutes * MINUTE)
    assert {at: (point.up, point.down) for at, point in of_link(here, there).items()} == {
        "12:00": (0, 1),
        "12:59": (1, 0),
    }
    assert not LinkHistory.objects.exclude(node=here, peer=there).exists()


def test_a_link_that_stays_down_is_followed_on(cluster, nodes):
    here, there = nodes[:2]
    for minutes in range(0, 121, 30):
        say(here, NOON + minutes * MINUTE, {1: DOWN})
        history.note_minute(cluster.pk, NOON + minutes * MINUTE)
    assert len(of_link(here, there)) == 5


def test_what_a_node_said_before_it_left_is_not_what_its_links_are_like(cluster, nodes):
    here, there = nodes[:2]
    followed.pin(None, here, there, NOON, pinned=True)
    say(here, NOON)
    sync_redis().delete(live.summary_key(here.pk))
    history.note_minute(cluster.pk, NOON)
    assert of_link(here, there) == {"12:00": Point(1)}


def test_when_too_many_links_are_down_some_are_followed_and_the_rest_is_counted(cluster, nodes, monkeypatch):
    monkeypatch.setattr(followed, "MOST_UNWELL", 4)
    for node in nodes:
        say(node, NOON, {index: DOWN for index in range(4) if index != node.index})
    history.note_minute(cluster.pk, NOON)
    assert LinkHistory.objects.count() == 4
    assert HistoryMark.objects.get().left_out == 8
    before = set(LinkHistory.objects.values_list("node", "peer"))
    history.note_minute(cluster.pk, NOON + MINUTE)
    assert set(LinkHistory.objects.values_list("node", "peer")) == before, "the same ones go on"
    assert HistoryMark.objects.get().left_out == 8


def test_links_that_are_down_are_found_at_a_few_nodes_each_minute(cluster, nodes, monkeypatch):
    monkeypatch.setattr(followed, "RECORDS", 1)
    for node in nodes[:2]:
        say(node, NOON, {3: DOWN})
    found = []
    for minutes in range(2):
        history.note_minute(cluster.pk, NOON + minutes * MINUTE)
        found.append((LinkHistory.objects.count(), HistoryMark.objects.get().left_out))
    assert found == [(1, 1), (2, 0)]


def test_a_quarter_is_its_minutes(cluster, nodes):
    here, there = nodes[:2]
    followed.pin(None, here, there, NOON, pinned=True)
    for minutes in (0, 1, 2, 14, 15):
        state = DOWN if minutes == 14 else UP
        say(here, NOON + minutes * MINUTE, {1: state, 2: UP})
        history.note_minute(cluster.pk, NOON + minutes * MINUTE)
    history.roll_up(cluster.pk, NOON + 14 * MINUTE)
    assert of_node(here, Period.QUARTER) == {}
    history.roll_up(cluster.pk, NOON + 15 * MINUTE)
    (quarter,) = of_node(here, Period.QUARTER).items()
    assert (quarter[0], quarter[1][:5]) == ("12:00", (4, 4, 7, 0, 1))
    assert of_link(here, there, Period.QUARTER)["12:00"][:5] == (4, 4, 3, 0, 1)
    assert history.roll_up(cluster.pk, NOON + 29 * MINUTE) == 0, "once"


def test_a_worker_that_was_away_rolls_up_what_it_missed(cluster, nodes):
    for minutes in (0, 20, 50, 70, 200):
        say(nodes[0], NOON + minutes * MINUTE)
        history.note_minute(cluster.pk, NOON + minutes * MINUTE)
    history.roll_up(cluster.pk, NOON + 15 * MINUTE)
    history.roll_up(cluster.pk, NOON + 225 * MINUTE)
    assert list(of_node(nodes[0], Period.QUARTER)) == ["12:00", "12:15", "12:45", "13:00", "15:15"]


def test_a_day_later_minutes_are_gone_and_a_week_later_quarters(cluster, nodes):
    say(nodes[0], NOON, {1: DOWN})
    history.note_minute(cluster.pk, NOON)
    history.roll_up(cluster.pk, NOON + 15 * MINUTE)
    history.prune(NOON + timedelta(hours=24))
    assert NodeHistory.objects.filter(period=Period.MINUTE).count() == 4
    history.prune(NOON + timedelta(hours=26))
    assert set(NodeHistory.objects.values_list("period", flat=True)) == {Period.QUARTER}
    assert set(LinkHistory.objects.values_list("period", flat=True)) == {Period.QUARTER}
    assert not FollowedLink.objects.exists()
    history.prune(NOON + timedelta(days=8, hours=1))
    assert not NodeHistory.objects.exists()
    assert not LinkHistory.objects.exists()


def test_noting_takes_as_many_queries_for_many_nodes(cluster, nodes):
    def queries(now):
        for node in Node.objects.filter(cluster=cluster):
            say(node, now)
        with CaptureQueriesContext(connection) as found:
            history.note_minute(cluster.pk, now)
            history.roll_up(cluster.pk, now)
        return len(found)

    queries(NOON)
    few = queries(NOON + 15 * MINUTE)
    fill(cluster, 30)
    assert queries(NOON + 30 * MINUTE) == few


def test_a_page_that_is_open_has_its_link_followed_for_a_day(cluster, nodes):
    here, there = nodes[:2]
    assert followed.look_at(here, there, NOON)
    assert not followed.look_at(here, there, NOON + timedelta(hours=1)), "that is written already"
    assert followed.look_at(here, there, NOON + timedelta(hours=13))
    for hours in (36, 38):
        at = NOON + timedelta(hours=hours)
        say(here, at)
        history.note_minute(cluster.pk, at)
    assert list(of_link(here, there)) == ["00:00"]
    history.prune(NOON + timedelta(hours=38))
    assert not FollowedLink.objects.exists()


def test_a_link_is_pinned_and_let_go_with_an_audit_row_each(cluster, nodes):
    here, there = nodes[:2]
    followed.pin("alice", here, there, NOON, pinned=True)
    assert followed.is_pinned(there, here)
    history.prune(NOON + timedelta(days=100))
    assert followed.is_pinned(here, there)
    followed.pin("alice", here, there, NOON, pinned=False)
    assert not followed.is_pinned(here, there)
    rows = Audit.objects.filter(node=here).order_by("pk").values_list("verb", "details")
    assert list(rows) == [
        ("node.history-kept", {"peer": there.name}),
        ("node.history-let-go", {"peer": there.name}),
    ]


def test_a_cluster_has_so_many_wanted_links_and_no_more(cluster, nodes, monkeypatch):
    monkeypatch.setattr(followed, "MOST_WANTED", 2)
    first, second, third, _ = nodes
    followed.look_at(first, second, NOON)
    with pytest.raises(Refused, match="2 links of this cluster"):
        followed.pin(None, second, third, NOON, pinned=True)
    assert not followed.look_at(second, third, NOON)
    followed.pin(None, first, second, NOON, pinned=True)
    followed.pin(None, first, second, NOON, pinned=False)
    assert FollowedLink.objects.count() == 2
