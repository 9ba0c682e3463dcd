"""Nodes: approved, removed, given options; what they claim, and what their neighbours see of them."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from ipaddress import ip_address

import pytest
import redis
from django.core.management import CommandError, call_command

from kubespan.core.endpoint import Endpoint
from kubespan.core.messages import Claim, ClaimRefused, Removed, Revision, TryAgain, parse_from_console
from kubespan.core.options import ClusterOptions
from nodes.counters import read_counters
from nodes.fanout import Personal, Settle, channel_name, parse_parcel
from nodes.models import Audit, Candidate, Change, Node, Tombstone
from nodes.services import claims, clusters, endpoints, nodes, revisions, sessions
from nodes.services.refused import Refused
from tests.factories import NOW, PEER, Machine, enrol, fill, locks, make_cluster
from tests.heard import heard_by

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=5)


def claim(**said):
    plain = {"hostname": "edge", "operating_system": "Debian", "agent_version": "1", "backend": "kernel"}
    return Claim(**(plain | {"listen_port": 51820, "addresses": (), "networks": ()} | said))


def reasons(node):
    return {refused["claim"]: refused["reason"] for refused in node.refused_claims}


@pytest.fixture
def heard(valkey, django_capture_on_commit_callbacks):
    """What reaches a cluster's channel while something is done to it."""

    def listen(cluster, act):
        raw = redis.Redis.from_url(valkey.url)
        with raw.pubsub() as subscription:
            subscription.subscribe(channel_name(cluster.pk))
            assert heard_by(subscription) == []
            with django_capture_on_commit_callbacks(execute=True):
                act()
            found = [parse_parcel(data) for data in heard_by(subscription)]
        raw.close()
        return found

    return listen


# Approval.


def test_approval_makes_a_member(heard):
    cluster = make_cluster()
    node = enrol(cluster, approval_required=True)

    parcels = heard(cluster, lambda: nodes.approve_node("tests", node, LATER))
    node.refresh_from_db()
    assert (node.status, node.index, node.approved_at) == ("approved", 0, LATER)
    assert list(Change.objects.values_list("kind", "index")) == [("member", 0)]
    assert Audit.objects.filter(verb="node.approved", node=node, actor_name="tests").exists()
    assert parcels == [Settle(node.pk)]


def test_approving_twice_is_refused():
    node = enrol(make_cluster())
    with pytest.raises(Refused) as refused:
        nodes.approve_node("tests", node, NOW)
    assert (refused.value.code, refused.value.status) == ("node-approved", 409)
    assert Change.objects.count() == 1


def test_a_script_approves_by_name_and_hears_what_is_not_believed():
    cluster = make_cluster()
    enrol(cluster, Machine("first", addresses=("10.0.0.1",)))
    enrol(cluster, Machine("late", addresses=("10.0.0.1",)), approval_required=True)
    said = StringIO()
    call_command("approve_node", cluster.name, "late", stdout=said)
    assert Node.objects.get(name="late").status == "approved"
    told = json.loads(said.getvalue())
    assert (told["node"], told["kind"], told["refused_claims"][0]["claim"]) == ("late", "linux", "10.0.0.1")
    with pytest.raises(CommandError, match="approved already"):
        call_command("approve_node", cluster.name, "late")
    with pytest.raises(CommandError, match="there is no node 'nobody'"):
        call_command("approve_node", cluster.name, "nobody")


def test_claims_of_a_pending_node_are_judged_again_at_its_approval():
    cluster = make_cluster()
    waiting = enrol(cluster, Machine("waiting", addresses=("10.0.0.5",)), approval_required=True)
    enrol(cluster, Machine("quicker", addresses=("10.0.0.5",)))
    nodes.approve_node("tests", waiting, NOW)

    waiting.refresh_from_db()
    assert waiting.addresses == []
    assert "quicker" in reasons(waiting)["10.0.0.5"]


