"""What a cluster's map is sent: every link of a small one; groups, and links that are not up, of a large one."""

from collections import Counter

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from nodes import maps
from nodes.consumers.map import MapConsumer
from nodes.live import ABSENT, DOWN, UNKNOWN, UP, Seen, Summary
from nodes.maps import GroupLinks, LinkStates, MapLink, Member, Traffic
from nodes.pages import Flushed
from tests.big import Live, make_mesh
from tests.factories import make_cluster

LARGE = maps.MAP_LINKS + 20


def member(pk, site="", *, talos=False):
    return Member(pk, pk - 1, f"node-{pk}", site, talos, here=True)


def members(*sites):
    return {pk: member(pk, site) for pk, site in enumerate(sites, 1)}


# Groups.


@pytest.mark.parametrize(
    ("by", "found", "keys"),
    [
        pytest.param("kind", [member(1), member(2, talos=True)], {1: "=Linux", 2: "=Talos"}, id="by kind"),
        pytest.param("site", [member(1, "fra"), member(2)], {1: "=fra", 2: "none"}, id="by site"),
        pytest.param("site", [member(1, "none")], {1: "=none"}, id="a site may be called as what has none"),
        pytest.param("site", [], {}, id="nobody"),
    ],
)
def test_groups(by, found, keys):
    assert maps.group_keys(found, by) == keys


def test_the_smallest_of_too_many_sites_are_drawn_together():
    many = [member(pk, f"site {pk % (maps.GROUPS_DRAWN + 9):02}") for pk in range(1, 200)]
    keys = maps.group_keys(many, "site")
    sizes = Counter(keys.values())
    assert len(sizes) == maps.GROUPS_DRAWN
    assert sizes["other"] == sum(keys[one.pk] == "other" for one in many) > 0
    few = [member(pk, f"site {pk % maps.GROUPS_DRAWN}") for pk in range(1, 200)]
    assert "other" not in maps.group_keys(few, "site").values()


# Traffic.


@pytest.mark.parametrize(
    ("rate", "level"),
    [(-5, 0), (0, 0), (1023, 0), (1024, 1), (102_400, 2), (10_485_760, 3), (1e12, 3)],
)
def test_traffic_levels(rate, level):
    assert maps.traffic_level(rate) == level


def test_a_link_has_traffic_from_its_second_report_on():
    traffic = Traffic()
    said = [
        traffic.link(1, 2, Seen("up", "", None, received, 0, at)) for at, received in ((10, 0), (10, 0), (12, 9000))
    ]
    assert [one.level for one in said] == [0, 0, 1]
    assert traffic.link(1, 2, Seen("up", "", None, 9000, 0, 12)).level == 1, "the same report once more"
    traffic.keep({1: None})
    assert traffic.link(1, 2, Seen("up", "", None, 99_000_000, 0, 13)).level == 0


# States.


def states_of(found):
    states = LinkStates()
    states.take_members(found, maps.group_keys(found.values(), "site"))
    return states


def test_links_are_counted_between_groups_both_ways_together():
    states = states_of(members("a", "a", "b"))
    states.put(1, bytes([ABSENT, UP, DOWN]))
    states.put(2, bytes([UP, ABSENT, UNKNOWN]))
    states.put(3, bytes([UP, UP]))
    assert states.groups() == {
        ("=a", "=a"): GroupLinks("=a", "=a", 2, 0, 0),
        ("=a", "=b"): GroupLinks("=a", "=b", 2, 1, 1),
    }
    assert states.not_up() == 2
    assert list(states.worst()) == [MapLink(1, 3, "down", 0), MapLink(2, 3, "unknown", 0)]
    assert list(states.worst(1)) == [MapLink(1, 3, "down", 0)]


def test_no_node_takes_the_place_of_all_others_links():
    states = states_of(members("a", "a", "a", "a"))
    states.put(1, bytes([ABSENT, DOWN, DOWN, DOWN]))
    states.put(2, bytes([UNKNOWN, ABSENT, DOWN, UP]))
    assert [(one.node, one.peer) for one in states.worst(3)] == [(1, 2), (2, 3), (1, 3)]
    assert len(list(states.worst())) == 5
    states.wanting({pk: Summary("s", 5.0, 1, up=2, unknown=1, down=0) for pk in (1, 2, 4)})
    assert [(one.node, one.peer) for one in states.worst(3)] == [(1, 2), (1, 4), (2, 1)], "3 is away"


