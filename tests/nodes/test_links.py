"""The page of one link: what both ends say, why it is not up, and what to do."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_address

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from kubespan.core.messages import Report, Revision
from kubespan.core.options import ClusterOptions
from nodes import live, pairs
from nodes.connections import sync_redis
from nodes.consumers.pair import PairConsumer
from nodes.live import Table
from nodes.models import Node, Transition
from nodes.services import followed, history
from nodes.services import nodes as services
from tests.factories import NOW, PEER, Machine, enrol, fill, make_cluster, make_user

pytestmark = pytest.mark.django_db

UNKNOWN, UP, DOWN = 0, 1, 2
SECONDS = 60
ROAMED = "198.51.100.77:4000"


@pytest.fixture
def cluster():
    return make_cluster("homelab", now=timezone.now())


@pytest.fixture
def ends(cluster):
    """Two members whose agents are connected and follow the newest revision."""
    nodes = fill(cluster, 3)[:2]
    Node.objects.filter(cluster=cluster).update(
        session="s", applied_epoch=cluster.epoch, applied_number=cluster.revision
    )
    return nodes


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "administrator", password="correct horse"))
    return client


def say(node, peer, state, *, endpoint="", age=-1, received=0, sent=0, loss=-1, ago=0):
    """What a node's agent reports of a peer, so many seconds ago, as the console keeps it."""
    table = Table(sync_redis().get(live.record_key(node.pk)))
    said = Report(
        number=0, complete=True, revision=Revision(1, 1), members=(peer.index,), states=(state,),
        endpoints=(endpoint,), handshakes=(age,), received=(received,), sent=(sent,),
        rtts=(-1,), losses=(loss,),
    )  # fmt: skip
    table.merge(said, node.index, {peer.index}, timezone.now().timestamp() - ago)
    sync_redis().set(live.record_key(node.pk), table.dump(), ex=SECONDS)
    sync_redis().set(live.summary_key(node.pk), table.summary("s"), ex=SECONDS)


def endpoint_of(node, place=0):
    return node.candidates.order_by("order")[place].endpoint


def read(page, here, there):
    response = page.get(f"/links/{here.pk}/{there.pk}/")
    assert response.status_code == 200
    return response.content.decode()


def code_of(content):
    found = re.search('data-reason="([a-z-]+)"', content)
    return found and found[1]


def test_both_ends_stand_beside_each_other_with_why_and_what_to_do(page, ends):
    here, there = ends
    say(here, there, DOWN, endpoint=endpoint_of(there, 1), age=600_000, received=4096)
    say(there, here, DOWN, endpoint=endpoint_of(here))
    content = read(page, here, there)
    assert code_of(content) == "silent"
    assert f"{there.name} has not answered {here.name} at any of its 2 endpoints for 10 m." in content
    assert f"Check that UDP port 51820 of {there.name} can be reached from {here.name}; then try again." in content
    assert content.index(endpoint_of(there)) < content.index(endpoint_of(there, 1))
    assert content.count(">in use, no answer</span>") == 2
    assert content.count('name="next" value="pair"') == 2


def test_each_end_says_since_when_it_is_so(page, ends):
    here, there = ends
    assert "p since</dt>" not in read(page, here, there), "nobody said anything"
    say(here, there, UP, ago=600)
    say(there, here, DOWN, ago=600)
    content = read(page, here, there)
    assert "<dt>Up since</dt><dd>at least <time" in content
    assert "<dt>Not up since</dt><dd>at least <time" in content
    say(there, here, UP)
    assert "<dt>Up since</dt><dd><time" in read(page, here, there), "the console saw that"