def test_what_was_refused_may_be_believed_once_its_holder_is_gone():
    cluster = make_cluster()
    holder = enrol(cluster, Machine("holder", addresses=("10.0.0.5",)))
    second = enrol(cluster, Machine("second", addresses=("10.0.0.5",)))
    nodes.remove_node("tests", holder, "holder", NOW)

    assert nodes.record_claim(second.pk, claim(addresses=("10.0.0.5",)), PEER, LATER)
    second.refresh_from_db()
    assert (second.addresses, second.refused_claims) == (["10.0.0.5"], [])


def test_a_refused_claim_is_told_to_whoever_made_it(heard):
    cluster = make_cluster()
    enrol(cluster, Machine("holder", addresses=("10.0.0.5",)))
    liar = enrol(cluster, Machine("liar"))
    parcels = heard(cluster, lambda: nodes.record_claim(liar.pk, claim(addresses=("10.0.0.5",)), PEER, LATER))
    told = [parse_from_console(parcel.frame) for parcel in parcels if isinstance(parcel, Personal)]
    assert [(one.claim, "holder" in one.reason) for one in told[0].refused] == [("10.0.0.5", True)]
    assert isinstance(told[0], ClaimRefused)


def test_a_pending_node_hears_nothing_of_the_members_whose_addresses_it_claims(heard):
    cluster = make_cluster()
    enrol(cluster, Machine("holder", addresses=("10.0.0.5",)))
    waiting = enrol(cluster, Machine("waiting"), approval_required=True)
    assert heard(cluster, lambda: nodes.record_claim(waiting.pk, claim(addresses=("10.0.0.5",)), PEER, LATER)) == []


# Removal.


def test_removal_leaves_a_tombstone_and_tells_everybody(heard):
    cluster = make_cluster()
    node = enrol(cluster, Machine("gone"))

    parcels = heard(cluster, lambda: nodes.remove_node("tests", node, "gone", LATER))
    node.refresh_from_db()
    assert (node.status, node.removed_at, node.session, node.candidates.count()) == ("removed", LATER, "", 0)
    tombstone = Tombstone.objects.get()
    assert (tombstone.node_id, tombstone.public_key, tombstone.address) == (node.node_id, node.public_key, node.address)
    assert tombstone.number == Change.objects.get(kind="gone").number == 2
    assert isinstance(parcels[0], Personal)
    assert isinstance(parse_from_console(parcels[0].frame), Removed)
    assert Audit.objects.filter(verb="node.removed", node=node).exists()


def test_removal_asks_for_the_name():
    node = enrol(make_cluster(), Machine("edge"))
    with pytest.raises(Refused) as refused:
        nodes.remove_node("tests", node, "edge ", NOW)
    assert refused.value.code == "name-mismatch"
    assert not Tombstone.objects.exists()


def test_removing_twice_is_refused():
    node = enrol(make_cluster(), Machine("edge"))
    nodes.remove_node("tests", node, "edge", NOW)
    with pytest.raises(Refused) as refused:
        nodes.remove_node("tests", node, "edge", NOW)
    assert refused.value.code == "node-unknown"


def test_a_pending_node_is_nobodys_peer_to_be_dropped():
    cluster = make_cluster()
    other = enrol(cluster)
    waiting = enrol(cluster, Machine("waiting"), approval_required=True)
    tombstone = nodes.remove_node("tests", waiting, "waiting", NOW)

    assert not Change.objects.filter(kind="gone").exists()
    assert other not in Node.objects.not_cut_off(tombstone)


