"""Two that write the same nodes: one waits for the other, and holds nothing that this one may want meanwhile."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, connection, transaction

from nodes.models import Node
from nodes.playground import await_true
from tests.factories import fill, make_cluster
from tests.players import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
BY_PLACE = "SET enable_indexscan = off; SET enable_bitmapscan = off"
"""Rows are found in the order in which they lie, as the database may choose to at any time."""


@pytest.fixture
def pks():
    """Of three nodes, the first of which lies last: its newest version is behind the others."""
    if not connection.features.has_select_for_update:
        pytest.skip("this database locks no rows")
    pks = [node.pk for node in fill(make_cluster(), 3)]
    Node.objects.filter(pk=pks[0]).update(fault="moved")
    return pks


def waiting():
    """How many wait for us."""
    with connection.cursor() as cursor:
        cursor.execute(WAITING)
        return cursor.fetchone()[0]


def write(update, pks):
    """In a thread of its own."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(BY_PLACE)
        return update(Node.objects.filter(pk__in=pks), fault="written")
    finally:
        connection.close()


def lock_at_once(pks):
    return list(Node.objects.select_for_update(nowait=True, no_key=True).filter(pk__in=pks))


@pytest.mark.parametrize(
    ("update", "holds_others"),
    [
        pytest.param(type(Node.objects.all()).update_in_order, False, id="by keys"),
        pytest.param(type(Node.objects.all()).update, True, id="as they lie, to see that it would matter"),
    ],
)
def test_rows_are_locked_by_their_keys_wherever_they_lie(pks, update, holds_others):
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            Node.objects.select_for_update(no_key=True).get(pk=pks[0])
            written = pool.submit(write, update, pks)
            await_true(waiting, PATIENCE, "nobody waits for the first node")
            if holds_others:
                with pytest.raises(DatabaseError, match="could not obtain lock"), transaction.atomic():
                    lock_at_once(pks[1:])
            else:  # to write them now ends in no ring
                assert len(lock_at_once(pks[1:])) == 2
        assert written.result(PATIENCE) == 3
    assert set(Node.objects.values_list("fault", flat=True)) == {"written"}
