"""What preflight makes of facts: tables of findings, of firewalls, and of the files of others."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from kubespan.agent.preflight.configuration import claiming_network, leaves_alone, manages_foreign, read_settings
from kubespan.agent.preflight.facts import (
    Address,
    Facts,
    Holder,
    Mine,
    Networkd,
    OtherPeer,
    OtherWireGuard,
    PolicyRule,
    TableRoute,
)
from kubespan.agent.preflight.find import find
from kubespan.agent.preflight.rulesets import Arrival, Ruleset
from kubespan.agent.preflight.said import refuse, refusing, write_json, write_table
from kubespan.core.findings import STOPPING, fit, stops, worst_first
from kubespan.core.messages import FRAME_BASE, Finding, Findings, dump

PREFIX = ip_network("fd7f:175a:b97c:5602::/64")
MINE = Mine(prefix=PREFIX, destinations={ip_network("192.0.2.2"): "bravo", ip_network("10.2.0.0/16"): "bravo"})
DEFAULT4 = TableRoute(4, 51820, ip_network("0.0.0.0/0"), "wg0")
FOREIGN = PolicyRule(4, 32499, 51820)
HERE = Address("eth0", ip_address("192.0.2.1"), 24)

FOUND = {
    "nothing odd": (Facts(), ()),
    "no nft": (Facts(has_nft=False), ("nft-missing",)),
    "no WireGuard": (Facts(has_wireguard=False), ("wireguard-missing",)),
    "port taken by a process": (Facts(port_holders=(Holder(7, "x"),)), ("port-taken",)),
    "reverse path strict for all": (Facts(reverse_path={"all": 1}), ("rp-filter",)),
    "reverse path loose for all": (Facts(reverse_path={"all": 2, "default": 2}), ("rp-filter",)),
    "reverse path strict for links to come": (Facts(reverse_path={"all": 0, "default": 1}), ()),
    "reverse path loose on our link": (Facts(reverse_path={"all": 0, "kubespan": 2}), ("rp-filter",)),
    "reverse path strict on another link": (Facts(reverse_path={"all": 0, "eth0": 1}), ()),
    "networkd told to leave others' things alone": (Facts(networkd=Networkd(False, False)), ()),
    "networkd as it comes": (Facts(networkd=Networkd(True, True)), ("networkd",)),
    "networkd with a file for every link": (Facts(networkd=Networkd(False, False, "/a.network")), ("networkd-link",)),
    "NetworkManager as it comes": (Facts(network_manager=True), ("network-manager",)),
    "another WireGuard elsewhere": (
        Facts(MINE, wireguards=(OtherWireGuard("wg0", 1, (OtherPeer("key", (ip_network("10.3.0.0/16"),)),)),)),
        (),
    ),
    "another WireGuard for everything": (
        Facts(MINE, wireguards=(OtherWireGuard("wg0", 1, (OtherPeer("key", (ip_network("0.0.0.0/0"),)),)),)),
        (),
    ),
    "another WireGuard for a member's network": (
        Facts(MINE, wireguards=(OtherWireGuard("wg0", 1, (OtherPeer("key", (ip_network("10.2.3.0/24"),)),)),)),
        ("wireguard-overlap",),
    ),
    "another WireGuard in the mesh's own range": (
        Facts(MINE, wireguards=(OtherWireGuard("wg0", 1, (OtherPeer("key", (PREFIX,)),)),)),
        ("wireguard-overlap",),
    ),
    "an address of the mesh on our own link": (Facts(MINE, addresses=(Address("kubespan", PREFIX[1], 64),)), ()),
    "an address of the mesh on another": (Facts(MINE, addresses=(Address("x", PREFIX[1], 64),)), ("address-overlap",)),
    "a rule behind ours": (Facts(MINE, rules=(replace(FOREIGN, priority=32764),), routes=(DEFAULT4,)), ()),
    "a rule before ours to a default route": (Facts(MINE, rules=(FOREIGN,), routes=(DEFAULT4,)), ("rule-before",)),
    "the same, and nothing known of the mesh": (Facts(rules=(FOREIGN,), routes=(DEFAULT4,)), ("rule-before",)),
    "a rule before ours to an empty table": (Facts(MINE, rules=(FOREIGN,)), ()),
    "a rule before ours to a member's network": (
        Facts(MINE, rules=(FOREIGN,), routes=(replace(DEFAULT4, destination=ip_network("10.2.9.0/24")),)),
        ("rule-before",),
    ),
    "a rule before ours to strangers": (
        Facts(MINE, rules=(FOREIGN,), routes=(replace(DEFAULT4, destination=ip_network("100.64.0.0/10")),)),
        (),
    ),
    "a rule for another mark": (
        Facts(MINE, rules=(replace(FOREIGN, mark=0x80000, mask=0xFF0000),), routes=(DEFAULT4,)),
        (),
    ),
    "a rule for our own mark": (
        Facts(MINE, rules=(replace(FOREIGN, mark=0x40, mask=0x40),), routes=(DEFAULT4,)),
        ("rule-before",),
    ),
    "a rule for all but another mark": (
        Facts(MINE, rules=(replace(FOREIGN, mark=51820, inverted=True),), routes=(DEFAULT4,)),
        ("rule-before",),
    ),
    "a rule for what comes in by an interface": (
        Facts(MINE, rules=(replace(FOREIGN, incoming="eth1"),), routes=(DEFAULT4,)),
        (),
    ),
    "a rule for one of our addresses": (
        Facts(
            MINE,
            addresses=(HERE,),
            rules=(replace(FOREIGN, source=ip_network("192.0.2.1")),),
            routes=(DEFAULT4,),
        ),
        ("rule-aside",),
    ),
    "a rule for somebody else's address": (
        Facts(MINE, addresses=(HERE,), rules=(replace(FOREIGN, source=ip_network("10.9.0.0/16")),), routes=(DEFAULT4,)),
        (),
    ),
    "a rule to a member": (
        Facts(MINE, rules=(replace(FOREIGN, destination=ip_network("192.0.2.0/24")),), routes=(DEFAULT4,)),
        ("rule-aside",),
    ),
    "a rule that forbids": (Facts(MINE, rules=(replace(FOREIGN, action="prohibit", table=0),)), ("rule-before",)),
    "a rule that does nothing": (Facts(MINE, rules=(replace(FOREIGN, action="nop", table=0),)), ()),
    "the kernel's own first rule": (Facts(MINE, rules=(PolicyRule(4, 0, 255),), routes=(DEFAULT4,)), ()),
    "our own route in our table": (Facts(routes=(TableRoute(4, 180, ip_network("0.0.0.0/0"), "kubespan"),)), ()),
    "somebody else's in our table": (
        Facts(routes=(TableRoute(6, 180, ip_network("::/0"), "eth0"),)),
        ("table-taken",),
    ),
    "somebody else's rule to our table": (Facts(rules=(PolicyRule(4, 40000, 180),)), ("table-taken",)),
    "a clock a little off": (Facts(skew=-59.0, set_back=4.0), ()),
    "a clock that is off": (Facts(skew=-61.0), ("clock-skew",)),
    "a clock that was set back": (Facts(set_back=6.0), ("clock-set-back",)),
    "what stops the mesh comes first": (Facts(skew=99.0, has_nft=False), ("nft-missing", "clock-skew")),
}


@pytest.mark.parametrize(("facts", "codes"), FOUND.values(), ids=FOUND.keys())
def test_findings(facts, codes):
    found = find(facts)
    assert tuple(finding.code for finding in found) == codes
    for finding in found:
        assert finding.text.endswith(".")
        assert shlex.split(finding.remedy, comments=True)  # a shell can read it


REMEDIES = {
    "a clock where systemd runs": (Facts(skew=-3600.0), "timedatectl set-ntp true"),
    "a clock that is behind": (Facts(skew=-3600.2, has_systemd=False), 'date -u -s "@$(($(date +%s) +3600))"'),
    "a clock that is ahead": (Facts(skew=3600.2, has_systemd=False), 'date -u -s "@$(($(date +%s) -3600))"'),
    "a clock that was set back": (Facts(set_back=90.0, has_systemd=False), 'date -u -s "@$(($(date +%s) +90))"'),
    "the package by the machine's own installer": (
        Facts(has_nft=False, installer="dnf install -y"),
        "dnf install -y nftables",
    ),
    "a package where no installer is known": (Facts(has_nft=False, installer=""), "install the package nftables"),
    "the kernel's module": (Facts(Mine(data_plane="kernel"), has_wireguard=False), "modprobe wireguard"),
    "a process that holds the port": (
        Facts(port_holders=(Holder(7, "dns"),), free_port=51822),
        "kill 7  # or enrol with --listen-port 51822",
    ),
    "a service that holds the port": (
        Facts(port_holders=(Holder(7, "dns", "dns.service"),), free_port=51821),
        "systemctl disable --now dns.service  # or enrol with --listen-port 51821",
    ),
    "the other links keep the check that they have": (
        Facts(reverse_path={"all": 1, "default": 0, "eth0": 2, "lo": 0, "eth1": 0}),
        (
            "printf '%s\\n' 'net.ipv4.conf.default.rp_filter = 1' 'net.ipv4.conf.eth1.rp_filter = 1' "
            "'net.ipv4.conf.all.rp_filter = 0' 'net.ipv4.conf.kubespan.rp_filter = 0' "
            "> /etc/sysctl.d/99-z-kubespan.conf && sysctl -e -p /etc/sysctl.d/99-z-kubespan.conf"
        ),
    ),
    "the ranges that are left to the other WireGuard": (
        Facts(
            MINE,
            wireguards=(OtherWireGuard("wg0", 1, (OtherPeer("key", (ip_network("10.2.0.0/15"), PREFIX)),)),),
        ),
        "wg set wg0 peer key allowed-ips 10.3.0.0/16  # and its AllowedIPs in /etc/wireguard/wg0.conf",
    ),
    "no range left": (
        Facts(MINE, wireguards=(OtherWireGuard("wg0", 1, (OtherPeer("key", (PREFIX,)),)),)),
        "wg set wg0 peer key allowed-ips ''  # and its AllowedIPs in /etc/wireguard/wg0.conf",
    ),
    "a rule with a selector that cannot be repeated": (
        Facts(MINE, rules=(replace(FOREIGN, further=True, source=None),), routes=(DEFAULT4,)),
        "ip rule del priority 32499  # and add it again behind 32500",
    ),
    "a rule of IPv6": (
        Facts(
            MINE,
            rules=(PolicyRule(6, 10, 7, mark=0xCA6C, inverted=True),),
            routes=(TableRoute(6, 7, ip_network("::/0"), "x"),),
        ),
        (
            "ip -6 rule add not from all fwmark 0xca6c lookup 7 priority 32600 && "
            "ip -6 rule del not from all fwmark 0xca6c lookup 7 priority 10"
        ),
    ),
}


@pytest.mark.parametrize(("facts", "remedy"), REMEDIES.values(), ids=REMEDIES.keys())
def test_remedies(facts, remedy):
    (finding,) = find(facts)
    assert finding.remedy == remedy


# ----------------------------------------------------------------------------------------------------------- firewalls


def listing(*rules, policy="drop", family="inet", hook="input", sets=(), chains=None, kind="filter"):
    """As `nft -j list ruleset` has them; further chains by name."""
    table = {"family": family, "table": "t"}
    base = {"chain": {**table, "name": "base", "type": kind, "hook": hook, "prio": 0, "policy": policy}}
    listed = [{"table": {"family": family, "name": "t"}}, base]
    listed += [{"set": {**table, "name": name, "elem": elements}} for name, elements in sets]
    for name, expressions in {"base": rules, **(chains or {})}.items():
        if name != "base":
            listed.append({"chain": {**table, "name": name}})
        for handle, expression in enumerate(expressions, 1):
            listed.append({"rule": {**table, "chain": name, "handle": handle, "expr": expression}})
    return listed


def when(left, right, operator="=="):
    return {"match": {"op": operator, "left": left, "right": right}}


DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
TH = {"payload": {"protocol": "th", "field": "dport"}}
IN = {"meta": {"key": "iifname"}}
STATE = {"ct": {"key": "state"}}
SOURCE = {"payload": {"protocol": "ip", "field": "saddr"}}
PROTOCOL = {"meta": {"key": "l4proto"}}
ACCEPT, DROP, RETURN = {"accept": None}, {"drop": None}, {"return": None}


def jump(target):
    return {"jump": {"target": target}}


def xt(name):
    return {"xt": {"type": "match", "name": name}}


OPEN = {
    "no firewall": [],
    "policy accept": listing(policy="accept"),
    "the port": listing([when(DPORT, 51820), ACCEPT]),
    "a range with the port": listing([when(DPORT, {"range": [51800, 51900]}), ACCEPT]),
    "a set with the port": listing([when(DPORT, {"set": [53, 51820]}), ACCEPT]),
    "a named set with the port": listing([when(DPORT, "@open"), ACCEPT], sets=[("open", [22, 51820])]),
    "a named set whose elements have notes": listing(
        [when(DPORT, "@open"), ACCEPT], sets=[("open", [{"elem": {"val": 51820, "comment": "x"}}])]
    ),
    "either transport's port": listing([when(PROTOCOL, {"set": ["tcp", "udp"]}), when(TH, 51820), ACCEPT]),
    "all of UDP": listing([when(PROTOCOL, "udp"), ACCEPT]),
    "all but TCP": listing([when(PROTOCOL, "tcp", "!="), ACCEPT]),
    "the interface": listing([when(IN, "eth0"), ACCEPT]),
    "interfaces by pattern": listing([when(IN, "eth*"), ACCEPT]),
    "a verdict map by interface": listing(
        [{"vmap": {"key": IN, "data": {"set": [["lo", ACCEPT], ["eth0", jump("world")]]}}}],
        chains={"world": [[when(DPORT, 51820), ACCEPT]]},
    ),
    "a jump that accepts": listing([jump("users")], chains={"users": [[when(DPORT, 51820), ACCEPT]]}),
    "a jump that returns before the port": listing(
        [jump("users")], [when(DPORT, 51820), ACCEPT], chains={"users": [[RETURN], [DROP]]}
    ),
    "a drop for some senders only": listing([when(SOURCE, "203.0.113.1"), DROP], policy="accept"),
    "a drop for invalid packets": listing([when(STATE, "invalid", "in"), DROP], policy="accept"),
    "a drop elsewhere": listing([when(DPORT, 53), DROP], policy="accept"),
    "what iptables says of local addresses": listing(
        [jump("not-local")],
        [when(DPORT, 51820), ACCEPT],
        chains={"not-local": [[xt("addrtype"), RETURN], [DROP]]},
    ),
    "the other family's table": listing(family="ip6"),
    "an output chain": listing(hook="output"),
    "a nat chain": listing(kind="nat"),
    "a table that sleeps": [{"table": {"family": "inet", "name": "t", "flags": ["dormant"]}}, *listing()[1:]],
}
CLOSED = {
    "policy drop": listing(),
    "policy drop before routing": listing(hook="prerouting"),
    "another port": listing([when(DPORT, 53), ACCEPT]),
    "the port for some senders only": listing([when(SOURCE, "203.0.113.1"), when(DPORT, 51820), ACCEPT]),
    "the port up to a rate": listing([when(DPORT, 51820), {"limit": {"rate": 3, "per": "second"}}, ACCEPT]),
    "the port on another interface": listing([when(IN, "eth1"), when(DPORT, 51820), ACCEPT]),
    "TCP of that number": listing([when({"payload": {"protocol": "tcp", "field": "dport"}}, 51820), ACCEPT]),
    "a drop before the port": listing([DROP], [when(DPORT, 51820), ACCEPT]),
    "a reject at the end": listing([{"reject": {"type": "icmpx"}}], policy="accept"),
    "a jump that drops": listing([jump("users")], policy="accept", chains={"users": [[when(DPORT, 51820), DROP]]}),
    "a goto that ends in the policy": listing([{"goto": {"target": "users"}}], [ACCEPT], chains={"users": []}),
    "answers alone": listing([when(STATE, {"set": ["established", "related"]}), ACCEPT]),
    "answers alone, by iptables": listing([xt("conntrack"), ACCEPT]),
    "a second firewall": [*listing([when(DPORT, 51820), ACCEPT]), *listing(family="ip")],
}


@pytest.mark.parametrize("rules", OPEN.values(), ids=OPEN.keys())
def test_a_firewall_that_is_open(rules):
    assert Ruleset(rules).blocks(Arrival(4, "eth0", 51820)) == []


@pytest.mark.parametrize("rules", CLOSED.values(), ids=CLOSED.keys())
def test_a_firewall_that_may_drop(rules):
    assert len(Ruleset(rules).blocks(Arrival(4, "eth0", 51820))) == 1


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        pytest.param(CLOSED["policy drop"], "firewall-closed", id="all"),
        pytest.param(CLOSED["answers alone"], "firewall", id="all but answers"),
        pytest.param(CLOSED["answers alone, by iptables"], "firewall", id="all but answers, by iptables"),
    ],
)
def test_only_a_firewall_that_keeps_answers_out_stops_the_mesh(rules, code):
    (finding,) = find(Facts(ruleset=rules, interfaces=("eth0",)))
    assert (finding.code, stops(finding)) == (code, code == "firewall-closed")
    assert finding.remedy.startswith("nft insert rule inet t base udp dport 51820 accept  #")


def test_rules_that_chase_each_other_end():
    assert Ruleset(listing([jump("a")], chains={"a": [[jump("a")]]})).blocks(Arrival(4, "", 1)) != []


# --------------------------------------------------------------------------------------------------------------- files


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_file_of_settings_is_read():
    text = "# no\n[A]\nkey = value\nlist+=more ; x\n; no\nnonsense\n[B]\nempty=\n"
    assert [tuple(setting) for setting in read_settings(text)] == [
        ("A", "key", "value", False),
        ("A", "list", "more ; x", True),
        ("B", "empty", "", False),
    ]


NO_RULES = "[Network]\nManageForeignRoutingPolicyRules=no\n"
NO_ROUTES = "[Network]\nManageForeignRoutes=false\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, (True, True), id="as it comes"),
        pytest.param({"etc/systemd/networkd.conf": NO_RULES}, (False, True), id="the file"),
        pytest.param({"etc/systemd/networkd.conf.d/a.conf": NO_RULES + NO_ROUTES}, (False, False), id="a drop-in"),
        pytest.param(
            {
                "etc/systemd/networkd.conf": NO_RULES,
                "usr/lib/systemd/networkd.conf.d/z.conf": NO_RULES.replace("no", "yes"),
            },
            (True, True),
            id="a drop-in is stronger than the file",
        ),
        pytest.param(
            {
                "usr/lib/systemd/networkd.conf.d/a.conf": NO_RULES,
                "etc/systemd/networkd.conf.d/a.conf": NO_ROUTES,
            },
            (True, False),
            id="one in /etc hides one of its name",
        ),
        pytest.param({"etc/systemd/networkd.conf.d/a.txt": NO_RULES}, (True, True), id="not a drop-in"),
    ],
)
def test_what_networkd_manages(tmp_path, files, expected):
    write(tmp_path, files)
    assert manages_foreign(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "claimed"),
    [
        pytest.param({"a.network": "[Match]\nName=eth*\n"}, "", id="others"),
        pytest.param({"a.network": "[Match]\nName=*\n"}, "a.network", id="all"),
        pytest.param({"a.network": "[Match]\nName=!lo eth0\n"}, "a.network", id="all but some"),
        pytest.param({"a.network": "[Match]\nName=*\nDriver=virtio\n"}, "", id="a driver"),
        pytest.param({"a.network": "[Match]\nKind=tun\n"}, "a.network", id="its kind"),
        pytest.param({"a.network": "[Match]\nType=wireguard\n"}, "a.network", id="its type"),
        pytest.param({"a.network": "[Network]\nDHCP=yes\n"}, "", id="nothing to match"),
        pytest.param(
            {"0.network": "[Match]\nName=kubespan\n[Link]\nUnmanaged=yes\n", "a.network": "[Match]\nName=*\n"},
            "",
            id="left alone by a file before",
        ),
        pytest.param(
            {"z.network": "[Match]\nName=kubespan\n[Link]\nUnmanaged=yes\n", "a.network": "[Match]\nName=*\n"},
            "a.network",
            id="left alone by a file behind",
        ),
    ],
)
def test_which_file_claims_the_link(tmp_path, files, claimed):
    write(tmp_path, {f"etc/systemd/network/{name}": text for name, text in files.items()})
    assert claiming_network(tmp_path, "kubespan") == (f"/etc/systemd/network/{claimed}" if claimed else "")


def keyfile(value, key="unmanaged-devices"):
    return f"[keyfile]\n{key}={value}\n"


CONF = "etc/NetworkManager/conf.d"


@pytest.mark.parametrize(
    ("files", "alone"),
    [
        pytest.param({}, False, id="as it comes"),
        pytest.param({f"{CONF}/a.conf": keyfile("interface-name:kubespan")}, True, id="by name"),
        pytest.param({f"{CONF}/a.conf": keyfile("mac:00:11:22:33:44:55;interface-name:kube*")}, True, id="by pattern"),
        pytest.param({f"{CONF}/a.conf": keyfile("type:wireguard,type:tun")}, True, id="by type"),
        pytest.param({f"{CONF}/a.conf": keyfile("*,except:interface-name:eth0")}, True, id="all but others"),
        pytest.param({f"{CONF}/a.conf": keyfile("*,except:interface-name:kubespan")}, False, id="all but it"),
        pytest.param(
            {f"{CONF}/a.conf": keyfile("interface-name:kubespan"), f"{CONF}/b.conf": keyfile("type:veth")},
            False,
            id="taken back by a later file",
        ),
        pytest.param(
            {
                f"{CONF}/a.conf": keyfile("interface-name:kubespan"),
                f"{CONF}/b.conf": keyfile("type:veth", "unmanaged-devices+"),
            },
            True,
            id="added to by a later file",
        ),
        pytest.param(
            {"etc/NetworkManager/NetworkManager.conf": "[device-1]\nmatch-device=interface-name:kubespan\nmanaged=0\n"},
            True,
            id="by a device's section",
        ),
        pytest.param(
            {"usr/lib/NetworkManager/conf.d/a.conf": keyfile("interface-name:kubespan")}, True, id="by a package"
        ),
    ],
)
def test_what_network_manager_leaves_alone(tmp_path, files, alone):
    write(tmp_path, files)
    assert leaves_alone(tmp_path, "kubespan") is alone


# --------------------------------------------------------------------------------------------------------------- words

BAD = Finding(code="port-taken", text="It is taken.", remedy="kill 1")
ODD = Finding(code="clock-skew", text="It is off.", remedy="timedatectl set-ntp true")


def test_a_code_that_a_newer_agent_has_stops_nothing():
    assert not stops(Finding(code="of-tomorrow", text="", remedy=""))
    assert worst_first([ODD, BAD]) == (BAD, ODD)


def test_findings_fit_into_a_frame():
    many = [Finding(code="firewall", text="x" * 1000, remedy="y" * 1000)] * 20
    kept = fit(many)
    assert 0 < len(kept) < len(many)
    assert len(dump(Findings(findings=kept))) <= FRAME_BASE


@pytest.mark.parametrize(
    ("ignored", "blocking"),
    [((), (BAD,)), (("clock-skew",), (BAD,)), (("port-taken",), ()), (("all",), ())],
    ids=["nothing", "another", "it", "all"],
)
def test_what_refuses_enrolment(ignored, blocking):
    assert refusing([BAD, ODD], ignored) == blocking


def test_words_for_a_terminal_and_for_a_program():
    assert write_table([BAD, ODD]).splitlines() == [
        "ERROR    port-taken: It is taken.",
        "         kill 1",
        "WARNING  clock-skew: It is off.",
        "         timedatectl set-ntp true",
    ]
    assert "nothing on this machine" in write_table([])
    assert "--ignore port-taken" in refuse([BAD, BAD])
    document = json.loads(write_json([BAD], ["192.0.2.2/32 (bravo)"], ["TCP a"]))
    assert document["findings"] == [{"code": "port-taken", "text": "It is taken.", "remedy": "kill 1", "stops": True}]
    assert (document["rerouted"], document["sessions"]) == (["192.0.2.2/32 (bravo)"], ["TCP a"])


def test_every_code_that_stops_is_one_that_is_found():
    codes = {code for _, expected in FOUND.values() for code in expected}
    assert STOPPING - codes == {"firewall-closed", "rp-filter-rule"}  # of rulesets, above and on real machines
