"""Node id, keys, address: the known answers of the specification and what is refused."""

import hashlib
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import (
    KeyPair,
    decode_node_id,
    encode_node_id,
    interface_id,
    is_public_key,
    machine_id,
    make_signing_key,
    node_address,
    pick_interface,
    random_mac,
    sign,
    verify,
)

UPSTREAM = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo="
DOCS = "yui150Ogam0pdQoNZS2lZR-ihi8EWxNM17bZPktJKKE="


@pytest.mark.parametrize(
    ("raw", "node_id"),
    [
        pytest.param(
            bytes.fromhex("be871ac0d0dd31fa4caca753b0f3f1b2970f5c19dfbde7dd7932e37cb2eeea2c"),
            "sou7yy34ykX3n373Zw1DXKb8zD7UnyKT6HT3QDsGH6L",
            id="upstream's",
        ),
        pytest.param(bytes(32), "A" * 43, id="zeros"),
        pytest.param(bytes(range(32)), "fwjO4YDNyAjLsoCKmQiIg4BHaghFUIBEOwgCIYABCAA", id="counting"),
        pytest.param(b"\xff" * 32, "f" * 51 + "B", id="ones: the longest"),
        pytest.param(b"\x01" * 32, "BEQABEQABEQABEQABEQABEQABEQABEQABEQABEQABEA", id="repeated"),
        pytest.param(hashlib.sha256(b"talos").digest(), "DOfsCRLHhjWlROJPU3VMS2or8yogGBmrvvvHKAVLALE", id="a hash"),
        pytest.param(bytes.fromhex("deadbeef"), "v7breG", id="four bytes"),
        pytest.param(b"\x00", "AA", id="one byte 00"),
        pytest.param(b"\x01", "BA", id="one byte 01"),
        pytest.param(b"\xff", "fH", id="one byte ff"),
        pytest.param(b"", "", id="nothing"),
        pytest.param(
            bytes.fromhex("8d2c0de2408fa2a178bad7f45d9aa8fbd7354cc90129f2f9c87897dec97eabe0"),
            "gvqfS27LxD58lPlASmpaueeRVzuof16iXoieRgEvBWaE",
            id="44 characters",
        ),
        pytest.param(
            bytes.fromhex("2ce127e9f2dde971120a522cac6603df8a564ba477cca7b36b3df574fbaff576"),
            "2VfX3nu67ZtZPl57IdJrU87BMjVWkSBJiL9ulP9TCnF",
            id="second of upstream's ids",
        ),
        pytest.param(
            bytes.fromhex("290e609c9749277c7ed70b6db4e428709b16d3a26267c5efa7a720747ca9513a"),
            "6EVq8RHIne03LeZiJ60WsJcoQOtttw1ejvTS6SOBzhUA",
            id="third of upstream's ids",
        ),
        pytest.param(
            bytes.fromhex("52314ec06260c5eb0fb7fcb656967422e7ff113f80eae303cfa013c0ae4b5c7b"),
            "7x1SuC8Ege5BGXdAfTEff5iQnlWZLfv9h1LGMxA2pYkC",
            id="fourth of upstream's ids",
        ),
    ],
)
def test_node_id(raw, node_id):
    assert encode_node_id(raw) == node_id
    assert decode_node_id(node_id) == raw


@given(st.binary(max_size=64))
def test_node_id_round_trip(raw):
    assert decode_node_id(encode_node_id(raw)) == raw


@given(st.binary(min_size=32, max_size=32))
def test_node_ids_have_43_to_52_characters(raw):
    assert 43 <= len(encode_node_id(raw)) <= 52


def test_a_strange_character_is_named():
    with pytest.raises(ValueError, match="character 3 is '-'"):
        decode_node_id("ab-c")


def test_machine_id():
    assert machine_id("sou7yy34ykX3n373Zw1DXKb8zD7UnyKT6HT3QDsGH6L") == "be871ac0d0dd31fa4caca753b0f3f1b2"


@pytest.mark.parametrize(
    ("private", "public"),
    [
        pytest.param(
            "gNoasoKOJzl+/B+uXhvsBVxv81OcVLrlcmQ5jQwZO08=", "NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4=", id="first"
        ),
        pytest.param(
            "sF45u5ePau58WeeCUY3T8D9foEKaQ8Opx4cGC8g4XE4=", "Oak2fBEWngBhwslBxDVgnRNHXs88OAp4kjroSX0uqUE=", id="second"
        ),
    ],
)
def test_public_key(private, public):
    assert KeyPair.from_private(private) == KeyPair(private, public)


@given(st.binary(min_size=32, max_size=32))
def test_a_made_key_is_clamped_and_comes_back(random):
    pair = KeyPair.make(random)
    assert KeyPair.from_private(pair.private_key) == pair
    assert is_public_key(pair.public_key)


def test_an_unclamped_key_is_clamped_as_wireguard_will_report_it():
    assert KeyPair.make(b"\xff" * 32).private_key == "+P///////////////////////////////////////38="