def test_who_has_not_applied_the_removal_is_not_yet_cut_off():
    cluster = make_cluster()
    gone, quick, slow, waiting = (
        enrol(cluster, Machine(name), approval_required=name == "waiting")
        for name in ("gone", "quick", "slow", "waiting")
    )
    tombstone = nodes.remove_node("tests", gone, "gone", NOW)
    assert set(Node.objects.not_cut_off(tombstone)) == {quick, slow}

    applied = Revision(cluster.epoch, tombstone.number)
    sessions.record_applied([(quick.pk, applied, ""), (slow.pk, Revision(cluster.epoch, 2), "")], NOW)
    assert list(Node.objects.not_cut_off(tombstone)) == [slow]

    sessions.record_applied([(slow.pk, Revision(cluster.epoch + 1, 0), "")], NOW)
    assert not Node.objects.not_cut_off(tombstone).exists()
    assert waiting.status == "pending"


def test_a_talos_machine_is_not_cut_off_whatever_anybody_applied():
    """It takes its peers from discovery (docs/security.md)."""
    cluster = make_cluster()
    gone, linux, talos = (enrol(cluster, Machine(name)) for name in ("gone", "linux", "talos"))
    Node.objects.filter(pk=talos.pk).update(kind="talos")
    tombstone = nodes.remove_node("tests", gone, "gone", NOW)
    applied = Revision(cluster.epoch, tombstone.number)
    sessions.record_applied([(linux.pk, applied, ""), (talos.pk, applied, "")], NOW)
    assert list(Node.objects.not_cut_off(tombstone)) == [talos]


# Options of one node.


def set_options(node, **given):
    asked = {"extra_endpoints": [], "advertised_networks": [], "excluded_networks": []} | given
    return nodes.set_node_options("tests", node, **asked, now=LATER)


def test_a_nodes_own_options_are_one_revision():
    cluster = make_cluster(endpoint_filters=("10.0.0.0/8",))
    node = enrol(cluster, Machine(addresses=("10.0.0.1",)))
    wanted = {
        "extra_endpoints": ["203.0.113.1:4500"],
        "advertised_networks": ["10.8.0.0/16"],
        "excluded_networks": ["10.8.9.0/24"],
    }
    set_options(node, **wanted)
    set_options(node, **wanted)

    node.refresh_from_db()
    assert (node.networks, node.excluded_networks) == (["10.8.0.0/16"], ["10.8.9.0/24"])
    listed = list(node.candidates.values_list("endpoint", "source"))
    assert listed == [("10.0.0.1:51820", "local"), ("203.0.113.1:4500", "configured")]
    assert Change.objects.filter(kind="member").count() == 2
    assert Audit.objects.filter(verb="node.options-set").count() == 1


def test_where_a_node_stands_is_for_people_alone():
    node = enrol(make_cluster())
    set_options(node, site="  rack\t 4\x00 ")
    node.refresh_from_db()
    assert node.site == "rack 4"
    assert Change.objects.filter(kind="member").count() == 1, "no machine hears of it"
    (audit,) = Audit.objects.filter(verb="node.options-set")
    assert audit.details["changes"] == {"site": ["", "rack 4"]}
    set_options(node)
    node.refresh_from_db()
    assert node.site == "rack 4", "what is not given stays"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        pytest.param({"site": "x" * 64}, "site", id="a site's name that is too long"),
        pytest.param({"extra_endpoints": ["203.0.113.1"]}, "endpoint", id="endpoint without port"),
        pytest.param({"extra_endpoints": ["127.0.0.1:51820"]}, "endpoint", id="endpoint on loopback"),
        pytest.param({"advertised_networks": ["10.8.0.0/33"]}, "network", id="no network"),
        pytest.param({"advertised_networks": ["0.0.0.0/0"]}, "network", id="default route"),
        pytest.param({"advertised_networks": ["192.168.0.0/16"]}, "network", id="holds another member's address"),
        pytest.param({"excluded_networks": ["x"]}, "network", id="no network to leave out"),
        pytest.param({"extra_endpoints": [f"203.0.113.1:{port}" for port in range(1, 66)]}, "endpoint", id="too many"),
    ],
)
def test_options_that_cannot_be_are_refused(given, code):
    cluster = make_cluster()
    enrol(cluster, Machine("other", addresses=("192.168.1.10",)))
    node = enrol(cluster)
    with pytest.raises(Refused) as refused:
        set_options(node, **given)
    assert refused.value.code == code
    assert Change.objects.count() == 2


