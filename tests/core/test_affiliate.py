"""Affiliates: merging, members, the endpoints that a machine announces."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from kubespan.core.affiliate import (
    Affiliate,
    advertise_endpoints,
    from_member,
    from_members,
    members,
    merge,
    merge_all,
    to_member,
)
from kubespan.core.endpoint import AddressFilter, Endpoint
from kubespan.core.messages import Member

KEY = "NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4="
ADDRESS = "fd7f:175a:b97c:5602:2c1a:b6ff:fe53:8169"

WHOLE = Affiliate(
    node_id="sou7yy34ykX3n373Zw1DXKb8zD7UnyKT6HT3QDsGH6L",
    addresses=(ip_address("192.168.3.4"), ip_address("2001:db8::4")),
    hostname="one.example.org",
    nodename="one",
    machine_type="worker",
    operating_system="Debian GNU/Linux 12",
    public_key=KEY,
    address=ip_address(ADDRESS),
    additional_addresses=(ip_interface("10.244.3.1/24"),),
    exclude_advertised_networks=(ip_interface("10.244.3.128/25"),),
    endpoints=(Endpoint.parse("192.168.3.4:51820"), Endpoint.parse("[2001:db8::4]:51820")),
)


def endpoints(*texts):
    return tuple(map(Endpoint.parse, texts))


@pytest.mark.parametrize(
    ("base", "other", "merged"),
    [
        pytest.param(
            {"endpoints": endpoints("192.168.3.4:51820")},
            {"endpoints": endpoints("10.0.0.2:51820", "192.168.3.4:51820")},
            {"endpoints": endpoints("192.168.3.4:51820", "10.0.0.2:51820")},
            id="upstream's endpoints",
        ),
        pytest.param(
            {"exclude_advertised_networks": (ip_interface("0.0.0.0/0"), ip_interface("2007::/64"))},
            {"exclude_advertised_networks": (ip_interface("2007::/64"),)},
            {"exclude_advertised_networks": (ip_interface("0.0.0.0/0"), ip_interface("2007::/64"))},
            id="upstream's excluded networks",
        ),
        pytest.param(
            {"addresses": (ip_address("10.0.0.1"),), "additional_addresses": (ip_interface("10.1.0.1/24"),)},
            {"addresses": (ip_address("10.0.0.2"),), "additional_addresses": (ip_interface("10.1.0.0/24"),)},
            {
                "addresses": (ip_address("10.0.0.1"), ip_address("10.0.0.2")),
                "additional_addresses": (ip_interface("10.1.0.1/24"), ip_interface("10.1.0.0/24")),
            },
            id="addresses are united, host bits tell them apart",
        ),
        pytest.param(
            {"hostname": "a", "nodename": "a", "public_key": "a", "api_server_port": 6443},
            {"hostname": "b", "nodename": "b", "public_key": "b", "api_server_port": 443},
            {"hostname": "b", "nodename": "b", "public_key": "b", "api_server_port": 443},
            id="names and key are overwritten",
        ),
        pytest.param(
            {"hostname": "a", "nodename": "a", "public_key": "a", "address": ip_address(ADDRESS)},
            {},
            {"hostname": "a", "nodename": "a", "public_key": "a", "address": ip_address(ADDRESS)},
            id="but not by nothing",
        ),
        pytest.param(
            {"machine_type": "worker"}, {"machine_type": "unknown"}, {"machine_type": "worker"}, id="type: unknown"
        ),
        pytest.param(
            {"machine_type": "worker"}, {"machine_type": "init"}, {"machine_type": "init"}, id="type: overwritten"
        ),
        pytest.param(
            {"operating_system": "Talos (v1.13)"},
            {"operating_system": "another"},
            {"operating_system": "Talos (v1.13)"},
            id="operating system: the base wins",
        ),
    ],
)
def test_merge(base, other, merged):
    assert merge(Affiliate("n", **base), Affiliate("n", **other)) == Affiliate("n", **merged)


def test_merge_all_takes_the_base_by_resource_id():
    service = ("service/n", Affiliate("n", operating_system="service", hostname="service"))
    kubernetes = ("k8s/n", Affiliate("n", operating_system="kubernetes", hostname="kubernetes"))
    other = ("service/a", Affiliate("a"))
    expected = [Affiliate("a"), Affiliate("n", operating_system="kubernetes", hostname="service")]
    assert merge_all([service, other, kubernetes]) == expected


def test_members_are_the_affiliates_with_a_nodename():
    one, two, nameless = Affiliate("a", nodename="n"), Affiliate("b", nodename="n"), Affiliate("c")
    assert members([two, one, nameless]) == {"n": two}


def test_member_round_trip():
    assert from_member(to_member(WHOLE, 7)) == WHOLE
    assert to_member(WHOLE, 7).index == 7


def test_an_affiliate_without_an_address_comes_back_too():
    assert from_member(to_member(Affiliate("n"), 0)) == Affiliate("n")


MEMBER = Member(index=1, node_id="n", name="one", public_key=KEY, address=ADDRESS)


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        pytest.param("address", "10.0.0.1", "member one: '10.0.0.1' is not an IPv6 address", id="IPv4 as address"),
        pytest.param("addresses", ("10.0.0.1/24",), "is not an IP address", id="a network as address"),
        pytest.param("endpoints", ("10.0.0.1",), "is not an endpoint", id="an endpoint without port"),
        pytest.param("networks", ("10.0.0.0/40",), "is not a network", id="a bad network"),
        pytest.param("excluded", ("all",), "is not a network", id="a bad excluded network"),
    ],
)
def test_a_bad_member_costs_the_others_nothing(field, value, fault):
    fields = {name: getattr(MEMBER, name) for name in MEMBER.__struct_fields__} | {field: value}
    bad = Member(**fields)
    good = to_member(WHOLE, 2)
    with pytest.raises(ValueError, match=fault):
        from_member(bad)
    affiliates, warnings = from_members([bad, good])
    assert affiliates == [WHOLE]
    assert len(warnings) == 1


CURRENT = (
    "172.20.0.2",
    "10.5.0.1",
    "192.168.192.168",
    "2001:123:4567::1",
    "2001:123:4567::1",
    "fdae:41e4:649b:9303:60be:7e36:c270:3238",
)


@pytest.mark.parametrize(
    ("filters", "extra", "expected"),
    [
        pytest.param(
            ("0.0.0.0/0", "!192.168.0.0/16", "2001::/16"),
            ("10.5.0.1:51820", "1.2.3.4:5678"),
            (
                "172.20.0.2:51820",
                "10.5.0.1:51820",
                "1.1.1.1:51820",
                "[2001:123:4567::1]:51820",
                "1.2.3.4:5678",
            ),
            id="upstream's",
        ),
        pytest.param(
            (),
            (),
            (
                "172.20.0.2:51820",
                "10.5.0.1:51820",
                "192.168.192.168:51820",
                "[2001:123:4567::1]:51820",
                "1.1.1.1:51820",
            ),
            id="no filter",
        ),
        pytest.param(("!1.1.1.1",), ("192.168.0.1:1",), ("192.168.0.1:1",), id="extra ones pass no filter"),
    ],
)
def test_advertise_endpoints(filters, extra, expected):
    found = advertise_endpoints(
        list(map(ip_address, CURRENT)),
        own=ip_address("fd7f:175a:b97c:5602::1"),
        public_addresses=list(map(ip_address, ("1.1.1.1", "2001:123:4567::1"))),
        filters=map(AddressFilter.parse, filters),
        extra=endpoints(*extra),
    )
    assert tuple(map(str, found)) == expected


def test_the_own_address_is_no_endpoint_and_the_port_is_an_option():
    own = ip_address("fd7f:175a:b97c:5602::1")
    found = advertise_endpoints([own, ip_address("10.0.0.1")], own=own, port=4000)
    assert tuple(map(str, found)) == ("10.0.0.1:4000",)


def test_affiliates_are_values():
    assert replace(WHOLE) == WHOLE
    assert hash(replace(WHOLE)) == hash(WHOLE)
