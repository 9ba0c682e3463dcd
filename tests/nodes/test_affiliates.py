"""Discovery and console are one membership: real rows, sealed as Talos machines seal them."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_interface

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from kubespan.core.affiliate import Affiliate
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.messages import Report, Revision
from kubespan.core.options import ClusterOptions
from kubespan.discovery.limits import TTL_SECONDS
from kubespan.discovery.sealing import open_affiliate, open_endpoint, seal_affiliate, seal_endpoint
from kubespan.discovery.state import Deletion, Update
from nodes import live, tasks
from nodes.connections import sync_redis
from nodes.counters import read_counters
from nodes.models import Audit, Change, Cluster, DiscoveryClock, Node, Transition
from nodes.services import affiliates, clusters, discovery, nodes, sessions, strangers
from tests.factories import NOW, Machine, enrol, make_cluster, make_user
from tests.nodes.test_views import options

pytestmark = pytest.mark.django_db(transaction=True)
LATER = NOW + timedelta(hours=1)
DOWNTIME = 5000.0
"""Seconds by which discovery's time is behind the wall's."""


class Talos:
    """A cluster with machines that speak to discovery alone."""

    def __init__(self, **options):
        self.cluster = make_cluster(**options)
        self.secret = base64.b64decode(self.cluster.secret.reveal())
        self.row = discovery.find(self.cluster.cluster_id, serve_all=False)
        DiscoveryClock.objects.create(pk=1, seen=NOW.timestamp(), downtime=DOWNTIME)
        self.at = NOW.timestamp() - DOWNTIME

    def machine(self, number=1, **changes):
        """What a Talos machine says of itself."""
        prefix = ula_prefix(self.cluster.cluster_id)
        return replace(
            Affiliate(
                node_id=f"talos-{number}",
                addresses=(ip_address(f"10.5.0.{number}"),),
                hostname=f"talos-{number}.example",
                nodename=f"talos-{number}",
                machine_type="controlplane",
                operating_system="Talos (v1.9.0)",
                public_key=KeyPair.make(bytes([number]) * 32).public_key,
                address=IPv6Address(int(prefix.network_address) + number),
                api_server_port=6443,
            ),
            **changes,
        )

    def say(self, *machines, endpoints=("192.0.2.1:51820",), secret=None, under=None):
        """Publish machines, as their clients would."""
        secret = secret or self.secret
        sealed = tuple(seal_endpoint(Endpoint.parse(text), secret) for text in endpoints)
        operations = [
            Update(under or one.node_id, seal_affiliate(one, secret, bytes(11) + bytes([number])), sealed, TTL_SECONDS)
            for number, one in enumerate(machines)
        ]
        discovery.apply(self.row, operations, self.at)

    def follow(self, now=NOW):
        return affiliates.follow(self.cluster.pk, now)

    def pass_time(self, minutes):
        """Both timelines go on; gives the new moment of the console's."""
        self.at += 60 * minutes
        return datetime.fromtimestamp(self.at + DOWNTIME, UTC)

    def approve(self, now=NOW):
        for node in Node.objects.pending():
            nodes.approve_node("alice", node, now)

    def listed(self):
        return discovery.read(self.row).affiliates

    def endpoints(self, node_id):
        """Where discovery says that a machine can be reached."""
        return [str(open_endpoint(one.data, self.secret)) for one in self.listed()[node_id].endpoints]

    def saw(self, observer, node, endpoint, now=NOW):
        """An agent reports where it sees another member."""
        nodes.record_harvest(self.cluster.pk, [(observer.index, node.index, Endpoint.parse(endpoint))], now)


@pytest.fixture
def talos(valkey):
    return Talos()


# From discovery to the console.


def test_a_machine_that_was_never_seen_waits_for_a_yes_and_then_is_a_member(talos):
    talos.say(talos.machine(), endpoints=["192.0.2.1:51820", "[2001:db8::1]:51820"])
    talos.follow()
    node = Node.objects.get()
    assert (node.kind, node.status, node.name, node.machine_type) == ("talos", "pending", "talos-1", "controlplane")
    assert (node.hostname, node.operating_system) == ("talos-1.example", "Talos (v1.9.0)")
    assert (node.addresses, node.public_key) == (["10.5.0.1"], talos.machine().public_key)
    assert Audit.objects.filter(verb="node.discovered", node=node).exists()
    assert not Change.objects.exists()
    talos.approve()
    change = Change.objects.get()
    assert (change.kind, change.index) == ("member", 0)
    endpoints = list(Node.objects.get().candidates.values_list("endpoint", "source"))
    assert endpoints == [("192.0.2.1:51820", "announced"), ("[2001:db8::1]:51820", "announced")]


