"""History as pages get it: by HTTP, and over their sockets."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from kubespan.core.messages import Report, Revision
from nodes import live
from nodes.connections import sync_redis
from nodes.consumers.node import NodeConsumer
from nodes.consumers.pair import PairConsumer
from nodes.history import reading
from nodes.models import FollowedLink, Node, Transition
from nodes.services import followed, history
from tests.factories import fill, make_cluster, make_user
from tests.past import write_past

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


@pytest.fixture
def cluster():
    return make_cluster(now=timezone.now())


@pytest.fixture
def ends(cluster):
    nodes = fill(cluster, 3)[:2]
    Node.objects.filter(cluster=cluster).update(session="s", away=False)
    for node in nodes:
        node.refresh_from_db()
    return nodes


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "viewer"))
    return client


def say(node, peer, state=1, **changes):
    table = live.Table()
    said = {
        "number": 0, "complete": True, "revision": Revision(1, 1), "members": (peer.index,), "states": (state,),
        "endpoints": ("192.0.2.1:51820",), "handshakes": (1000,), "received": (100,), "sent": (200,),
        "rtts": (20_000,), "losses": (10,),
    } | changes  # fmt: skip
    table.merge(Report(**said), node.index, {peer.index}, timezone.now().timestamp())
    sync_redis().set(live.record_key(node.pk), table.dump(), ex=60)
    sync_redis().set(live.summary_key(node.pk), table.summary("s"), ex=60)


def read(page, address):
    response = page.get(address)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    return response.json()


@pytest.mark.parametrize(("span", "step", "most"), [("24h", 60, 1440), ("7d", 900, 672)])
def test_a_nodes_chart_has_its_points_and_its_gaps(page, cluster, ends, span, step, most):
    write_past(cluster, timezone.now())
    chart = read(page, f"/nodes/{ends[0].pk}/history/?span={span}")
    assert (chart["span"], chart["step"], (chart["end"] - chart["start"]) // step) == (span, step, most)
    (series,) = chart["series"]
    assert most - 1800 // step - 1 <= len(series["at"]) <= most - 1800 // step + 1, "half an hour is missing"
    assert {len(column) for name, column in series.items() if name != "name"} == {len(series["at"])}
    assert series["at"] == sorted(series["at"])
    assert 0.0 in series["connected"]
    assert min(series["up"][place] for place, share in enumerate(series["connected"]) if share) == 0


def test_a_node_that_nobody_noted_has_an_empty_chart(page, ends):
    chart = read(page, f"/nodes/{ends[0].pk}/history/")
    assert (chart["span"], chart["series"][0]["at"]) == ("24h", [])


def test_a_links_chart_has_both_directions_and_when_they_were_up(page, cluster, ends):
    here, there = ends
    write_past(cluster, timezone.now(), [(here, there)])
    say(here, there)
    at = timezone.now() - timedelta(hours=2)
    Transition.objects.create(cluster=cluster, node=here, peer=there, kind="link", before="down", after="up", at=at)
    chart = read(page, f"/links/{here.pk}/{there.pk}/history/")
    assert [series["name"] for series in chart["series"]] == [here.name, there.name]
    assert all(len(series["at"]) > 1000 for series in chart["series"])
    ours, theirs = chart["strips"]
    assert [state for _, _, state in ours["stretches"]] == ["down", "up"]
    assert ours["stretches"][0][1] == pytest.approx(at.timestamp())
    assert [state for _, _, state in theirs["stretches"]] == ["none"]
    assert chart["note"] == ""


def test_where_most_is_missing_a_chart_says_why(page, ends):
    here, there = ends
    assert f"{there.name} is not connected" in read(page, f"/links/{here.pk}/{there.pk}/history/")["note"]


def test_a_chart_says_when_changes_were_left_out(page, cluster, ends):
    here, there = ends
    Transition.objects.create(cluster=cluster, kind="capped", count=7, at=timezone.now())
    assert "changes may be missing" in read(page, f"/links/{here.pk}/{there.pk}/history/")["note"]


def test_a_chart_takes_as_many_queries_for_a_long_past(page, cluster, ends):
    def queries():
        with CaptureQueriesContext(connection) as found:
            for address in (f"/nodes/{ends[0].pk}/history/", f"/links/{ends[0].pk}/{ends[1].pk}/history/?span=7d"):
                read(page, address)
        return len(found)

    few = queries()
    write_past(cluster, timezone.now(), [ends])
    assert queries() == few


def test_pages_have_a_place_for_their_history(page, ends):
    here, there = ends
    content = page.get(f"/nodes/{here.pk}/?history=7d").content.decode()
    assert f'data-history="/nodes/{here.pk}/history/" data-span="7d" data-kind="node"' in content
    content = page.get(f"/links/{here.pk}/{there.pk}/").content.decode()
    assert f'data-history="/links/{here.pk}/{there.pk}/history/" data-span="24h" data-kind="link"' in content
    assert "charts.js" in content
    assert "Keep its history" not in content, "a viewer may not"


def test_an_operator_has_a_links_history_kept(client, ends):
    here, there = ends
    client.force_login(make_user("olga", "operator"))
    address = f"/links/{here.pk}/{there.pk}/"
    assert "Keep its history" in client.get(address).content.decode()
    assert client.post(f"{address}keep/", {"keep": "yes"}).headers["Location"] == address
    assert followed.is_pinned(here, there)
    assert "Let go of its history" in client.get(address).content.decode()
    client.post(f"{address}keep/", {"keep": "no"})
    assert not followed.is_pinned(here, there)


def test_a_viewer_has_not(page, ends):
    here, there = ends
    assert page.post(f"/links/{here.pk}/{there.pk}/keep/", {"keep": "yes"}).status_code == 403
    assert not FollowedLink.objects.exists()


def open_consumer(consumer, **route):
    consumer.scope = {"url_route": {"kwargs": route}}
    consumer.find()
    consumer.number = 0
    consumer.read()
    return consumer


def test_a_nodes_socket_tells_its_newest_point(cluster, ends):
    here, there = ends
    say(here, there)
    now = timezone.now()
    consumer = open_consumer(NodeConsumer(), node=here.pk)
    consumer.snapshot()
    assert consumer.delta() is None
    history.note_minute(cluster.pk, now)
    consumer._noted = now.timestamp() // 60 * 60
    consumer.read()
    (series,) = consumer.delta().history
    assert (series.name, series.at, series.up, series.rtt) == (
        here.name,
        [int(now.timestamp()) // 60 * 60],
        [1],
        [0.02],
    )
    assert consumer.delta() is None


def test_a_links_socket_tells_figures_and_when_words_are_others(cluster, ends):
    here, there = ends
    say(here, there)
    consumer = open_consumer(PairConsumer(), here=here.pk, there=there.pk)
    snapshot = consumer.snapshot()
    assert (snapshot.here.rtt, snapshot.here.loss, snapshot.there) == (0.02, 0.01, None)
    assert FollowedLink.objects.count() == 2, "its page is open"
    say(here, there, received=(500,))
    consumer.read()
    delta = consumer.delta()
    assert (delta.here.received, delta.renew) == (500, False)
    say(here, there, losses=(1000,))
    consumer.read()
    assert consumer.delta().renew, "no probe is answered"
    say(here, there, state=2)
    consumer.read()
    assert consumer.delta().renew
    followed.pin(None, here, there, timezone.now(), pinned=True)
    consumer.read()
    assert consumer.delta().renew
    now = timezone.now()
    history.note_minute(cluster.pk, now)
    consumer._noted = now.timestamp() // 60 * 60
    consumer.read()
    delta = consumer.delta()
    assert [(series.name, series.down) for series in delta.history] == [(here.name, [1]), (there.name, [0])]


def test_small_lines_have_the_last_hour_of_followed_links(page, cluster, ends):
    here, there = ends
    now = timezone.now()
    assert read(page, f"/nodes/{here.pk}/history/peers/") == {}
    followed.pin(None, here, there, now, pinned=True)
    for minutes, rtt in ((90, 10_000), (30, 20_000), (0, 30_000)):
        say(here, there, rtts=(rtt,))
        history.note_minute(cluster.pk, now - minutes * MINUTE)
    trail = reading.peer_trails(here, now)[there.pk]
    assert len(trail) == 60
    assert {place: rtt for place, rtt in enumerate(trail) if rtt is not None} == {29: 0.02, 59: 0.03}
    assert read(page, f"/nodes/{here.pk}/history/peers/").keys() == {str(there.pk)}
