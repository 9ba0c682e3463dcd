"""Peer specs: upstream's answers, who keeps an address, and that the order of what comes in does not matter."""

import base64
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import AddressFilter, Endpoint
from kubespan.core.peer_spec import filter_endpoints, peer_specs

LOW = "fd50:8d60:4238:6302:f857:23ff:fe21:d1e0"
HIGH = "fd50:8d60:4238:6302:f857:23ff:fe21:d1e1"
THIRD = "fdc8:8aee:4e2d:1202:f073:9cff:fe6c:4d67"


def key(number):
    return base64.b64encode(bytes([number]) * 32).decode()


def affiliate(number, address, *, addresses=(), additional=(), excluded=(), **fields):
    return Affiliate(
        node_id=f"node-{number}",
        nodename=f"peer-{number}",
        public_key=fields.pop("public_key", key(number)),
        address=ip_address(address) if address else None,
        addresses=tuple(map(ip_address, addresses)),
        additional_addresses=tuple(map(ip_interface, additional)),
        exclude_advertised_networks=tuple(map(ip_interface, excluded)),
        **fields,
    )


def allowed(*affiliates):
    specs = peer_specs(affiliates, "own").specs
    return {spec.label: [str(network) for network in spec.allowed_ips] for spec in specs.values()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {
                "address": LOW,
                "additional": ["10.244.3.1/24", "10.244.3.0/32"],
                "addresses": ["192.168.3.4"],
                "excluded": ["10.244.3.128/25"],
            },
            ["10.244.3.0/25", "192.168.3.4/32", f"{LOW}/128"],
            id="upstream: excluded",
        ),
        pytest.param(
            {"address": THIRD, "additional": ["10.244.4.1/24"], "addresses": ["192.168.3.6"]},
            ["10.244.4.0/24", "192.168.3.6/32", f"{THIRD}/128"],
            id="upstream: plain",
        ),
        pytest.param(
            {"address": LOW, "addresses": ["10.0.0.2", "10.0.0.3"]},
            ["10.0.0.2/31", f"{LOW}/128"],
            id="neighbours are joined",
        ),
        pytest.param(
            {
                "address": LOW,
                "addresses": [LOW],
                "additional": ["::/0", "0.0.0.0/0"],
                "excluded": ["0.0.0.0/0", "::/0"],
            },
            [f"{LOW}/128"],
            id="the KubeSpan address is never excluded",
        ),
        pytest.param(
            {"address": LOW, "additional": ["2001:db8::/32", "10.0.0.0/8"]},
            ["10.0.0.0/8", "2001:db8::/32", f"{LOW}/128"],
            id="IPv4 comes first",
        ),
    ],
)
def test_allowed_ips(fields, expected):
    assert allowed(affiliate(1, **fields)) == {"peer-1": expected}


def test_overlap_goes_to_the_earlier_node_id():
    one = affiliate(1, LOW, additional=["10.244.3.1/24", "10.244.3.0/32"])
    two = affiliate(2, HIGH, additional=["10.244.2.0/23", "192.168.3.0/24"])
    result = peer_specs([two, one], "own")
    assert allowed(two, one) == {
        "peer-1": ["10.244.3.0/24", f"{LOW}/128"],
        "peer-2": ["10.244.2.0/24", "192.168.3.0/24", f"{HIGH}/128"],
    }
    assert result.warnings == ["peer address overlap: peer-2 goes without what peer-1 has already"]


def test_a_peer_that_is_left_with_nothing_is_still_a_peer():
    result = peer_specs([affiliate(1, LOW), affiliate(2, LOW)], "own")
    assert result.specs[key(2)].allowed_ips == ()
    assert "peer peer-2 is left with no address at all" in result.warnings