def test_what_it_says_anew_is_one_change_and_the_same_again_is_none(talos):
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    talos.follow(LATER)
    assert Cluster.objects.get().revision == 1
    talos.say(talos.machine(addresses=(ip_address("10.5.0.1"), ip_address("10.5.1.1"))))
    talos.follow(LATER)
    assert Node.objects.get().addresses == ["10.5.0.1", "10.5.1.1"]
    assert Cluster.objects.get().revision == 2


def test_its_networks_wait_for_a_yes_of_their_own(talos):
    talos.say(talos.machine(additional_addresses=(ip_interface("10.244.1.1/24"),)))
    talos.follow()
    talos.approve()
    assert Node.objects.get().claimed_networks == ["10.244.1.0/24"]


def test_an_address_of_another_member_is_not_believed(talos):
    enrol(talos.cluster, Machine(addresses=("10.5.0.1",)))
    talos.say(talos.machine())
    talos.follow()
    node = Node.objects.get(kind="talos")
    assert (node.addresses, node.refused_claims[0]["claim"]) == ([], "10.5.0.1")


@pytest.mark.parametrize(
    ("changes", "counter"),
    [
        pytest.param({"public_key": ""}, "no-kubespan", id="no KubeSpan"),
        pytest.param({"public_key": "x"}, "no-kubespan", id="a key that is none"),
        pytest.param({"address": IPv6Address("fd00::1")}, "address", id="an address of another cluster"),
    ],
)
def test_what_cannot_be_is_no_node(talos, changes, counter):
    talos.say(talos.machine(**changes))
    talos.follow()
    assert not Node.objects.exists()
    assert read_counters()[f"discovery.{counter}"] == 1


def test_a_removed_machine_does_not_come_back_by_id_or_key(talos):
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    node = Node.objects.get()
    nodes.remove_node("alice", node, node.name, NOW)
    talos.follow()
    talos.say(talos.machine(2, public_key=talos.machine(1).public_key))
    talos.follow()
    assert not Node.objects.present().exists()
    assert read_counters()["discovery.removed"] >= 2


def test_another_key_under_a_known_id_is_not_believed(talos):
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    talos.say(talos.machine(public_key=talos.machine(9).public_key))
    talos.follow()
    assert Node.objects.get().public_key == talos.machine(1).public_key
    assert read_counters()["discovery.another-key"] == 1


def test_a_blob_under_another_id_is_a_replay(talos):
    talos.say(talos.machine(1), under="talos-2")
    assert talos.follow().damaged == {"talos-2"}
    assert not Node.objects.exists()


def test_a_wrong_secret_is_told_from_damage(talos):
    talos.say(talos.machine(1), secret=bytes(32))
    opened = talos.follow()
    assert (opened.wrong_secret, opened.strange) == (True, {"talos-1"})
    talos.say(talos.machine(2))
    opened = talos.follow()
    assert (opened.wrong_secret, opened.strange) == (False, {"talos-1"})


def test_who_is_listed_no_more_has_left_and_after_a_while_is_no_member(talos):
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    discovery.apply(talos.row, [Deletion("talos-1")], talos.at)
    talos.follow(NOW)
    node = Node.objects.get()
    assert (node.left_at, node.status) == (NOW, "approved")
    assert [row.after for row in Transition.objects.all()] == ["left discovery"]
    assert affiliates.find_unheard(NOW + timedelta(minutes=1)) == []
    assert affiliates.find_unheard(LATER) == [node]
    assert affiliates.drop_left([node], LATER) == 1
    node.refresh_from_db()
    assert node.status == "left"
    assert list(Change.objects.values_list("kind", flat=True)) == ["member", "gone"]
    talos.say(talos.machine())
    talos.follow(LATER)
    node.refresh_from_db()
    assert (node.status, node.left_at, node.index) == ("approved", None, 0)
    assert Transition.objects.first().after == "is back in discovery"
    assert list(Change.objects.values_list("kind", flat=True)) == ["member", "gone", "member"]


