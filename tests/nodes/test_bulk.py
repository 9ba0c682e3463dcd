"""Many rows at once: each its own audit row, a cluster's in one push, refusals by name, and roles per cluster."""

from __future__ import annotations

import re

import msgspec
import pytest
from django.utils import timezone

from nodes import fanout
from nodes.connections import sync_redis
from nodes.live import ABSENT, STATES, Summary, states_key, summary_key
from nodes.models import Audit, Change, Node, Token
from nodes.services import bulk, revisions
from nodes.services.refused import Refused
from tests.big import Live, make_mesh
from tests.factories import NOW, enrol, fill, give_role, make_cluster, make_token, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def cluster():
    return make_cluster("homelab")


@pytest.fixture
def page(client):
    client.force_login(make_user("alice", "operator"))
    return client


def waiting(cluster, count):
    return [enrol(cluster, approval_required=True, now=NOW) for _ in range(count)]


def said(response):
    text = re.sub(r"\s+", " ", response.content.decode())
    return re.findall(r'class="ks-note" role="(?:status|alert)".*?<div>(.*?)</div>', text)


# ------------------------------------------------------------------------------------------------------------ services


def test_a_clusters_nodes_are_approved_in_one_transaction_with_a_row_each(
    cluster, monkeypatch, django_capture_on_commit_callbacks
):
    nodes = waiting(cluster, 3)
    pushes = []
    monkeypatch.setattr(revisions.current_app, "send_task", lambda name, given, **_: pushes.append((name, given)))
    with django_capture_on_commit_callbacks(execute=True):
        outcome = bulk.approve_nodes("alice", nodes, NOW)
    assert sorted(outcome.done) == sorted(node.name for node in nodes)
    assert Node.objects.approved().count() == 3
    assert Audit.objects.filter(verb="node.approved").count() == 3
    assert Change.objects.filter(cluster=cluster).count() == 3
    assert pushes == [("nodes.tasks.push_cluster", [cluster.pk])]


def test_one_refusal_keeps_no_other_back_and_leaves_nothing_half_done(cluster):
    new, old = waiting(cluster, 1)[0], enrol(cluster)
    revision = revisions.current(cluster.pk).number
    outcome = bulk.approve_nodes("alice", [old, new], NOW)
    assert outcome.done == [new.name]
    assert outcome.refused == [(old.name, f"{old.name} was approved already.")]
    assert revisions.current(cluster.pk).number == revision + 1
    assert Audit.objects.filter(verb="node.approved").count() == 1


def test_a_removal_of_many_wants_their_number(cluster):
    nodes = [enrol(cluster) for _ in range(2)]
    for typed in ("", "1", "all"):
        with pytest.raises(Refused, match="Type the number of nodes, 2"):
            bulk.remove_nodes("alice", nodes, typed, NOW)
    assert sorted(bulk.remove_nodes("alice", nodes, " 2 ", NOW).done) == sorted(node.name for node in nodes)
    assert not Node.objects.present().exists()


def test_networks_are_left_out_beside_those_that_are_and_routed_again(cluster):
    node, other = enrol(cluster), enrol(cluster)
    bulk.leave_out("alice", [node], ["10.9.0.0/16"], NOW)
    bulk.leave_out("alice", [node, other], ["172.17.0.0/16"], NOW)
    excluded = {one.pk: one.excluded_networks for one in Node.objects.all()}
    assert excluded == {node.pk: ["10.9.0.0/16", "172.17.0.0/16"], other.pk: ["172.17.0.0/16"]}
    again = list(Node.objects.all())
    bulk.leave_out("alice", again, ["172.17.0.0/16"], NOW, again=True)
    assert [one.excluded_networks for one in Node.objects.order_by("pk")] == [["10.9.0.0/16"], []]
    with pytest.raises(Refused):
        bulk.leave_out("alice", [node], ["home"], NOW)


def test_who_cannot_be_told_to_try_again_is_named(cluster, monkeypatch):
    monkeypatch.setattr(fanout, "publish_to_node", lambda *_: None)
    here, away, talos = enrol(cluster), enrol(cluster), enrol(cluster)
    Node.objects.filter(pk=here.pk).update(session="s")
    Node.objects.filter(pk=talos.pk).update(kind="talos")
    outcome = bulk.try_nodes_again("alice", list(Node.objects.select_related("cluster")), NOW)
    assert outcome.done == [here.name]
    assert dict(outcome.refused) == {
        away.name: "It is not connected, so it cannot be told.",
        talos.name: "A Talos machine goes through endpoints by itself.",
    }


