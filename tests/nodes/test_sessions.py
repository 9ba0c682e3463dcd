"""An agent's connection: proved, replaced, ended; what it applied, and when it falls silent."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest

from kubespan.core.messages import VERSIONS, Notice, Revision, frame_limit
from kubespan.core.options import ClusterOptions
from kubespan.core.sealing import open_sealed
from nodes.models import Node, Transition
from nodes.services import clusters, enrolment, nodes, sessions
from nodes.services.refused import Refused
from nodes.services.sessions import Greeting
from tests.factories import NOW, PEER, Machine, fill, locks, make_cluster, make_token, open_session

pytestmark = pytest.mark.django_db

NONCE = "a nonce of the console"
LATER = NOW + timedelta(seconds=5)


class Enrolled:
    """A machine and the reply to its enrolment."""

    def __init__(self, cluster, machine=None, **token):
        self.machine = machine or Machine()
        _, plain = make_token(cluster, **token)
        self.reply = enrolment.enrol(self.machine.request(plain), peer=PEER, now=NOW)
        self.node = Node.objects.present().get(node_id=self.machine.node_id)

    def greeting(self, nonce=NONCE, answered=NONCE, peer=PEER, **changes):
        return Greeting(self.machine.hello(self.reply, answered, **changes), nonce, peer)

    def open(self, now=LATER, **changes):
        return open_session(self.greeting(**changes), now)


def test_a_challenge_is_used_once():
    one, two = sessions.challenge(), sessions.challenge()
    assert one.nonce != two.nonce
    assert one.versions == VERSIONS


@pytest.mark.parametrize(
    ("version", "approval", "served", "told"),
    [
        pytest.param(2, False, True, "https://discovery.example:3000", id="a member"),
        pytest.param(1, False, True, "", id="one whose version does not know of it"),
        pytest.param(2, True, True, "", id="one that waits for a yes"),
        pytest.param(2, False, False, "", id="one of a cluster that discovery does not serve"),
    ],
)
def test_who_is_told_where_discovery_is(settings, version, approval, served, told):
    settings.DISCOVERY_URL = "https://discovery.example:3000"
    cluster = make_cluster()
    clusters.set_options("tests", cluster, ClusterOptions(discovery=served), NOW)
    enrolled = Enrolled(cluster, approval_required=approval)
    assert enrolled.open(version=version).welcome.discovery == told


def test_an_approved_node_gets_its_place_and_the_sealed_secret():
    cluster = make_cluster()
    enrolled = Enrolled(cluster)
    session = enrolled.open(agent_time=LATER.timestamp() + 90)

    assert (session.node_pk, session.cluster_pk) == (enrolled.node.pk, cluster.pk)
    assert (session.index, session.status) == (0, "approved")
    assert (session.welcome.status, session.welcome.index) == ("approved", 0)
    assert session.welcome.frame_limit == frame_limit(1)
    opened = open_sealed(
        session.secrets[0].sealed,
        enrolled.machine.pair.private_key,
        cluster=str(cluster.uuid),
        node_id=enrolled.machine.node_id,
        generation=1,
    )
    assert opened == cluster.secret.reveal()
    enrolled.node.refresh_from_db()
    assert (enrolled.node.session, enrolled.node.connected_at, enrolled.node.last_seen) == (session.id, LATER, LATER)
    assert enrolled.node.clock_skew == pytest.approx(90)


def test_who_holds_the_newest_secret_is_not_sent_it_again():
    cluster = make_cluster()
    enrolled = Enrolled(cluster)
    assert enrolled.open(secret_generation=1).secrets == ()
    cluster.secret_generation = 2
    cluster.save()
    assert enrolled.open(secret_generation=1).secrets[0].generation == 2


def test_a_pending_node_learns_nothing():
    session = Enrolled(make_cluster(), approval_required=True).open()
    assert (session.status, session.index, session.secrets) == ("pending", None, ())
    assert (session.welcome.status, session.welcome.index) == ("pending", None)


def test_without_the_old_key_a_node_still_connects(settings):
    enrolled = Enrolled(make_cluster())
    settings.KUBESPAN_KEYS = {"newer": "B" * 43 + "="}
    assert enrolled.open().secrets == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"version": 99}, "version", id="future version"),
        pytest.param({"cluster": "nonsense"}, "cluster", id="cluster that is no uuid"),
        pytest.param({"cluster": "00000000-0000-0000-0000-000000000000"}, "node-unknown", id="unknown cluster"),
        pytest.param({"node_id": "unknown"}, "node-unknown", id="unknown node"),
        pytest.param({"signature": ""}, "signature", id="no signature"),
        pytest.param({"signature": "A" * 86 + "=="}, "signature", id="another signature"),
        pytest.param({"answered": "another nonce"}, "signature", id="answer to another challenge"),
    ],
)
def test_a_hello_that_proves_nothing_changes_nothing(changes, code):
    enrolled = Enrolled(make_cluster())
    with pytest.raises(Refused) as refused:
        enrolled.open(**changes)
    assert refused.value.code == code
    enrolled.node.refresh_from_db()
    assert enrolled.node.session == ""


def test_whose_version_is_not_spoken_learns_which_end_to_upgrade():
    sentence = r"^no common protocol version: one end speaks 99, the other 2, 1; upgrade the older one\.$"
    with pytest.raises(Refused, match=sentence):
        Enrolled(make_cluster()).open(version=99)


def test_another_consoles_challenge_is_useless_here():
    enrolled = Enrolled(make_cluster())
    elsewhere = enrolled.reply.__class__(**{**_fields(enrolled.reply), "console_key": "another console"})
    hello = enrolled.machine.hello(elsewhere, NONCE)
    with pytest.raises(Refused, match="not signed"):
        open_session(Greeting(hello, NONCE, PEER), LATER)


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_a_removed_node_is_told_so_but_only_itself():
    enrolled = Enrolled(make_cluster(), Machine("gone"))
    nodes.remove_node("tests", enrolled.node, "gone", NOW)
    with pytest.raises(Refused) as refused:
        enrolled.open()
    assert refused.value.code == "removed"
    with pytest.raises(Refused) as refused:
        enrolled.open(signature="")
    assert refused.value.code == "signature"


def test_a_node_that_is_removed_while_it_is_let_in_has_no_connection(monkeypatch):
    enrolled = Enrolled(make_cluster(), Machine("gone"))
    Node.objects.update(away=True)
    store = sessions._store

    def store_late(arrivals, now):
        nodes.remove_node("tests", enrolled.node, "gone", NOW)
        store(arrivals, now)

    monkeypatch.setattr(sessions, "_store", store_late)
    assert enrolled.open(peer=ip_address("203.0.113.7")).was_away
    enrolled.node.refresh_from_db()
    assert (enrolled.node.status, enrolled.node.session, enrolled.node.connected_at) == ("removed", "", None)
    assert enrolled.node.peer_address == str(PEER)
    assert not Transition.objects.filter(after="connected").exists()


def test_a_machine_that_was_removed_and_waits_again_is_pending():
    cluster = make_cluster()
    first = Enrolled(cluster, Machine("again"))
    nodes.remove_node("tests", first.node, "again", NOW)
    second = Enrolled(cluster, first.machine)
    assert second.open().status == "pending"


def test_a_newer_connection_takes_the_place_of_the_older():
    enrolled = Enrolled(make_cluster())
    old, new = enrolled.open(), enrolled.open()

    assert not sessions.close_sessions({old.id: enrolled.node.pk}, LATER)
    enrolled.node.refresh_from_db()
    assert enrolled.node.session == new.id
    assert sessions.close_sessions({new.id: enrolled.node.pk}, LATER)
    enrolled.node.refresh_from_db()
    assert (enrolled.node.session, enrolled.node.away_since) == ("", LATER)


def test_where_the_connection_comes_from_is_an_endpoint():
    enrolled = Enrolled(make_cluster())
    enrolled.open(peer=ip_address("203.0.113.200"))
    assert [row.endpoint for row in enrolled.node.candidates.all()] == ["203.0.113.200:51820"]


def test_a_reconnect_is_two_queries_in_a_cluster_of_any_size(django_assert_num_queries):
    for count in (10, 100):
        cluster = make_cluster()
        enrolled = Enrolled(cluster)
        fill(cluster, count)
        enrolled.open()
        with django_assert_num_queries(2 + locks()):
            session = enrolled.open(secret_generation=1)
        assert session.welcome.frame_limit == frame_limit(count + 1)


def test_many_are_found_by_one_query_and_each_has_its_own_answer(django_assert_num_queries):
    here, elsewhere = make_cluster(), make_cluster()
    known = [Enrolled(cluster) for cluster in (here, here, here, elsewhere)]
    for enrolled in known:
        enrolled.open()
    stranger = Machine().hello(known[0].reply, NONCE)
    asked = [enrolled.greeting(secret_generation=1) for enrolled in known]
    asked.insert(1, Greeting(stranger, NONCE, PEER))
    asked.insert(3, known[2].greeting(answered="another nonce"))
    with django_assert_num_queries(2 + locks()):
        opened = sessions.open_sessions(asked, LATER)
    refused = {at: one.code for at, one in enumerate(opened) if isinstance(one, Refused)}
    assert refused == {1: "node-unknown", 3: "signature"}
    present = [one for at, one in enumerate(opened) if at not in refused]
    assert [one.node_pk for one in present] == [enrolled.node.pk for enrolled in known]
    assert [one.welcome.frame_limit for one in present] == [frame_limit(count) for count in (3, 3, 3, 1)]
    for one in present:
        assert Node.objects.get(pk=one.node_pk).session == one.id


def test_each_of_many_has_what_it_said_itself():
    cluster = make_cluster()
    known = [Enrolled(cluster) for _ in range(4)]
    open_before = known[3].open(secret_generation=1)
    asked = [
        known[0].greeting(agent_time=LATER.timestamp() + 7, agent_version="1.0", version=1, secret_generation=1),
        known[1].greeting(agent_time=0.0, agent_version="1.1", version=2, secret_generation=0),
        known[2].greeting(agent_time=LATER.timestamp() - 9, agent_version="", version=2, secret_generation=1),
        replace(known[3].greeting(agent_version="1.3", secret_generation=0), session=open_before.id),
        known[2].greeting(agent_time=LATER.timestamp() - 5, agent_version="1.2", version=2, secret_generation=0),
    ]
    opened = sessions.open_sessions(asked, LATER)
    said = ["session", "clock_skew", "agent_version", "protocol", "secret_kept"]
    rows = {pk: row for pk, *row in Node.objects.values_list("pk", *said)}
    assert rows == {
        known[0].node.pk: [opened[0].id, pytest.approx(7), "1.0", 1, 1],
        known[1].node.pk: [opened[1].id, None, "1.1", 2, 0],
        known[2].node.pk: [opened[4].id, pytest.approx(-5), "1.2", 2, 0],  # it came twice
        # What a connection that is open has kept since is not its hello's to say.
        known[3].node.pk: [open_before.id, pytest.approx(-5), "1.3", VERSIONS[0], 1],
    }
    assert set(Node.objects.values_list("connected_at", "last_seen")) == {(LATER, LATER)}


def test_of_two_connections_of_a_node_the_new_one_wins_and_the_old_one_hears_so():
    enrolled = Enrolled(make_cluster())
    older = enrolled.open()
    again = replace(enrolled.greeting(), session=older.id)
    newer, kept = sessions.open_sessions([enrolled.greeting(), again], LATER)
    assert kept.id == older.id  # it could not know
    assert Node.objects.get().session == newer.id
    with pytest.raises(Refused) as refused:
        open_session(again, LATER)
    assert refused.value.code == "replaced"
    assert Node.objects.get().session == newer.id


def test_what_cannot_be_noted_of_a_return_is_noted_at_the_next():
    enrolled = Enrolled(make_cluster())
    Node.objects.update(away=True)
    (opened,) = sessions.open_sessions([enrolled.greeting(peer=ip_address("203.0.113.200"))], LATER)
    assert (opened.moved, opened.was_away) == (ip_address("203.0.113.200"), True)
    assert Node.objects.get().away  # nobody has noted it yet
    enrolled.open(peer=ip_address("203.0.113.200"))
    sessions.note_return(opened, LATER)  # of two connections at once the other one's word comes late
    assert not Node.objects.get().away
    came = Transition.objects.filter(kind=Transition.Kind.NODE, after="connected")
    assert [row.before for row in came] == ["away"]
    assert enrolled.open(peer=ip_address("203.0.113.200")).moved is None


def test_the_limit_of_frames_counts_indexes_that_are_not_given_again():
    cluster = make_cluster()
    gone, enrolled = Enrolled(cluster, Machine("gone")), Enrolled(cluster)
    nodes.remove_node("tests", gone.node, "gone", NOW)
    assert enrolled.open().welcome.frame_limit == frame_limit(2)


def test_a_fault_of_ours_at_one_is_not_the_others(monkeypatch):
    one, two = Enrolled(make_cluster()), Enrolled(make_cluster())
    seal_for = sessions.rotation.seal_for

    def fail_for_one(node, *rest):
        if node.pk == one.node.pk:
            raise ZeroDivisionError
        return seal_for(node, *rest)

    monkeypatch.setattr(sessions.rotation, "seal_for", fail_for_one)
    first, second = sessions.open_sessions([one.greeting(), two.greeting()], LATER)
    assert isinstance(first, ZeroDivisionError)
    assert second.node_pk == two.node.pk


# What it applied.


def test_applied_revisions_are_written_together(django_assert_num_queries):
    cluster = make_cluster()
    members = fill(cluster, 100)
    with django_assert_num_queries(2 + locks(2)):
        sessions.record_applied(
            [(node.pk, Revision(1, 7), "") for node in members[:99]] + [(members[99].pk, Revision(1, 7), "no nft")],
            LATER,
        )

    assert Node.objects.filter(applied_epoch=1, applied_number=7, fault="", last_seen=LATER).count() == 99
    behind = Node.objects.get(pk=members[99].pk)
    assert (behind.applied_number, behind.fault) == (0, "no nft")


def test_the_last_word_of_a_node_counts():
    enrolled = Enrolled(make_cluster())
    sessions.record_applied([(enrolled.node.pk, Revision(1, 1), "broken"), (enrolled.node.pk, Revision(1, 2), "")], NOW)
    enrolled.node.refresh_from_db()
    assert (enrolled.node.applied_number, enrolled.node.fault) == (2, "")


def test_notices_are_rows():
    enrolled = Enrolled(make_cluster())
    said = [
        (enrolled.node.pk, Notice(kind="drift", text="link deleted by somebody\x00" + "x" * 2000), NOW),
        (987_654, Notice(kind="fault", text="nobody"), NOW),
    ]
    sessions.record_notices(enrolled.node.cluster_id, said, NOW)
    row = Transition.objects.get()
    assert (row.kind, row.node, row.text[:24], len(row.text)) == (
        "drift",
        enrolled.node,
        "link deleted by somebody",
        1000,
    )


# Silence.


def transitions():
    return list(Transition.objects.order_by("pk").values_list("before", "after"))


def test_a_node_that_is_not_heard_of_is_away_once():
    enrolled = Enrolled(make_cluster())
    enrolled.open(now=NOW)
    assert sessions.mark_silent([], NOW + sessions.SILENT_AFTER) == []
    assert sessions.mark_silent([], NOW + sessions.SILENT_AFTER + timedelta(seconds=1)) == [enrolled.node.pk]
    assert sessions.mark_silent([], NOW + sessions.SILENT_AFTER * 2) == []
    enrolled.node.refresh_from_db()
    assert (enrolled.node.session, enrolled.node.away) == ("", True)
    enrolled.open(now=NOW + timedelta(hours=1))
    assert transitions() == [("away", "connected"), ("connected", "away"), ("away", "connected")]


def test_one_that_is_heard_of_is_not_away():
    enrolled = Enrolled(make_cluster())
    enrolled.open(now=NOW)
    sessions.mark_silent([enrolled.node.pk], NOW + timedelta(seconds=60))
    assert sessions.mark_silent([], NOW + timedelta(seconds=100)) == []
    enrolled.node.refresh_from_db()
    assert enrolled.node.last_seen == NOW + timedelta(seconds=60)


def test_a_short_reconnect_is_no_news():
    enrolled = Enrolled(make_cluster())
    session = enrolled.open(now=NOW)
    sessions.close_sessions({session.id: enrolled.node.pk}, NOW + timedelta(seconds=10))
    sessions.mark_silent([], NOW + timedelta(seconds=60))
    enrolled.open(now=NOW + timedelta(seconds=70))
    assert transitions() == [("away", "connected")]


def test_marking_costs_the_same_for_many(django_assert_num_queries, django_assert_max_num_queries):
    counts = []
    for number in (10, 100):
        cluster = make_cluster()
        members = fill(cluster, number)
        Node.objects.filter(cluster=cluster).update(session="x", away=False, last_seen=NOW)
        with django_assert_max_num_queries(12) as captured:
            assert len(sessions.mark_silent([], NOW + timedelta(hours=1))) == len(members)
        counts.append(len(captured))
    assert counts[0] == counts[1]
