"""Overview, of all clusters and of one: figures, what needs somebody and why, at the same cost for any number."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from kubespan.core.messages import Report, Revision
from kubespan.core.reason import Reason
from nodes import live
from nodes.connections import sync_redis
from nodes.live import Summary, Table
from nodes.models import Cluster, Node, Transition
from nodes.pairs import Why
from nodes.services import clusters as services
from nodes.views import attention
from tests.factories import fill, make_cluster, make_user

pytestmark = pytest.mark.django_db

SECONDS = 60
UNKNOWN, UP, DOWN = range(3)


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "administrator"))
    return client


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


def read(response):
    return re.sub(r"\s+", " ", response.content.decode())


def say(node, peers, state, age=-1, loss=-1, at=None, known=False):
    """What a node says of these peers; `age` is milliseconds since the last handshake, `loss` per mille.

    `known` goes on with what it said before.
    """
    number = len(peers)
    report = Report(
        number=0, complete=True, revision=Revision(1, 1), members=tuple(peer.index for peer in peers),
        states=(state,) * number, endpoints=("",) * number, handshakes=(age,) * number, received=(0,) * number,
        sent=(0,) * number, rtts=(-1,) * number, losses=(loss,) * number,
    )  # fmt: skip
    table = Table(sync_redis().get(live.record_key(node.pk)) if known else None)
    table.merge(report, node.index, {peer.index for peer in peers}, (at or timezone.now()).timestamp())
    sync_redis().set(live.record_key(node.pk), table.dump(), ex=SECONDS)
    sync_redis().set(live.summary_key(node.pk), table.summary("s"), ex=SECONDS)


def connect_all():
    """Every member is connected, and follows."""
    for cluster in Cluster.objects.all():
        cluster.nodes.update(session="s", applied_epoch=cluster.epoch, applied_number=cluster.revision)


def test_attention_names_the_worst_first(cluster):
    now = timezone.now()
    nodes = fill(cluster, 4)
    for node in nodes:
        node.session, node.applied_epoch, node.applied_number = "s", 1, cluster.revision
    nodes[0].claimed_networks = ["10.0.0.0/8"]
    nodes[1].session, nodes[1].last_seen = "", now - timedelta(hours=1)
    nodes[3].fault = "no such device"
    summaries = {nodes[2].pk: Summary("s", down=2, worst=0)}
    broken = attention.find_broken(nodes, summaries)
    reasons = {(nodes[2].pk, nodes[0].pk): Why(Reason("silent", "long.", "", "no handshake on 3 of 3 endpoints"))}
    found = attention.collect(nodes, {cluster.pk: cluster}, summaries, (), broken, reasons)
    assert [f"{entry.subject.name} {entry.text}" for entry in found] == [
        "bulk-3 could not apply its settings: no such device",
        "bulk-2 cannot reach bulk-0 and 1 other: no handshake on 3 of 3 endpoints",
        "bulk-1 is away; its mesh goes on, but changes do not reach it",
        "bulk-0 asks to advertise 10.0.0.0/8; nobody has said yes",
    ]
    assert [entry.pair for entry in found] == [None, (nodes[2], nodes[0]), None, None]


def test_what_many_miss_is_one_thing_to_look_at(cluster):
    nodes = fill(cluster, 6)
    for node in nodes[1:]:
        node.session, node.applied_epoch, node.applied_number = "s", 1, cluster.revision
    summaries = {node.pk: Summary("s", down=1, worst=0) for node in nodes[1:5]}
    summaries[nodes[5].pk] = Summary("s", down=1, worst=1)
    broken = attention.find_broken(nodes, summaries)
    away = Why(Reason("away", "The agent of bulk-0 is away.", ""))
    reasons = {(nodes[1].pk, nodes[0].pk): away}
    found = attention.collect(nodes, {cluster.pk: cluster}, summaries, (), broken, reasons)
    assert [f"{entry.subject.name} {entry.text}" for entry in found] == [
        "bulk-0 cannot be reached by bulk-1, bulk-2 and 2 others: the agent of bulk-0 is away",
        "bulk-5 cannot reach bulk-1",
    ]


def test_the_overview_says_why(page, cluster):
    """From the two ends' last reports and their rows, with the link to the page that says more."""
    nodes = fill(cluster, 3)
    connect_all()
    say(nodes[0], nodes[1:2], DOWN, 240_000)
    say(nodes[1], nodes[:1], DOWN, 240_000)
    for address in ("/", cluster.get_absolute_url()):
        text = read(page.get(address))
        said = "bulk-0</a> cannot reach bulk-1, nor the other way round: no handshake on 2 of 2 endpoints, for 4 m"
        assert said in text
        assert text.count("cannot reach") == 2  # once for eyes, once in the link's name
        assert f'href="/links/{nodes[0].pk}/{nodes[1].pk}/"' in text
        assert re.search(r'class="ks-when">at least <time datetime="[^"]*" data-relative>just now<', text)


