"""Every finding brought about by the real thing in a namespace, and its remedy run as it is printed.

The programs that other people configure networks with are in `test_preflight_programs.py`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from base64 import b64encode
from dataclasses import replace
from ipaddress import IPv6Interface, ip_network
from pathlib import Path

import pytest

from kubespan.agent.netlink import LinuxKernel
from kubespan.agent.preflight.facts import Mine
from kubespan.agent.preflight.find import find
from kubespan.agent.preflight.look import look
from kubespan.agent.userspace import UserspaceWireGuard
from kubespan.core.cluster import ula_prefix
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.plan import NOTHING, Desired, Firewall, Link, Peer, Route, Rule, plan
from tests.agent.console_double import ALPHA, CLUSTER_ID
from tests.agent.test_process import Node
from tests.namespaces import Lab

pytestmark = pytest.mark.root

KEYS = [KeyPair.make(bytes([number] * 32)) for number in (1, 2, 3)]
SECRET = b64encode(bytes(range(32))).decode()
PREFIX = ip_network("fd7f:175a:b97c:5602::/64")
FOUR, SIX = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
PATIENCE = 60.0


def mesh_of(number: int) -> Desired:
    """What one of two machines has when it forces everything for the other into the tunnel."""
    other = 1 - number
    addresses = [ip_network(ends[other]) for ends in (FOUR, SIX)]
    peer = Peer(
        public_key=KEYS[other].public_key,
        preshared_key=SECRET,
        endpoint=Endpoint.parse(f"{FOUR[other]}:51820"),
        allowed_ips=(*addresses, ip_network(f"{PREFIX[other + 1]}")),
    )
    return Desired(
        link=Link(mtu=1420, listen_port=51820, private_key=KEYS[number].private_key),
        address=IPv6Interface((int(PREFIX[number + 1]), 64)),
        peers={peer.public_key: peer},
        routes=frozenset(Route(family, 1420) for family in (4, 6)),
        rules=frozenset(Rule(family) for family in (4, 6)),
        firewall=Firewall(mtu=1420, routed=frozenset(addresses)),
    )


def mesh(machine, number, **changed):
    """Bring one of the two up."""

    async def bring():
        kernel = LinuxKernel(UserspaceWireGuard())
        await kernel.apply(plan(replace(mesh_of(number), **changed), await kernel.observe()))

    machine.call(bring)


def examine(machine, *, skew=None, state=None, wall=None, **mine):
    """Run preflight inside."""

    async def inside():
        return await look(Mine(**mine), wall=time.time() if wall is None else wall, skew=skew, state=state)

    return find(machine.call(inside))


def codes(findings):
    return sorted({finding.code for finding in findings})


def one(findings, code):
    (found,) = [finding for finding in findings if finding.code == code]
    return found


def mend(machine, finding):
    """Run the very command that the finding prints."""
    machine.run("sh", "-c", finding.remedy)


def pings(machine, address):
    return machine.execute("ping", "-c1", "-W1", address).returncode == 0


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


@pytest.fixture
def pair():
    """Two machines on one wire, with IPv4 and IPv6, and with folders for settings of their own."""
    with Lab() as lab:
        machines = lab.machine("one"), lab.machine("two")
        lab.join(*machines, names=("eth0", "eth0"), addresses=tuple(f"{address}/24" for address in FOUR))
        for machine, address in zip(machines, SIX, strict=True):
            machine.ip(f"address add {address}/64 dev eth0 nodad")
            machine.run("mount", "-t", "tmpfs", "tmpfs", "/etc/sysctl.d")
            for name in ("all", "default", "eth0"):
                machine.run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0")
        yield machines


@pytest.fixture
def machine(pair):
    return pair[0]


def handshaken(machine):
    return machine.run("wg", "show", "kubespan", "latest-handshakes").split()[1] != "0"


def test_an_ordinary_machine_has_no_findings(pair):
    assert examine(pair[0]) == ()
    mesh(pair[0], 0)
    mesh(pair[1], 1)
    until(lambda: pings(pair[0], FOUR[1]))
    assert examine(pair[0], prefix=PREFIX, destinations={ip_network(FOUR[1]): "two"}) == ()


@pytest.mark.parametrize("before", [True, False], ids=["before the link is there", "with the link"])
@pytest.mark.parametrize("value", [1, 2], ids=["strict", "loose"])
def test_a_reverse_path_filter_drops_what_comes_out_of_the_tunnel(pair, value, before):
    """What the link's own switch says is the agent's business; that of all interfaces is not."""
    here, there = pair
    there.run("sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={value}")
    if before:
        mend(there, one(examine(there), "rp-filter"))
        assert examine(there) == ()
    mesh(here, 0)
    mesh(there, 1)
    until(lambda: handshaken(here))
    if not before:
        assert not pings(here, FOUR[1])
        mend(there, one(examine(there), "rp-filter"))
        assert examine(there) == ()
    until(lambda: pings(here, FOUR[1]))
    # The others are checked as before.
    assert there.run("sysctl", "-n", "net.ipv4.conf.eth0.rp_filter").strip() == str(value)


def test_the_links_own_reverse_path_filter_is_turned_off_and_stays_off(pair):
    """The settings of systemd ask for it on every link that appears, by a rule of udev, when it is there already."""
    here, there = pair
    there.run("sysctl", "-qw", "net.ipv4.conf.default.rp_filter=2")
    mesh(here, 0)
    mesh(there, 1)
    until(lambda: pings(here, FOUR[1]))
    there.run("sysctl", "-qw", "net.ipv4.conf.kubespan.rp_filter=2")
    assert not pings(here, FOUR[1])
    mesh(there, 1)
    until(lambda: pings(here, FOUR[1]))


def test_a_reverse_path_rule_does_the_same(pair):
    here, there = pair
    chain = "type filter hook prerouting priority raw; policy accept;"
    rules = "meta nfproto ipv6 icmpv6 type nd-neighbor-solicit accept; meta nfproto ipv6 fib saddr . mark . iif oif"
    there.run("nft", "-f", "-", stdin=f"table inet other {{ chain paths {{ {chain} {rules} missing drop; }}; }}\n")
    mesh(here, 0)
    mesh(there, 1)
    until(lambda: pings(here, FOUR[1]))
    assert not pings(here, SIX[1])
    mend(there, one(examine(there), "rp-filter-rule"))
    assert examine(there) == ()
    until(lambda: pings(here, SIX[1]))


CLOSED = "type filter hook input priority filter; policy drop; icmpv6 type { nd-neighbor-solicit } accept;"
OPEN_TO_ANSWERS = f"{CLOSED} ct state established,related accept;"
REJECTING = "type filter hook input priority filter; policy accept; udp dport 1-65535 reject; "


@pytest.mark.parametrize(
    ("chain", "code"),
    [
        pytest.param(CLOSED, "firewall-closed", id="policy"),
        pytest.param(REJECTING, "firewall-closed", id="rule"),
        pytest.param(OPEN_TO_ANSWERS, "firewall", id="open to answers"),
    ],
)
def test_a_firewall_without_the_port(pair, chain, code):
    here, there = pair
    there.run("nft", "-f", "-", stdin=f"table inet own {{ chain arriving {{ {chain} }}; }}\n")
    mesh(here, 0)
    mesh(there, 1, peers={})  # it knows how to answer only once it is told of the other, below
    pings(here, FOUR[1])
    assert "latest" not in there.run("wg", "show", "kubespan")
    found = one(examine(there), code)
    mend(there, found)
    assert examine(there) == ()
    silent = next(iter(mesh_of(1).peers.values()))
    mesh(there, 1, peers={silent.public_key: replace(silent, endpoint=None, keepalive=0)})
    until(lambda: pings(here, str(PREFIX[2])) or handshaken(there))


def test_a_handshake_passes_only_a_firewall_that_was_mended(pair):
    """The peer that is called has no endpoint, so that it depends on being called."""
    here, there = pair
    there.run("nft", "-f", "-", stdin=f"table inet own {{ chain arriving {{ {OPEN_TO_ANSWERS} }}; }}\n")
    silent = next(iter(mesh_of(1).peers.values()))
    mesh(there, 1, peers={silent.public_key: replace(silent, endpoint=None, keepalive=0)})
    mesh(here, 0)
    until(lambda: "counter packets 0" not in _calls(there))
    assert not handshaken(there)
    mend(there, one(examine(there), "firewall"))
    until(lambda: handshaken(there))


def _calls(machine):
    """Count what arrives for the port, before the firewall drops it."""
    counting = "chain seen { type filter hook input priority -10; udp dport 51820 counter accept; };"
    if "seen" not in machine.run("nft", "list", "ruleset"):
        machine.run("nft", "-f", "-", stdin=f"table inet counting {{ {counting} }}\n")
    return machine.run("nft", "list", "table", "inet", "counting")


def test_a_port_that_a_process_has(machine):
    program = "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 51820)); input()"
    process = machine.start(sys.executable, "-c", program, stdin=-1)
    until(lambda: "51820" in machine.run("ss", "-uln"))
    found = one(examine(machine), "port-taken")
    assert f"process {process.pid}" in found.text
    assert "--listen-port 51821" in found.remedy
    assert examine(machine, listen_port=51821) == ()
    if not found.remedy.startswith("kill "):
        pytest.skip("these tests run as a service of systemd, which the remedy would stop")
    mend(machine, found)
    process.communicate(timeout=PATIENCE)
    assert examine(machine) == ()
    mesh(machine, 0)


def second_wireguard(machine, *allowed, port=51820):
    """An interface wg0 of somebody else's, with one peer."""
    machine.run("sh", "-c", "wireguard-go wg0 > /dev/null 2>&1")
    machine.run("wg", "set", "wg0", "listen-port", str(port), "private-key", "/dev/stdin", stdin=KEYS[2].private_key)
    machine.run("wg", "set", "wg0", "peer", KEYS[1].public_key, "allowed-ips", ",".join(allowed))
    machine.ip("link set wg0 up")


