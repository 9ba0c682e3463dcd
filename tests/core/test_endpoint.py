"""Endpoints, networks, filters: read, written, ordered."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.endpoint import (
    AddressFilter,
    Endpoint,
    filter_addresses,
    parse_address,
    parse_interface,
    parse_network,
)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        pytest.param("192.0.2.1:51820", Endpoint(IPv4Address("192.0.2.1"), 51820), id="IPv4"),
        pytest.param("[2001:db8::1]:51820", Endpoint(IPv6Address("2001:db8::1"), 51820), id="IPv6"),
        pytest.param("[::ffff:192.0.2.1]:1", Endpoint(IPv4Address("192.0.2.1"), 1), id="mapped IPv4 is IPv4"),
        pytest.param("[2001:DB8:0::1]:65535", Endpoint(IPv6Address("2001:db8::1"), 65535), id="not canonical"),
    ],
)
def test_parse_endpoint(text, endpoint):
    assert Endpoint.parse(text) == endpoint


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("", "is not an endpoint", id="empty"),
        pytest.param("192.0.2.1", "is not an endpoint", id="no port"),
        pytest.param("2001:db8::1:51820", "is not an endpoint", id="IPv6 without brackets"),
        pytest.param("192.0.2.1:0", "the port must be", id="port zero"),
        pytest.param("192.0.2.1:65536", "the port must be", id="port too large"),
        pytest.param("192.0.2.1:" + "9" * 5000, "the port must be", id="port beyond reason"),
        pytest.param("192.0.2.1:٥", "the port must be", id="digits of another script"),
        pytest.param("192.0.2.1:-1", "the port must be", id="negative port"),
        pytest.param("192.0.2.256:1", "is not an IP address", id="bad address"),
        pytest.param("example.org:51820", "is not an IP address", id="a name"),
        pytest.param("[192.0.2.1:51820", "is not an IP address", id="half a bracket"),
        pytest.param("[fe80::1%eth0]:51820", "names an interface", id="a zone"),
    ],
)
def test_bad_endpoint(text, fault):
    with pytest.raises(ValueError, match=fault):
        Endpoint.parse(text)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: not ip.ipv4_mapped))


@given(ADDRESSES, st.integers(1, 65535))
def test_endpoint_round_trip(ip, port):
    assert Endpoint.parse(str(Endpoint(ip, port))) == Endpoint(ip, port)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        pytest.param("10.0.0.0/8", "10.0.0.0/8", id="a network"),
        pytest.param("10.244.3.1/24", "10.244.3.0/24", id="host bits are masked"),
        pytest.param("10.0.0.1", "10.0.0.1/32", id="an address"),
        pytest.param("2001::/16", "2001::/16", id="IPv6"),
        pytest.param("::/0", "::/0", id="everything"),
    ],
)
def test_parse_network(text, network):
    assert parse_network(text) == ip_network(network)


def test_host_bits_are_kept_where_asked():
    assert str(parse_interface("10.244.3.1/24")) == "10.244.3.1/24"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("/8", id="no address"),
        pytest.param("10.0.0.0/33", id="too long"),
        pytest.param("10.0.0.0/255.0.0.0", id="a netmask"),
        pytest.param("10.0.0.0/0.0.0.255", id="a host mask"),
        pytest.param("fe80::%eth0/64", id="a zone"),
        pytest.param("", id="empty"),
        pytest.param("10.0.0.0/", id="no length"),
    ],
)
def test_bad_network(text):
    with pytest.raises(ValueError, match="is not a network in CIDR form"):
        parse_network(text)


@pytest.mark.parametrize("text", ["/8", "!/8"])
def test_a_bad_filter_is_quoted_without_its_sign(text):
    with pytest.raises(ValueError, match=r'^KubeSpan endpoint filter is not valid: "/8"$'):
        AddressFilter.parse(text)


INSIDE = ["172.20.0.2", "10.5.0.1", "192.168.192.168", "2001:123:4567::1"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param([], INSIDE, id="none: all stay"),
        pytest.param(["0.0.0.0/0", "!192.168.0.0/16", "2001::/16"], [*INSIDE[:2], INSIDE[3]], id="upstream's"),
        pytest.param(["2001::/16", "10.5.0.1"], [INSIDE[3], INSIDE[1]], id="the filters' order is the result's"),
        pytest.param(["!192.168.0.0/16"], [], id="only negative: nothing"),
        pytest.param(["0.0.0.0/0", "10.0.0.0/8"], INSIDE[:3], id="twice is once"),
        pytest.param(["0.0.0.0/0", "!10.5.0.1", "10.5.0.1"], [INSIDE[0], INSIDE[2], INSIDE[1]], id="out and in again"),
    ],
)
def test_filter_addresses(filters, expected):
    kept = filter_addresses(list(map(ip_address, INSIDE)), map(AddressFilter.parse, filters))
    assert list(map(str, kept)) == expected


@given(st.text())
def test_nonsense_is_a_value_error_or_a_value(text):
    for parse in (Endpoint.parse, parse_address, parse_network, parse_interface, AddressFilter.parse):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017 - either outcome is right
