"""Networks that a machine claims: nobody routes to it before an operator, or a rule of the cluster, says yes."""

from __future__ import annotations

import msgspec
import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse
from django.utils import timezone

from kubespan.core.messages import Claim
from nodes.models import Audit, Change, Node
from nodes.services import clusters, nodes, revisions
from nodes.services.refused import Refused
from tests.factories import NOW, PEER, Machine, enrol, make_cluster

pytestmark = pytest.mark.django_db


def claim(node, *networks, addresses=()):
    said = Claim(
        hostname=node.name,
        operating_system="",
        agent_version="",
        backend="kernel",
        listen_port=51820,
        addresses=addresses,
        networks=networks,
    )
    nodes.record_claim(node.pk, said, PEER, NOW)
    node.refresh_from_db()
    return node


def set_rule(cluster, *ranges):
    cluster.refresh_from_db()
    options = msgspec.structs.replace(cluster.kubespan, approved_networks=ranges)
    return clusters.set_options("tests", cluster, options, NOW)


def routed(cluster):
    """What every machine is told to route, by the name of the machine it is routed to."""
    snapshot = msgspec.json.decode(revisions.frame(cluster.pk, None).bytes)
    return {member["name"]: member["networks"] for member in snapshot["members"] if member.get("networks")}


def standing(node):
    node.refresh_from_db()
    return node.networks, node.ruled_networks, node.claimed_networks


def test_without_a_rule_a_claimed_network_is_routed_nowhere():
    cluster = make_cluster()
    node = enrol(cluster, Machine("liar", networks=("10.8.0.0/16",)))

    assert standing(node) == ([], {}, ["10.8.0.0/16"])
    assert routed(cluster) == {}


def test_a_rule_lets_in_what_lies_within_it_and_nothing_beside_it():
    cluster = make_cluster(approved_networks=("10.8.0.0/16", "fd00:8::/32"))
    asked = ("10.8.1.0/24", "10.0.0.0/8", "10.9.0.0/16", "fd00:8:1::/48")
    node = enrol(cluster, Machine("edge", networks=asked))

    ruled = {"10.8.1.0/24": "10.8.0.0/16", "fd00:8:1::/48": "fd00:8::/32"}
    assert standing(node) == ([], ruled, ["10.0.0.0/8", "10.9.0.0/16"])
    assert routed(cluster) == {"edge": list(ruled)}