def says(agent, peer, state, *, since=NOW, connected=True):
    """An agent reports its link to another member, and has done since then."""
    table = live.Table()
    report = Report(
        number=0, complete=True, revision=Revision(1, 1), members=(peer.index,), states=(live.STATES.index(state),),
        endpoints=("",), handshakes=(-1,), received=(0,), sent=(0,),
    )  # fmt: skip
    table.merge(report, agent.index, {peer.index}, since.timestamp())
    sync_redis().set(live.states_key(agent.pk), table.states())
    if connected:
        sync_redis().set(live.summary_key(agent.pk), table.summary("here"))


JUST_NOW = LATER - timedelta(minutes=1)
SAYS_NO = {"state": "down"}
AWAY = {"connected": False}


@pytest.mark.parametrize(
    ("agents", "kept"),
    [
        pytest.param([{"state": "up"}], True, id="heard"),
        pytest.param([SAYS_NO, {"state": "up", "since": JUST_NOW}], True, id="heard by one that came back just now"),
        pytest.param([SAYS_NO, {"state": "up"} | AWAY], True, id="heard by one that left just now"),
        pytest.param([SAYS_NO, SAYS_NO], False, id="heard by nobody"),
        pytest.param([SAYS_NO, {"state": "unknown"}], False, id="not heard, by one that still tries"),
        pytest.param([SAYS_NO, AWAY], False, id="heard by nobody, and one is away"),
        pytest.param([{"state": "down", "since": JUST_NOW}], True, id="the first that is back hears nothing"),
        pytest.param([SAYS_NO, {}], True, id="one is connected and has not spoken yet"),
        pytest.param([{}, {}], True, id="an empty Redis"),
        pytest.param([AWAY, AWAY], True, id="no connected agent"),
        pytest.param([SAYS_NO | AWAY], True, id="no connected agent any more"),
        pytest.param([], False, id="no agent that could ever hear it"),
    ],
)
def test_who_left_is_let_go_only_when_agents_say_that_none_hears_it(talos, agents, kept):
    members = [enrol(talos.cluster) for _ in agents]
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    discovery.apply(talos.row, [Deletion("talos-1")], talos.at)
    talos.follow()
    node = Node.objects.get(kind="talos")
    for agent, said in zip(members, agents, strict=True):
        if said.get("connected", True):
            connected(agent)
        if "state" in said:
            says(agent, node, **said)
    assert affiliates.find_unheard(LATER) == ([] if kept else [node])


def test_while_redis_is_away_nobody_is_let_go(talos, valkey):
    connected(enrol(talos.cluster))
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    Node.objects.filter(kind="talos").update(left_at=NOW)
    valkey.stop()
    tasks.keep_affiliates()
    assert Node.objects.get(kind="talos").status == "approved"


def test_it_reports_nothing_and_is_not_silent_for_that(talos):
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    assert sessions.mark_silent([], LATER) == []
    assert not Transition.objects.exists()


# At an import.


@pytest.fixture
def reimport(talos):
    """Bring the cluster here anew, as it is listed now: what discovery keeps outlives the console's row for a while."""

    def bring(**given):
        cluster = talos.cluster
        identity = {"cluster_id": cluster.cluster_id, "secret": cluster.secret.reveal()}
        clusters.delete_cluster("alice", cluster, cluster.name, NOW)
        talos.cluster, _ = clusters.create_cluster("alice", name="imported", now=NOW, **(identity | given))
        return dict(talos.cluster.nodes.values_list("node_id", "status"))

    return bring


def test_an_import_lets_in_who_is_listed_at_that_moment_and_nobody_who_comes_later(talos, reimport):
    talos.say(talos.machine(1), talos.machine(2))
    talos.say(talos.machine(3), under="talos-4")  # a replay
    talos.say(talos.machine(5), secret=bytes(32))
    assert reimport() == {"talos-1": "approved", "talos-2": "approved"}
    audits = Audit.objects.filter(verb="node.approved", cluster=talos.cluster)
    assert set(audits.values_list("actor_name", "target")) == {("alice", "talos-1"), ("alice", "talos-2")}
    assert [row.kind for row in Change.objects.filter(cluster=talos.cluster)] == ["member", "member"]
    talos.say(talos.machine(6))
    talos.follow()
    assert Node.objects.get(node_id="talos-6").status == "pending"


