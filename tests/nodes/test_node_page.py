"""A node's tabs: each reads what it shows; what it should have beside what it applied; where peers have it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from kubespan.core.messages import Report, Revision
from kubespan.core.options import ClusterOptions, Options
from nodes import configuration, live
from nodes.connections import sync_redis
from nodes.live import Table
from nodes.models import Audit, Change, Cluster, Node
from nodes.services import clusters
from nodes.services import nodes as services
from nodes.services.refused import Refused
from nodes.views import node_page
from tests.factories import Machine, enrol, fill, make_cluster, make_user

pytestmark = pytest.mark.django_db

SECONDS = 60
TABS = ("node", "node-links", "node-endpoints", "node-configuration", "node-activity")
UNKNOWN, UP, DOWN = range(3)


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "administrator"))
    return client


def read(response):
    return re.sub(r"\s+", " ", response.content.decode())


def follow(node):
    """It is connected, and has applied everything."""
    cluster = Cluster.objects.get(pk=node.cluster_id)
    Node.objects.filter(pk=node.pk).update(session="s", applied_epoch=cluster.epoch, applied_number=cluster.revision)


def say(node, peers, state=UP, endpoint="", received=None):
    """What a node last reported of these peers: one state of all of them, or one of each."""
    number = len(peers)
    report = Report(
        number=0, complete=True, revision=Revision(1, 1), members=tuple(peer.index for peer in peers),
        states=state if isinstance(state, tuple) else (state,) * number, endpoints=(endpoint,) * number,
        handshakes=(1000,) * number, received=received or (0,) * number, sent=(0,) * number,
    )  # fmt: skip
    table = Table()
    table.merge(report, node.index, {peer.index for peer in peers}, timezone.now().timestamp())
    sync_redis().set(live.record_key(node.pk), table.dump(), ex=SECONDS)


def lines(page, node):
    """The tab's values: label to desired and applied."""
    shown = page.get(reverse("node-configuration", args=[node.pk])).context["lines"]
    return {line.label: (line.desired, line.applied) for line in shown}


def peers(page, node):
    """The tab's peers: name to what the node has of it."""
    return {peer.name: peer.applied for peer in page.get(reverse("node-configuration", args=[node.pk])).context["page"]}


def test_each_tab_has_an_address_and_says_which_it_is(page, cluster):
    node = enrol(cluster, now=timezone.now())
    titles = []
    for name in TABS:
        text = read(page.get(reverse(name, args=[node.pk])))
        titles += re.findall(r'<a href="[^"]*" aria-current="page">(\w+)</a>', text.partition('aria-label="Node"')[2])
    assert titles == ["Overview", "Links", "Endpoints", "Configuration", "Activity"]


@pytest.mark.parametrize("name", TABS)
def test_a_tab_asks_the_same_for_any_number_of_peers(page, cluster, name):
    def ask(node):
        with CaptureQueriesContext(connection) as asked:
            assert page.get(reverse(name, args=[node.pk])).status_code == 200
        return len(asked)

    node = fill(cluster, 3)[0]
    follow(node)
    few = ask(node)
    fill(cluster, 27)
    follow(node)
    assert ask(node) == few


# --------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        pytest.param("", "bulk-3 bulk-2 bulk-1 bulk-4", id="the worst first, whichever end is worse off"),
        pytest.param("sort=-worst", "bulk-4 bulk-1 bulk-2 bulk-3", id="the worst last"),
        pytest.param("sort=name", "bulk-1 bulk-2 bulk-3 bulk-4", id="by name"),
        pytest.param("sort=-name", "bulk-4 bulk-3 bulk-2 bulk-1", id="by name, turned round"),
        pytest.param("sort=received", "bulk-2 bulk-1 bulk-3 bulk-4", id="by a figure, last who has none"),
        pytest.param("sort=-received", "bulk-3 bulk-1 bulk-2 bulk-4", id="the other way round, and still last"),
        pytest.param("q=K-2", "bulk-2", id="by a part of the name"),
        pytest.param("q=nobody", "", id="nobody"),
        pytest.param("sort=__class__&page=2", "bulk-3 bulk-2 bulk-1 bulk-4", id="nonsense"),
    ],
)
def test_a_file_of_links_has_what_its_address_asks_for(page, cluster, asked, names):
    node, *others = fill(cluster, 5)
    say(node, others[:3], (UP, UP, DOWN), received=(20, 10, 30))
    say(others[1], [node], UNKNOWN)
    rows = page.get(f"{reverse('node-links', args=[node.pk])}?{asked}&_export=json").json()
    assert [row["peer"] for row in rows] == names.split()


