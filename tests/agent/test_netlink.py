"""Each change of the data plane, made on a real kernel: in namespaces, on whatever WireGuard the machine has.

The `kernel` cases need a kernel with WireGuard; `tests/vm` runs them in a virtual machine where this one has none.
"""

from __future__ import annotations

import socket
import subprocess
import time
from base64 import b64encode
from dataclasses import replace
from ipaddress import IPv6Interface, ip_address, ip_network

import pytest

from kubespan.agent.kernel import KernelError
from kubespan.agent.netlink import LinuxKernel
from kubespan.core.endpoint import Endpoint
from kubespan.core.options import MAXIMUM_MTU, MINIMUM_MTU
from kubespan.core.plan import NOTHING, Firewall, Link, RemovePeers, Route, Rule, SetLink, plan
from tests.agent.data_plane import (
    ADDRESS,
    DATA_PLANES,
    SECRET,
    bring,
    data_plane,
    look,
    make_desired,
    make_key,
    make_peer,
)
from tests.answers import await_answer
from tests.namespaces import Lab

pytestmark = pytest.mark.root

OTHER_SECRET = b64encode(bytes(range(1, 33))).decode()
OTHER_ADDRESS = IPv6Interface("fd7f:175a:b97c:5602:42:acff:fe11:3/64")

THREE = make_desired(
    make_peer(2, "10.0.2.0/24", "fd7f:175a:b97c:5602::2/128", endpoint="192.0.2.2:51820"),
    make_peer(3, "10.0.3.0/24", "10.1.0.0/16", endpoint="[2001:db8::3]:4000"),
    make_peer(4),
)


any_wireguard = pytest.mark.parametrize("wireguard", ["userspace"], indirect=True)
"""For what has nothing to do with WireGuard: once is enough, and a virtual machine is slow."""


@pytest.fixture(params=DATA_PLANES, scope="module")
def wireguard(request):
    """A data plane to make kernels of."""
    return data_plane(request.param)


@pytest.fixture
def machine(wireguard):
    with Lab() as lab:
        yield lab.machine("one")


@pytest.fixture(scope="module")
def shared(wireguard):
    """A machine of many cases: to make one takes longer than most of them, above all on an emulated processor."""
    with Lab() as lab:
        yield lab.machine("one")


@pytest.fixture
def standing(shared, wireguard):
    """The shared machine with all of THREE, whatever the case before left there."""
    bring(shared, wireguard, THREE)
    return shared


@any_wireguard
def test_an_empty_machine_has_nothing_of_ours(machine, wireguard):
    assert plan(NOTHING, look(machine, wireguard)) == []


def test_what_is_brought_up_is_read_back(machine, wireguard):
    assert bring(machine, wireguard, THREE)
    observed = look(machine, wireguard)
    assert observed.link == THREE.link
    assert observed.addresses == {ADDRESS}
    assert observed.routes == THREE.routes
    assert observed.rules == THREE.rules
    assert observed.firewall == THREE.firewall
    assert {key: (peer.endpoint, set(peer.allowed_ips)) for key, peer in observed.peers.items()} == {
        key: (peer.endpoint, set(peer.allowed_ips)) for key, peer in THREE.peers.items()
    }
    assert set(observed.counters) == set(THREE.peers)
    assert all(counters.last_handshake == 0.0 for counters in observed.counters.values())


def test_a_second_pass_finds_nothing_to_do(standing, wireguard):
    assert bring(standing, wireguard, THREE) == []


def test_the_kernel_shows_what_the_specification_asks(standing, wireguard):
    assert standing.ip("rule show priority 32500").split(":", 1)[1].strip() == "from all fwmark 0x40/0x60 lookup 180"
    assert standing.ip("-6 rule show priority 32500").split(":", 1)[1].strip() == "from all fwmark 0x40/0x60 lookup 180"
    four, six = (standing.ip(f"-{family} route show table 180") for family in (4, 6))
    assert four.split() == ["default", "dev", "kubespan", "proto", "static", "metric", "1", "mtu", "1420"]
    assert six.split()[:9] == ["default", "dev", "kubespan", "proto", "static", "metric", "1", "mtu", "1420"]
    assert "fd7f:175a:b97c:5602::/64 dev kubespan" in standing.ip("-6 route")
    assert "mtu 1420" in standing.ip("link show kubespan")