def test_a_role_counts_in_its_own_cluster(cluster):
    elsewhere = make_cluster("elsewhere")
    mine, other = waiting(cluster, 1)[0], waiting(elsewhere, 1)[0]
    person = make_user("bob", "operator", cluster)
    outcome = bulk.approve_nodes(person, [mine, other], NOW)
    assert outcome.done == [mine.name]
    assert [name for name, reason in outcome.refused if "you need the role operator" in reason] == [other.name]


def test_there_are_not_too_many_at_a_time(cluster, monkeypatch):
    monkeypatch.setattr(bulk, "LIMIT", 1)
    with pytest.raises(Refused, match="At most 1 at a time; 2 are chosen"):
        bulk.approve_nodes("alice", waiting(cluster, 2), NOW)
    with pytest.raises(Refused, match="Choose at least one"):
        bulk.approve_nodes("alice", [], NOW)


# --------------------------------------------------------------------------------------------------------------- pages


def test_what_was_chosen_on_several_pages_is_approved(page, cluster):
    nodes = waiting(cluster, 3)
    form = {"deed": "approve", "chosen": nodes[0].pk, "keys": f"{nodes[0].pk},{nodes[1].pk},nonsense"}
    response = page.post("/nodes/bulk/?status=pending", form, follow=True)
    assert response.redirect_chain == [("/nodes/?status=pending", 302)]
    assert "2 nodes approved; their peers hear of it now." in said(response)
    assert list(Node.objects.pending()) == [nodes[2]]


def test_all_that_match_are_those_of_the_address(page, cluster):
    nodes = fill(cluster, 30)
    response = page.post("/nodes/bulk/?q=bulk-2", {"deed": "remove", "all": "yes"})
    assert "Remove: 11 nodes" in response.content.decode()
    keys = re.search(r'name="keys" value="([\d,]+)"', response.content.decode())[1]
    page.post("/nodes/bulk/?q=bulk-2", {"deed": "remove", "sure": "yes", "keys": keys, "typed_count": "11"})
    gone = {node.name for node in nodes if "bulk-2" in node.name}
    assert set(Node.objects.filter(status="removed").values_list("name", flat=True)) == gone


def test_nothing_goes_before_the_number_is_typed(page, cluster):
    nodes = fill(cluster, 2)
    form = {"deed": "remove", "sure": "yes", "keys": ",".join(str(node.pk) for node in nodes), "typed_count": "3"}
    response = page.post("/nodes/bulk/", form)
    assert response.status_code == 400
    assert "Type the number of nodes, 2" in response.content.decode()
    assert Node.objects.approved().count() == 2


@pytest.mark.parametrize(
    "more", [{}, {"sure": "yes", "typed_count": "1"}], ids=["asked for", "by its number all the same"]
)
@pytest.mark.parametrize("by", ["one", "chosen", "all"])
def test_one_node_alone_is_removed_by_its_name_on_its_page(page, cluster, by, more):
    node, _ = fill(cluster, 2)
    form = {"one": {"one": f"remove {node.pk}"}, "chosen": {"deed": "remove", "chosen": node.pk}}
    asked = form.get(by, {"deed": "remove", "all": "yes"}) | more
    response = page.post(f"/nodes/bulk/?q={node.name}", asked, follow=True)
    assert response.redirect_chain == [(f"{node.get_absolute_url()}?open=remove", 302)]
    dialog = re.search(r'<dialog[^>]* id="remove"[^>]*>', response.content.decode())[0]
    assert "data-open-at-load" in dialog
    assert Node.objects.approved().count() == 2


def test_who_may_not_remove_the_one_node_is_told_so(client, cluster):
    node, _ = fill(cluster, 2)
    bob = make_user("bob", "viewer", cluster)
    give_role(bob, "administrator", make_cluster("elsewhere"))
    client.force_login(bob)
    response = client.post("/nodes/bulk/", {"one": f"remove {node.pk}"}, follow=True)
    assert response.redirect_chain == [("/nodes/", 302)]
    assert "you need the role" in " ".join(said(response))


def test_a_rows_own_button_does_it_to_that_row_alone(page, cluster):
    nodes = waiting(cluster, 2)
    page.post("/nodes/bulk/", {"one": f"approve {nodes[0].pk}", "chosen": nodes[1].pk})
    assert list(Node.objects.pending()) == [nodes[1]]


