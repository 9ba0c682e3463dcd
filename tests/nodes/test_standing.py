"""Rows that pages of all nodes are counted from: what only few nodes have is read of those, and never missing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from nodes import standing
from nodes.models import Node
from tests.factories import fill, make_cluster

pytestmark = pytest.mark.django_db

SEEN = timezone.now() - timedelta(hours=1)


@pytest.fixture
def nodes():
    """One that is here, one that is away, one that waits, and one that claims a network."""
    here, away, waiting, claiming = fill(make_cluster(), 4)
    Node.objects.update(session="s", last_seen=SEEN)
    Node.objects.filter(pk=away.pk).update(session="")
    Node.objects.filter(pk=waiting.pk).update(status=Node.Status.PENDING)
    Node.objects.filter(pk=claiming.pk).update(claimed_networks=["10.0.0.0/8"], networks=["10.0.0.0/9"])
    return here, away, waiting, claiming


@pytest.mark.parametrize("most", [500, 0], ids=["few", "many"])
def test_what_few_nodes_have_is_read_of_those(nodes, monkeypatch, most):
    monkeypatch.setattr(standing, "MOST_NAMED", most)
    here, away, waiting, claiming = nodes
    rows = {row.pk: row for row in standing.read_rows(Node.objects.all())}
    assert set(rows) == {node.pk for node in nodes}
    assert rows[away.pk].last_seen == SEEN
    assert rows[waiting.pk].enrolled == waiting.enrolled
    assert (rows[claiming.pk].claimed_networks, rows[claiming.pk].networks) == (["10.0.0.0/8"], ["10.0.0.0/9"])
    assert (rows[here.pk].last_seen is None) is (most > 0), "of no matter, and not read where that spares something"


def test_who_comes_back_between_the_two_queries_has_been_seen(nodes):
    _, away, *_ = nodes
    asked = []

    def come_back(execute, sql, *more):
        asked.append(sql)
        if len(asked) == 2:
            asked.append("")
            Node.objects.filter(pk=away.pk).update(session="t")
        return execute(sql, *more)

    with connection.execute_wrapper(come_back):
        rows = {row.pk: row for row in standing.read_rows(Node.objects.all())}
    assert (rows[away.pk].session, rows[away.pk].last_seen) == ("", SEEN)