def test_what_is_said_of_a_link_has_its_age(page, cluster):
    """As the end has it that lost the other first; `at least` where it was so before the console first heard of it."""
    now = timezone.now()
    nodes = fill(cluster, 3)
    connect_all()
    say(nodes[0], nodes[1:2], UP, at=now - timedelta(minutes=30))
    say(nodes[0], nodes[1:2], DOWN, at=now - timedelta(minutes=4), known=True)
    say(nodes[1], nodes[:1], UP, at=now - timedelta(minutes=30))
    say(nodes[1], nodes[:1], DOWN, at=now - timedelta(minutes=3), known=True)
    (entry,) = page.get("/").context["attention"]
    assert round((now - entry.since).total_seconds()) == pytest.approx(240, abs=1)
    assert not entry.at_least


@pytest.mark.parametrize(
    ("sentence", "clause"),
    [
        ("The agent of Edge is away: it is off.", "the agent of Edge is away: it is off"),
        ("Edge waits for approval.", "Edge waits for approval"),
        ("edge-2 waits for approval.", "edge-2 waits for approval"),
        ("KubeSpan is switched off in this cluster.", "KubeSpan is switched off in this cluster"),
        ("UDP port 51820 is taken.", "UDP port 51820 is taken"),
        ("No endpoint is known of either end.", "no endpoint is known of either end"),
        ("", ""),
    ],
)
def test_a_reason_after_a_colon_begins_small_unless_by_a_name(sentence, clause):
    assert attention.clause(sentence, "Edge", "edge-2") == clause


def test_links_that_are_up_and_carry_nothing_come_after_those_that_are_not_up(cluster):
    """By their peer as well; and once only where one end says that the link is down."""
    nodes = fill(cluster, 7)
    for node in nodes:
        node.session, node.applied_epoch, node.applied_number = "s", 1, cluster.revision
    mute = Summary("s", up=6, mute=2, mute_to=6)
    summaries = {
        nodes[0].pk: Summary("s", up=5, down=1, worst=1, mute=1, mute_to=6),
        nodes[1].pk: Summary("s", up=6, mute=1, mute_to=0),
        nodes[2].pk: mute,
        nodes[3].pk: mute,
        nodes[4].pk: Summary("s", up=6, mute=2, mute_to=5),
        nodes[5].pk: Summary("s", up=6, mute=1, mute_to=4),
    }
    broken = attention.find_broken(nodes, summaries)
    reason = Why(Reason("mute", "long.", "Look.", "handshakes pass"))
    pairs = [(0, 1), (0, 6), (4, 5)]
    reasons = {(nodes[one].pk, nodes[other].pk): reason for one, other in pairs}
    found = attention.collect(nodes, {cluster.pk: cluster}, summaries, (), broken, reasons)
    assert [f"{entry.subject.name} {entry.text}" for entry in found] == [
        "bulk-6 gives no answer to bulk-0, bulk-2 and 1 other: handshakes pass",
        "bulk-0 cannot reach bulk-1: handshakes pass",
        "bulk-4 gets no answer from bulk-5 and 1 other, nor the other way round: handshakes pass",
    ]
    gone = {(nodes[0].pk, nodes[6].pk): Why(Reason("fading", "long.", ""))}
    found = attention.collect(nodes, {cluster.pk: cluster}, summaries, (), broken, gone)
    assert [entry.text for entry in found] == ["cannot reach bulk-1"], "what has no reason any more is not told"


