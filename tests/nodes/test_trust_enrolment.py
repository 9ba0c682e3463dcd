"""Enrolment, by those who lie: what a token, a key or a version buys, and what a machine that waits is told."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from kubespan.core.identity import KeyPair
from kubespan.core.messages import ENROL_PATH, VERSIONS, EnrolReply, Refusal, dump, parse_body
from kubespan.core.sealing import open_sealed
from nodes.models import Audit, Node, Token
from nodes.services import enrolment, nodes, revisions, sessions, tokens
from nodes.services.refused import Refused
from nodes.services.sessions import Greeting
from tests.factories import NOW, PEER, Machine, enrol, make_cluster, make_token, open_session


def ask(machine, plain, *, now=NOW, **changes):
    return enrolment.enrol(machine.request(plain, **changes), peer=PEER, now=now)


def refusal(machine, plain, **changes):
    with pytest.raises(Refused) as refused:
        ask(machine, plain, **changes)
    return refused.value


# What a machine that waits is told.


def secrets_of(cluster, *others):
    """Whatever would tell it something of the cluster."""
    columns = [(node.name, node.node_id, node.public_key, node.address) for node in others]
    return [
        cluster.cluster_id,
        cluster.name,
        cluster.prefix.partition("::")[0],
        cluster.secret.reveal(),
        *sum(columns, ()),
    ]


def told(words, said: bytes):
    return [word for word in words if word.encode() in said]


@pytest.mark.django_db
def test_the_reply_to_one_that_waits_says_nothing_of_the_cluster():
    cluster = make_cluster("the office")
    member = enrol(cluster, Machine("member"))
    _, plain = make_token(cluster, approval_required=True)
    machine = Machine("stranger", addresses=member.addresses)
    reply = ask(machine, plain)

    assert reply == EnrolReply(
        version=VERSIONS[0],
        status="pending",
        cluster=str(cluster.uuid),
        cluster_id="",
        cluster_name="",
        console_key=revisions.console_settings()[1],
        node_id=machine.node_id,
        address="",
    )
    assert told(secrets_of(cluster, member), dump(reply)) == []
    assert ask(machine, plain) == reply


@pytest.mark.django_db
def test_the_same_request_after_the_yes_is_answered_in_full():
    cluster = make_cluster()
    _, plain = make_token(cluster, approval_required=True)
    machine = Machine()
    ask(machine, plain)
    node = Node.objects.get()
    nodes.approve_node("tests", node, NOW)
    reply = ask(machine, plain)

    assert (reply.status, reply.cluster_id, reply.address) == ("approved", cluster.cluster_id, node.address)


@pytest.mark.django_db
@pytest.mark.parametrize("versions", [(1,), (1, 99), (0, 1)])
def test_a_downgrade_of_one_that_waits_teaches_nothing(versions):
    """The reply of version 1 has the cluster's id, name and address in it: such a machine must not be answered."""
    cluster = make_cluster("the office")
    token, plain = make_token(cluster, approval_required=True)
    machine = Machine()
    refused = refusal(machine, plain, versions=versions)
    assert (refused.code, refused.status) == ("agent-too-old", 403)
    assert told(secrets_of(cluster), refused.reason.encode()) == []
    token.refresh_from_db()
    assert (token.used, Node.objects.count()) == (0, 0)

    ask(machine, plain)  # nor one that asked in version 2 before
    assert refusal(machine, plain, versions=versions).code == "agent-too-old"


@pytest.mark.django_db
def test_a_removed_machine_does_not_learn_by_a_downgrade_what_it_forgot():
    cluster = make_cluster()
    machine = Machine("gone")
    nodes.remove_node("tests", enrol(cluster, machine), "gone", NOW)
    token, plain = make_token(cluster)

    assert refusal(machine, plain, versions=(1,)).code == "agent-too-old"
    token.refresh_from_db()
    assert token.used == 0


@pytest.mark.django_db
def test_a_member_may_still_speak_version_1():
    cluster = make_cluster()
    _, plain = make_token(cluster)
    reply = ask(Machine(), plain, versions=(1,))

    assert (reply.version, reply.status, reply.cluster_id) == (1, "approved", cluster.cluster_id)


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["name", "node_id", "public_key", "verify_key", "interface_id"])
def test_one_that_would_wait_is_not_told_who_has_what_it_asks_for(field):
    cluster = make_cluster()
    member = Machine("member", seed="member")
    enrol(cluster, member)
    _, plain = make_token(cluster, approval_required=True)
    taken = member.pair.public_key if field == "public_key" else getattr(member, field)
    machine = Machine("stranger")
    refused = refusal(machine, plain, **{field: taken})

    assert refused.code.startswith("duplicate-")
    assert refused.reason.startswith("Another node has")
    assert "member" not in refused.reason.replace("remember", "")