@pytest.mark.parametrize("network", ["0.0.0.0/0", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::/0"])
def test_no_rule_lets_in_what_nobody_may_claim(network):
    cluster = make_cluster(approved_networks=("0.0.0.0/0", "::/0"))
    node = enrol(cluster, Machine("liar", networks=(network,)))

    assert standing(node) == ([], {}, [])
    assert [refused["claim"] for refused in node.refused_claims] == [network]


def test_a_rule_does_not_give_one_members_network_to_another():
    cluster = make_cluster(approved_networks=("10.0.0.0/8",))
    enrol(cluster, Machine("first", networks=("10.8.0.0/16",)))
    liar = enrol(cluster, Machine("liar", networks=("10.8.1.0/24",)))

    assert standing(liar) == ([], {}, [])
    assert "first" in liar.refused_claims[0]["reason"]
    assert routed(cluster) == {"first": ["10.8.0.0/16"]}


def test_what_is_ruled_in_ends_with_its_claim():
    cluster = make_cluster(approved_networks=("10.0.0.0/8",))
    node = enrol(cluster, Machine(networks=("10.8.0.0/16",)))
    claim(node)

    assert standing(node) == ([], {}, [])
    assert routed(cluster) == {}


def test_a_repeated_claim_is_no_change():
    cluster = make_cluster(approved_networks=("10.8.0.0/16",))
    node = claim(enrol(cluster, Machine()), "10.8.0.0/24", "10.9.0.0/24")
    count = Change.objects.count()
    claim(node, "10.8.0.0/24", "10.9.0.0/24")

    assert Change.objects.count() == count


def test_a_waiting_machine_is_ruled_in_with_its_approval_only():
    cluster = make_cluster(approved_networks=("10.0.0.0/8",))
    node = enrol(cluster, Machine("edge", networks=("10.8.0.0/16",)), approval_required=True)
    assert routed(cluster) == {}

    nodes.approve_node("tests", node, NOW)
    assert routed(cluster) == {"edge": ["10.8.0.0/16"]}


def test_a_new_rule_lets_in_what_waits_in_one_revision_and_its_end_takes_it_out_again():
    cluster = make_cluster()
    node = enrol(cluster, Machine("edge", networks=("10.8.0.0/16", "10.200.0.0/16")))
    before = revisions.current(cluster.pk)
    set_rule(cluster, "10.8.0.0/15")

    assert standing(node) == ([], {"10.8.0.0/16": "10.8.0.0/15"}, ["10.200.0.0/16"])
    changes = Change.objects.filter(number__gt=before.number).values_list("kind", "index")
    assert list(changes) == [("options", None), ("member", node.index)]

    set_rule(cluster)
    assert standing(node) == ([], {}, ["10.200.0.0/16", "10.8.0.0/16"])
    assert routed(cluster) == {}


def test_of_two_that_wait_for_one_network_a_new_rule_lets_in_one():
    cluster = make_cluster()
    first = enrol(cluster, Machine("first", networks=("10.8.0.0/16",)))
    second = enrol(cluster, Machine("second", networks=("10.8.0.0/16",)))
    set_rule(cluster, "10.0.0.0/8")

    assert standing(first)[1:] == ({"10.8.0.0/16": "10.0.0.0/8"}, [])
    assert standing(second)[1:] == ({}, ["10.8.0.0/16"])
    with pytest.raises(Refused, match="advertised by first"):
        nodes.approve_networks("tests", second, ["10.8.0.0/16"], NOW)


def test_a_new_rule_does_not_take_a_network_that_a_neighbour_has():
    cluster = make_cluster()
    waiting = enrol(cluster, Machine("waiting", networks=("10.8.0.0/16",)))
    enrol(cluster, Machine("neighbour", addresses=("10.8.0.1",)))
    set_rule(cluster, "10.0.0.0/8")

    assert standing(waiting)[1:] == ({}, ["10.8.0.0/16"])


def test_what_an_operator_said_yes_to_outlives_the_rule():
    cluster = make_cluster(approved_networks=("10.0.0.0/8",))
    node = enrol(cluster, Machine("edge", networks=("10.8.0.0/16",)))
    nodes.set_node_options(
        "tests", node, extra_endpoints=(), advertised_networks=["10.8.0.0/16"], excluded_networks=(), now=NOW
    )
    assert standing(node) == (["10.8.0.0/16"], {}, [])

    set_rule(cluster)
    assert routed(cluster) == {"edge": ["10.8.0.0/16"]}


def test_the_page_says_which_rule_let_a_network_in_and_asks_for_the_others(client):
    client.force_login(get_user_model().objects.create_superuser("alice"))
    cluster = make_cluster(approved_networks=("10.8.0.0/16",))
    node = enrol(cluster, Machine("edge", networks=("10.8.1.0/24", "10.9.0.0/16")))
    told = client.get(reverse("node-configuration", args=[node.pk])).content.decode()
    text = client.get(node.get_absolute_url()).content.decode()

    assert 'by the cluster’s rule <span class="mono">10.8.0.0/16</span>' in told
    assert 'name="networks" value="10.9.0.0/16"' in text
    assert 'name="networks" value="10.8.1.0/24"' not in text


def test_the_form_sets_the_rule_and_the_audit_row_has_it(client):
    client.force_login(get_user_model().objects.create_superuser("alice"))
    cluster = make_cluster()
    enrol(cluster, Machine("edge", networks=("10.8.1.0/24",)))
    address = reverse("cluster-options", args=[cluster.uuid])
    form = {"routing": "after-handshake", "mtu": "1420", "enabled": "on", "discovery": "on", "probes": "on"}
    form |= {"approved_networks": "10.8.0.0/16\n"}
    assert client.post(address, form).status_code == 302

    assert Node.objects.get().ruled_networks == {"10.8.1.0/24": "10.8.0.0/16"}
    row = Audit.objects.get(verb="cluster.options-set")
    assert row.details["changes"]["approved_networks"] == [[], ["10.8.0.0/16"]]
    assert row.at <= timezone.now()