def test_a_port_that_another_wireguard_has(machine):
    second_wireguard(machine, "198.51.100.0/24")
    found = one(examine(machine), "port-taken")
    assert "the WireGuard interface wg0" in found.text
    mend(machine, found)
    assert examine(machine) == ()
    mesh(machine, 0)


def test_another_wireguard_with_ranges_of_members(machine):
    second_wireguard(machine, "198.51.100.0/24", "192.0.2.0/29", f"{PREFIX}", port=4000)
    mine = {"prefix": PREFIX, "destinations": {ip_network("192.0.2.2"): "two"}}
    found = one(examine(machine, **mine), "wireguard-overlap")
    assert "192.0.2.2/32 (two) and 1 more" in found.text
    mend(machine, found)
    assert examine(machine, **mine) == ()
    left = set(machine.run("wg", "show", "wg0", "allowed-ips").split()[1:])
    assert left == {"198.51.100.0/24", "192.0.2.0/31", "192.0.2.3/32", "192.0.2.4/30"}


def test_another_interface_with_an_address_of_the_mesh(machine):
    machine.ip("link add dummy0 type bridge")
    machine.ip(f"address add {PREFIX[9]}/64 dev dummy0 nodad")
    mend(machine, one(examine(machine, prefix=PREFIX), "address-overlap"))
    assert examine(machine, prefix=PREFIX) == ()


