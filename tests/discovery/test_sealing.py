"""Sealing: the protocol's known answers (spec/discovery-protocol.md §3, §4), and whatever else may come."""

import base64
import contextlib
from ipaddress import IPv6Address, ip_address, ip_interface

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint
from kubespan.discovery.limits import DATA_BYTES, ENDPOINT_BYTES
from kubespan.discovery.sealing import (
    BLOCK_BYTES,
    Damaged,
    NotAuthentic,
    dump_affiliate,
    dump_endpoint,
    open_affiliate,
    open_endpoint,
    parse_affiliate,
    parse_endpoint,
    seal_affiliate,
    seal_endpoint,
)

K1 = base64.b64decode("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
K2 = base64.b64decode("dAmFcyNmDXusqnTSkPJrsgLJ38W8oEEXGZKM0x6Orpc=")
N1 = bytes(range(12))
N2 = bytes(range(0xA0, 0xAC))

A1 = Affiliate(
    node_id="7x1SuC8Ege5BGXdAfTEff5iQnlWZLfv9h1LGMxA2pYkC",
    addresses=(ip_address("192.168.3.5"),),
    hostname="some.com",
    nodename="some",
    machine_type="worker",
    operating_system="test OS",
    public_key="1CXkdhWBm58c36kTpchR8iGlXHG1ruHa5W8gsFqD8Qs=",
    address=IPv6Address("fd50:8d60:4238:6302:f857:23ff:fe21:d1e1"),
    additional_addresses=(ip_interface("10.244.4.1/24"),),
)
A2 = Affiliate(
    node_id="29QQTc97U5ZyFTIX33Dp9NqtwxqQI8QI13scCLzffrZ",
    addresses=(ip_address("10.0.0.2"), ip_address("192.168.3.4")),
    hostname="foo.com",
    nodename="bar",
    machine_type="controlplane",
    operating_system="Talos (v1.0.0)",
    api_server_port=6443,
)

PLAIN = [
    pytest.param(
        A1,
        "0a2c3778315375433845676535424758644166544566663569516e6c575a4c66763968314c474d78413270596b431204c0a8"
        "03051a08736f6d652e636f6d2204736f6d652a06776f726b6572320774657374204f533a4a0a2c3143586b646857426d3538"
        "6333366b54706368523869476c584847317275486135573867734671443851733d1210fd508d6042386302f85723fffe21d1"
        "e11a080a040af404011018",
        id="a machine with KubeSpan",
    ),
    pytest.param(
        A2,
        "0a2b323951515463393755355a794654495833334470394e7174777871514938514931337363434c7a6666725a12040a0000"
        "021204c0a803041a07666f6f2e636f6d22036261722a0c636f6e74726f6c706c616e65320e54616c6f73202876312e302e30"
        "29420308ab32",
        id="a control plane without",
    ),
    pytest.param(Affiliate("n", machine_type=""), "0a016e", id="as little as can be"),
]
SEALED = [
    pytest.param(
        A1,
        K1,
        N1,
        "000102030405060708090a0b4d2ee163f4b6b758b504f0ee84ab3f35e797e160b51d394951368be94a334cd47729c6cde386"
        "5fe035960fb4e3c43a3c2ef1638840ded0b552f2047a778ed7ea8353ab1ff9d7510e6e3fcf1cdd887a8d4bfee92d25591962"
        "d1ccdd941394d1da89956cdec772fe71ca6c5dda1a4d4838d63f2aecd2b750d22cca00f5e595287fff6a51b589c5dbae586c"
        "28e305b94e3a61d71ccb14c072508455ec7d0ed6e8fe8b805fff6d35c88f862bab50fd6369dad1",
        id="A1 K1 N1",
    ),
    pytest.param(
        A1,
        K2,
        N2,
        "a0a1a2a3a4a5a6a7a8a9aaabf98838c0e71a00557a377bd5a13f38b4d4d317f822eb84e9465272bc7e7e701235baeb6a21f3"
        "e26f8795826b80cd8654659780b3d10354679e86e29215047b09574cdde4932546fdf998319fa6a9d43792c5fd66bad07c00"
        "6c4a0c41f9e5f79feda8666f42d194330f2dbb887f7a92a0062472a4753ceb9fc7d8362b65cae044153f25003f63270ec064"
        "11c315f7312fe93cb7ecd424a9b888654c594c0564432067bf464c28f1decf7253f292cedd32ac",
        id="A1 K2 N2",
    ),
    pytest.param(
        A2,
        K1,
        N1,
        "000102030405060708090a0b4d29e42294b49678b476c2beeb903e39ca8eb407b40b6632491392fd6c38498a50599fcfdca2"
        "51d40ec2199fd2952c32ee59629f5e160bd93b8d2d7f778cdb8d9f51e479b1b0544b1037c5009bfd618448e6a80c13515d3c"
        "9c91f1bf58d8cfbce5c877d68d03cb12352ee10317f8703847bab09290d03c24a28b",
        id="A2 K1 N1",
    ),
    pytest.param(
        A2,
        K2,
        N2,
        "a0a1a2a3a4a5a6a7a8a9aaabf98f3d81871821757b454985ce0439b8f9ca429f23fddb925e776ba85875754c12cab2681ed7"
        "ec5bbcc19440b19c905aa53f81a4cfcb8f0bf7f9cb971506776e4b4e9282db4243b887903b83e0dccf3e91ddbc478cd8385e"
        "2117206ab2a9e9f981f57d6708a0a150f06f33b50a9598af0361d53c42bb1e27f2ff",
        id="A2 K2 N2",
    ),
    pytest.param(
        Affiliate("n", machine_type=""),
        K1,
        N1,
        "000102030405060708090a0b4d03b815c94c3346849566b2071e05f7126a16",
        id="A3 K1 N1",
    ),
    pytest.param(
        Affiliate("n", machine_type=""),
        K2,
        N2,
        "a0a1a2a3a4a5a6a7a8a9aaabf9a5611de20bae2471ca5fed687c25d86b2d35",
        id="A3 K2 N2",
    ),
]
ENDPOINTS = [
    pytest.param(
        Endpoint(ip_address("10.0.0.2"), 51820),
        "45c55198f8ad5b07dd423e192f7e13e8",
        "fb10e01417869955695d314b1ef72cc4",
        id="10.0.0.2:51820",
    ),
    pytest.param(
        Endpoint(ip_address("192.168.3.4"), 51820),
        "59d7f1e9a9136d8604e7631c7f8071b4",
        "f6b5b01b714da1bcd5bd371829b6656a",
        id="192.168.3.4:51820",
    ),
    pytest.param(
        Endpoint(ip_address("1.1.1.1"), 343),
        "42f28997923aaac873877adde85b8b22",
        "db2eb1e0727eb83a12f08876c07be32f",
        id="1.1.1.1:343",
    ),
    pytest.param(
        Endpoint(ip_address("172.20.0.3"), 0),
        "d438f17143f8f1c88a2ddf8533c4e98f",
        "0d11e00cb5639a0325600adf435348e7",
        id="172.20.0.3:0",
    ),
    pytest.param(
        Endpoint(ip_address("2001:db8::1"), 51820),
        "e2702633ca89239d5ee036a316dde237d604c19a74d2f45c1e624c2d38c4cca0",
        "55de3370b7b83232f634ead37217d73e50a15d8448250e7db05676ece5fe5b07",
        id="[2001:db8::1]:51820",
    ),
    pytest.param(
        Endpoint(ip_address("fd50:8d60:4238:6302:f857:23ff:fe21:d1e0"), 65535),
        "9b4f670e3066785f2d206fa4d4fc7912fceec0fd3ae38c5f4f0c1a82a9cd5053",
        "0e1b8518236a1090fcddffcee1434809a1b55bdfe93a3eb72cd1c22113756b0b",
        id="[fd50:8d60:4238:6302:f857:23ff:fe21:d1e0]:65535",
    ),
]


@pytest.mark.parametrize(("affiliate", "plain"), PLAIN)
def test_an_affiliates_bytes(affiliate, plain):
    assert dump_affiliate(affiliate).hex() == plain


@pytest.mark.parametrize(("affiliate", "secret", "nonce", "sealed"), SEALED)
def test_a_sealed_affiliate(affiliate, secret, nonce, sealed):
    assert seal_affiliate(affiliate, secret, nonce).hex() == sealed
    opened = open_affiliate(bytes.fromhex(sealed), secret)
    assert dump_affiliate(opened) == dump_affiliate(affiliate) or affiliate.machine_type == ""
    assert opened.node_id == affiliate.node_id


@pytest.mark.parametrize(("endpoint", "first", "second"), ENDPOINTS)
def test_a_sealed_endpoint(endpoint, first, second):
    for secret, sealed in ((K1, first), (K2, second)):
        assert seal_endpoint(endpoint, secret).hex() == sealed
        assert open_endpoint(bytes.fromhex(sealed), secret) == endpoint


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("", "worker"), ("join", "worker"), ("worker", "worker"), ("controlplane", "controlplane"), ("init", "init"),
        ("unknown", "unknown"), ("toaster", "unknown"),
    ],
)  # fmt: skip
def test_machine_types(said, understood):
    assert parse_affiliate(dump_affiliate(Affiliate("n", machine_type=said))).machine_type == understood