@pytest.mark.parametrize(
    ("one", "warning"),
    [
        pytest.param(affiliate(1, ""), "no KubeSpan address", id="no address"),
        pytest.param(affiliate(1, LOW, public_key="nonsense"), "no valid public key", id="a key that is none"),
    ],
)
def test_an_invalid_peer_is_left_out_aloud(one, warning):
    result = peer_specs([one, affiliate(2, HIGH)], "own")
    assert list(result.specs) == [key(2)]
    assert len(result.warnings) == 1
    assert warning in result.warnings[0]


def test_the_machine_itself_and_affiliates_without_kubespan_are_no_peers():
    assert peer_specs([affiliate(1, LOW), affiliate(2, HIGH, public_key="")], "node-1").specs == {}


def test_of_two_with_one_key_the_later_node_id_wins_without_the_earlier_ones_addresses():
    one = affiliate(1, LOW, addresses=["10.0.0.1"])
    two = affiliate(2, HIGH, addresses=["10.0.0.1", "10.0.0.9"], public_key=key(1))
    result = peer_specs([one, two], "own")
    assert result.specs[key(1)].label == "peer-2"
    assert list(map(str, result.specs[key(1)].allowed_ips)) == ["10.0.0.9/32", f"{HIGH}/128"]
    assert any("public key of another one" in warning for warning in result.warnings)


ENDPOINTS = tuple(map(Endpoint.parse, ("10.0.0.1:1", "192.0.2.1:2", "10.0.0.1:3", "[2001:db8::1]:4")))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param((), (0, 1, 2, 3), id="none"),
        pytest.param(("::/0", "10.0.0.0/8"), (3, 0, 2), id="in the filters' order, every port of an address"),
        pytest.param(("0.0.0.0/0", "!10.0.0.1"), (1,), id="without"),
    ],
)
def test_filter_endpoints(filters, expected):
    kept = filter_endpoints(ENDPOINTS, list(map(AddressFilter.parse, filters)))
    assert kept == tuple(ENDPOINTS[place] for place in expected)


def test_endpoints_are_filtered_before_they_are_tried():
    one = affiliate(1, LOW, endpoints=ENDPOINTS)
    assert peer_specs([one], "own", [AddressFilter.parse("::/0")]).specs[key(1)].endpoints == ENDPOINTS[3:]


NETWORKS = st.tuples(st.integers(0, 63), st.integers(26, 32)).map(
    lambda pair: ip_interface((f"10.0.0.{pair[0]}", pair[1]))
)
AFFILIATES = st.lists(
    st.tuples(st.integers(1, 6), st.lists(NETWORKS, max_size=3), st.lists(NETWORKS, max_size=2)),
    max_size=6,
    unique_by=lambda one: one[0],
).map(lambda rows: [affiliate(number, f"fd00:0:0:2::{number}", additional=a, excluded=e) for number, a, e in rows])


@given(AFFILIATES, st.randoms(use_true_random=False))
def test_overlap_resolution_does_not_depend_on_the_order(affiliates, random):
    shuffled = list(affiliates)
    random.shuffle(shuffled)
    assert peer_specs(shuffled, "own") == peer_specs(affiliates, "own")


@given(AFFILIATES)
def test_no_address_has_two_peers_and_none_is_lost(affiliates):
    specs = peer_specs(affiliates, "own").specs
    owned = [int(ip) for spec in specs.values() for network in spec.allowed_ips for ip in network]
    assert len(owned) == len(set(owned))
    wanted = set()
    for one in affiliates:
        excluded = {int(ip) for network in one.exclude_advertised_networks for ip in network.network}
        wanted |= {int(ip) for network in one.additional_addresses for ip in network.network} - excluded
        wanted.add(int(one.address))
    assert set(owned) == wanted


def test_allowed_ips_are_written_as_wireguard_reports_them():
    one = affiliate(1, LOW, additional=["10.0.0.0/25", "10.0.0.128/25", "10.0.0.5/32"])
    assert peer_specs([one], "own").specs[key(1)].allowed_ips[0] == ip_network("10.0.0.0/24")