@pytest.mark.parametrize(
    ("given", "minutes"),
    [
        pytest.param({}, 31, id="has expired"),
        pytest.param({"secret": base64.b64encode(bytes(32)).decode()}, 0, id="does not open"),
        pytest.param({"options": ClusterOptions(discovery=False)}, 0, id="is not to be served"),
        pytest.param({"cluster_id": "", "secret": ""}, 0, id="is another cluster's than one made here"),
    ],
)
def test_an_import_lets_nobody_in_whose_word(talos, reimport, given, minutes):
    talos.at -= 60 * minutes
    talos.say(talos.machine())
    assert reimport(**given) == {}


def test_an_import_lets_in_more_than_may_wait_some_at_a_time(talos, reimport, monkeypatch):
    monkeypatch.setattr(strangers, "PENDING_LIMIT", 2)
    monkeypatch.setattr(affiliates, "DISCOVERED_AT_ONCE", 2)
    talos.say(*(talos.machine(number) for number in range(1, 6)))
    assert list(reimport().values()) == ["approved"] * 5


def test_an_import_lets_in_whom_a_worker_has_found_before_with_the_same_key(talos):
    talos.say(talos.machine(1), talos.machine(2))
    talos.follow()
    talos.say(talos.machine(1), talos.machine(2, public_key=talos.machine(9).public_key))
    assert affiliates.admit_listed("alice", talos.cluster, NOW) == 1
    assert affiliates.admit_listed("alice", talos.cluster, NOW) == 0
    assert dict(Node.objects.values_list("node_id", "status")) == {"talos-1": "approved", "talos-2": "pending"}


def test_whoever_imports_is_told_how_many_came_in(talos, client, django_user_model):
    client.force_login(django_user_model.objects.create_superuser("alice"))
    cluster = talos.cluster
    DiscoveryClock.objects.update(downtime=0)
    talos.at = datetime.now(UTC).timestamp()
    talos.say(talos.machine(1), talos.machine(2))
    given = options(name="imported", cluster_id=cluster.cluster_id, secret=cluster.secret.reveal())
    clusters.delete_cluster("alice", cluster, cluster.name, NOW)
    shown = client.post(reverse("cluster-import"), given, follow=True).content.decode()
    assert "2 machines listed by discovery with this secret: approved with the import." in shown


# From the console to discovery.


def connected(node):
    Node.objects.filter(pk=node.pk).update(session="here")


def test_a_connected_node_is_published_as_a_talos_machine_reads_it(talos):
    machine = Machine(addresses=("10.0.0.5",), name="debian")
    node = enrol(talos.cluster, machine)
    connected(node)
    affiliates.publish(talos.cluster.pk, talos.at)
    (listed,) = talos.listed().values()
    opened = open_affiliate(listed.data, talos.secret)
    assert listed.id == opened.node_id == node.node_id
    assert (opened.nodename, opened.machine_type, opened.public_key) == ("debian", "worker", node.public_key)
    assert (opened.address, opened.api_server_port) == (IPv6Address(node.address), None)
    assert str(open_endpoint(listed.endpoints[0].data, talos.secret)) == "10.0.0.5:51820"
    assert listed.expires == talos.at + TTL_SECONDS


def test_it_never_has_the_node_name_of_another(talos):
    node = enrol(talos.cluster, Machine(name="talos-1"))
    connected(node)
    talos.say(talos.machine(1, public_key=""))  # no node here, but a machine of that name there
    affiliates.publish(talos.cluster.pk, talos.at)
    opened = open_affiliate(talos.listed()[node.node_id].data, talos.secret)
    assert opened.nodename == f"talos-1-{node.node_id[:8]}"
    assert affiliates.publish(talos.cluster.pk, talos.at) is None
    discovery.apply(talos.row, [Deletion("talos-1")], talos.at)
    affiliates.publish(talos.cluster.pk, talos.at)
    assert open_affiliate(talos.listed()[node.node_id].data, talos.secret).nodename == "talos-1"