# ------------------------------------------------------------------------------------------------------- configuration


def test_every_option_that_a_machine_acts_on_has_a_name():
    assert set(configuration.LABELS) == set(Options.__struct_fields__)


def test_a_node_that_follows_differs_nowhere(page, cluster):
    node, other = fill(cluster, 2)
    follow(node)
    say(node, [other])
    assert all(applied in (desired, "not known") for desired, applied in lines(page, node).values())
    assert peers(page, node) == {other.name: "the same"}


def test_options_that_it_has_yet_to_apply_stand_beside_those_that_it_has(page, cluster):
    node = fill(cluster, 1)[0]
    follow(node)
    now = timezone.now()
    for step, mtu in enumerate((1400, 1380)):
        clusters.set_options(
            "alice", cluster, ClusterOptions(mtu=mtu, harvest_extra_endpoints=True), now + step * LATER
        )
    found = lines(page, node)
    assert found["MTU of the link"] == ("1380", "1420")
    assert found["Harvest endpoints"] == ("on", "off")
    assert found["Bypass while a peer is down"] == ("off", "off")
    clusters.set_options("alice", cluster, ClusterOptions(mtu=1300), now + 3 * LATER)
    Node.objects.filter(pk=node.pk).update(applied_number=Cluster.objects.get().revision - 1)
    found = lines(page, node)
    assert (found["MTU of the link"], found["Harvest endpoints"]) == (("1300", "1380"), ("off", "on"))


LATER = timedelta(seconds=1)


def test_of_what_the_log_has_forgotten_it_is_said_that_nobody_knows(page, cluster):
    node = fill(cluster, 3)[0]
    follow(node)
    clusters.set_options("alice", cluster, ClusterOptions(mtu=1400), timezone.now())
    clusters.set_options("alice", cluster, ClusterOptions(mtu=1380), timezone.now())
    Change.objects.filter(number__lt=Cluster.objects.get().revision).delete()
    assert lines(page, node)["MTU of the link"] == ("1380", "not known")
    assert set(peers(page, node).values()) == {"not known"}
    Node.objects.filter(pk=node.pk).update(applied_epoch=0)
    assert lines(page, node)["MTU of the link"] == ("1380", "—")


def test_peers_that_it_has_otherwise_come_first(page, cluster):
    node, gone, stays, renamed = fill(cluster, 4)
    follow(node)
    say(node, [gone, stays, renamed])
    services.remove_node("alice", gone, gone.name, timezone.now())
    services.rename_node("alice", renamed, "another", timezone.now())
    joined = enrol(cluster, Machine("zebra"), now=timezone.now())
    assert list(peers(page, node).items()) == [
        ("another", "an older word of it"),
        (gone.name, "still has it"),
        (joined.name, "not yet"),
        (stays.name, "the same"),
    ]


def test_a_peer_that_it_does_not_report_is_not_there_yet(page, cluster):
    """Whatever revision it says it has applied."""
    node, one, other = fill(cluster, 3)
    follow(node)
    say(node, [one])
    assert peers(page, node) == {other.name: "not yet", one.name: "the same"}


def test_what_is_desired_of_a_peer_is_told(page, cluster):
    node, peer = fill(cluster, 2)
    Node.objects.filter(pk=peer.pk).update(networks=["10.20.0.0/16"])
    follow(node)
    text = read(page.get(reverse("node-configuration", args=[node.pk])))
    assert f"{peer.address}, {peer.addresses[0]}, 10.20.0.0/16" in text


# ----------------------------------------------------------------------------------------------------------- endpoints