def test_networks_wait_for_a_yes():
    cluster = make_cluster()
    node = enrol(cluster, Machine(networks=("10.8.0.0/16", "10.9.0.0/16")))
    nodes.approve_networks("tests", node, ["10.8.0.0/16"], NOW)

    node.refresh_from_db()
    assert (node.networks, node.claimed_networks) == (["10.8.0.0/16"], ["10.9.0.0/16"])
    assert Change.objects.count() == 2
    with pytest.raises(Refused) as refused:
        nodes.approve_networks("tests", node, ["10.10.0.0/16"], NOW)
    assert refused.value.code == "network"


def test_a_network_that_somebody_else_advertises_by_now_is_refused():
    cluster = make_cluster()
    first, second = (enrol(cluster, Machine(name, networks=("10.8.0.0/16",))) for name in ("first", "second"))
    nodes.approve_networks("tests", first, ["10.8.0.0/16"], NOW)
    with pytest.raises(Refused, match="first"):
        nodes.approve_networks("tests", second, ["10.8.0.0/16"], NOW)


# Claims.


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("nonsense", "not an IP address"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("224.0.0.5", "multicast"),
        ("ff02::1", "multicast"),
        ("169.254.1.1", "link-local"),
        ("0.0.0.0", "no machine's"),
        ("255.255.255.255", "broadcast"),
        ("fd12:3456:789a:bc02::1", "KubeSpan address"),
        ("192.0.2.80", "console"),
        ("192.0.2.81", "console"),
        ("10.0.0.1", "address of first"),
        ("198.51.100.9", "first is reached at"),
        ("10.8.1.1", "first advertises"),
        ("::ffff:10.0.0.1", "address of first"),
    ],
)
def test_an_address_that_is_not_believed_has_a_reason(address, word, settings):
    settings.KUBESPAN_URL, settings.KUBESPAN_AGENT_URL = "https://192.0.2.80", "https://192.0.2.81:8443"
    cluster = make_cluster()
    first = Machine("first", addresses=("10.0.0.1",), networks=("10.8.0.0/16",))
    holder = enrol(cluster, first, peer=ip_address("198.51.100.9"))
    nodes.approve_networks("tests", holder, ["10.8.0.0/16"], NOW)
    node = enrol(cluster, Machine("second", addresses=(address, "10.0.0.2")))

    assert node.addresses == ["10.0.0.2"]
    assert word in reasons(node)[address]


@pytest.mark.parametrize(
    ("network", "word"),
    [
        ("nonsense", "not a network"),
        ("0.0.0.0/0", "default route"),
        ("::/0", "default route"),
        ("0.0.0.0/1", "loopback"),
        ("fe80::/16", "link-local"),
        ("192.0.2.0/24", "console"),
        ("10.0.0.0/24", "address of first"),
        ("198.51.100.0/24", "endpoint of first"),
    ],
)
def test_a_network_that_is_not_believed_has_a_reason(network, word, settings):
    settings.KUBESPAN_URL = "https://192.0.2.80"
    cluster = make_cluster()
    enrol(cluster, Machine("first", addresses=("10.0.0.1",)), peer=ip_address("198.51.100.9"))
    node = enrol(cluster, Machine("second", networks=(network, "10.9.0.0/16")))

    assert node.claimed_networks == ["10.9.0.0/16"]
    assert word in reasons(node)[network]


def test_the_clusters_own_range_is_no_network_to_advertise():
    cluster = make_cluster()
    node = enrol(cluster, Machine(networks=(cluster.prefix,)))
    assert "KubeSpan addresses" in reasons(node)[cluster.prefix]


