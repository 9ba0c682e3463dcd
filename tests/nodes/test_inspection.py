"""Pages about discovery: what is kept, whether it opens, and that looking into it takes a right and leaves a row."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from html import unescape

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from kubespan.core.options import ClusterOptions
from kubespan.discovery.state import Update
from nodes import tasks
from nodes.agents.rows import in_thread
from nodes.consumers import base
from nodes.models import Audit, Cluster, Node
from nodes.services import affiliates, clusters, discovery, inspection
from nodes.services.inspection import Seal
from tests.factories import NOW, Machine, enrol, give_role, make_cluster, make_user
from tests.nodes.test_affiliates import Talos, connected
from tests.nodes.test_consumers import person, visit  # noqa: F401 - fixtures

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def talos(valkey):
    return Talos()


@pytest.fixture
def alice(django_user_model):
    return django_user_model.objects.create_superuser("alice")


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


def read(response):
    return re.sub(r"\s+", " ", unescape(response.content.decode()))


def tab(cluster, name="cluster-discovery"):
    return reverse(name, args=[cluster.uuid])


def looks():
    return list(Audit.objects.filter(verb="cluster.affiliates-shown").values_list("actor_name", "details"))


# What is listed.


def test_each_affiliate_has_its_sizes_its_times_and_where_it_speaks_from(talos):
    talos.say(talos.machine(1))
    discovery.apply(talos.row, [Update("talos-2", b"", (b"e" * 16,), 60.0)], talos.at)
    (one, two) = inspection.list_affiliates(talos.cluster).rows
    assert (one.id, one.endpoints, one.address, one.seal, one.node) == ("talos-1", 1, "", Seal.OPENS, None)
    assert one.size == len(talos.listed()["talos-1"].data)
    assert one.expires == NOW + timedelta(minutes=30)  # by the wall, which discovery's time is behind
    assert (two.seal, two.size, two.endpoints) == (Seal.EMPTY, 0, 1)


def test_a_wrong_secret_damage_and_a_damaged_endpoint_are_told_apart(talos):
    talos.say(talos.machine(1), secret=bytes(32))
    assert inspection.list_affiliates(talos.cluster).wrong_secret
    talos.say(talos.machine(2))
    talos.say(talos.machine(3), under="talos-4")
    discovery.apply(talos.row, [Update("talos-2", b"", (b"x" * 15,), 60.0), Update("junk", b"junk", (), 60.0)], 1000.0)
    listing = inspection.list_affiliates(talos.cluster)
    assert not listing.wrong_secret
    assert {row.id: row.seal for row in listing.rows} == {
        "talos-1": Seal.STRANGE, "talos-2": Seal.PARTLY, "talos-4": Seal.DAMAGED, "junk": Seal.DAMAGED}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"public_key": ""}, "no-kubespan"), ({"address": None}, "address"), ({}, "")],
)
def test_what_keeps_one_from_being_a_node_is_told(talos, changes, why):
    talos.say(talos.machine(1, **changes))
    listing = inspection.list_affiliates(talos.cluster)
    (row,) = inspection.explain(talos.cluster, listing, listing.rows)
    assert row.why == why


def test_without_the_secret_nothing_is_opened(talos, settings):
    talos.say(talos.machine(1))
    settings.KUBESPAN_KEYS = {"other": "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    (row,) = inspection.list_affiliates(Cluster.objects.get()).rows
    assert row.seal is Seal.CLOSED


# The cluster's page.


def test_the_page_says_whose_each_is_and_no_contents(page, talos):
    talos.say(talos.machine(1), talos.machine(2, public_key=""))
    talos.follow()
    node = enrol(talos.cluster, Machine(name="debian", addresses=("10.7.7.7",)))
    connected(node)
    affiliates.publish(talos.cluster.pk, talos.at)
    shown = read(page.get(tab(talos.cluster)))
    assert "no node: without KubeSpan" in shown
    assert "debian</a> (published from here)" in shown
    assert f'href="{Node.objects.get(kind="talos").get_absolute_url()}">talos-1</a>' in shown
    assert "10.7.7.7" not in shown
    assert "talos-1.example" not in shown
    assert looks() == []


@pytest.mark.parametrize(
    ("say", "words"),
    [
        pytest.param(lambda talos: None, "Nobody is listed yet", id="nobody"),
        pytest.param(
            lambda talos: talos.say(talos.machine(), secret=bytes(32)), "is not that of these machines", id="wrong"
        ),
        pytest.param(
            lambda talos: (talos.say(talos.machine(1)), talos.say(talos.machine(2), secret=bytes(32))),
            "1 affiliate does not open.",
            id="another secret",
        ),
        pytest.param(lambda talos: talos.say(talos.machine(1), under="x"), "1 affiliate is damaged.", id="damaged"),
        pytest.param(
            lambda talos: clusters.set_options("alice", talos.cluster, ClusterOptions(discovery=False), NOW),
            "Discovery is off for this cluster",
            id="off",
        ),
    ],
)
def test_what_is_wrong_is_said_above_the_list(page, talos, say, words):
    say(talos)
    assert words in read(page.get(tab(talos.cluster)))


def test_it_says_whether_anybody_serves(page, talos):
    assert "No discovery process is running." in read(page.get(tab(talos.cluster)))
    assert "not running" in read(page.get(reverse("discovery")))
    discovery.beat(time.time())
    assert "No discovery process is running." not in read(page.get(tab(talos.cluster)))
    assert "serving" in read(page.get(reverse("discovery")))


def test_it_costs_the_same_for_any_number_of_affiliates(page, talos):
    def ask():
        with CaptureQueriesContext(connection) as asked:
            assert page.get(tab(talos.cluster)).status_code == 200
        return len(asked)

    talos.say(*(talos.machine(number) for number in range(1, 4)))
    talos.follow()
    few = ask()
    talos.say(*(talos.machine(number) for number in range(1, 40)))
    talos.follow()
    assert ask() == few
    assert "1–25 of 39" in read(page.get(tab(talos.cluster)))


# Contents.


def test_looking_into_affiliates_is_a_post_and_a_row_each_time(page, talos):
    talos.say(talos.machine(1))
    talos.say(talos.machine(2), secret=bytes(32))
    address = tab(talos.cluster, "cluster-discovery-contents")
    assert page.get(address).headers["Location"] == tab(talos.cluster)
    assert looks() == []
    for _ in range(2):
        response = page.post(address)
        shown = read(response)
        assert "no-store" in response.headers["Cache-Control"]
        for told in ("talos-1.example", "10.5.0.1", "Talos (v1.9.0)", talos.machine(1).public_key, "192.0.2.1:51820"):
            assert told in shown
        assert "talos-2.example" not in shown
        assert "data-live=" not in shown  # it would close what was opened
    assert looks() == [("alice", {"affiliates": ["talos-1"]})] * 2
    activity = read(page.get(tab(talos.cluster, "cluster-activity") + "?kind=audit"))
    assert "looked at what affiliates say in cluster" in activity


def test_only_the_page_that_is_shown_is_opened(page, talos):
    talos.say(*(talos.machine(number) for number in range(1, 31)))
    page.post(tab(talos.cluster, "cluster-discovery-contents"), {"page": "2"})
    ((_, details),) = looks()
    assert len(details["affiliates"]) == 5


def test_who_may_not_look_sees_nothing_and_leaves_no_row(client, talos):
    talos.say(talos.machine(1))
    bob = make_user("bob", "viewer")
    client.force_login(bob)
    shown = read(client.get(tab(talos.cluster)))
    assert "Open the contents" not in shown
    assert "an administrator gives" in shown
    assert client.post(tab(talos.cluster, "cluster-discovery-contents")).status_code == 403
    assert looks() == []
    give_role(bob, "operator", talos.cluster)
    assert "Open the contents" in read(client.get(tab(talos.cluster)))
    assert "talos-1.example" in read(client.post(tab(talos.cluster, "cluster-discovery-contents")))
    assert [name for name, _ in looks()] == ["bob"]


# The service's page.


def test_the_service_lists_its_clusters_and_strangers(page, talos):
    talos.say(talos.machine(1))
    make_cluster("unasked")
    make_cluster("alone", enabled=False, discovery=False)
    stranger = discovery.find("their id", serve_all=True)
    discovery.apply(stranger, [Update("af1", b"sealed", (b"e1", b"e2"), 60.0, "192.0.2.77")], talos.at)
    shown = read(page.get(reverse("discovery")))
    assert "Clusters of others (1)" in shown
    assert "nobody has asked yet" in shown
    assert "off: discovery alone" in shown
    theirs = read(page.get(reverse("discovery-stranger", args=[stranger])))
    for told in ("af1", "6 bytes", "192.0.2.77"):
        assert told in theirs
    assert "their id" not in shown + theirs
    assert talos.cluster.cluster_id not in shown
    ours = page.get(reverse("discovery-stranger", args=[talos.row]))
    assert ours.headers["Location"] == tab(talos.cluster)


def test_with_no_cluster_it_teaches(page):
    assert "No cluster to serve yet" in read(page.get(reverse("discovery")))


def test_how_many_there_are_is_counted_once_an_hour(client, talos, valkey):
    def ask():
        response = client.get(reverse("discovery-stats"))
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        return response.json()

    talos.say(talos.machine(1))
    assert ask() == {"affiliates": 1}
    talos.say(talos.machine(2))
    assert ask() == {"affiliates": 1}
    with valkey.client() as redis:
        (key,) = redis.scan_iter("kubespan:cache:*discovery-stats")
        assert 0 < redis.ttl(key) <= 3600
        redis.delete(key)
    assert ask() == {"affiliates": 2}
    valkey.stop()
    assert ask() == {"affiliates": 2}


def test_where_it_cannot_be_counted_it_says_oops(client, valkey):
    def away(*_):
        raise OperationalError

    with connection.execute_wrapper(away):
        response = client.get(reverse("discovery-stats"))
    assert (response.status_code, response.json()) == (500, {"error": "Oops, try again"})


# Live.


async def test_open_pages_are_told_of_an_affiliate(visit, valkey, monkeypatch):  # noqa: F811
    monkeypatch.setattr(base, "RENEW_SECONDS", 3600.0)  # what they hear was announced
    talos = await in_thread(Talos)
    open_page = await visit(f"/live/discovery/{talos.cluster.uuid}")
    service = await visit("/live/discovery")
    assert (await open_page.hear())["type"] == "snapshot"
    assert (await service.hear())["type"] == "snapshot"
    await in_thread(talos.say, talos.machine(1))
    await in_thread(tasks.follow_discovery, talos.cluster.pk)
    assert (await open_page.hear())["type"] == "delta"
    assert (await service.hear())["type"] == "delta"


async def test_a_renewal_is_a_difference_though_nobody_announces_it(visit, valkey, monkeypatch):  # noqa: F811
    monkeypatch.setattr(base, "RENEW_SECONDS", 0.05)
    talos = await in_thread(Talos)
    await in_thread(talos.say, talos.machine(1))
    open_page = await visit(f"/live/discovery/{talos.cluster.uuid}")
    assert (await open_page.hear())["type"] == "snapshot"
    talos.at += 60.0
    await in_thread(talos.say, talos.machine(1))
    assert (await open_page.hear())["type"] == "delta"


async def test_a_page_of_a_cluster_that_is_gone_is_closed(visit, valkey):  # noqa: F811
    open_page = await visit("/live/discovery/00000000-0000-4000-8000-000000000000")
    assert await open_page.closed() == base.CLOSE_GONE
