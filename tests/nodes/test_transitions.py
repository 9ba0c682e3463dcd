"""Transitions as rows, and the day on which half a million links change at once."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from nodes.live import Moved
from nodes.models import Transition
from nodes.services import transitions
from tests.factories import NOW, fill, make_cluster

pytestmark = pytest.mark.django_db


def rows(count, at=NOW):
    return [Transition(kind="link", before="up", after="down", at=at) for _ in range(count)]


def test_what_is_beyond_a_minutes_number_is_one_row_that_counts():
    cluster = make_cluster()
    assert transitions.record_transitions(cluster.pk, rows(999), NOW) == 999
    assert transitions.record_transitions(cluster.pk, rows(500), NOW) == 1
    assert transitions.record_transitions(cluster.pk, rows(500), NOW + timedelta(seconds=59)) == 0

    assert Transition.objects.filter(kind="link").count() == transitions.TRANSITIONS_A_MINUTE
    assert Transition.objects.get(kind="capped").count == 999
    assert transitions.record_transitions(cluster.pk, rows(3), NOW + timedelta(seconds=60)) == 3


def test_links_are_rows_as_far_as_they_are_kept():
    one, other = fill(make_cluster(), 2)
    opened = Moved(member=1, before="unknown", after="up", endpoint_before="", endpoint="192.0.2.1:51820")
    roamed = msgspec.structs.replace(opened, before="up", endpoint_before="192.0.2.2:51820")
    closed = msgspec.structs.replace(opened, before="up", after="down", endpoint="")
    room = transitions.TRANSITIONS_A_MINUTE - 3
    transitions.record_transitions(one.cluster_id, rows(room), NOW - timedelta(seconds=NOW.second))
    links = [transitions.LinkMoved(one.pk, other.pk, moved, NOW) for moved in (opened, roamed, closed, opened)]

    assert transitions.record_links(one.cluster_id, links, NOW) == 3
    kept = Transition.objects.filter(node=one, peer=other, cluster=one.cluster, kind="link", at=NOW).order_by("pk")
    assert [(row.before, row.after, row.text) for row in kept] == [
        ("unknown", "up", "endpoint 192.0.2.1:51820"),
        ("up", "up", "endpoint 192.0.2.2:51820 → 192.0.2.1:51820"),
        ("up", "down", "no endpoint"),
    ]
    assert Transition.objects.get(kind="capped").count == 1


def test_one_clusters_storm_is_not_anothers():
    storm, calm = make_cluster(), make_cluster()
    transitions.record_transitions(storm.pk, rows(2000), NOW)
    assert transitions.record_transitions(calm.pk, rows(1), NOW) == 1


def test_a_deleted_cluster_has_no_history():
    assert transitions.record_transitions(987_654, rows(1), NOW) == 0


def test_nothing_is_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert transitions.record_transitions(1, [], NOW) == 0


def test_they_are_kept_for_thirty_days():
    cluster = make_cluster()
    transitions.record_transitions(cluster.pk, rows(2), NOW)
    assert transitions.prune(NOW + timedelta(days=30)) == 0
    assert transitions.prune(NOW + timedelta(days=30, seconds=1)) == 2
