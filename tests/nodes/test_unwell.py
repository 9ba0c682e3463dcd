"""The list of links that are not up: what it finds, how it filters and sorts, what a page of it says and costs."""

import json
import re
import time

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from nodes import unwell
from nodes.connections import sync_redis
from nodes.exports import moment
from nodes.live import ages_key
from nodes.models import Audit, Node
from nodes.unwell import Query
from tests.big import Live, make_mesh
from tests.factories import NOW, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def mesh(valkey):
    """Four nodes that see each other up, but for what a test changes."""
    return make_mesh(4, name="office", talos=0, now=NOW)


def say(mesh, *changes, now=None):
    """Have nodes report, with these ends (from, to) in these states."""
    now = now or time.time()
    live = Live(mesh, now)
    live._odd.clear()
    for one, other, state in changes:
        live.set_state(mesh.members[one], mesh.members[other], state)
    for node in live.reporting:
        live.report(node, now)
    live.write()
    return live


def change(mesh, live, now, *changes):
    """Have their nodes report that these ends are in these states from now on."""
    for one, other, state in changes:
        live.set_state(mesh.members[one], mesh.members[other], state)
        live.report(mesh.members[one], now)
    live.write()


def listed(mesh, query=None, sort="worst"):
    """Names of both ends, and how each sees the other."""
    ends = unwell.read_ends([mesh.cluster])
    found = unwell.find(ends, unwell.read_states(ends))
    chosen = unwell.choose(ends, found, query or Query(), sort, unwell.read_ages(ends, found))
    shown = unwell.look_up(ends, chosen, {mesh.cluster.pk: mesh.cluster}, time.time())
    names = {node.name: place for place, node in enumerate(mesh.members)}
    return [(names[row.pair.one.name], names[row.pair.other.name], *row.states) for row in shown]


@pytest.fixture
def plain(mesh):
    """The same, with names in order, all connected."""
    for place, node in enumerate(mesh.members):
        node.name, node.session, node.away, node.site = f"edge-{place}", f"{place:032x}", False, "here"
    Node.objects.bulk_update(mesh.members, ["name", "session", "away", "site"])
    return mesh


def test_a_pair_is_listed_once_with_the_worse_end_first(plain):
    say(plain, (0, 1, "unknown"), (1, 0, "down"), (2, 3, "down"), (3, 2, "down"), (3, 0, "unknown"))
    assert listed(plain) == [
        (2, 3, "down", "down"),
        (1, 0, "down", "unknown"),
        (3, 0, "unknown", "up"),
    ]


def test_a_pair_has_one_name_whichever_end_is_worse_off():
    """By it a page keeps a tick with its row."""
    ends = [unwell.End(pk, 1, pk, name, here=True, talos=False) for pk, name in ((9, "alpha"), (10, "beta"))]
    assert {unwell.Unwell(*one, 2, 1).name for one in (ends, ends[::-1])} == {"9-10"}


def test_what_a_machine_never_said_is_not_said(plain):
    live = say(plain, (0, 1, "down"))
    live.forget(plain.members[1])
    assert listed(plain) == [(0, 1, "down", "not said")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(Query("EDGE-3"), [(3, 0)], id="by a part of a name"),
        pytest.param(Query(state="one-way"), [(3, 0)], id="one direction only"),
        pytest.param(Query(state="unknown"), [(1, 0), (3, 0)], id="unknown at either end"),
        pytest.param(Query(state="down"), [(1, 0)], id="down at either end"),
        pytest.param(Query("nobody"), [], id="nobody of that name"),
    ],
)
def test_the_list_is_filtered(plain, query, expected):
    say(plain, (0, 1, "unknown"), (1, 0, "down"), (3, 0, "unknown"))
    assert [row[:2] for row in listed(plain, query)] == expected


def test_who_is_away_can_be_left_out(plain):
    say(plain, (0, 1, "down"), (2, 3, "down"))
    Node.objects.filter(pk=plain.members[1].pk).update(session="", away=True)
    assert [row[:2] for row in listed(plain, Query(connected=True))] == [(2, 3)]