def test_the_private_key_is_never_printed():
    pair = KeyPair.make(bytes(32))
    assert pair.private_key not in repr(pair)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("secretsecretsecret!", "not standard base64", id="wrong alphabet"),
        pytest.param("c2VjcmV0", "must be 32 bytes, got 6", id="too short"),
        pytest.param("", "must be 32 bytes, got 0", id="empty"),
    ],
)
def test_a_bad_private_key_is_refused_without_being_told(text, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        KeyPair.from_private(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT4=", True, id="as WireGuard writes it"),
        pytest.param("NzW8oeIH5rJyY5lefD9WRoHWWRr/Q6DwsDjMX+xKjT5=", False, id="another spelling of the same bytes"),
        pytest.param("NzW8oeIH5rJyY5lefD9WRoHWWRr_Q6DwsDjMX-xKjT4=", False, id="URL-safe alphabet"),
        pytest.param("AAAA", False, id="too short"),
        pytest.param("peer", False, id="a word"),
    ],
)
def test_is_public_key(text, expected):
    assert is_public_key(text) is expected


@pytest.mark.parametrize(
    ("cluster_id", "mac", "address"),
    [
        pytest.param(UPSTREAM, "2e:1a:b6:53:81:69", "fd7f:175a:b97c:5602:2c1a:b6ff:fe53:8169", id="upstream's first"),
        pytest.param(UPSTREAM, "ea:71:1b:b2:cc:ee", "fd7f:175a:b97c:5602:e871:1bff:feb2:ccee", id="upstream's second"),
        pytest.param(UPSTREAM, "02:42:ac:11:00:02", "fd7f:175a:b97c:5602:42:acff:fe11:2", id="a container's"),
        pytest.param(UPSTREAM, "52:54:00:12:34:56", "fd7f:175a:b97c:5602:5054:ff:fe12:3456", id="a virtual machine's"),
        pytest.param(UPSTREAM, "00:00:00:00:00:00", "fd7f:175a:b97c:5602:200:ff:fe00:0", id="zeros"),
        pytest.param(UPSTREAM, "ff:ff:ff:ff:ff:ff", "fd7f:175a:b97c:5602:fdff:ffff:feff:ffff", id="ones"),
        pytest.param(UPSTREAM, "00:11:22:33:44:55:66:77", "fd7f:175a:b97c:5602:211:2233:4455:6677", id="eight bytes"),
        pytest.param(DOCS, "52:54:00:12:34:56", "fde2:b5ed:5b40:7602:5054:ff:fe12:3456", id="another cluster"),
        pytest.param(DOCS, "8e:13:71:af:7c:94", "fde2:b5ed:5b40:7602:8c13:71ff:feaf:7c94", id="another cluster, too"),
    ],
)
def test_node_address(cluster_id, mac, address):
    made = node_address(ula_prefix(cluster_id), interface_id(bytes.fromhex(mac.replace(":", ""))))
    assert str(made) == address


def test_a_mac_of_another_length_is_refused():
    with pytest.raises(ValueError, match="6 or 8 bytes, this one has 20"):
        interface_id(bytes(20))


def test_an_address_needs_a_64_bit_prefix_and_a_whole_interface_id():
    with pytest.raises(ValueError, match="not a /64"):
        node_address(IPv6Network("fd00::/56"), bytes(8))
    with pytest.raises(ValueError, match="has 8 bytes, this one has 6"):
        node_address(IPv6Network("fd00::/64"), bytes(6))


BOND = ("bond0", "ether", "bond", b"\x01" * 6)
ETH0 = ("eth0", "ether", "", b"\x02" * 6)
ETH1 = ("eth1", "ether", "", b"\x03" * 6)
ETH10 = ("eth10", "ether", "", b"\x04" * 6)
LOOPBACK = ("lo", "loopback", "", b"\x00" * 6)
VETH = ("eth0", "ether", "veth", b"\x05" * 6)


@pytest.mark.parametrize(
    ("interfaces", "mac"),
    [
        pytest.param([BOND, ETH1], ETH1[3], id="a bond does not count"),
        pytest.param([BOND, ETH1, ETH0], ETH0[3], id="the first by name"),
        pytest.param([ETH10, ETH1], ETH1[3], id="by bytes of the name"),
        pytest.param([ETH10, ("eth2", *ETH0[1:])], ETH10[3], id="10 comes before 2"),
        pytest.param([LOOPBACK, VETH, BOND], None, id="a container has none"),
        pytest.param([], None, id="nothing at all"),
    ],
)
def test_pick_interface(interfaces, mac):
    assert pick_interface(interfaces) == mac


@given(st.binary(min_size=6, max_size=6))
def test_a_random_mac_is_local_and_for_one_receiver(random):
    mac = random_mac(random)
    assert mac[0] & 0x03 == 0x02
    assert mac[1:] == random[1:]
    assert isinstance(node_address(IPv6Network("fd00::/64"), interface_id(mac)), IPv6Address)


def test_a_random_mac_needs_six_bytes():
    with pytest.raises(ValueError, match="needs 6 random bytes, got 2"):
        random_mac(b"ab")


def test_a_signature_is_by_one_key_over_one_text():
    private, public = make_signing_key(b"\x01" * 32)
    _, other = make_signing_key(b"\x02" * 32)
    signature = sign(private, b"hello")
    assert verify(public, signature, b"hello")
    assert not verify(public, signature, b"hello!")
    assert not verify(other, signature, b"hello")


@given(st.text(), st.text())
def test_nonsense_never_verifies(public, signature):
    assert not verify(public, signature, b"hello")