def test_tokens_are_revoked_once_that_is_said_again(page, cluster):
    tokens = [make_token(cluster)[0] for _ in range(3)]
    keys = ",".join(str(token.pk) for token in tokens[:2])
    assert "Revoke: 2 tokens" in page.post("/tokens/bulk/", {"deed": "revoke", "keys": keys}).content.decode()
    assert not Token.objects.exclude(revoked_at=None).exists()
    page.post("/tokens/bulk/", {"deed": "revoke", "keys": keys, "sure": "yes"})
    assert Token.objects.exclude(revoked_at=None).count() == 2


def test_who_may_only_look_has_no_boxes_and_changes_nothing(client, cluster):
    node = waiting(cluster, 1)[0]
    client.force_login(make_user("bob", "viewer"))
    assert 'name="chosen"' not in client.get("/nodes/").content.decode()
    response = client.post("/nodes/bulk/", {"deed": "approve", "chosen": node.pk}, follow=True)
    assert "you need the role operator" in " ".join(said(response))
    assert Node.objects.pending().exists()


def test_hidden_nodes_cannot_be_chosen(client, cluster):
    node = waiting(make_cluster("elsewhere"), 1)[0]
    client.force_login(make_user("bob", "operator", cluster))
    response = client.post("/nodes/bulk/", {"deed": "approve", "chosen": node.pk}, follow=True)
    assert said(response) == ["Choose at least one node."]


# ------------------------------------------------------------------------------------------------------------- filters


def test_nodes_are_found_by_what_they_last_said_of_their_links(page, cluster):
    nodes = fill(cluster, 4)
    for node, states in zip(nodes, (("up", "down"), ("up", "unknown"), ("up", "up")), strict=False):
        summary = Summary("s", 1.0, 1, **{state: states.count(state) for state in states})
        sync_redis().set(summary_key(node.pk), msgspec.msgpack.encode(summary))
    found = {}
    for value in ("down", "unknown", "up", "silent"):
        text = page.get(f"/nodes/?links={value}").content.decode()
        found[value] = re.findall(r'<a href="/nodes/\d+/">(bulk-\d)</a>', text)
    assert found == {"down": ["bulk-0"], "unknown": ["bulk-1"], "up": ["bulk-2"], "silent": ["bulk-3"]}


@pytest.mark.parametrize(
    ("states", "value"), [("", "silent"), ("up", "up"), ("up down", "down"), ("up unknown", "unknown")]
)
def test_talos_machines_are_found_by_what_their_peers_say(page, cluster, states, value):
    machine, *agents = fill(cluster, 3)
    Node.objects.filter(pk=machine.pk).update(kind=Node.Kind.TALOS)
    for agent, state in zip(agents, states.split(), strict=False):
        column = bytes([ABSENT] * machine.index + [STATES.index(state)])
        sync_redis().set(states_key(agent.pk), column)
    for choice in ("down", "unknown", "up", "silent"):
        found = page.get(f"/nodes/?kind=talos&links={choice}").content.decode()
        assert (f'<a href="/nodes/{machine.pk}/">{machine.name}</a>' in found) is (choice == value), choice
    assert ("?links=down" in page.get("/nodes/").content.decode()) is (value == "down")


def test_without_redis_a_filter_by_links_says_why_it_finds_nobody(page, cluster, valkey):
    fill(cluster, 1)
    valkey.stop()
    assert "Redis is away" in page.get("/nodes/?links=down").content.decode()


def test_what_wants_somebody_is_counted_and_what_does_not_is_no_button(page):
    mesh = make_mesh(60)
    Live(mesh, timezone.now().timestamp()).write()
    text = re.sub(r"\s+", " ", page.get("/nodes/").content.decode())
    shown = dict(re.findall(r"</svg> ([\w ]+) \((\d+)\)</a>", text))
    nodes = [node for node in mesh.members if not node.is_talos]
    behind = [node for node in nodes if not node.fault and node.behind(mesh.cluster)]
    assert shown["Pending approval"] == "3"
    assert shown.get("Behind") == (str(len(behind)) if behind else None)
    assert shown.get("Away") == (str(len([node for node in nodes if not node.session])) or None)
    addresses = dict(re.findall(r'href="\?([^"]+)"[^>]*> <svg[^>]*><use[^>]*></use></svg> ([\w ]+) \(', text))
    for address, label in addresses.items():
        assert len(page.get(f"/nodes/?{address}&_export=json").json()) == int(shown[label]), label