def test_a_link_that_is_up_has_no_why(page, ends):
    here, there = ends
    say(here, there, UP, endpoint=ROAMED, age=1000)
    say(there, here, UP, endpoint=endpoint_of(here), age=1000)
    content = read(page, here, there)
    assert code_of(content) is None
    assert f'<span class="mono">{ROAMED}</span> now, from where {there.name} came' in content


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        pytest.param({"session": ""}, "away", id="its agent is away"),
        pytest.param({"fault": "no WireGuard"}, "fault", id="it cannot apply its settings"),
        pytest.param({"applied_number": 0}, "behind", id="it is behind"),
        pytest.param({"clock_skew": -3600.0}, "clock", id="its clock was set back"),
        pytest.param({"status": "left", "kind": "talos"}, "left", id="it left discovery, and nobody heard it"),
        pytest.param({"left_at": NOW, "kind": "talos"}, "unlisted", id="discovery lists it no more"),
    ],
)
def test_what_the_rows_know_of_an_end_is_a_reason(page, ends, columns, code):
    here, there = ends
    say(here, there, DOWN, endpoint=endpoint_of(there))
    Node.objects.filter(pk=there.pk).update(**columns)
    assert code_of(read(page, here, there)) == code
    assert code_of(read(page, there, here)) == code


def test_a_node_that_waits_is_a_reason(page, cluster, ends):
    waiting = enrol(cluster, approval_required=True)
    content = read(page, ends[0], waiting)
    assert code_of(content) == "pending"
    assert f"Approve {waiting.name}." in content


NEVER_MET = {"state": DOWN}
LOST = {"state": DOWN, "age": 600_000, "received": 9000}
TRYING = {"state": UNKNOWN, "endpoint": ROAMED}
WELL = {"state": UP, "age": 30_000, "loss": 0}
MUTE = {"state": UP, "age": 30_000, "loss": 1000}


@pytest.mark.parametrize(
    ("ours", "theirs", "code"),
    [
        pytest.param(None, None, "unsaid", id="nothing said yet"),
        pytest.param(TRYING, TRYING, "trying", id="an endpoint is being tried"),
        pytest.param(NEVER_MET, NEVER_MET, "silent", id="endpoints tried and silent"),
        pytest.param(WELL, LOST, "one-way", id="one direction only"),
        pytest.param(NEVER_MET, NEVER_MET | {"received": 296}, "one-way", id="one direction only, and never up"),
        pytest.param(WELL, WELL, None, id="all is well"),
        pytest.param(MUTE, MUTE, "mute", id="handshake but no traffic"),
        pytest.param(WELL, MUTE, "mute", id="handshake but no traffic in one direction"),
        pytest.param(MUTE | {"age": 200_000}, None, "fading", id="about to be down"),
        pytest.param(WELL, WELL | {"loss": 700}, "lossy", id="most probes are lost"),
    ],
)
def test_what_both_ends_say_is_a_reason(page, cluster, ends, ours, theirs, code):
    """As their records have it, of two that have been members for half a minute and have two endpoints each."""
    here, there = ends
    cluster.nodes.update(approved_at=timezone.now() - timedelta(seconds=30))
    for node, peer, said in ((here, there, ours), (there, here, theirs)):
        if said is not None:
            say(node, peer, **said)
    assert code_of(read(page, here, there)) == code
    assert code_of(read(page, there, here)) == code


def test_a_cluster_without_kubespan_is_a_reason(page, cluster, ends):
    cluster.options = ClusterOptions(enabled=False).to_row()
    cluster.save()
    assert code_of(read(page, *ends)) == "off"


def test_a_finding_that_stops_traffic_is_a_reason(page, ends):
    here, there = ends
    there.obstacles.create(place=0, code="clock-set-back", text="…", remedy="…", since=NOW)
    say(here, there, DOWN)
    assert code_of(read(page, here, there)) == "silent"
    there.obstacles.create(place=1, code="firewall-closed", text="…", remedy="…", since=NOW)
    assert code_of(read(page, here, there)) == "obstacle"


def test_two_behind_a_nat_are_a_reason(page, ends):
    here, there = ends
    say(here, there, DOWN)
    say(there, here, DOWN)
    Node.objects.filter(pk=here.pk).update(peer_address="198.51.100.9")
    assert code_of(read(page, here, there)) == "silent"
    Node.objects.filter(pk=there.pk).update(peer_address="198.51.100.10")
    assert code_of(read(page, here, there)) == "nat"


def test_two_without_an_endpoint_are_a_reason(page, cluster, ends):
    here, there = ends
    say(here, there, UNKNOWN)
    there.candidates.all().delete()
    here.candidates.all().delete()
    assert code_of(read(page, here, there)) == "no-endpoint"
    cluster.options = ClusterOptions(endpoint_filters=("192.0.2.0/24",)).to_row()
    cluster.save()
    content = read(page, here, there)
    assert code_of(content) == "filtered", "none of its addresses is announced"
    assert f"every endpoint that is known of {here.name} and {there.name}." in content


