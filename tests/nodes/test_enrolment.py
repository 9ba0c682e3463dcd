"""Enrolment: who gets in, who waits, who is refused; once each, however often and however many ask."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_address
from threading import Barrier

import pytest
from django.db import connection
from django.utils import timezone

from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import node_address
from kubespan.core.messages import ENROL_PATH, VERSIONS, EnrolReply, Refusal, dump, parse_body
from nodes.counters import read_counters
from nodes.models import Audit, Candidate, Change, Node, Token
from nodes.services import enrolment, nodes, tokens
from nodes.services.refused import Refused
from tests.factories import NOW, PEER, Machine, enrol, fill, make_cluster, make_token

pytestmark = pytest.mark.django_db


def ask(machine, plain, *, peer=PEER, now=NOW, **changes):
    return enrolment.enrol(machine.request(plain, **changes), peer=peer, now=now)


def refusal(machine, plain, **changes):
    with pytest.raises(Refused) as refused:
        ask(machine, plain, **changes)
    return refused.value


def test_a_machine_becomes_a_member():
    cluster = make_cluster()
    token, plain = make_token(cluster)
    machine = Machine(addresses=("10.0.0.5",))
    reply = ask(machine, plain)

    address = node_address(ula_prefix(cluster.cluster_id), bytes.fromhex(machine.interface_id))
    assert reply == EnrolReply(
        version=VERSIONS[0],
        status="approved",
        cluster=str(cluster.uuid),
        cluster_id=cluster.cluster_id,
        cluster_name=cluster.name,
        console_key=reply.console_key,
        node_id=machine.node_id,
        address=str(address),
    )
    node = Node.objects.get()
    assert (node.index, node.status, node.address, node.token) == (0, "approved", str(address), token)
    assert list(node.candidates.values_list("endpoint", "source")) == [
        ("10.0.0.5:51820", "local"),
        ("198.51.100.7:51820", "observed"),
    ]
    assert list(Change.objects.values_list("number", "kind", "index")) == [(1, "member", 0)]
    token.refresh_from_db()
    assert (token.used, token.last_used) == (1, NOW)
    row = Audit.objects.get(verb="node.enrolled")
    assert (row.actor_name, row.node, row.details["token"]) == (f"node {node.name}", node, "site")


def test_with_approval_required_it_waits_and_nobody_hears_of_it():
    cluster = make_cluster()
    _, plain = make_token(cluster, approval_required=True)
    reply = ask(Machine(), plain)

    assert reply.status == "pending"
    assert Node.objects.get().index is None
    assert not Change.objects.exists()


def test_the_same_machine_again_gets_the_same_reply_and_costs_no_second_use():
    token, plain = make_token(make_cluster())
    machine = Machine()
    first = ask(machine, plain)

    assert ask(machine, plain, now=NOW + timedelta(days=2)) == first
    token.refresh_from_db()
    assert token.used == 1
    assert Node.objects.count() == 1


def test_the_same_machine_with_a_revoked_token_is_refused():
    token, plain = make_token(make_cluster(), uses=5)
    machine = Machine()
    ask(machine, plain)
    tokens.revoke_token("tests", token, NOW)

    assert refusal(machine, plain).code == "token-revoked"


def test_the_same_machine_with_another_token_needs_a_good_one():
    cluster = make_cluster()
    _, first = make_token(cluster)
    other, second = make_token(cluster)
    machine = Machine()
    reply = ask(machine, first)

    assert ask(machine, second) == reply
    other.refresh_from_db()
    assert other.used == 0
    assert refusal(machine, second, now=NOW + timedelta(days=1)).code == "token-expired"


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        pytest.param("token-unknown", lambda token, plain: plain + "x", id="unknown"),
        pytest.param("token-expired", lambda token, plain: Token.objects.update(expires=NOW) and plain, id="expired"),
        pytest.param("token-used-up", lambda token, plain: Token.objects.update(used=1) and plain, id="used up"),
        pytest.param(
            "token-revoked", lambda token, plain: Token.objects.update(revoked_at=NOW) and plain, id="revoked"
        ),
    ],
)
def test_a_token_that_is_no_good_changes_nothing(code, spoil):
    token, plain = make_token(make_cluster())
    refused = refusal(Machine(), spoil(token, plain))

    assert (refused.code, refused.status) == (code, 403)
    assert plain not in refused.reason
    assert not Node.objects.exists()
    assert not Audit.objects.filter(verb="node.enrolled").exists()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"versions": (99,)}, "version", id="future version"),
        pytest.param({"node_id": "not/base62"}, "node-id", id="node id of another alphabet"),
        pytest.param({"node_id": ""}, "node-id", id="no node id"),
        pytest.param({"node_id": "A" * 257}, "node-id", id="node id too long"),
        pytest.param({"name": ""}, "name", id="no name"),
        pytest.param({"name": "a b"}, "name", id="name with a space"),
        pytest.param({"name": "-a"}, "name", id="name that begins with a hyphen"),
        pytest.param({"public_key": "c2hvcnQ="}, "key", id="key of the wrong length"),
        pytest.param({"public_key": "*" * 44}, "key", id="key of another alphabet"),
        pytest.param({"public_key": "A" * 43 + "="}, "key", id="key of low order"),
        pytest.param({"public_key": "A" * 42 + "B="}, "key", id="key spelt in another way"),
        pytest.param({"verify_key": ""}, "key", id="no signing key"),
        pytest.param({"interface_id": "0" * 16}, "interface-id", id="interface part all zero"),
        pytest.param({"interface_id": "1" * 15}, "interface-id", id="interface part too short"),
        pytest.param({"interface_id": "g" * 16}, "interface-id", id="interface part of another alphabet"),
    ],
)
def test_a_request_that_is_wrong_is_named_and_changes_nothing(changes, code):
    token, plain = make_token(make_cluster())

    assert refusal(Machine(), plain, **changes).code == code
    token.refresh_from_db()
    assert token.used == 0
    assert not Node.objects.exists()


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("name", "duplicate-name"),
        ("node_id", "duplicate-id"),
        ("public_key", "duplicate-key"),
        ("verify_key", "duplicate-key"),
        ("interface_id", "duplicate-address"),
    ],
)
def test_what_another_node_has_is_refused_with_the_remedy(field, code):
    cluster = make_cluster()
    first = Machine("first")
    enrol(cluster, first)
    token, plain = make_token(cluster)
    taken = first.pair.public_key if field == "public_key" else getattr(first, field)
    refused = refusal(Machine("second"), plain, **{field: taken})

    assert (refused.code, refused.status) == (code, 409)
    assert refused.reason.startswith("The node first has")
    token.refresh_from_db()
    assert token.used == 0


def test_a_key_of_another_clusters_node_is_refused_without_its_name():
    first = Machine("first")
    enrol(make_cluster(), first)
    _, plain = make_token(make_cluster())
    refused = refusal(Machine(), plain, public_key=first.pair.public_key)

    assert refused.code == "duplicate-key"
    assert "first" not in refused.reason


def test_names_and_addresses_of_other_clusters_are_free():
    first = Machine("first")
    enrol(make_cluster(), first)
    _, plain = make_token(make_cluster())

    assert ask(Machine("first"), plain, interface_id=first.interface_id).status == "approved"


@pytest.mark.parametrize("same", ["node_id", "public_key", "verify_key", "interface_id"])
def test_what_was_removed_returns_by_a_new_token_and_an_operators_yes(same):
    cluster = make_cluster()
    gone = Machine("gone")
    nodes.remove_node("tests", enrol(cluster, gone), "gone", NOW)
    _, plain = make_token(cluster)
    kept = gone.pair.public_key if same == "public_key" else getattr(gone, same)

    assert ask(Machine("anew"), plain, **{same: kept}).status == "pending"
    assert Audit.objects.filter(verb="node.enrolled").latest("pk").details["returning"] is True


def test_a_removed_machine_is_a_new_row_with_a_new_index():
    cluster = make_cluster()
    machine = Machine("again")
    old = enrol(cluster, machine)
    nodes.remove_node("tests", old, "again", NOW)
    node = enrol(cluster, machine)
    nodes.approve_node("tests", node, NOW)
    node.refresh_from_db()

    assert (node.status, node.index) == ("approved", 1)
    assert node.pk != old.pk


def test_a_used_up_token_does_not_bring_its_removed_machine_back():
    cluster = make_cluster()
    _, plain = make_token(cluster)
    machine = Machine("gone")
    ask(machine, plain)
    nodes.remove_node("tests", Node.objects.get(), "gone", NOW)

    assert refusal(machine, plain).code == "token-used-up"


def test_claims_are_judged_at_the_join():
    cluster = make_cluster()
    enrol(cluster, Machine("first", addresses=("192.168.1.10",)))
    second = enrol(
        cluster,
        Machine("second", addresses=("192.168.1.10", "127.0.0.1", "10.0.0.7"), networks=("10.8.0.0/16", "0.0.0.0/0")),
        peer=ip_address("203.0.113.9"),
    )

    assert second.addresses == ["10.0.0.7"]
    assert second.claimed_networks == ["10.8.0.0/16"]
    assert second.networks == []
    reasons = {refused["claim"]: refused["reason"] for refused in second.refused_claims}
    assert reasons.keys() == {"192.168.1.10", "127.0.0.1", "0.0.0.0/0"}
    assert "first" in reasons["192.168.1.10"]
    assert [row.endpoint for row in second.candidates.all()] == ["10.0.0.7:51820", "203.0.113.9:51820"]


@pytest.mark.parametrize(("approval_required", "told"), [(False, ["127.0.0.1"]), (True, [])])
def test_the_reply_says_which_claims_are_not_believed_but_only_to_a_member(approval_required, told):
    _, plain = make_token(make_cluster(), approval_required=approval_required)
    reply = ask(Machine("edge", addresses=("127.0.0.1", "10.0.0.7")), plain)
    assert [refused.claim for refused in reply.refused] == told


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "fe80::1", None])
def test_where_nobody_else_could_reach_it_is_no_endpoint(peer):
    node = enrol(make_cluster(), peer=ip_address(peer) if peer else None)

    assert not node.candidates.exists()


def test_enrolling_costs_the_same_in_a_large_cluster(django_assert_num_queries, django_assert_max_num_queries):
    few, many = make_cluster(), make_cluster()
    fill(few, 10)
    fill(many, 100)
    (_, first), (_, second) = make_token(few), make_token(many)
    with django_assert_max_num_queries(35) as captured:
        ask(Machine(addresses=("192.0.2.1",)), first)
    with django_assert_num_queries(len(captured)):
        ask(Machine(addresses=("192.0.2.1",)), second)


@pytest.mark.django_db(transaction=True)
def test_a_hundred_at_once_with_a_token_for_one_are_one_node():
    token, plain = make_token(make_cluster())
    machines = [Machine() for _ in range(100)]
    workers = 10
    start = Barrier(workers)

    def work(share):
        start.wait()
        try:
            return [attempt(machine) for machine in share]
        finally:
            connection.close()

    def attempt(machine):
        try:
            return ask(machine, plain).status
        except Refused as refused:
            return refused.code

    with ThreadPoolExecutor(workers) as pool:
        shares = pool.map(work, [machines[part::workers] for part in range(workers)])
        results = list(itertools.chain.from_iterable(shares))

    assert sorted(results) == ["approved"] + ["token-used-up"] * 99
    token.refresh_from_db()
    assert (token.used, Node.objects.count()) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_one_machine_asking_many_times_at_once_is_one_node():
    token, plain = make_token(make_cluster(), uses=50)
    machine = Machine()
    workers = 8
    start = Barrier(workers)

    def work(_):
        start.wait()
        try:
            return ask(machine, plain)
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        replies = list(pool.map(work, range(workers)))

    assert all(reply == replies[0] for reply in replies)
    token.refresh_from_db()
    assert (token.used, Node.objects.count(), Change.objects.count()) == (1, 1, 1)


# The request itself.


def post(client, body, **extra):
    return client.post(ENROL_PATH, body, content_type="application/json", REMOTE_ADDR="198.51.100.7", **extra)


def test_the_request_answers_with_a_reply(client):
    _, plain = make_token(make_cluster(), lifetime=timedelta(days=1), now=timezone.now())
    response = post(client, dump(Machine().request(plain)))

    assert response.status_code == 200
    assert parse_body(response.content, EnrolReply).status == "approved"
    assert Candidate.objects.get().endpoint == "198.51.100.7:51820"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"{", 400, "request", id="nonsense"),
        pytest.param(b"\xff\xfe", 400, "request", id="no text at all"),
        pytest.param(b"{}", 400, "request", id="nothing in it"),
        pytest.param(b'{"type": "hello"}', 400, "request", id="unknown field"),
        pytest.param(b'{"versions": [9, 8], "greeting": "hi"}', 400, "version", id="future versions with other fields"),
        pytest.param(b" " * 70_000, 413, "too-large", id="too large"),
    ],
)
def test_a_body_that_is_none_gets_a_refusal_and_a_count(client, body, status, code):
    response = post(client, body)

    assert response.status_code == status
    assert parse_body(response.content, Refusal).code == code
    assert read_counters() == {f"enrol.{code}": 1}


def test_a_refusal_has_its_status_and_never_the_token(client):
    response = post(client, dump(Machine().request("kst_secret-text")))

    assert response.status_code == 403
    assert json.loads(response.content)["code"] == "token-unknown"
    assert b"secret-text" not in response.content
    assert read_counters() == {"enrol.token-unknown": 1}


def test_only_post_is_answered(client):
    assert client.get(ENROL_PATH).status_code == 405


def test_a_filter_of_the_cluster_holds_for_a_new_machine():
    cluster = make_cluster(endpoint_filters=("10.0.0.0/8",))
    node = enrol(cluster, Machine(addresses=("10.0.0.1", "192.0.2.1")))

    assert [row.endpoint for row in node.candidates.all()] == ["10.0.0.1:51820"]