def test_networks_that_somebody_or_a_rule_said_yes_to_are_published(valkey):
    talos = Talos(approved_networks=("10.244.0.0/16",))
    node = enrol(talos.cluster, Machine(networks=("10.244.1.0/24", "10.8.0.0/24", "10.9.0.0/24")))
    connected(node)
    nodes.approve_networks("alice", Node.objects.get(), ["10.8.0.0/24"], NOW)
    affiliates.publish(talos.cluster.pk, talos.at)
    (listed,) = talos.listed().values()
    opened = open_affiliate(listed.data, talos.secret)
    assert set(map(str, opened.additional_addresses)) == {"10.244.1.0/24", "10.8.0.0/24"}


def test_where_kubespan_is_off_it_is_published_without(talos):
    connected(enrol(talos.cluster, Machine(addresses=("10.0.0.5",), name="debian")))
    clusters.set_options("alice", Cluster.objects.get(), ClusterOptions(enabled=False), NOW)
    affiliates.publish(talos.cluster.pk, talos.at)
    (listed,) = talos.listed().values()
    opened = open_affiliate(listed.data, talos.secret)
    assert (opened.nodename, opened.addresses) == ("debian", (ip_address("10.0.0.5"),))
    assert (opened.public_key, opened.address, opened.additional_addresses, listed.endpoints) == ("", None, (), ())


def test_a_cluster_that_is_not_to_be_served_is_not_published_and_its_talos_machines_leave(talos):
    connected(enrol(talos.cluster))
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    clusters.set_options("alice", Cluster.objects.get(), ClusterOptions(discovery=False), NOW)
    assert affiliates.publish(talos.cluster.pk, talos.at) is None
    talos.follow()
    assert Node.objects.get(kind="talos").left_at == NOW
    assert Node.objects.get(kind="linux").left_at is None


def test_it_is_renewed_with_the_same_bytes_and_wakes_nobody(talos):
    connected(enrol(talos.cluster))
    affiliates.publish(talos.cluster.pk, talos.at)
    (before,) = talos.listed().values()
    assert affiliates.publish(talos.cluster.pk, talos.at + 60) is None  # it is good for a while
    applied = affiliates.publish(talos.cluster.pk, talos.at + TTL_SECONDS / 2 + 1)
    (after,) = talos.listed().values()
    assert applied.events == ()
    assert (after.data, after.expires) == (before.data, before.expires + TTL_SECONDS / 2 + 1)


def test_what_somebody_wrote_over_it_is_written_over_again(talos):
    node = enrol(talos.cluster)
    connected(node)
    affiliates.publish(talos.cluster.pk, talos.at)
    discovery.apply(talos.row, [Update(node.node_id, b"junk", (), 60.0)], talos.at)
    affiliates.publish(talos.cluster.pk, talos.at)
    assert open_affiliate(talos.listed()[node.node_id].data, talos.secret).node_id == node.node_id


def test_a_node_that_is_away_is_not_renewed_and_a_removed_one_is_taken_away(talos):
    node = enrol(talos.cluster)
    assert affiliates.publish(talos.cluster.pk, talos.at) is None
    connected(node)
    affiliates.publish(talos.cluster.pk, talos.at)
    nodes.remove_node("alice", Node.objects.get(), node.name, NOW)
    applied = affiliates.publish(talos.cluster.pk, talos.at)
    assert [event.affiliate for event in applied.events] == [None]
    assert talos.listed() == {}


def test_our_own_affiliates_are_no_talos_machines(talos):
    connected(enrol(talos.cluster))
    affiliates.publish(talos.cluster.pk, talos.at)
    talos.follow()
    assert Node.objects.count() == 1