def pass_minutes(cluster, here, there, ours, theirs):
    """Minutes in which what `here` sends does not arrive, but what `there` sends does."""
    now = timezone.now()
    for minute in range(8):
        ago = timedelta(minutes=7 - minute)
        said = {"sent": minute * 100_000, "age": 600_000, "ago": ago.total_seconds()}
        say(here, there, ours, received=minute * 100_000, **said)
        say(there, here, theirs, received=9000, **said)
        history.note_minute(cluster.pk, now - ago)


@pytest.mark.parametrize(
    ("ours", "theirs", "code"),
    [
        pytest.param(UP, UP, "mtu", id="large packets are lost while it is up"),
        pytest.param(DOWN, DOWN, "one-way", id="one of two hears the other, now that it is down"),
    ],
)
def test_what_was_counted_in_the_last_minutes_is_a_reason(page, cluster, ends, ours, theirs, code):
    """Of a link whose points are kept."""
    here, there = ends
    followed.pin(None, here, there, timezone.now(), pinned=True)
    pass_minutes(cluster, here, there, ours, theirs)
    content = read(page, there, here)
    assert code_of(content) == code
    told = {
        "mtu": f"{here.name} sent in the last minutes 0 % arrived at {there.name}",
        "one-way": f"{here.name} hears {there.name}",
    }
    assert told[code] in content


def test_endpoints_that_filters_leave_out_come_last_and_are_marked(page, cluster, ends):
    here, there = ends
    cluster.options = ClusterOptions(peer_endpoint_filters=("203.0.0.0/16",)).to_row()
    cluster.save()
    tried = pairs.try_order(there, cluster, None)
    assert [(one.candidate.endpoint, one.left_out) for one in tried] == [
        (endpoint_of(there, 1), False),
        (endpoint_of(there), True),
    ]
    assert "left out by a filter" in read(page, here, there)
    cluster.options = ClusterOptions(peer_endpoint_filters=("192.0.2.0/24",)).to_row()
    cluster.save()
    assert code_of(read(page, here, there)) == "filtered"


@pytest.mark.parametrize(
    ("peer_address", "translated"),
    [
        pytest.param("198.51.100.9", True, id="seen at another address"),
        pytest.param("10.0.0.1", False, id="seen at its own"),
        pytest.param("127.0.0.1", False, id="on the console's machine"),
        pytest.param(None, False, id="never seen"),
    ],
)
def test_a_nat_is_told_by_where_the_connection_comes_from(cluster, ends, peer_address, translated):
    node = ends[0]
    node.addresses, node.peer_address = ["10.0.0.1"], peer_address
    link = pairs.link_of(node, ends[1], cluster, (None, None), NOW.timestamp())
    assert link.here.translated is translated


def test_an_open_page_is_told_when_what_was_counted_gives_another_reason(cluster, ends):
    here, there = ends
    followed.pin(None, here, there, timezone.now(), pinned=True)
    say(here, there, UP, age=600_000)
    say(there, here, UP, age=600_000)
    consumer = PairConsumer()
    consumer.scope, consumer.number = {"url_route": {"kwargs": {"here": here.pk, "there": there.pk}}}, 0
    consumer.find()
    consumer.read()
    consumer.snapshot()
    consumer.read()
    assert consumer.delta() is None
    pass_minutes(cluster, here, there, UP, UP)
    consumer.read()
    assert consumer.delta().renew


@pytest.mark.parametrize(
    ("protocol", "probes", "code"),
    [
        pytest.param(2, True, "unanswered", id="agents that probe"),
        pytest.param(1, True, None, id="agents that know no probe"),
        pytest.param(2, False, None, id="probes are switched off"),
    ],
)
def test_a_link_of_which_no_probe_was_ever_answered_is_told(page, cluster, ends, protocol, probes, code):
    here, there = ends
    cluster.nodes.update(protocol=protocol)
    cluster.options = ClusterOptions(probes=probes).to_row()
    cluster.save()
    for ago in (400, 0):
        say(here, there, UP, age=20_000, received=900, ago=ago)
        say(there, here, UP, age=20_000, received=900, ago=ago)
    assert code_of(read(page, here, there)) == code
    say(there, here, UP, age=20_000, received=900, loss=0)
    assert code_of(read(page, here, there)) is None