def test_one_link_changes_and_the_counts_with_it():
    states = states_of(members("a", "b", "b"))
    states.put(1, bytes([ABSENT, UP]))
    states.set(1, 3, UNKNOWN)
    states.set(1, 2, DOWN)
    states.set(2, 1, DOWN)  # nothing is known of what it says
    assert states.groups() == {("=a", "=b"): GroupLinks("=a", "=b", 0, 1, 1)}
    assert (states.counts(1), states.counts(2)) == ((1, 0, 1), None)
    states.set(1, 2, ABSENT)
    assert states.counts(1) == (1, 0, 0)
    states.put(1, b"")
    assert (states.groups(), states.not_up()) == ({}, 0)


@pytest.mark.parametrize(
    ("summary", "wanting"),
    [
        pytest.param(Summary("s", 5.0, 1, up=1, down=1), [], id="what is held"),
        pytest.param(Summary("s", 5.0, 1, up=2), [1], id="other counts"),
        pytest.param(Summary("s"), [], id="connected, and said nothing yet"),
        pytest.param(None, [], id="away"),
    ],
)
def test_a_row_is_read_again_when_its_nodes_summary_counts_otherwise(summary, wanting):
    states = states_of(members("a", "a", "b"))
    states.put(1, bytes([ABSENT, UP, DOWN]))
    assert states.wanting({1: summary} if summary else {}) == wanting
    assert (states.counts(1) is None) == (summary is None or summary.at is None)


def test_who_left_is_counted_no_more_and_who_moved_elsewhere():
    found = members("a", "a", "b")
    states = states_of(found)
    states.put(1, bytes([ABSENT, UP, DOWN]))
    states.put(3, bytes([DOWN, UP]))
    del found[3]
    found[2] = member(2, "c")
    states.take_members(found, maps.group_keys(found.values(), "site"))
    assert states.groups() == {("=a", "=c"): GroupLinks("=a", "=c", 1, 0, 0)}
    assert list(states.worst()) == []


# The socket.


def open_map(mesh, by="site"):
    """The consumer without its socket."""
    consumer = MapConsumer()
    consumer.scope = {"url_route": {"kwargs": {"cluster": mesh.cluster.uuid, "by": by}}}
    consumer.number = 0
    consumer._stale = FakeEvent()
    consumer.find()
    return consumer


class FakeEvent:
    """Whether rows are to be read again."""

    def __init__(self):
        self.there = False

    def set(self):
        self.there = True


def count(seen, *nodes_of):
    """How the links from one set of nodes to another stand, by the fixture's own word."""
    ones, others = nodes_of
    states = [seen.state(one, other) for one in ones if one.session for other in others if one != other]
    return Counter(states)


@pytest.mark.django_db
@pytest.mark.parametrize("size", [40, LARGE])
def test_reading_takes_two_queries_whatever_the_size(size, django_assert_num_queries):
    mesh = make_mesh(size)
    Live(mesh, timezone.now().timestamp()).write()
    consumer = open_map(mesh)
    with django_assert_num_queries(2):
        consumer.read()
    assert len(consumer.snapshot().nodes) == len(mesh.members)


@pytest.mark.django_db
@pytest.mark.parametrize("size", [40, LARGE])
def test_links_of_talos_machines_are_counted_as_others_see_them(size):
    mesh = make_mesh(size)
    seen = Live(mesh, timezone.now().timestamp())
    seen.write()
    consumer = open_map(mesh)
    consumer.read()
    counted = {node.pk: msgspec.to_builtins(node.links) for node in consumer.snapshot().nodes if node.talos}
    said = {one.pk: count(seen, mesh.members, [one]) for one in mesh.members if one.is_talos}
    assert counted == {pk: {state: found[state] for state in ("up", "unknown", "down")} for pk, found in said.items()}
    assert any(found["up"] for found in said.values())


@pytest.mark.django_db
def test_a_small_map_has_every_link():
    mesh = make_mesh(40)
    seen = Live(mesh, timezone.now().timestamp())
    seen.write()
    consumer = open_map(mesh)
    consumer.read()
    snapshot = consumer.snapshot()
    assert (snapshot.grouped, snapshot.unread, snapshot.groups) == (False, 0, [])
    said = count(seen, mesh.members, mesh.members)
    assert Counter(link.state for link in snapshot.links) == said
    assert snapshot.not_up == said["down"] + said["unknown"]
    assert consumer.delta() is None