@pytest.mark.django_db
def test_who_knocks_with_a_worthless_token_learns_nothing_and_leaves_nothing(client):
    cluster = make_cluster("the office")
    member = enrol(cluster, Machine("member"))
    token, plain = make_token(cluster, now=timezone.now())
    tokens.revoke_token("tests", token, timezone.now())
    rows = Node.objects.count(), Audit.objects.count()
    for text in (plain, "kst_guess", "", "\x00", "kst_" + "x" * 200):
        body = dump(Machine().request(text))
        response = client.post(ENROL_PATH, body, content_type="application/json")
        assert response.status_code == 403
        assert told([*secrets_of(cluster, member), text or "no text"], response.content) == []
        assert parse_body(response.content, Refusal).code in {"token-revoked", "token-unknown"}
    assert (Node.objects.count(), Audit.objects.count()) == rows


# Keys, names, machines anew.


@pytest.mark.django_db
def test_a_machine_installed_anew_is_told_to_be_removed_first_and_returns_by_a_yes():
    """New keys and a new id, but the same name and the same hardware address."""
    cluster = make_cluster()
    old = Machine("edge")
    node = enrol(cluster, old)
    _, plain = make_token(cluster, uses=2)
    anew = Machine("edge")
    anew.interface_id = old.interface_id
    for changes in ({}, {"name": "other"}, {"interface_id": "1" * 16}):
        assert "remove it on the console first" in refusal(anew, plain, **changes).reason

    nodes.remove_node("tests", node, "edge", NOW)
    assert ask(anew, plain).status == "pending"
    assert nodes.approve_node("tests", Node.objects.present().get(), NOW).status == "approved"


@pytest.mark.django_db
def test_the_sealed_secret_opens_with_that_nodes_key_and_for_that_node_alone():
    cluster = make_cluster()
    machine, other = Machine(), Machine()
    _, plain = make_token(cluster, uses=2)
    reply = ask(machine, plain)
    ask(other, plain)
    nonce = sessions.challenge().nonce
    (secret,) = open_session(Greeting(machine.hello(reply, nonce), nonce, PEER), NOW).secrets
    mine = {"cluster": reply.cluster, "node_id": machine.node_id, "generation": secret.generation}

    assert open_sealed(secret.sealed, machine.pair.private_key, **mine) == cluster.secret.reveal()
    assert cluster.secret.reveal() not in secret.sealed
    for key in (other.pair.private_key, KeyPair.make(bytes(32)).private_key):
        with pytest.raises(ValueError, match="does not open"):
            open_sealed(secret.sealed, key, **mine)
    for wrong in ({"node_id": other.node_id}, {"cluster": str(make_cluster().uuid)}, {"generation": 2}):
        with pytest.raises(ValueError, match="does not open"):
            open_sealed(secret.sealed, machine.pair.private_key, **(mine | wrong))
    nonce = sessions.challenge().nonce
    (again,) = open_session(Greeting(machine.hello(reply, nonce), nonce, PEER), NOW).secrets
    assert again.sealed != secret.sealed, "two sealings of one secret must not look alike"


@pytest.mark.django_db
@pytest.mark.parametrize("field", ["machine_type", "machineType", "status", "index", "approved"])
def test_no_machine_says_what_it_is(client, field):
    """Control plane, member, index: such a field is unknown, and the request refused by its name."""
    cluster = make_cluster()
    _, plain = make_token(cluster, now=timezone.now())
    body = json.loads(dump(Machine().request(plain))) | {field: "controlplane"}
    response = client.post(ENROL_PATH, json.dumps(body), content_type="application/json")

    assert response.status_code == 400
    assert field in parse_body(response.content, Refusal).reason
    assert not Node.objects.exists()


@pytest.mark.django_db
def test_every_member_is_a_worker_and_no_two_have_one_nodename():
    cluster = make_cluster()
    for name in ("controlplane", "cp-1"):
        machine = Machine(name)
        _, plain = make_token(cluster)
        ask(machine, plain, operating_system="Talos (v1.11.2)", hostname="controlplane")
    members = json.loads(revisions.frame(cluster.pk, None).bytes)["members"]

    assert {member.get("machine_type", "worker") for member in members} == {"worker"}
    assert len({member["name"] for member in members}) == 2


@pytest.mark.django_db
def test_a_token_ends_for_its_own_machines_too_when_it_is_revoked_but_they_stay():
    cluster = make_cluster()
    token, plain = make_token(cluster, uses=5)
    machine = Machine()
    ask(machine, plain)
    assert ask(machine, plain, now=NOW + timedelta(days=400)).status == "approved"
    tokens.revoke_token("tests", token, NOW)

    assert refusal(machine, plain).code == "token-revoked"
    assert Node.objects.approved().count() == 1


@pytest.mark.django_db
def test_the_token_is_kept_as_a_hash_and_shown_once(client, django_user_model):
    cluster = make_cluster()
    token, plain = make_token(cluster)
    raw = base64.urlsafe_b64decode(plain.removeprefix(tokens.TOKEN_MARK) + "=")
    assert len(raw) == tokens.TOKEN_BYTES
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM nodes_token")
        assert plain not in repr(cursor.fetchall())
    client.force_login(django_user_model.objects.create_superuser("alice"))
    assert plain not in client.get("/tokens/").content.decode()
    assert [row.verb for row in Audit.objects.filter(target=str(token))] == ["token.created"]
    assert Token.objects.get().digest == tokens.digest_token(plain)