@pytest.mark.parametrize(("peer", "endpoints"), [(PEER, 1), (ip_address("127.0.0.1"), 0)], ids=["NAT", "none"])
def test_an_address_that_another_member_has_is_a_reason(page, cluster, peer, endpoints):
    """Two sites with equal private addresses; of the second machine only the NAT's is left, or none."""
    machines = [Machine(name, addresses=(address,)) for name, address in (("one", "10.0.0.4"), ("taken", "10.0.0.5"))]
    one, _ = (enrol(cluster, machine, peer=ip_address("203.0.113.9")) for machine in machines)
    other = enrol(cluster, Machine("other", addresses=("10.0.0.5",)), peer=peer)
    cluster.refresh_from_db()
    follows = {"applied_epoch": cluster.epoch, "applied_number": cluster.revision}
    cluster.nodes.update(session="s", **follows)
    assert other.candidates.count() == endpoints
    say(one, other, UNKNOWN, endpoint=ROAMED)
    say(other, one, DOWN, endpoint=endpoint_of(one))
    content = read(page, one, other)
    assert code_of(content) == "conflict"
    assert "10.0.0.5 is an address of taken already" in content
    assert ("answers nowhere else" in content) is bool(endpoints)


def test_what_changed_between_the_two_is_listed_and_nothing_else(page, cluster, ends):
    here, there = ends
    other = Node.objects.filter(cluster=cluster).exclude(pk__in=[here.pk, there.pk]).first()
    for node, peer, text in ((here, there, "first"), (there, here, "second"), (here, other, "another link")):
        Transition.objects.create(
            cluster=cluster, node=node, peer=peer, kind="link", before="up", after="down", text=text, at=NOW
        )
    content = read(page, here, there)
    assert "first" in content
    assert "second" in content
    assert "another link" not in content


def test_a_page_has_as_many_queries_for_many_endpoints(page, ends):
    here, there = ends
    with CaptureQueriesContext(
        connection,
    ) as few:
        read(page, here, there)
    for number in range(20):
        there.candidates.create(endpoint=f"192.0.2.{number}:51820", source="harvested", order=9, seen=NOW)
    with CaptureQueriesContext(connection) as many:
        read(page, here, there)
    assert len(many) == len(few)


def test_without_redis_the_page_says_what_it_cannot_know(page, ends, valkey):
    here, there = ends
    say(here, there, UP)
    valkey.stop()
    content = read(page, here, there)
    assert "Redis does not answer" in content
    assert "This link is not up" not in content
    assert code_of(content) is None
    assert 'data-state="up"' not in content
    assert re.findall(r"<dt>Sees .*?</dt><dd>(.*?)</dd>", content) == ["—", "—"]


def test_a_link_of_which_nobody_says_anything_is_not_said_to_be_down(page, ends):
    content = read(page, *ends)
    assert "Nobody says how this link is." in content
    assert "This link is not up" not in content
    assert code_of(content) == "unsaid"


def test_nodes_of_two_clusters_are_no_pair(page, ends):
    stranger = fill(make_cluster("another", now=timezone.now()), 1)[0]
    for one, other in ((ends[0], stranger), (ends[0], ends[0])):
        assert page.get(f"/links/{one.pk}/{other.pk}/").status_code == 404
    assert page.get(f"/links/{ends[0].pk}/4711/").status_code == 404


def test_trying_again_comes_back_to_the_page(page, ends):
    here, there = ends
    response = page.post(f"/nodes/{here.pk}/try-again/", {"peer": there.pk, "next": "pair"})
    assert response.headers["Location"] == f"/links/{here.pk}/{there.pk}/"


def test_a_removed_node_still_has_the_page(page, ends):
    here, there = ends
    there.refresh_from_db()
    services.remove_node(None, there, there.name, NOW)
    assert code_of(read(page, here, there)) == "removed"