def test_a_machines_own_kubespan_address_is_neither_believed_nor_refused():
    cluster = make_cluster()
    machine = Machine()
    node = enrol(cluster, machine)
    nodes.record_claim(node.pk, claim(addresses=(node.address, "10.0.0.1")), PEER, NOW)
    node.refresh_from_db()
    assert (node.addresses, node.refused_claims) == (["10.0.0.1"], [])


def test_a_router_may_have_the_address_that_its_neighbour_is_seen_at():
    cluster = make_cluster()
    enrol(cluster, Machine("behind", addresses=("192.168.1.2",)), peer=ip_address("203.0.113.1"))
    router = enrol(cluster, Machine("router", addresses=("203.0.113.1",)), peer=ip_address("203.0.113.1"))
    assert router.addresses == ["203.0.113.1"]


def test_a_machine_may_not_claim_without_end():
    many = tuple(f"10.{number // 250}.{number % 250}.1" for number in range(claims.CLAIMS_LIMIT + 5))
    node = enrol(make_cluster(), Machine(addresses=many))
    assert len(node.addresses) == claims.CLAIMS_LIMIT
    assert "5 more" in reasons(node)


def test_what_a_machine_says_is_kept_without_what_no_database_keeps():
    node = enrol(make_cluster())
    nodes.record_claim(node.pk, claim(hostname="a\x00b\x1b[1m" + "x" * 250, addresses=("\x00",)), PEER, NOW)
    node.refresh_from_db()
    assert node.hostname.startswith("ab[1mx")
    assert len(node.hostname) == 253


def test_a_claim_is_a_revision_only_when_others_must_hear_of_it():
    cluster = make_cluster()
    node = enrol(cluster, Machine("edge", addresses=("10.0.0.1",)))
    same = {"hostname": "edge", "operating_system": node.operating_system, "agent_version": "0.1.0"}

    def record(**said):
        nodes.record_claim(node.pk, claim(addresses=("10.0.0.1",), **(same | said)), PEER, LATER)
        cluster.refresh_from_db()
        return cluster.revision

    assert record() == 1  # the back end is known now, which only we look at
    assert record(agent_version="0.2.0") == 1
    assert record(listen_port=51821) == 2
    assert record(listen_port=51821) == 2
    assert [row.endpoint for row in node.candidates.all()] == ["10.0.0.1:51821", "198.51.100.7:51821"]


def test_a_claim_as_the_last_one_costs_one_query(django_assert_num_queries):
    node = enrol(make_cluster(), Machine(addresses=("10.0.0.1",)))
    same = claim(addresses=("10.0.0.1", node.address))
    assert nodes.record_claim(node.pk, same, PEER, NOW)
    with django_assert_num_queries(1):
        assert not nodes.record_claim(node.pk, same, PEER, LATER)


def test_many_claims_that_bring_nothing_to_judge_cost_a_few_queries_and_no_revision(django_assert_num_queries):
    cluster = make_cluster()
    members = [enrol(cluster, Machine(addresses=(f"10.0.0.{number}",))) for number in range(1, 21)]
    as_known = [
        claim(hostname=node.hostname, operating_system=node.operating_system, addresses=tuple(node.addresses))
        for node in members
    ]
    said = [(node.pk, said, PEER) for node, said in zip(members, as_known, strict=True)]
    gone, moved, liar = (
        enrol(cluster, Machine("gone")),
        enrol(cluster),
        enrol(cluster, Machine(addresses=("10.0.0.1",))),
    )
    nodes.remove_node("tests", gone, "gone", NOW)
    said.append((gone.pk, claim(), PEER))
    said.append((moved.pk, claim(hostname=moved.hostname, addresses=("10.0.1.1",)), PEER))
    said.append((liar.pk, claim(hostname=liar.hostname, addresses=("10.0.0.1",)), PEER))
    before = revisions.current(cluster.pk)

    with django_assert_num_queries(2 + locks()):
        assert nodes.settle_claims(said) == [moved.pk, liar.pk]
    assert {node.backend for node in cluster.nodes.filter(pk__in=[node.pk for node in members])} == {"kernel"}
    with django_assert_num_queries(1):
        assert nodes.settle_claims(said) == [moved.pk, liar.pk]
    assert revisions.current(cluster.pk) == before