def test_teardown_leaves_nothing(machine, wireguard):
    before = machine.ip("rule") + machine.ip("-6 rule") + machine.ip("route show table all")
    bring(machine, wireguard, THREE)
    bring(machine, wireguard, NOTHING)
    assert plan(NOTHING, look(machine, wireguard)) == []
    assert machine.run("nft", "list", "ruleset") == ""
    assert machine.ip("rule") + machine.ip("-6 rule") + machine.ip("route show table all") == before
    assert machine.processes() == []


CHANGES = {
    "another port": make_desired(*THREE.peers.values(), port=51821),
    "another key": replace(THREE, link=replace(THREE.link, private_key=make_key(9).private_key)),
    "no peers": make_desired(),
    "one peer more": make_desired(*THREE.peers.values(), make_peer(5, "10.5.0.0/16", "::/0")),
    "networks change their peer": make_desired(
        make_peer(2, "10.0.3.0/24", endpoint="192.0.2.2:51820"), make_peer(3, "10.0.2.0/24"), make_peer(4)
    ),
    "another secret": replace(
        THREE, peers={key: replace(peer, preshared_key=OTHER_SECRET) for key, peer in THREE.peers.items()}
    ),
    "no secret": replace(THREE, peers={key: replace(peer, preshared_key="") for key, peer in THREE.peers.items()}),
}
HOST_CHANGES = {
    "least mtu": make_desired(*THREE.peers.values(), mtu=MINIMUM_MTU),
    "greatest mtu": make_desired(*THREE.peers.values(), mtu=MAXIMUM_MTU),
    "another address": make_desired(*THREE.peers.values(), address=OTHER_ADDRESS),
    "one family only": replace(THREE, routes=frozenset({Route(4, 1420)}), rules=frozenset({Rule(4)})),
    "all traffic": make_desired(make_peer(2, "0.0.0.0/0")),
}
DRIFTS = {
    "link deleted": "ip link del kubespan",
    "link down": "ip link set kubespan down",
    "peer removed": f"wg set kubespan peer {make_peer(2).public_key} remove",
    "peer added": f"wg set kubespan peer {make_peer(8).public_key} allowed-ips 10.8.0.0/16",
    "peer's network changed": f"wg set kubespan peer {make_peer(2).public_key} allowed-ips 10.2.2.0/24",
    "peer's endpoint changed": f"wg set kubespan peer {make_peer(2).public_key} endpoint 192.0.2.99:1",
    "peer's keepalive changed": f"wg set kubespan peer {make_peer(2).public_key} persistent-keepalive 0",
    "mark changed": "wg set kubespan fwmark 0x1",
    "port changed": "wg set kubespan listen-port 4000",
}
HOST_DRIFTS = {
    "mtu changed": "ip link set kubespan mtu 1300",
    "address taken away": f"ip address del {ADDRESS} dev kubespan",
    "address added": "ip address add 2001:db8::7/64 dev kubespan",
    "route of IPv4 deleted": "ip route del default table 180",
    "route of IPv6 deleted": "ip -6 route del default table 180",
    "route's mtu changed": "ip route replace default dev kubespan table 180 metric 1 proto static mtu 1300",
    "rule of IPv4 deleted": "ip rule del priority 32500",
    "rule of IPv6 deleted": "ip -6 rule del priority 32500",
    "stray rule": "ip rule add fwmark 0x40/0x60 lookup 180 priority 100 protocol kernel",
    "table deleted": "nft delete table inet kubespan",
    "table emptied": "nft flush table inet kubespan",
    "rule inserted": "nft insert rule inet kubespan kubespan_outgoing drop",
}


@pytest.mark.parametrize("wanted", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_what_is_wanted_takes_one_pass(standing, wireguard, wanted):
    assert bring(standing, wireguard, wanted)
    assert bring(standing, wireguard, wanted) == []


@any_wireguard
@pytest.mark.parametrize("wanted", HOST_CHANGES.values(), ids=HOST_CHANGES.keys())
def test_a_change_around_the_link_takes_one_pass(standing, wireguard, wanted):
    assert bring(standing, wireguard, wanted)
    assert bring(standing, wireguard, wanted) == []


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS.keys())
def test_drift_is_healed_in_one_pass(standing, wireguard, drift):
    standing.run(*drift.split())
    assert bring(standing, wireguard, THREE)
    assert bring(standing, wireguard, THREE) == []