def test_endpoints_harvested_on_either_side_reach_the_other(valkey):
    talos = Talos(harvest_extra_endpoints=True)
    node = enrol(talos.cluster)
    connected(node)
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    affiliates.publish(talos.cluster.pk, talos.at)
    # A Talos machine saw ours, and our agent saw the Talos machine.
    seen = seal_endpoint(Endpoint.parse("198.51.100.9:40000"), talos.secret)
    discovery.apply(talos.row, [Update(node.node_id, b"", (seen,), TTL_SECONDS)], talos.at)
    talos.follow()
    assert node.candidates.filter(endpoint="198.51.100.9:40000", source="harvested").exists()
    talos.saw(node, Node.objects.get(kind="talos"), "203.0.113.7:1234")
    affiliates.publish(talos.cluster.pk, talos.at)
    assert talos.endpoints("talos-1") == ["192.0.2.1:51820", "203.0.113.7:1234"]
    assert talos.endpoints(node.node_id).count("198.51.100.9:40000") == 1
    clusters.set_options("alice", Cluster.objects.get(), ClusterOptions(), NOW)
    talos.follow()
    assert not node.candidates.filter(source="harvested").exists()


def test_where_an_agent_saw_another_a_talos_machine_hears_too(valkey):
    talos = Talos(harvest_extra_endpoints=True)
    observer, node = enrol(talos.cluster, Machine(addresses=("10.0.0.8",))), enrol(talos.cluster)
    connected(node)
    talos.saw(observer, node, "203.0.113.7:1234")
    affiliates.publish(talos.cluster.pk, talos.at)
    assert "203.0.113.7:1234" in talos.endpoints(node.node_id)
    clusters.set_options("alice", Cluster.objects.get(), ClusterOptions(), NOW)
    discovery.apply(talos.row, [Deletion(node.node_id)], talos.at)
    affiliates.publish(talos.cluster.pk, talos.at)
    assert "203.0.113.7:1234" not in talos.endpoints(node.node_id)


def test_where_a_machine_was_seen_is_not_what_it_announces(valkey):
    """It is published, and comes back; as the machine's own word nobody would report it any more, and it would end."""
    talos = Talos(harvest_extra_endpoints=True)
    observer = enrol(talos.cluster)
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    node = Node.objects.get(kind="talos")
    talos.saw(observer, node, "203.0.113.7:1234")
    affiliates.publish(talos.cluster.pk, talos.at)
    revision = Cluster.objects.get().revision
    talos.follow()
    node.refresh_from_db()
    assert node.announced_endpoints == ["192.0.2.1:51820"]
    assert node.candidates.get(endpoint="203.0.113.7:1234").source == "harvested"
    assert Cluster.objects.get().revision == revision


@pytest.mark.parametrize("kind", ["linux", "talos"])
def test_a_sight_ends_half_an_hour_after_it_whoever_repeats_it(valkey, kind):
    talos = Talos(harvest_extra_endpoints=True)
    connected(enrol(talos.cluster, Machine("seen")))
    observer = enrol(talos.cluster, Machine("observer"))
    talos.say(talos.machine(nodename="seen by all"))
    talos.follow()
    talos.approve()
    node = Node.objects.exclude(name="observer").get(kind=kind)
    talos.saw(observer, node, "203.0.113.7:1234")
    for _ in range(6):
        now = talos.pass_time(4)
        affiliates.publish(talos.cluster.pk, talos.at)
        talos.follow(now)
        assert "203.0.113.7:1234" in talos.endpoints(node.node_id)
        assert node.candidates.filter(endpoint="203.0.113.7:1234").exists()
    now = talos.pass_time(7)
    discovery.collect(talos.at)
    nodes.expire_candidates(now)
    talos.say(talos.machine(nodename="seen by all"))
    talos.follow(now)
    affiliates.publish(talos.cluster.pk, talos.at)
    assert "203.0.113.7:1234" not in talos.endpoints(node.node_id)
    assert not node.candidates.filter(endpoint="203.0.113.7:1234").exists()


def test_a_sight_that_is_told_again_lives_on(valkey):
    talos = Talos(harvest_extra_endpoints=True)
    node = enrol(talos.cluster)
    connected(node)
    seen = seal_endpoint(Endpoint.parse("203.0.113.7:1234"), talos.secret)
    for _ in range(3):
        now = talos.pass_time(15)
        discovery.apply(talos.row, [Update(node.node_id, b"", (seen,), TTL_SECONDS)], talos.at)
        affiliates.publish(talos.cluster.pk, talos.at)
        talos.follow(now)
        nodes.expire_candidates(now)
    assert node.candidates.get(endpoint="203.0.113.7:1234").seen == now
    # What is listed though it has expired, for the service has not collected yet, is not taken up again.
    now = talos.pass_time(31)
    nodes.expire_candidates(now)
    talos.follow(now)
    assert not node.candidates.filter(endpoint="203.0.113.7:1234").exists()


