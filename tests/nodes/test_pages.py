"""What holds for every page: it asks the database as often for thirty nodes or people as for three."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests import pages
from tests.factories import make_cluster

pytestmark = pytest.mark.django_db


def count_queries(client, address):
    """Of two looks the one that found what is renewed now and then, such as a connection's health, renewed."""
    with CaptureQueriesContext(connection) as queries:
        client.get(address)
    return len(queries)


def test_no_page_asks_the_database_for_each_node():
    client = pages.sign_in()
    make_cluster()  # a form asks for the cluster only where there are several
    asked = {}
    for count in (10, 40):
        furnished = pages.furnish(count, name=f"{count} nodes")
        pages.settle_people(furnished, count)
        for name, address in pages.find(client, furnished).items():
            asked.setdefault(name, []).append(min(count_queries(client, address) for _ in range(2)))
    assert {name: counts for name, counts in asked.items() if counts != [counts[0]] * 2} == {}
    assert {
        "overview",
        "links-list",
        "node-list",
        "node",
        "cluster",
        "pair",
        "activity",
        "settings-webhook",
    } <= asked.keys()