@any_wireguard
@pytest.mark.parametrize("drift", HOST_DRIFTS.values(), ids=HOST_DRIFTS.keys())
def test_drift_around_the_link_is_healed_in_one_pass(standing, wireguard, drift):
    standing.run(*drift.split())
    assert bring(standing, wireguard, THREE)
    assert bring(standing, wireguard, THREE) == []


def test_a_desired_peer_without_endpoint_keeps_the_one_it_has(standing, wireguard):
    roaming = make_desired(
        *(replace(peer, endpoint=None, keepalive=20) for peer in THREE.peers.values()),
    )
    assert bring(standing, wireguard, roaming)
    assert look(standing, wireguard).peers[make_peer(2).public_key].endpoint == Endpoint.parse("192.0.2.2:51820")


def test_removing_a_missing_peer_is_no_error(standing, wireguard):

    async def remove():
        kernel = LinuxKernel(wireguard())
        await kernel.apply([RemovePeers((make_peer(7).public_key, make_peer(2).public_key))])
        return await kernel.observe()

    assert set(standing.call(remove).peers) == {make_peer(3).public_key, make_peer(4).public_key}


def test_a_change_without_a_link_says_so(machine, wireguard):
    with pytest.raises(KernelError, match=r"setting|has vanished"):
        machine.call(lambda: LinuxKernel(wireguard()).apply([SetLink(THREE.link)]))


def test_another_kind_of_interface_with_our_name_is_replaced(machine, wireguard):
    machine.ip("link add kubespan type bridge")
    assert look(machine, wireguard).link is None
    bring(machine, wireguard, THREE)
    assert bring(machine, wireguard, THREE) == []


def test_a_taken_port_is_named_and_healed_once_it_is_free(machine, wireguard):
    async def occupied():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
            holder.bind(("0.0.0.0", 51820))
            kernel = LinuxKernel(wireguard())
            with pytest.raises(KernelError, match="another program holds WireGuard's UDP port"):
                await kernel.apply(plan(THREE, await kernel.observe()))

    machine.call(occupied)
    bring(machine, wireguard, THREE)
    assert bring(machine, wireguard, THREE) == []


@any_wireguard
def test_ipv6_switched_off_by_default_is_switched_on_for_our_link_alone(machine, wireguard):
    machine.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    machine.ip("link add other type bridge")
    bring(machine, wireguard, THREE)
    assert look(machine, wireguard).addresses == {ADDRESS}
    assert machine.run("sysctl", "-n", "net.ipv6.conf.other.disable_ipv6").strip() == "1"


@any_wireguard
def test_no_error_and_no_value_shows_a_key(machine, wireguard):
    private = make_key(1).private_key
    for text in (repr(THREE), repr(plan(THREE, look(machine, wireguard)))):
        assert private not in text
        assert SECRET not in text


@pytest.fixture(scope="module")
def wired(wireguard):
    """Two machines, and a wire between them."""
    with Lab() as lab:
        one, two = lab.machine("one"), lab.machine("two")
        lab.join(one, two, addresses=("192.0.2.1/24", "192.0.2.2/24"))
        for number, machine in enumerate((one, two), 1):
            machine.ip(f"address add 2001:db8::{number}/64 dev wire0 nodad")
        yield one, two


@pytest.fixture
def pair(wired, wireguard):
    """Two machines with a new tunnel between them, whose session is nobody's yet, and what each wants of itself."""
    one, two = wired
    return one, two, make_tunnel(one, two, wireguard)


def make_tunnel(one, two, wireguard):
    """Give both the other as their peer; returns what each wants of itself."""
    wanted = {}
    for machine, own, other in ((one, 1, 2), (two, 2, 1)):
        peer = make_peer(other, f"fd7f:175a:b97c:5602::{other}/128", endpoint=f"192.0.2.{other}:51820")
        link = Link(mtu=1420, listen_port=51820, private_key=make_key(own).private_key)
        address = IPv6Interface(f"fd7f:175a:b97c:5602::{own}/64")
        wanted[own] = replace(make_desired(peer, address=address), link=link)
        machine.call(wireguard().delete)
        bring(machine, wireguard, wanted[own])
    return wanted