def test_what_cannot_be_is_left_out():
    plain = bytes.fromhex("0a016e") + b"\x12\x05\x01\x02\x03\x04\x05" + b"\x12\x00" + b"\x12\x04\x0a\x00\x00\x01"
    assert parse_affiliate(plain).addresses == (ip_address("10.0.0.1"),)
    zoned = b"\x12\x14" + ip_address("fe80::1").packed + b"eth0"
    assert parse_affiliate(zoned).addresses == (ip_address("fe80::1"),)
    # an IPv4 network of 33 bits, in KubeSpan's third field
    assert parse_affiliate(b"\x3a\x0a\x1a\x08\x0a\x04\x0a\x00\x00\x01\x10\x21").additional_addresses == ()


def test_an_address_of_ipv4_within_ipv6_is_one_of_ipv4():
    mapped, plain = ip_address("::ffff:10.0.0.1"), ip_address("10.0.0.1")
    assert parse_endpoint(dump_endpoint(Endpoint(mapped, 1))) == Endpoint(plain, 1)
    assert parse_affiliate(dump_affiliate(Affiliate("n", addresses=(mapped,)))).addresses == (plain,)


def test_another_secret_is_told_from_too_few_bytes():
    sealed = seal_affiliate(A1, K1, N1)
    with pytest.raises(NotAuthentic):
        open_affiliate(sealed, K2)
    with pytest.raises(NotAuthentic):
        open_affiliate(sealed[:-1], K1)
    with pytest.raises(Damaged):
        open_affiliate(sealed[:27], K1)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 31])