def leaves_by(machine, *words):
    """By which interface a packet that is marked for the tunnel leaves."""
    return machine.ip(f"{' '.join(words)} route get {FOUR[1]} mark 0x40").split(" dev ")[1].split()[0]


def test_rules_that_come_before_ours(machine):
    """As wg-quick makes them where it finds ours there: it puts its own just before the first."""
    mesh(machine, 0)
    second_wireguard(machine, "0.0.0.0/0", port=4000)
    machine.run("wg", "set", "wg0", "fwmark", "51820")
    machine.ip("route add default dev wg0 table 51820")
    machine.ip("rule add not fwmark 51820 lookup 51820")
    machine.ip("rule add lookup main suppress_prefixlength 0")
    mine = {"prefix": PREFIX, "destinations": {ip_network(FOUR[1]): "two"}}
    assert leaves_by(machine) == "eth0"
    found = examine(machine, **mine)
    assert [finding.code for finding in found] == ["rule-before", "rule-before"]
    for finding in found:
        mend(machine, finding)
    assert examine(machine, **mine) == ()
    assert leaves_by(machine) == "kubespan"
    order = [line.split(":", 1)[1].split()[-1] for line in machine.ip("rule").splitlines()]
    assert order[1] == "180"


def test_rules_of_others_that_take_nothing_of_ours(machine):
    machine.ip("route add 100.64.0.0/10 dev eth0 table 52")
    machine.ip("rule add lookup 52 priority 5270")
    machine.ip("rule add fwmark 0x80000/0xff0000 lookup main priority 5210")
    machine.ip("rule add from 198.51.100.7 lookup 52 priority 100")
    assert examine(machine, destinations={ip_network(FOUR[1]): "two"}) == ()


def test_a_rule_for_one_of_the_machines_addresses(machine):
    machine.ip("route add default dev eth0 table 100")
    machine.ip("rule add from 192.0.2.1 lookup 100 priority 100")
    found = one(examine(machine), "rule-aside")
    mend(machine, found)
    assert examine(machine) == ()
    assert "from 192.0.2.1 lookup 100" in machine.ip("rule")


