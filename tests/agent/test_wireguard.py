"""What the kernel is told and what its dumps mean, byte by byte; `test_netlink` asks a real one."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode, b64encode
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.agent import wireguard
from kubespan.agent.wireguard import (
    decode_device,
    encode_device,
    encode_peers,
    encode_preshared_keys,
    encode_removals,
)
from kubespan.core.endpoint import Endpoint
from kubespan.core.plan import Link, Peer, PeerCounters

SECRET = b64encode(bytes(range(32))).decode()


def key(number):
    return b64encode(number.to_bytes(32)).decode()


def make_peer(number, *networks, endpoint=None, secret=SECRET, keepalive=25):
    return Peer(
        public_key=key(number),
        preshared_key=secret,
        endpoint=Endpoint.parse(endpoint) if endpoint else None,
        allowed_ips=tuple(ip_network(network) for network in networks),
        keepalive=keepalive,
    )


def attribute(kind, payload):
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


PEERS = [
    make_peer(1, "10.0.0.0/8", "fd00::1/128", endpoint="192.0.2.1:51820"),
    make_peer(2, "0.0.0.0/0", "::/0", endpoint="[2001:db8::1]:65535", keepalive=0),
    make_peer(3, secret=""),
]


def test_peers_are_read_as_they_are_written():
    """The kernel's dump has the form of what it is told, and adds counters."""
    device = decode_device(encode_peers(PEERS))
    assert list(device.peers.values()) == PEERS
    assert set(device.counters.values()) == {PeerCounters()}


def test_what_is_read_again_is_the_same_object():
    first, second = (decode_device(encode_peers(PEERS)).peers[key(1)] for _ in range(2))
    assert first.endpoint is second.endpoint
    assert all(one is other for one, other in zip(first.allowed_ips, second.allowed_ips, strict=True))


def test_the_device_is_read_as_it_is_written():
    link = Link(mtu=1420, listen_port=51820, private_key=key(7))
    device = decode_device([encode_device(link)])
    assert (device.private_key, device.listen_port, device.fwmark) == (key(7), 51820, 0x20)


def test_an_endpoint_is_what_the_kernel_s_headers_say():
    """A sockaddr_in is family, port and address, padded; a sockaddr_in6 has flow and scope beside."""
    four = wireguard._encode_endpoint(Endpoint.parse("192.0.2.1:51820"))
    assert four == struct.pack("=H", 2) + bytes.fromhex("ca6c c0000201") + bytes(8)
    six = wireguard._encode_endpoint(Endpoint.parse("[2001:db8::1]:1"))
    assert six == struct.pack("=H", 10) + bytes.fromhex("0001 00000000") + ip_address("2001:db8::1").packed + bytes(4)


def test_a_dump_split_over_two_messages_is_one_peer():
    entries = [wireguard._encode_network(ip_network(f"10.0.{n}.0/24")) for n in range(4)]
    counters = (
        attribute(wireguard.PEER_HANDSHAKE, struct.pack("=qq", 1_700_000_000, 500_000_000))
        + attribute(wireguard.PEER_RECEIVED, struct.pack("=Q", 7))
        + attribute(wireguard.PEER_SENT, struct.pack("=Q", 8))
    )

    def peer(number, contents, networks):
        own = attribute(wireguard.PEER_KEY, b64decode(key(number)))
        return attribute(0, own + contents + attribute(wireguard.PEER_ALLOWED, b"".join(networks)))

    first = attribute(wireguard.DEVICE_PORT, struct.pack("=H", 51820))
    first += attribute(wireguard.DEVICE_PEERS, peer(1, counters, entries[:1]) + peer(2, counters, entries[1:2]))
    second = attribute(wireguard.DEVICE_PEERS, peer(2, b"", entries[2:]) + peer(3, b"", []))
    device = decode_device([first, second])
    assert device.listen_port == 51820
    assert [[str(network) for network in found.allowed_ips] for found in device.peers.values()] == [
        ["10.0.0.0/24"],
        ["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"],
        [],
    ]
    assert device.counters[key(2)] == PeerCounters(last_handshake=1_700_000_000.5, received=7, sent=8)
    assert device.counters[key(3)] == PeerCounters()


