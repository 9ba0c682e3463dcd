"""The frame: nine places at most, where one is, and the same kind of page of another cluster."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from nodes import navigation
from nodes.templatetags import shell
from tests.factories import enrol, make_cluster, make_user

UUID_ = UUID(int=7)
THERE = f"/clusters/{UUID_}/"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        pytest.param("cluster-options", "Clusters", id="a cluster's tab"),
        pytest.param("cluster-enrolment", "Enrolment", id="enrolling into a cluster"),
        pytest.param("node", "Nodes", id="a node"),
        pytest.param("pair", "Links", id="a pair"),
        pytest.param("help", None, id="none of the nine"),
        pytest.param("", None, id="an address without a name"),
    ],
)
def test_every_page_belongs_to_one_place(name, title):
    place = navigation.current_place(name)
    assert (place.title if place else None) == title


@pytest.mark.parametrize(
    ("name", "query", "target"),
    [
        pytest.param("overview", "", THERE, id="Overview leads to the cluster"),
        pytest.param("cluster-options", "", f"{THERE}options/", id="a tab to the same tab"),
        pytest.param("cluster-secret", "", f"{THERE}options/", id="what is shown once to where it is asked for"),
        pytest.param("node-list", "q=edge&page=3", f"/nodes/?q=edge&cluster={UUID_}", id="a list keeps its filters"),
        pytest.param("activity", "tab=audit", f"/activity/?tab=audit&cluster={UUID_}", id="and its tab"),
        pytest.param("help", "", THERE, id="any other to the cluster"),
    ],
)
def test_another_cluster_has_the_same_kind_of_page(name, query, target):
    assert navigation.switch_cluster(name, QueryDict(query), UUID_) == target


@pytest.mark.parametrize(
    ("name", "query", "target"),
    [
        pytest.param("cluster", "", "/clusters/", id="a cluster's page"),
        pytest.param("cluster-activity", "kind=audit", "/activity/", id="a tab that all have"),
        pytest.param("cluster-options", "", "/clusters/", id="a tab that only a cluster has"),
        pytest.param("node", "", "/nodes/", id="a node"),
        pytest.param("token-list", f"cluster={UUID_}&sort=name", "/tokens/?sort=name", id="a narrowed list"),
        pytest.param("help", "", "/", id="any other"),
    ],
)
def test_all_clusters_have_it_as_well(name, query, target):
    assert navigation.switch_cluster(name, QueryDict(query), None) == target


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "operator"))
    return client


def switched(text):
    """What the switcher names as chosen."""
    return re.search(r'<a href="[^"]*" aria-current="true"><span>(.*?)</span>', text)[1]


@pytest.mark.django_db
def test_the_switcher_knows_of_which_cluster_a_page_is(page):
    cluster = make_cluster("homelab", now=timezone.now())
    node = enrol(cluster, now=timezone.now())
    for address, name in (
        ("/", "All clusters"),
        ("/nodes/", "All clusters"),
        (f"/nodes/?cluster={cluster.uuid}", "homelab"),
        (cluster.get_absolute_url(), "homelab"),
        (node.get_absolute_url(), "homelab"),
    ):
        assert switched(page.get(address).content.decode()) == name, address


@pytest.mark.django_db
@pytest.mark.parametrize("number", [3, 4], ids=["all of them", "one more"])
def test_the_switcher_says_that_it_has_not_all_clusters(page, monkeypatch, number):
    monkeypatch.setattr(shell, "SWITCHED_AT_MOST", 3)
    *_, last = [make_cluster(f"cluster {place}", now=timezone.now()) for place in range(number)]
    for address, here in (("/", []), (f"/nodes/?cluster={last.uuid}", [last.name]), ("/nodes/?cluster=nonsense", [])):
        text = page.get(address).content.decode()
        listed = re.findall(r"<span>(cluster \d)</span>", text.partition('id="switched"')[2].partition("</ul>")[0])
        assert set(listed) == {"cluster 0", "cluster 1", "cluster 2", *here}
        assert ('The first 3; <a href="/clusters/">' in text) is (number > 3)
        if here:
            assert switched(text) == last.name


@pytest.mark.django_db
def test_the_frame_asks_the_same_for_any_number_of_clusters(page):
    def ask():
        with CaptureQueriesContext(connection) as asked:
            page.get("/help/")
        return len(asked)

    make_cluster("one")
    few = ask()
    for number in range(20):
        make_cluster(f"cluster {number}")
    assert ask() == few


@pytest.mark.django_db
def test_without_a_cluster_there_is_nothing_to_switch(page):
    assert "ks-switcher" not in page.get("/").content.decode()


@pytest.mark.django_db
def test_every_key_that_leads_somewhere_is_named_by_the_help(page):
    text = page.get("/").content.decode()
    letters = re.findall(r'data-go="(\w)"', text)
    assert letters == list(dict.fromkeys(letters))
    assert len(letters) <= 10
    assert re.findall(r"<kbd>g</kbd> <kbd>(\w)</kbd>", text) == letters