def test_other_peers_come_and_go_without_one_lost_ping(pair, wireguard):
    one, _, wanted = pair
    address = "fd7f:175a:b97c:5602::2"
    await_answer(one, address)
    before = look(one, wireguard).counters[make_peer(2).public_key]
    pinging = ["ping", "-6", "-q", "-i0.01", "-c200", "-W30", address]
    with one.start(*pinging, stdout=subprocess.PIPE, text=True) as ping:
        for number in range(20, 28):
            more = make_peer(number, f"10.{number}.0.0/16", endpoint=f"192.0.2.{number}:51820")
            assert bring(one, wireguard, replace(wanted[1], peers={**wanted[1].peers, more.public_key: more}))
        bring(one, wireguard, wanted[1])
        report = ping.communicate()[0]
    assert " 0% packet loss" in report, report
    after = look(one, wireguard).counters[make_peer(2).public_key]
    assert after.last_handshake == before.last_handshake > 0
    assert after.received > before.received
    assert after.sent > before.sent


BEGINNING = 148
"""Bytes that begin a handshake."""
DEAF = """
table inet firewall {
  chain arriving {
    type filter hook input priority -10;
    ip saddr 192.0.2.1 drop
  }
}
"""


def test_of_one_direction_only_the_hearing_end_counts_how_the_other_begins(wired, wireguard):
    """There is no handshake at either end, and nothing else tells them apart (kubespan.core.reason)."""
    one, two = wired
    two.run("nft", "-f", "-", stdin=DEAF)
    try:
        make_tunnel(one, two, wireguard)

        def counters(machine, other):
            return look(machine, wireguard).counters[make_peer(other).public_key]

        deadline = time.monotonic() + 60
        while counters(one, 2).received <= BEGINNING and time.monotonic() < deadline:
            time.sleep(0.1)
        assert counters(one, 2).received > BEGINNING, "it begins once, and again after 5 s"
        assert counters(two, 1).received == 0
        assert counters(one, 2).last_handshake == counters(two, 1).last_handshake == 0
    finally:
        two.run("nft", "delete", "table", "inet", "firewall")


@pytest.mark.parametrize("network", ["192.0.2", "2001:db8::"], ids=["IPv4", "IPv6"])
def test_forced_traffic_enters_the_tunnel_and_its_own_packets_do_not(pair, wireguard, network):
    """The peers' own underlay addresses are routed into the tunnel: only marks keep that from being a loop."""
    one, two, wanted = pair
    under = (lambda number: f"192.0.2.{number}") if network == "192.0.2" else (lambda number: f"2001:db8::{number}")
    for machine, own, other in ((one, 1, 2), (two, 2, 1)):
        (peer,) = wanted[own].peers.values()
        endpoint = Endpoint(ip_address(under(other)), 51820)
        forced = ip_network(under(other))
        changed = replace(peer, endpoint=endpoint, allowed_ips=(*peer.allowed_ips, forced))
        routed = Firewall(mtu=1420, routed=frozenset({forced}))
        bring(machine, wireguard, replace(wanted[own], peers={peer.public_key: changed}, firewall=routed))
    ping = ["ping", "-c3", "-i0.1", "-W30", under(2)]
    await_answer(one, under(2))
    # Neighbours are found again, outside the tunnel, when their entries' life has ended.
    for machine in (one, two):
        machine.ip("neighbour flush dev wire0")
    sent = look(one, wireguard).counters[make_peer(2).public_key].sent
    assert " 0% packet loss" in one.run(*ping)
    assert look(one, wireguard).counters[make_peer(2).public_key].sent >= sent + 3 * 84


def test_an_endpoint_is_read_back_as_ipv4_although_the_socket_is_dual(pair, wireguard):
    one, two, _ = pair
    await_answer(one, "fd7f:175a:b97c:5602::2")
    endpoint = look(two, wireguard).peers[make_key(1).public_key].endpoint
    assert endpoint == Endpoint(ip_address("192.0.2.1"), 51820)