def test_a_split_peer_as_linux_gave_it():
    """Recorded of Linux 6.12: three peers, the second with 1,300 networks, for which one message has no room."""
    data = zlib.decompress((Path(__file__).parent / "recorded" / "dump-of-a-split-peer.zlib").read_bytes())
    messages = []
    while data:
        (length,) = struct.unpack_from("=I", data)
        messages.append(data[4 : 4 + length])
        data = data[4 + length :]
    assert [len(message) for message in messages] == [32408, 4792]
    device = decode_device(messages)
    assert (device.listen_port, device.fwmark) == (51820, 0x20)
    before, wide, behind = device.peers.values()
    assert list(decode_device(messages[:1]).peers) == [before.public_key, wide.public_key]
    rest = decode_device(messages[1:])
    assert list(rest.peers) == [wide.public_key, behind.public_key]
    assert rest.peers[wide.public_key].endpoint is None
    assert (str(wide.endpoint), wide.preshared_key, wide.keepalive) == ("192.0.2.2:51820", SECRET, 25)
    assert wide.allowed_ips == tuple(ip_network(f"10.{n >> 7}.{2 * (n & 127)}.0/24") for n in range(1300))
    assert [str(network) for network in behind.allowed_ips] == ["fd7f::1389/128", "10.20.1.0/25"]
    assert len(device.counters) == 3


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("::ffff:192.0.2.1", "192.0.2.1:51820", id="IPv4 on a dual socket"),
        pytest.param("2001:db8::1", "[2001:db8::1]:51820", id="IPv6"),
        pytest.param("fe80::1", "[fe80::1]:51820", id="link-local, whose interface is dropped"),
    ],
)
def test_an_endpoint_of_the_kernel(address, expected):
    raw = struct.pack("=H", 10) + (51820).to_bytes(2) + bytes(4) + ip_address(address).packed + struct.pack("=I", 3)
    assert str(wireguard._decode_endpoint(raw)) == expected


def test_no_endpoint_is_none():
    assert wireguard._decode_endpoint(b"") is None


def test_a_thousand_peers_are_few_messages_that_each_fit():
    messages = encode_peers(
        make_peer(n, f"10.{n // 256}.{n % 256}.0/24", f"fd00::{n:x}/128", endpoint="192.0.2.1:1")
        for n in range(1, 1001)
    )
    assert len(messages) <= 5
    assert all(len(message) < 1 << 16 for message in messages)
    assert len(decode_device(messages).peers) == 1000


def test_a_peer_that_fits_into_no_message_is_told_in_pieces():
    wide = make_peer(1, *(f"10.{n // 256}.{n % 256}.0/24" for n in range(10_000)))
    messages = encode_peers([wide])
    assert len(messages) > 1
    assert all(len(message) < 1 << 16 for message in messages)
    assert decode_device(messages).peers == {key(1): wide}
    flags = [
        struct.unpack("=I", dict(wireguard._attributes(content))[wireguard.PEER_FLAGS])[0]
        for message in messages
        for _, payload in wireguard._attributes(message)
        for _, content in wireguard._attributes(payload)
    ]
    assert flags[0] == wireguard.REPLACE_ALLOWED_IPS
    assert set(flags[1:]) == {wireguard.UPDATE_ONLY}


def test_a_removal_never_makes_a_peer():
    (message,) = encode_removals([key(1)])
    ((_, payload),) = wireguard._attributes(message)
    ((_, content),) = wireguard._attributes(payload)
    flags = dict(wireguard._attributes(content))[wireguard.PEER_FLAGS]
    assert flags == struct.pack("=I", wireguard.REMOVE_ME | wireguard.UPDATE_ONLY)


def test_a_preshared_key_is_set_and_nothing_else():
    messages = encode_preshared_keys(make_peer(n, "10.0.0.0/8", endpoint="192.0.2.1:1") for n in range(1, 1001))
    assert all(len(message) < 1 << 16 for message in messages)
    told = [
        dict(wireguard._attributes(content))
        for message in messages
        for _, payload in wireguard._attributes(message)
        for _, content in wireguard._attributes(payload)
    ]
    assert len(told) == 1000
    only = {wireguard.PEER_FLAGS: struct.pack("=I", wireguard.UPDATE_ONLY), wireguard.PEER_PRESHARED: b64decode(SECRET)}
    assert told[0] == {wireguard.PEER_KEY: b64decode(key(1))} | only


def test_nothing_to_set_is_no_message():
    assert encode_peers([]) == []
    assert encode_preshared_keys([]) == []
    assert encode_removals([]) == []


networks = st.one_of(
    st.ip_addresses(v=4).flatmap(lambda ip: st.integers(0, 32).map(lambda n: ip_network((ip, n), strict=False))),
    st.ip_addresses(v=6).flatmap(lambda ip: st.integers(0, 128).map(lambda n: ip_network((ip, n), strict=False))),
)
keys = st.binary(min_size=32, max_size=32).filter(any).map(lambda raw: b64encode(raw).decode())
endpoints = st.builds(
    Endpoint,
    st.ip_addresses().filter(lambda ip: ip.version == 4 or not ip.ipv4_mapped),
    st.integers(1, 65535),
)
peers = st.builds(
    Peer,
    public_key=keys,
    preshared_key=keys,
    endpoint=st.none() | endpoints,
    allowed_ips=st.lists(networks, max_size=5).map(tuple),
    keepalive=st.integers(0, 65535),
)


@given(st.lists(peers, max_size=5, unique_by=lambda peer: peer.public_key))
def test_any_peers_survive_the_round_trip(given_peers):
    assert list(decode_device(encode_peers(given_peers)).peers.values()) == given_peers