@pytest.mark.parametrize(
    ("sort", "expected"), [("from", [0, 1, 2]), ("-from", [2, 1, 0]), ("to", [2, 1, 0]), ("nonsense", [1, 0, 2])]
)
def test_the_list_is_sorted(plain, sort, expected):
    say(plain, (0, 3, "down"), (1, 2, "down"), (2, 1, "down"), (2, 0, "unknown"))
    assert [row[0] for row in listed(plain, sort=sort)] == expected


def test_the_list_is_sorted_by_for_how_long_a_link_is_not_up(plain, client):
    now = time.time()
    live = say(plain, (2, 3, "unknown"), now=now - 900)
    change(plain, live, now - 600, (0, 3, "down"), (0, 1, "down"))
    change(plain, live, now - 300, (1, 0, "down"), (1, 2, "unknown"), (0, 3, "unknown"))
    assert [row[:2] for row in listed(plain, sort="age")] == [(2, 3), (0, 1), (0, 3), (1, 2)]
    assert [row[:2] for row in listed(plain, sort="-age")] == [(1, 2), (0, 3), (0, 1), (2, 3)]
    client.force_login(make_user("alice", "viewer"))
    page = client.get("/links/", {"view": "list", "sort": "age"})
    shown = [(row.pair.one.name, round(now - row.since.timestamp()), row.at_least) for row in page.context["rows"]]
    assert shown == [
        ("edge-2", pytest.approx(900, abs=1), True),
        ("edge-0", pytest.approx(600, abs=1), False),
        ("edge-0", pytest.approx(600, abs=1), False),
        ("edge-1", pytest.approx(300, abs=1), False),
    ]
    assert page.content.decode().count("at least <time") == 1
    assert '<th scope="col" aria-sort="ascending"><a href="?view=list&amp;sort=-age">Not up since</a>' in (
        page.content.decode()
    )


def test_ages_that_redis_does_not_tell_are_the_newest(plain):
    live = say(plain, (0, 1, "down"), (2, 3, "down"))
    sync_redis().delete(ages_key(live.members[0].pk))
    assert [row[:2] for row in listed(plain, sort="age")] == [(2, 3), (0, 1)]


def test_an_end_that_sees_the_other_up_has_no_say_in_how_old_it_is(plain):
    now = time.time()
    live = say(plain, now=now - 900)
    change(plain, live, now - 60, (0, 1, "down"), (3, 2, "down"))
    change(plain, live, now - 30, (3, 2, "up"), (2, 3, "down"))
    assert [row[:2] for row in listed(plain, sort="age")] == [(0, 1), (2, 3)]


def test_a_row_says_why_and_since_when(plain, client):
    now = int(time.time())
    live = say(plain, now=now - 900)
    change(plain, live, now - 420, (0, 1, "down"))
    client.force_login(make_user("alice", "viewer"))
    page = client.get("/links/", {"view": "list"})
    (row,) = page.context["rows"]
    assert (row.since.timestamp(), row.at_least, row.reason.code) == (now - 420, False, "one-way")
    assert row.reason.text in page.content.decode().replace("&#x27;", "'")
    assert 'name="pair"' not in page.content.decode(), "a viewer has nothing tried again"
    (exported,) = json.loads(client.get("/links/", {"view": "list", "_export": "json"}).content)
    assert (exported["from"], exported["to"], exported["state"]) == ("edge-0", "edge-1", "down")
    assert (exported["state_seen_by_other_end"], exported["reason"]) == ("up", "one-way")
    assert (exported["since"], exported["since_at_least"]) == (moment(now - 420), False)


@pytest.mark.parametrize(
    ("asked", "changes", "title"),
    [
        pytest.param({}, [], "Every link is up", id="all is well"),
        pytest.param({"q": "nobody"}, [(0, 1, "down")], "Nothing matches", id="nothing matches"),
    ],
)
def test_an_empty_list_says_why(plain, client, asked, changes, title):
    say(plain, *changes)
    assert titles(client, **asked) == [title]


def titles(client, **asked):
    """What stands in the place of rows."""
    client.force_login(make_user("alice", "viewer"))
    page = client.get("/links/", {"view": "list", **asked}).content.decode()
    return re.findall('class="empty-title">(.*?)<', page)


def all_away(mesh, live):
    Node.objects.update(session="", away=True)


def only_talos(mesh, live):
    Node.objects.update(kind=Node.Kind.TALOS, session="", left_at=None)


def emptied(mesh, live):
    sync_redis().flushall()


