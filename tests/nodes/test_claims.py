"""Judging a machine's claims beside what the members have, of whom only those are read that matter."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kubespan.core.endpoint import Endpoint
from nodes.services import claims, nodes
from tests.factories import NOW, Machine, enrol, fill, make_cluster

pytestmark = pytest.mark.django_db

CLAIMS = (
    "10.0.0.1",  # a member's own
    "10.0.0.10",  # of which a member's is the beginning
    "10.0.0.",
    "2001:db8::1",
    "2001:DB8:0::1",  # the same, as somebody else writes it
    "2001:db8::11",
    "198.51.100.9",  # where a member is seen
    "198.51.100.90",
    "203.0.113.5",  # what an operator set
    "203.0.113.50",
    "2001:db8:5::5",
    "192.168.7.1",  # in a network that a member advertises
    "192.168.8.1",
    "127.0.0.1",
    "%",
    "_",
    "fdae:41e4:649b:9303::1",
)


@pytest.fixture
def cluster():
    """Some members, with something of each kind."""
    made = make_cluster()
    enrol(made, Machine("first", addresses=("10.0.0.1", "2001:db8::1")), peer=ip_address("198.51.100.9"))
    second = enrol(made, Machine("second", networks=("192.168.7.0/24",)), peer=ip_address("198.51.100.10"))
    nodes.set_node_options(
        "tests",
        second,
        extra_endpoints=["203.0.113.5:51820", str(Endpoint.parse("[2001:db8:5::5]:51820"))],
        advertised_networks=["192.168.7.0/24"],
        excluded_networks=[],
        now=NOW,
    )
    fill(made, 20)
    return made


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_judged_beside_few_is_judged_as_beside_all(cluster, claim):
    given = {"own": "fdae:41e4:649b:9303::2", "peer": ip_address("198.51.100.7")}
    few = claims.read_neighbours(cluster, None, claims.canonical([claim]))
    everybody = claims.read_neighbours(cluster, None)
    assert claims.judge([claim], [], neighbours=few, **given) == claims.judge(
        [claim], [], neighbours=everybody, **given
    )


def test_only_members_that_matter_are_read(cluster):
    few = claims.read_neighbours(cluster, None, ["10.0.0.1"])
    assert few.addresses.keys() == {"10.0.0.1", "2001:db8::1"} | {
        node.address for node in cluster.nodes.filter(name__in=("first", "second"))
    }
    assert few.endpoints == {"10.0.0.1": "first"}
    assert few.networks == [(ip_network("192.168.7.0/24"), "second")]
    assert len(claims.read_neighbours(cluster, None).addresses) > 20


def test_a_machine_with_networks_is_judged_beside_all(cluster):
    node = enrol(cluster, Machine("wide", networks=("10.0.0.0/24",)), now=NOW)
    assert "first" in node.refused_claims[0]["reason"]