@pytest.mark.parametrize(("loss", "told"), [(1000, True), (950, False)], ids=["all lost", "one was answered"])
def test_the_overview_tells_of_a_link_that_is_up_and_carries_nothing(page, cluster, loss, told):
    nodes = fill(cluster, 3)
    connect_all()
    say(nodes[0], nodes[1:2], UP, 20_000, loss=loss)
    say(nodes[1], nodes[:1], UP, 20_000, loss=loss)
    said = "bulk-0</a> gets no answer from bulk-1, nor the other way round: handshakes pass, but no probe is answered"
    assert (said in read(page.get("/"))) is told


@pytest.mark.parametrize(("known", "told"), [(30, False), (600, True)], ids=["still trying", "tried all in vain"])
def test_a_link_that_is_unknown_is_told_once_every_endpoint_was_tried(page, cluster, known, told):
    """Of two endpoints each has 15 s; `down` lasts for a moment between them only."""
    nodes = fill(cluster, 2)
    cluster.nodes.update(approved_at=timezone.now() - timedelta(seconds=known))
    connect_all()
    say(nodes[0], nodes[1:], UNKNOWN)
    say(nodes[1], nodes[:1], UNKNOWN)
    text = read(page.get("/"))
    said = "bulk-0</a> cannot reach bulk-1, nor the other way round: no handshake on 2 of 2 endpoints, so far"
    assert (said in text) is told
    assert ("Nothing." in text) is not told


def test_another_clusters_troubles_are_on_its_own_page(page, cluster):
    other = make_cluster("office", now=timezone.now())
    fill(cluster, 1)
    fill(other, 2)
    Node.objects.update(fault="no such device", session="s")
    assert [len(page.get(address).context["attention"]) for address in ("/", other.get_absolute_url())] == [3, 2]


def test_the_strip_counts(page, cluster):
    nodes = fill(cluster, 4)
    connect_all()
    Node.objects.filter(pk=nodes[3].pk).update(session="", applied_number=0)
    say(nodes[0], nodes[1:3], UP)
    say(nodes[1], nodes[2:3], DOWN)
    now = timezone.now()
    for at in (now, now - timedelta(hours=2)):
        Transition.objects.create(cluster=cluster, node=nodes[0], kind="node", after="away", at=at)
    services.set_options("alice", cluster, services.ClusterOptions(mtu=1400), now)
    connect_all()
    Node.objects.filter(pk=nodes[3].pk).update(session="", applied_number=0)
    context = page.get("/").context
    standing = context["standing"]
    assert (standing.size, standing.connected, standing.drift) == (4, 3, 1)
    assert standing.links == (2, 0, 1)
    assert (context["by_itself"], context["by_people"]) == (1, 2)  # the cluster was created, its options were set


def test_options_in_force_are_told(page):
    cluster = make_cluster("x", mtu=1280, harvest_extra_endpoints=True, peer_endpoint_filters=("10.0.0.0/8",))
    told = dict(page.get(cluster.get_absolute_url()).context["in_force"])
    assert told["MTU"] == "1280"
    assert told["Harvest endpoints"] == "on"
    assert told["Endpoints that machines try"] == "10.0.0.0/8"
    assert "Networks left out" not in told


@pytest.mark.parametrize("name", ["overview", "cluster-list", "cluster"])
def test_any_number_of_nodes_and_clusters_costs_the_same(page, cluster, name):
    def ask():
        address = cluster.get_absolute_url() if name == "cluster" else reverse(name)
        with CaptureQueriesContext(connection) as asked, _CountedCalls() as calls:
            assert page.get(address).status_code == 200
        return len(asked), calls.number

    make_cluster("a second one")
    few = fill(cluster, 3)
    connect_all()
    say(few[0], few[1:2], DOWN)
    before = ask()
    many = fill(cluster, 27)
    for number in range(10):
        fill(make_cluster(f"cluster {number}"), 3)
    connect_all()
    for node in many:
        say(node, few[:2], DOWN)
    assert ask() == before


class _CountedCalls:
    """How often Redis is called within, by its own count of all commands that come in together."""

    def __enter__(self):
        self._before = self._read()
        return self

    def __exit__(self, *_):
        self.number = self._read() - self._before

    @staticmethod
    def _read():
        return sync_redis().info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