@pytest.mark.django_db
def test_a_large_map_has_groups_and_links_that_are_not_up():
    mesh = make_mesh(LARGE)
    seen = Live(mesh, timezone.now().timestamp())
    seen.write()
    consumer = open_map(mesh)
    consumer.read()
    snapshot = consumer.snapshot()
    assert (snapshot.grouped, snapshot.unread) == (True, 0)
    by_site = {}
    for node in mesh.members:
        by_site.setdefault(f"={node.site}", []).append(node)
    groups = {(one.one, one.other): one for one in snapshot.groups}
    said = count(seen, by_site["=fra"], by_site["=ams"]) + count(seen, by_site["=ams"], by_site["=fra"])
    assert groups["=ams", "=fra"] == GroupLinks("=ams", "=fra", said["up"], said["unknown"], said["down"])
    assert {link.state for link in snapshot.links} <= {"unknown", "down"}
    assert len(snapshot.links) == snapshot.not_up == sum(one.unknown + one.down for one in snapshot.groups)


@pytest.mark.django_db
def test_a_link_that_goes_down_is_told_alone():
    mesh = make_mesh(LARGE)
    now = timezone.now().timestamp()
    seen = Live(mesh, now)
    one, other = seen.reporting[:2]
    seen.set_state(one, other, "up")
    seen.report(one, now)
    seen.write()
    consumer = open_map(mesh)
    consumer.read()
    before = consumer.snapshot()
    seen.set_state(one, other, "down")
    assert seen.report(one, now + 1) == [other.index]
    flushed = report_of(seen, one, other)
    assert consumer.take(flushed)
    delta = consumer.delta()
    assert delta.links == [MapLink(one.pk, other.pk, "down", 0)]
    assert delta.not_up == before.not_up + 1
    assert [node.pk for node in delta.nodes] == [one.pk]
    assert len(delta.groups) == 1
    assert not consumer._stale.there


@pytest.mark.django_db
def test_news_that_was_missed_is_read():
    mesh = make_mesh(LARGE)
    now = timezone.now().timestamp()
    seen = Live(mesh, now)
    one, other = seen.reporting[:2]
    seen.set_state(one, other, "up")
    seen.report(one, now)
    seen.write()
    consumer = open_map(mesh)
    consumer.read()
    before = consumer.snapshot()
    seen.set_state(one, other, "down")
    seen.report(one, now + 1)
    seen.write([one])
    consumer.take(report_of(seen, one))
    assert consumer._stale.there
    consumer.read()
    assert consumer.delta().not_up == before.not_up + 1


@pytest.mark.django_db
def test_the_node_that_is_looked_at_has_all_its_links():
    mesh = make_mesh(LARGE)
    seen = Live(mesh, timezone.now().timestamp())
    seen.write()
    root = seen.reporting[3]
    consumer = open_map(mesh)
    consumer._root = root.pk
    consumer.read()
    links = {(one.node, one.peer): one.state for one in consumer.snapshot().links if root.pk in (one.node, one.peer)}
    others = [node for node in mesh.members if node != root]
    ours = {(root.pk, node.pk): seen.state(root, node) for node in others}
    theirs = {(node.pk, root.pk): seen.state(node, root) for node in others if node.session}
    assert links == ours | theirs
    assert consumer.watch().nodes == (root.pk,)


def report_of(seen, one, *others):
    """What a node reported, and how it sees these."""
    table = seen.tables[one.pk]
    links = [(one.pk, node.pk, table.seen(node.index)) for node in others]
    return Flushed([(one.pk, table.summarise(one.session))], links)


# The pages.


@pytest.mark.django_db
def test_the_map_is_of_the_cluster_that_the_address_names(admin_client):
    assert "No cluster yet" in admin_client.get("/map/").text
    one, two = make_cluster("one"), make_cluster("two")
    assert admin_client.get("/map/?by=kind").url == f"/map/?by=kind&cluster={one.uuid}"
    page = admin_client.get(f"/map/?cluster={two.uuid}&by=kind").text
    assert f'data-map="/live/map/{two.uuid}/kind"' in page
    assert f'data-map="/live/map/{two.uuid}/site"' in admin_client.get(f"/clusters/{two.uuid}/map/?by=colour").text
    for nobody in ("x", "00000000-0000-0000-0000-000000000000"):
        assert admin_client.get(f"/map/?cluster={nobody}").status_code == 404


@pytest.mark.django_db
def test_the_page_asks_the_database_as_often_whatever_the_size(admin_client):
    asked = []
    for size in (10, 200):
        mesh = make_mesh(size, name=f"of {size}", seed=size)
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(f"/clusters/{mesh.cluster.uuid}/map/")
        asked.append(len(queries))
    assert asked[0] == asked[1] < 20