def test_a_claim_costs_the_same_in_a_large_cluster(django_assert_num_queries, django_assert_max_num_queries):
    few, many = make_cluster(), make_cluster()
    first, second = enrol(few), enrol(many)
    fill(few, 10)
    fill(many, 100)
    with django_assert_max_num_queries(25) as captured:
        nodes.record_claim(first.pk, claim(addresses=("192.0.2.1",)), PEER, NOW)
    with django_assert_num_queries(len(captured)):
        nodes.record_claim(second.pk, claim(addresses=("192.0.2.1",)), PEER, NOW)


def test_the_claim_of_a_removed_node_is_nothing():
    node = enrol(make_cluster(), Machine("gone"))
    nodes.remove_node("tests", node, "gone", NOW)
    assert not nodes.record_claim(node.pk, claim(), PEER, NOW)


def test_a_machine_that_comes_from_elsewhere_has_another_endpoint():
    cluster = make_cluster()
    node = enrol(cluster)
    assert nodes.record_peer(node.pk, ip_address("203.0.113.77"), NOW)
    assert not nodes.record_peer(node.pk, ip_address("203.0.113.77"), NOW)
    assert [row.endpoint for row in node.candidates.all()] == ["203.0.113.77:51820"]
    assert Change.objects.count() == 2


# Harvest.


def harvest(cluster, *seen, now=NOW):
    return nodes.record_harvest(cluster.pk, [(one, two, Endpoint.parse(text)) for one, two, text in seen], now)


def test_without_the_option_nothing_is_harvested():
    cluster = make_cluster()
    enrol(cluster), enrol(cluster)
    assert harvest(cluster, (0, 1, "203.0.113.5:1024")) == 0


def test_a_harvested_endpoint_is_a_revision_once():
    cluster = make_cluster(harvest_extra_endpoints=True)
    _, node = enrol(cluster), enrol(cluster)

    assert harvest(cluster, (0, 1, "203.0.113.5:1024"), (0, 1, "198.51.100.7:51820")) == 1
    assert harvest(cluster, (0, 1, "203.0.113.5:1024"), now=LATER) == 0
    rows = list(node.candidates.values_list("endpoint", "source", "seen"))
    assert rows == [("198.51.100.7:51820", "observed", NOW), ("203.0.113.5:1024", "harvested", LATER)]
    assert Change.objects.filter(index=1).count() == 2


@pytest.mark.parametrize("seen", [(1, 1, "203.0.113.5:1"), (0, 1, "127.0.0.1:1"), (0, 9, "203.0.113.5:1")])
def test_what_is_no_sight_of_a_member_is_ignored(seen):
    cluster = make_cluster(harvest_extra_endpoints=True)
    enrol(cluster), enrol(cluster)
    assert harvest(cluster, seen) == 0


def test_harvested_endpoints_of_one_node_are_limited_and_the_newest_stay():
    cluster = make_cluster(harvest_extra_endpoints=True)
    _, node = enrol(cluster), enrol(cluster)
    harvest(cluster, *((0, 1, f"203.0.113.5:{port}") for port in range(1, endpoints.HARVEST_LIMIT + 1)))
    harvest(cluster, (0, 1, "203.0.113.6:1"), now=LATER)

    rows = node.candidates.filter(source="harvested")
    assert rows.count() == endpoints.HARVEST_LIMIT
    assert rows.filter(endpoint="203.0.113.6:1").exists()


