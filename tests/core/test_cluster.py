"""Cluster id, cluster secret, address range: the known answers of the specification and what is refused."""

from ipaddress import IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.cluster import (
    Purpose,
    check_cluster_id,
    is_kubespan_ula,
    is_ula,
    make_cluster_id,
    make_cluster_secret,
    parse_cluster_secret,
    ula_prefix,
)

RANDOM = bytes(range(32))


def test_made_id_and_secret_are_standard_base64():
    assert make_cluster_id(b"\xfb" * 32) == "+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s="
    assert make_cluster_secret(RANDOM) == "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    assert check_cluster_id(make_cluster_id(RANDOM)) == []
    assert parse_cluster_secret(make_cluster_secret(RANDOM)) == RANDOM


def test_too_little_randomness_makes_nothing():
    with pytest.raises(ValueError, match="expected 32 bytes, got 16"):
        make_cluster_secret(bytes(16))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo=", id="URL-safe alphabet, up to 1.13"),
        pytest.param("EUsCYz+oHNuBppS51P9aKSIOyYvIPmbZK944PWgiyMQ=", id="standard alphabet, from 1.14"),
    ],
)
def test_ids_as_talos_makes_them_are_not_odd(text):
    assert check_cluster_id(text) == []


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        pytest.param("test-cluster-id", "not base64 of 32 bytes", id="a word"),
        pytest.param("EUsCYz+oHNuBppS51P9aKSIOyYvIPmbZK944PWgiyMQ", "not base64", id="padding lost"),
        pytest.param("EUsCYz+oHNuBppS51P9aKSIOyYvIPmbZK944PWgiyMQ=\n", "white space", id="newline taken along"),
        pytest.param("a\tb", "cannot be seen", id="tab inside"),
        pytest.param("ü" * 128, "not base64", id="256 bytes, but 128 characters"),
    ],
)
def test_odd_ids_warn_only(text, warning):
    assert any(warning in sentence for sentence in check_cluster_id(text))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("", "required", id="empty"),
        pytest.param("a" * 257, "at most 256 bytes, this one has 257", id="too long"),
        pytest.param("ü" * 129, "has 258", id="too long in bytes"),
        pytest.param("\ud800", "not valid UTF-8", id="half a character"),
    ],
)
def test_impossible_ids_are_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        check_cluster_id(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("", "required", id="empty"),
        pytest.param("not base64!", "not standard base64", id="wrong alphabet"),
        pytest.param("-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s=", "not standard base64", id="URL-safe alphabet"),
        pytest.param("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", "not standard base64", id="newline"),
        pytest.param("AAECAwQFBgcICQoLDA0ODw==", "expected 32 bytes, got 16", id="a legacy secret of 16 bytes"),
        pytest.param("ü", "not standard base64", id="not ASCII"),
    ],
)
def test_bad_secrets_are_refused_without_being_told(text, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        parse_cluster_secret(text)
    assert not text or text.strip() not in str(caught.value)


@pytest.mark.parametrize(
    ("cluster_id", "prefix"),
    [
        pytest.param("8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo=", "fd7f:175a:b97c:5602::/64", id="upstream's"),
        pytest.param("yui150Ogam0pdQoNZS2lZR-ihi8EWxNM17bZPktJKKE=", "fde2:b5ed:5b40:7602::/64", id="1.1 docs, old"),
        pytest.param("EUsCYz+oHNuBppS51P9aKSIOyYvIPmbZK944PWgiyMQ=", "fdff:b8e0:c564:bd02::/64", id="1.1 docs, new"),
        pytest.param("v16UCWpO2iOm82n6F8dGCJ41ZXXBvDrjRDs2su7C_zs=", "fd8a:4396:731e:e702::/64", id="manager test"),
        pytest.param("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "fd62:679f:48cb:8002::/64", id="digits"),
        pytest.param("test-cluster-id", "fd21:4de:ec13:da02::/64", id="a word"),
        pytest.param("a", "fd86:eff8:147c:4e02::/64", id="one letter"),
        pytest.param("", "fdae:41e4:649b:9302::/64", id="empty"),
    ],
)
def test_ula_prefix(cluster_id, prefix):
    assert ula_prefix(cluster_id) == IPv6Network(prefix)


def test_another_purpose_is_another_range():
    cluster_id = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
    assert ula_prefix(cluster_id, Purpose.SIDEROLINK) == IPv6Network("fd7f:175a:b97c:5603::/64")


def test_the_two_alphabets_are_two_clusters():
    assert ula_prefix("+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=") != ula_prefix(
        "-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s="
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("fd7f:175a:b97c:5602::1", True, id="of one cluster"),
        pytest.param("fdae:41e4:649b:9302:60be:7e36:c270:3238", True, id="of another"),
        pytest.param("fdae:41e4:649b:9303:60be:7e36:c270:3238", False, id="SideroLink"),
        pytest.param("fc7f:175a:b97c:5602::1", False, id="not fd"),
        pytest.param("10.0.0.2", False, id="IPv4"),
    ],
)
def test_is_kubespan_ula(address, expected):
    assert is_kubespan_ula(ip_address(address)) is expected


@given(st.text(max_size=300), st.sampled_from(Purpose))
def test_every_range_is_known_by_its_purpose(cluster_id, purpose):
    prefix = ula_prefix(cluster_id, purpose)
    assert prefix.prefixlen == 64
    assert [other for other in Purpose if is_ula(prefix[1], other)] == [purpose]