def test_a_table_that_somebody_else_uses(machine):
    machine.ip("route add default via 192.0.2.9 dev eth0 table 180 metric 5")
    machine.ip("-6 route add 2001:db8:1::/48 dev eth0 table 180")
    machine.ip("rule add from 10.0.0.0/8 lookup 180 priority 40000")
    found = examine(machine)
    assert [finding.code for finding in found] == ["table-taken"] * 3
    for finding in found:
        mend(machine, finding)
    assert examine(machine) == ()


def test_a_clock_that_is_off_or_was_set_back_is_said_and_is_no_error(machine, tmp_path):
    """Nobody sets the clock of the machine that tests run on: test_clock runs the remedy in a virtual machine."""
    assert codes(examine(machine, skew=3600.0)) == ["clock-skew"]
    (tmp_path / "settings.json").touch()
    os.utime(tmp_path / "settings.json", (time.time() + 3600,) * 2)
    assert codes(examine(machine, state=tmp_path)) == ["clock-set-back"]
    assert examine(machine, skew=0.2, state=tmp_path, wall=time.time() + 3601) == ()


def test_nothing_is_there_for_a_network_that_was_taken_down(machine):
    mesh(machine, 0)

    async def take_down():
        kernel = LinuxKernel(UserspaceWireGuard())
        await kernel.apply(plan(NOTHING, await kernel.observe()))

    machine.call(take_down)
    assert examine(machine, prefix=PREFIX) == ()


# --------------------------------------------------------------------------------------------------------- the commands

AGENT = str(Path(sys.executable).with_name("kubespan-agent"))


def test_the_command_says_it_in_words_in_json_and_by_its_exit_status(machine, tmp_path):
    words = (AGENT, "preflight", "--state-dir", str(tmp_path / "state"))
    fine = machine.execute(*words)
    assert (fine.returncode, fine.stdout) == (0, "nothing on this machine stands in the mesh's way\n")
    machine.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    table = machine.execute(*words)
    assert (table.returncode, table.stdout.startswith("ERROR    rp-filter: ")) == (1, True)
    document = json.loads(machine.execute(*words, "-o", "json").stdout)
    (finding,) = document["findings"]
    assert (finding["code"], finding["stops"]) == ("rp-filter", True)
    machine.run("sh", "-c", finding["remedy"])
    assert machine.execute(*words).returncode == 0
    assert not (tmp_path / "state").exists()


def test_enrolment_refuses_before_anything_changes_and_can_be_told_to_go_on(machine, tmp_path):
    machine.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    before = machine.run("nft", "list", "ruleset") + machine.ip("rule")
    words = (AGENT, "enrol", "http://127.0.0.1:9", "--state-dir", str(tmp_path / "state"))
    refused = machine.execute(*words, stdin="token")
    assert refused.returncode == 1
    assert "ERROR    rp-filter: " in refused.stderr
    assert "--ignore rp-filter" in refused.stderr
    assert not (tmp_path / "state").exists()
    assert machine.run("nft", "list", "ruleset") + machine.ip("rule") == before
    # Told to, it goes on to where there is no console.
    assert "cannot reach the console" in machine.execute(*words, "--ignore", "rp-filter", stdin="token").stderr


def test_joining_refuses_where_another_interface_has_an_address_of_the_mesh(machine, tmp_path):
    """Who joins without a console brings the cluster's id along, and its range follows from that."""
    machine.ip("link add dummy0 type bridge")
    machine.ip(f"address add {ula_prefix(CLUSTER_ID)[9]}/64 dev dummy0 nodad")
    for name, content in (("id", CLUSTER_ID), ("secret", SECRET)):
        (tmp_path / name).write_text(content)
    words = ("--cluster-id-file", str(tmp_path / "id"), "--secret-file", str(tmp_path / "secret"))
    service = ("--discovery", "https://127.0.0.1:9", "--state-dir", str(tmp_path / "state"))
    refused = machine.execute(AGENT, "join", *words, *service)
    assert refused.returncode == 1
    assert "ERROR    address-overlap: The interface dummy0" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_leaving_takes_mesh_and_secret_away_and_keeps_the_keys(tmp_path):
    with Lab() as lab:
        node = Node(lab, tmp_path)
        node.start()
        assert "stop it first" in node.machine.execute(AGENT, "leave", "--yes", *node.options).stderr
        node.end(signal.SIGTERM)
        assert "of no cluster" in node.call("leave", "--yes")
        assert (node.link(), node.servers()) == ("", set())
        assert node.bench.store.agent().enrolment is None
        assert not node.bench.store.path("settings.json").exists()
        assert node.bench.store.keys() == ALPHA.keys
        assert "not enrolled" in node.machine.execute(AGENT, "leave", "--yes", *node.options).stderr