def test_an_endpoint_tells_how_peers_fare_there(page, cluster):
    node, one, two, three = fill(cluster, 4)
    known = node.candidates.first().endpoint
    say(one, [node], UP, known)
    say(two, [node], DOWN, known)
    say(three, [node], UP, "198.51.100.99:4000")
    response = page.get(reverse("node-endpoints", args=[node.pk]))
    tried = {entry.endpoint: entry for entry in response.context["tried"]}
    assert (tried[known].up, tried[known].down, tried[known].used) == (1, 1, 2)
    assert tried["198.51.100.99:4000"].candidate is None
    unused = node.candidates.last().endpoint
    assert (tried[unused].used, tried[unused].handshake) == (0, None)
    assert "seen by peers alone" in read(response)


def test_endpoints_keep_the_order_in_which_they_are_tried(cluster):
    node = fill(cluster, 1)[0]
    seen = [live.Seen("up", "192.0.2.9:1", None, 0, 0, 0.0)]
    order = [entry.endpoint for entry in node_page.count_tries(node.candidates.all(), seen)]
    assert order == [*node.candidates.values_list("endpoint", flat=True), "192.0.2.9:1"]


# -------------------------------------------------------------------------------------------------------------- rename


def test_a_node_is_renamed_and_everybody_hears_of_it(page, cluster):
    node = enrol(cluster, Machine("edge-1"), now=timezone.now())
    before = Cluster.objects.get().revision
    answer = page.post(reverse("node-rename", args=[node.pk]), {"name": " dc-1 "}, follow=True)
    assert "edge-1 is called dc-1 now" in read(answer)
    assert Node.objects.get().name == "dc-1"
    assert Cluster.objects.get().revision == before + 1
    row = Audit.objects.get(verb="node.renamed")
    assert (row.actor_name, row.target, row.details) == ("alice", "dc-1", {"changes": {"name": ["edge-1", "dc-1"]}})
    assert "gave another name to node" in read(answer)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("dc-2", "There is a node named dc-2", id="taken"),
        pytest.param("no blanks", "1 to 253 letters", id="of the wrong form"),
        pytest.param("", "required", id="none"),
    ],
)
def test_a_name_is_refused_in_its_dialog(page, cluster, name, said):
    node = enrol(cluster, Machine("dc-1"), now=timezone.now())
    enrol(cluster, Machine("dc-2"), now=timezone.now())
    answer = page.post(reverse("node-rename", args=[node.pk]), {"name": name})
    assert answer.status_code == 400
    assert re.search('id="rename"[^>]* data-open-at-load', read(answer))
    assert said in read(answer)
    assert Node.objects.filter(name="dc-1").exists()


def test_a_removed_nodes_name_is_free_again(cluster):
    node, gone = enrol(cluster, now=timezone.now()), enrol(cluster, Machine("dc-1"), now=timezone.now())
    services.remove_node("alice", gone, "dc-1", timezone.now())
    assert services.rename_node("alice", node, "dc-1", timezone.now()).name == "dc-1"


def test_the_same_name_is_no_change(cluster):
    node = enrol(cluster, Machine("dc-1"), now=timezone.now())
    before = Cluster.objects.get().revision
    services.rename_node("alice", node, "dc-1", timezone.now())
    assert (Cluster.objects.get().revision, Audit.objects.filter(verb="node.renamed").exists()) == (before, False)


def test_a_talos_machine_is_called_what_it_says(cluster):
    node = enrol(cluster, now=timezone.now())
    Node.objects.update(kind="talos")
    with pytest.raises(Refused, match="Talos configuration"):
        services.rename_node("alice", node, "dc-1", timezone.now())


# ---------------------------------------------------------------------------------------------------------------- roles


BUTTONS = ("Try again", "Rename", "Set options", "Remove")


def test_a_viewer_sees_the_page_without_its_buttons(client, cluster):
    node = enrol(cluster, now=timezone.now())
    client.force_login(make_user("bob", "viewer"))
    text = read(client.get(node.get_absolute_url()))
    assert node.public_key in text
    assert not [name for name in BUTTONS if re.search(f">{name}<|</svg> {name}", text)]
    assert re.findall(r'<dialog[^>]* id="(\w+)"', text) == ["keys"]
    client.force_login(make_user("carol", "operator"))
    text = read(client.get(node.get_absolute_url()))
    assert [name for name in BUTTONS if f"</svg> {name}" in text] == list(BUTTONS)