def test_harvested_endpoints_above_the_limit_go_by_a_change():
    """As after the limit was lowered: what is seen is known, and yet there is something to tell."""
    cluster = make_cluster(harvest_extra_endpoints=True)
    _, node = enrol(cluster), enrol(cluster)
    Candidate.objects.bulk_create(
        Candidate(node=node, endpoint=f"203.0.113.5:{port}", source="harvested", order=port, seen=NOW)
        for port in range(1, endpoints.HARVEST_LIMIT + 7)
    )
    before = Change.objects.count()
    assert harvest(cluster, (0, 1, "203.0.113.5:1"), now=LATER) == 0
    assert node.candidates.filter(source="harvested").count() == endpoints.HARVEST_LIMIT
    assert Change.objects.filter(index=node.index).count() == 2
    assert Change.objects.count() == before + 1


def test_a_flood_of_sights_stays_within_the_limit():
    cluster = make_cluster(harvest_extra_endpoints=True)
    _, node = enrol(cluster), enrol(cluster)
    for address in ("203.0.113.5", "203.0.113.6"):
        harvest(cluster, *((0, 1, f"{address}:{port}") for port in range(1, 200)), now=NOW)
    assert node.candidates.filter(source="harvested").count() == endpoints.HARVEST_LIMIT


def test_a_harvested_endpoint_is_forgotten_half_an_hour_after_it_was_seen():
    cluster = make_cluster(harvest_extra_endpoints=True)
    _, node = enrol(cluster), enrol(cluster)
    harvest(cluster, (0, 1, "203.0.113.5:1024"))
    before = Change.objects.count()

    assert nodes.expire_candidates(NOW + endpoints.HARVEST_KEPT) == 0
    assert nodes.expire_candidates(NOW + endpoints.HARVEST_KEPT + timedelta(seconds=1)) == 1
    assert Change.objects.count() == before + 1
    assert not node.candidates.filter(source="harvested").exists()


def test_switching_harvest_off_forgets_what_was_harvested():
    cluster = make_cluster(harvest_extra_endpoints=True)
    _, node = enrol(cluster), enrol(cluster)
    harvest(cluster, (0, 1, "203.0.113.5:1024"))
    clusters.set_options("tests", cluster, ClusterOptions(), NOW)

    assert [row.endpoint for row in node.candidates.all()] == ["198.51.100.7:51820"]
    assert Change.objects.latest("number").index == node.index


def test_refused_claims_are_counted_once_each(django_capture_on_commit_callbacks):
    node = enrol(make_cluster())
    for _ in range(2):
        with django_capture_on_commit_callbacks(execute=True):
            nodes.record_claim(node.pk, claim(addresses=("127.0.0.1", "127.0.0.2")), PEER, NOW)
    assert read_counters() == {"claim.refused": 2}


def test_a_harvested_endpoint_outlives_a_new_claim():
    cluster = make_cluster(harvest_extra_endpoints=True)
    _, node = enrol(cluster), enrol(cluster)
    harvest(cluster, (0, 1, "203.0.113.5:1024"))
    nodes.record_claim(node.pk, claim(addresses=("10.0.0.3",)), PEER, NOW)
    assert [row.endpoint for row in node.candidates.all()][-1] == "203.0.113.5:1024"


# Try again.


def test_trying_again_reaches_the_node(heard):
    cluster = make_cluster()
    node, one, two = enrol(cluster), enrol(cluster), enrol(cluster)

    parcels = heard(cluster, lambda: nodes.try_again("tests", node, one, NOW))
    assert [parse_from_console(parcel.frame) for parcel in parcels] == [TryAgain(members=(one.index,))]
    parcels = heard(cluster, lambda: nodes.try_again("tests", node, None, NOW))
    assert [parse_from_console(parcel.frame) for parcel in parcels] == [TryAgain(members=(one.index, two.index))]
    assert Audit.objects.filter(verb="node.told-to-try-again").count() == 2


def test_a_pending_node_has_nothing_to_try():
    cluster = make_cluster()
    waiting, other = enrol(cluster, approval_required=True), enrol(cluster)
    for node, peer in ((waiting, None), (other, waiting)):
        with pytest.raises(Refused):
            nodes.try_again("tests", node, peer, NOW)
