"""Lists as files: what the address asks for, plain, harmless to spreadsheets, and without a secret."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone as clock

from nodes import exports, live
from nodes.connections import sync_redis
from nodes.models import DiscoveryAffiliate, DiscoveryCluster, Node, Transition
from tests.factories import NOW, enrol, fill, make_cluster, make_token

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(client):
    client.force_login(get_user_model().objects.create_superuser("alice"))
    return client


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=clock.now())


def rows(response, kind="json"):
    text = response.content.decode()
    return json.loads(text) if kind == "json" else list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_file_has_what_the_address_filters_in_its_order_and_on_all_pages(page, cluster, kind):
    nodes = fill(cluster, 31)
    Node.objects.filter(pk__in=[node.pk for node in nodes[:30]]).update(session="s")
    response = page.get(f"/nodes/?agent=connected&sort=-name&page=2&_export={kind}")
    assert [row["name"] for row in rows(response, kind)] == sorted((node.name for node in nodes[:30]), reverse=True)
    assert response.headers["X-Total-Count"] == "30"
    assert response.headers["Content-Disposition"].startswith('attachment; filename="nodes-')
    assert response.headers["Cache-Control"] == "no-store"


def test_a_node_is_written_plainly(page, cluster):
    node = enrol(cluster, now=NOW)
    Node.objects.filter(pk=node.pk).update(last_seen=datetime(2026, 3, 1, 13, 0, 1, 500, timezone(timedelta(hours=1))))
    sync_redis().set(live.summary_key(node.pk), msgspec.msgpack.encode(live.Summary("s", up=2, down=1)))
    (row,) = rows(page.get("/nodes/?_export=json"))
    known = ("name", "cluster", "kind", "membership", "links_up", "links_down", "agent", "last_seen", "fault")
    assert [row[name] for name in known] == [
        node.name, "homelab", "agent", "approved", 2, 1, "away", "2026-03-01T12:00:01Z", None,
    ]  # fmt: skip
    assert row["endpoints"].split() == [candidate.endpoint for candidate in node.candidates.all()]


LISTS = ["/nodes/", "/clusters/", "/tokens/", "/activity/?tab=links", "/activity/?tab=audit", "/discovery/"]


@pytest.fixture
def full(cluster):
    """Something on every list, by names that are formulas."""
    node = enrol(cluster, now=clock.now())
    Node.objects.filter(pk=node.pk).update(name="=HYPERLINK(1)", agent_version="@SUM(1)", fault="+1")
    Transition.objects.create(cluster=cluster, node=node, kind="fault", text="-2+3", at=clock.now())
    kept = DiscoveryCluster.objects.create(cluster_id=cluster.cluster_id)
    stranger = DiscoveryCluster.objects.create(cluster_id="stranger")
    for served in (kept, stranger):
        DiscoveryAffiliate.objects.create(cluster=served, affiliate_id="=1+1", data=b"x", expires=1e10, due=1e10)
    token, plain = make_token(cluster, now=clock.now())
    tabs = [f"/clusters/{cluster.uuid}/{tab}" for tab in ("activity/", "activity/?kind=audit", "discovery/")]
    return [*LISTS, *tabs, f"/discovery/{stranger.pk}/"], [
        plain,
        token.digest,
        cluster.secret.reveal(),
        cluster.cluster_id,
    ]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_every_list_offers_a_file_without_secrets_and_without_formulas(page, full, kind):
    addresses, secrets = full
    for address in addresses:
        link = f"_export={kind}"
        assert link in page.get(address).content.decode(), address
        response = page.get(address + ("&" if "?" in address else "?") + link)
        assert response.status_code == 200, address
        assert rows(response, kind), address
        assert not [one for one in secrets if one in response.content.decode()], address
        if kind == "csv":
            cells = [cell for row in rows(response, kind) for cell in row.values()]
            assert not [cell for cell in cells if cell.startswith(exports.FORMULA)], address


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param("=1+1", "'=1+1", id="formula"),
        pytest.param("+1", "'+1", id="plus"),
        pytest.param("-1", "'-1", id="text that begins with a minus"),
        pytest.param("@SUM(A1)", "'@SUM(A1)", id="at sign"),
        pytest.param("\t=1", "'\t=1", id="tabulator before a formula"),
        pytest.param("edge-1", "edge-1", id="name"),
        pytest.param(-1, -1, id="number below nought"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_a_spreadsheet_runs_nothing(value, written):
    assert exports.defuse(value) == written


def test_a_program_is_given_names_as_they_are(page, full):
    assert "=HYPERLINK(1)" in [row["name"] for row in rows(page.get("/nodes/?_export=json"))]


def test_an_empty_file_still_has_its_columns(page, cluster):
    assert page.get("/nodes/?q=nobody&_export=csv").content.decode().split(",")[:2] == ["name", "cluster"]
    assert rows(page.get("/nodes/?q=nobody&_export=json")) == []


def test_there_is_no_other_kind(page, cluster):
    assert page.get("/nodes/?_export=xlsx").status_code == 400


def test_a_file_is_bounded_and_says_of_how_many(page, cluster, monkeypatch):
    monkeypatch.setattr(exports, "LIMIT", 5)
    fill(cluster, 7)
    response = page.get("/nodes/?sort=name&_export=json")
    assert [row["name"] for row in rows(response)] == [f"bulk-{number}" for number in range(5)]
    assert response.headers["X-Total-Count"] == "7"


def test_a_file_costs_the_same_queries_for_any_length(page, cluster):
    counts = []
    for more in (3, 27):
        fill(cluster, more)
        with CaptureQueriesContext(connection) as asked:
            page.get("/nodes/?_export=csv")
        counts.append(len(asked))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("at", [datetime(2026, 3, 1, 12, tzinfo=UTC), 1772366400.0])
def test_times_are_in_utc(at):
    assert exports.moment(at) == "2026-03-01T12:00:00Z"


def test_files_are_for_who_may_see_the_list(client, cluster):
    assert client.get("/nodes/?_export=csv").status_code == 302
