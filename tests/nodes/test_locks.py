"""Two that write the same nodes: one waits for the other, and holds nothing that this one may want meanwhile."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, connection, transaction

from nodes.models import Node
from nodes.playground import await_true
from tests.factories import fill, make_cluster

pytestmark = pytest.mark.django_db(transaction=True)

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


def waiting():
    """How many wait for us."""
    with connection.cursor() as cursor:
        cursor.execute(WAITING)
        return cursor.fetchone()[0]


def write(pks):
    try:
        return Node.objects.filter(pk__in=pks).update_in_order(fault="written")
    finally:
        connection.close()


@pytest.fixture
def members():
    if not connection.features.has_select_for_update:
        pytest.skip("this database locks no rows")
    members = fill(make_cluster(), 3)
    # Its newest version lies behind the others' now, where a scan of the table comes last.
    Node.objects.filter(pk=members[0].pk).update(fault="moved")
    return members


def test_rows_are_locked_by_their_keys_wherever_they_lie(members):
    pks = [node.pk for node in members]
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            Node.objects.select_for_update(no_key=True).get(pk=pks[0])
            written = pool.submit(write, pks[::-1])
            await_true(waiting, 10, "nobody waits for the first node")
            # Whoever waits has none of the others: to write them now ends in no ring.
            assert len(Node.objects.select_for_update(nowait=True, no_key=True).filter(pk__in=pks[1:])) == 2
        assert written.result(10) == 3
    assert set(Node.objects.values_list("fault", flat=True)) == {"written"}


def test_a_plain_update_would_hold_the_others(members):
    """What the test above is worth: in the table's own order the first node comes last."""
    pks = [node.pk for node in members]

    def write_plainly():
        try:
            return Node.objects.filter(pk__in=pks).update(fault="written")
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            Node.objects.select_for_update(no_key=True).get(pk=pks[0])
            written = pool.submit(write_plainly)
            await_true(waiting, 10, "nobody waits for the first node")
            with pytest.raises(DatabaseError, match="could not obtain lock"), transaction.atomic():
                list(Node.objects.select_for_update(nowait=True, no_key=True).filter(pk__in=pks[1:]))
        assert written.result(10) == 3