def one_is_new(mesh, live):
    live.forget(mesh.members[2])


def alone(mesh, live):
    Node.objects.exclude(pk=mesh.members[0].pk).delete()
    make_mesh(1, name="elsewhere", talos=0, seed="elsewhere", now=NOW)


def one_is_alone_elsewhere(mesh, live):
    make_mesh(1, name="elsewhere", talos=0, seed="elsewhere", now=NOW)


@pytest.mark.parametrize(
    ("happens", "title"),
    [
        pytest.param(all_away, "Nobody has reported yet", id="all agents are away"),
        pytest.param(only_talos, "Nobody has reported yet", id="Talos machines report nothing"),
        pytest.param(emptied, "Nobody has reported yet", id="Redis was emptied"),
        pytest.param(one_is_new, "Every link that was told of is up", id="not all have reported"),
        pytest.param(one_is_alone_elsewhere, "Every link is up", id="who has nobody to see is not waited for"),
        pytest.param(alone, "No link yet", id="two clusters of one machine each"),
    ],
)
def test_a_list_that_knows_nothing_says_so(plain, client, happens, title):
    happens(plain, say(plain))
    assert titles(client) == [title]


def test_without_redis_neither_the_list_nor_its_file_is_empty(plain, client, valkey):
    say(plain, (0, 1, "down"))
    valkey.stop()
    assert titles(client) == []
    page = client.get("/links/?view=list").content.decode()
    assert "Redis does not answer" in page
    assert client.get("/links/?view=list&_export=json").status_code == 503


def test_a_list_of_one_clusters_links_is_its_tab(plain, client):
    other = make_mesh(4, name="elsewhere", talos=0, seed="elsewhere", now=NOW)
    say(plain, (0, 1, "down"))
    say(other, (0, 1, "down"))
    client.force_login(make_user("alice", "viewer"))
    tab = client.get(f"/clusters/{plain.cluster.uuid}/links/", {"view": "list"})
    assert [row.cluster for row in tab.context["rows"]] == [plain.cluster]
    assert len(client.get("/links/", {"view": "list"}).context["rows"]) >= 2


def test_the_list_costs_the_same_whatever_it_finds(valkey, client):
    client.force_login(make_user("alice", "operator"))
    counted = []
    for size in (8, 80):
        mesh = make_mesh(size, name=f"size {size}", talos=0, seed=size, now=NOW)
        say(mesh, *((0, place, "down") for place in range(1, size - 3)))
        address = f"/clusters/{mesh.cluster.uuid}/links/?view=list"
        client.get(address)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(address).context["rows"]
        counted.append(len(queries))
    assert counted[0] == counted[1]


def test_a_file_has_more_pairs_than_a_page(valkey, client):
    mesh = make_mesh(40, talos=0, now=NOW)
    members = range(len(mesh.members))
    now = int(time.time())
    say(mesh, *((one, other, "down") for one in members for other in members if one != other), now=now)
    client.force_login(make_user("alice", "viewer"))
    rows = json.loads(client.get("/links/?view=list&sort=age&_export=json").content)
    assert len(rows) == len(members) * (len(members) - 1) // 2 > 500
    assert {(row["since"], row["since_at_least"]) for row in rows} == {(moment(now), True)}


def test_both_ends_of_the_chosen_pairs_try_again(plain, client):
    one, other = plain.members[:2]
    client.force_login(make_user("alice", "operator"))
    chosen = {"pair": [f"{one.pk}-{other.pk}", "nonsense", f"{one.pk}-4711"], "back": "/links/?view=list&q=edge"}
    answer = client.post("/links/try-again/", chosen)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/links/?view=list&q=edge")
    audits = Audit.objects.filter(verb="node.told-to-try-again")
    assert {audit.node_id for audit in audits} == {one.pk, other.pk}


def test_who_may_not_has_nothing_tried_again_and_is_sent_nowhere_else(plain, client):
    one, other = plain.members[:2]
    client.force_login(make_user("alice", "viewer"))
    answer = client.post("/links/try-again/", {"pair": f"{one.pk}-{other.pk}", "back": "https://evil.example/"})
    assert answer.headers["Location"] == "/links/?view=list"
    assert not Audit.objects.filter(verb="node.told-to-try-again").exists()