def test_an_endpoint_has_whole_blocks(length):
    with pytest.raises(Damaged):
        open_endpoint(bytes(length), K1)


def test_an_endpoint_may_not_be_longer_than_its_blocks():
    """Go's client does not look, and falls over (spec §6.3)."""
    encryptor = Cipher(algorithms.AES256(K1), modes.ECB()).encryptor()
    with pytest.raises(Damaged, match="longer"):
        open_endpoint(encryptor.update(b"\xff" * BLOCK_BYTES), K1)


addresses = st.ip_addresses().filter(lambda ip: getattr(ip, "ipv4_mapped", None) is None)
names = st.text(st.characters(codec="utf-8"), max_size=20)
interfaces = addresses.flatmap(lambda ip: st.integers(0, ip.max_prefixlen).map(lambda bits: ip_interface((ip, bits))))
affiliates = st.builds(
    Affiliate,
    node_id=names,
    addresses=st.lists(addresses, max_size=4).map(tuple),
    hostname=names,
    nodename=names,
    machine_type=st.sampled_from(["init", "controlplane", "worker", "unknown"]),
    operating_system=names,
    public_key=names.filter(bool),
    address=st.ip_addresses(v=6),
    additional_addresses=st.lists(interfaces, max_size=3).map(tuple),
    exclude_advertised_networks=st.lists(interfaces, max_size=3).map(tuple),
    api_server_port=st.none() | st.integers(0, 65535),
)
endpoints = st.builds(Endpoint, ip=addresses, port=st.integers(0, 65535))


@given(affiliates, st.binary(min_size=12, max_size=12))
def test_affiliates_come_back(affiliate, nonce):
    assert open_affiliate(seal_affiliate(affiliate, K1, nonce), K1) == affiliate


@given(endpoints)
def test_endpoints_come_back_and_fit_the_service(endpoint):
    sealed = seal_endpoint(endpoint, K2)
    assert open_endpoint(sealed, K2) == endpoint
    assert len(sealed) <= ENDPOINT_BYTES
    assert len(dump_endpoint(endpoint)) <= 22


@given(st.binary(max_size=DATA_BYTES))
def test_no_bytes_are_an_accident(data):
    """Whatever comes is read, or refused with a reason."""
    for read in (parse_affiliate, lambda raw: open_affiliate(raw, K1), lambda raw: open_endpoint(raw, K1)):
        with contextlib.suppress(Damaged, NotAuthentic):
            read(data)