@pytest.mark.parametrize("harvest", [False, True])
def test_following_many_costs_the_same_where_nothing_changed(
    valkey, django_assert_num_queries, django_assert_max_num_queries, harvest
):
    talos = Talos(harvest_extra_endpoints=harvest)

    def grow(last):
        connected(enrol(talos.cluster))
        talos.say(*(talos.machine(number) for number in range(1, last)))
        talos.follow()
        talos.approve()
        affiliates.publish(talos.cluster.pk, talos.at)
        talos.follow()

    grow(4)
    with django_assert_max_num_queries(15) as few:
        talos.follow()
    grow(40)
    with django_assert_num_queries(len(few)):
        talos.follow()


def test_those_who_may_be_no_nodes_cost_the_same_however_many(talos, django_assert_num_queries):
    talos.say(talos.machine(1, public_key=""))
    with CaptureQueriesContext(connection) as few:
        talos.follow()
    talos.say(*(talos.machine(number, public_key="") for number in range(1, 40)))
    with django_assert_num_queries(len(few)):
        talos.follow()


def test_many_new_ones_hold_the_database_for_a_few_at_a_time(talos, monkeypatch):
    sizes = []
    read = strangers.Company.read

    def note(cluster, some):
        sizes.append((connection.in_atomic_block, len(some)))
        return read(cluster, some)

    monkeypatch.setattr(strangers.Company, "read", note)
    talos.say(*(talos.machine(number) for number in range(1, 46)))
    talos.follow()
    assert Node.objects.pending().count() == 45
    assert sizes == [(False, 45), (True, 20), (True, 20), (True, 5)]


def test_no_more_wait_than_may(talos, monkeypatch):
    monkeypatch.setattr(strangers, "PENDING_LIMIT", 30)
    talos.say(*(talos.machine(number) for number in range(1, 46)))
    talos.follow()
    talos.follow()
    assert Node.objects.pending().count() == 30
    assert read_counters()["discovery.crowded"] == 2 * 15


# What pages say of them.


def test_pages_say_how_a_talos_machine_stands(talos, client, django_user_model):
    client.force_login(django_user_model.objects.create_superuser("alice"))
    talos.say(talos.machine())
    talos.follow()
    node = Node.objects.get()
    page = client.get(node.get_absolute_url()).content.decode()
    assert "talosctl get kubespanidentity" in page
    talos.approve()
    page = client.get(node.get_absolute_url()).content.decode()
    said = {words: words in page for words in ("controlplane", "10.5.0.1", "Try again", "Agent version", "Applied")}
    assert said == {
        "controlplane": True,
        "10.5.0.1": True,
        "Try again": False,
        "Agent version": False,
        "Applied": False,
    }
    members = reverse("cluster-nodes", args=[talos.cluster.uuid])
    page = client.get(members).content.decode()
    assert "in discovery" in page
    assert '<span class="ks-chip" data-tone="info">Talos</span>' in page
    assert "never connected" not in page
    assert "behind by" not in page
    assert "talos-1" not in client.get("/").content.decode()  # nothing needs attention
    discovery.apply(talos.row, [Deletion("talos-1")], talos.at)
    talos.follow(NOW)
    assert "left discovery" in client.get(members).content.decode()
    assert "left discovery" in client.get("/").content.decode()


def test_pages_count_its_links_as_its_peers_see_them(talos, client):
    client.force_login(make_user("alice", "viewer"))
    talos.say(talos.machine())
    talos.follow()
    talos.approve()
    node = Node.objects.get()
    elsewhere = enrol(make_cluster())
    for agent, state in ((enrol(talos.cluster), "up"), (enrol(talos.cluster), "unknown"), (elsewhere, "up")):
        says(agent, node, state, connected=False)
    enrol(talos.cluster)  # says nothing
    for address in (node.get_absolute_url(), reverse("cluster-nodes", args=[talos.cluster.uuid]), reverse("node-list")):
        assert '<span class="num">1 of 2</span>' in client.get(address).content.decode()
