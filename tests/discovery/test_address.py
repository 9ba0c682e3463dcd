"""Who asks, and which release they are."""

from ipaddress import ip_address, ip_network

import pytest

from kubespan.discovery.address import client_address, version_label


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:1.2.3.4:5678", "1.2.3.4"),
        ("ipv6:%5B::1%5D:5678", "::1"),
        ("ipv6:[2001:db8::1]:5678", "2001:db8::1"),
        ("ipv6:[::ffff:1.2.3.4]:5678", "1.2.3.4"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5678", "fe80::1"),
        ("unix:/run/socket", None),
        ("nonsense", None),
    ],
)
def test_peers(peer, expected):
    assert client_address(peer, ()) == (ip_address(expected) if expected else None)


def test_a_proxy_on_a_unix_socket_is_trusted_where_any_is():
    headers = (("x-real-ip", "1.2.3.4"),)
    assert client_address("unix:", headers) is None
    assert client_address("unix:", headers, [ip_network("10.0.0.0/8")]) == ip_address("1.2.3.4")


def test_the_first_of_several_headers_counts():
    headers = (("x-real-ip", "1.2.3.4"), ("x-real-ip", "5.6.7.8"))
    assert client_address("ipv4:10.0.0.1:1", headers, [ip_network("10.0.0.0/8")]) == ip_address("1.2.3.4")


@pytest.mark.parametrize(
    ("version", "label"),
    [
        ("v0.13.0", "v0.13"),
        ("v0.13.0-beta.0", "v0.13-pre"),
        ("v0.14.0-alpha.0-7-gf7d9f211-dirty", "v0.14-pre"),
        ("v1.8.3", "v1.8"),
        ("v1.8.3-7-gf7d9f211", "v1.8-pre"),
        ("v1.2", "unknown"),
        ("", "unknown"),
        ("unknown", "unknown"),
        ("v<script>.1.2", "unknown"),
        ("v\N{ARABIC-INDIC DIGIT ONE}.8.3", "unknown"),
    ],
)
def test_versions(version, label):
    assert version_label(version) == label
