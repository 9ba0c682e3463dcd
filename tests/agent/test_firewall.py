"""The nftables table: what is written, how a listing is understood, and both against the real nft."""

from __future__ import annotations

import json
from copy import deepcopy
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.agent import firewall
from kubespan.agent.firewall import (
    ALTERED,
    OUTGOING,
    PREROUTING,
    Clamp,
    Force,
    PassLoopback,
    PassNeighbours,
    PassOwn,
    PassPublished,
    PassServed,
    chains,
)
from kubespan.agent.kernel import KernelError
from kubespan.core.plan import Firewall
from tests.namespaces import Lab


def make(*networks: str, mtu: int = 1420, exempt: tuple[int, ...] = ()) -> Firewall:
    return Firewall(mtu=mtu, routed=frozenset(ip_network(network) for network in networks), exempt=frozenset(exempt))


def test_the_steps_are_the_specification_s():
    """Upstream's reference (MTU 1420, routed 172.20.0.2 and 172.20.0.4–6), and what lets neighbours be found."""
    table = make("172.20.0.2/32", "172.20.0.4/31", "172.20.0.6/32")
    assert chains(table) == {
        PREROUTING: [PassOwn(1420), Force(4, table.routed)],
        OUTGOING: [
            PassOwn(1420),
            PassLoopback(),
            PassNeighbours(),
            Clamp(4, table.routed, 1368),
            Force(4, table.routed),
        ],
    }


def test_both_families_are_clamped_before_they_are_marked():
    four, six = frozenset({ip_network("10.0.0.0/8")}), frozenset({ip_network("2001:db8::/32")})
    assert chains(make("10.0.0.0/8", "2001:db8::/32"))[OUTGOING][3:] == [
        Clamp(4, four, 1368),
        Clamp(6, six, 1348),
        Force(4, four),
        Force(6, six),
    ]


def test_a_console_s_ports_pass_before_anything_is_forced():
    table = make("10.0.0.0/8", exempt=(8443, 443))
    assert chains(table) == {
        PREROUTING: [PassOwn(1420), PassPublished(443), PassPublished(8443), Force(4, table.routed)],
        OUTGOING: [
            PassOwn(1420),
            PassLoopback(),
            PassNeighbours(),
            PassServed(443),
            PassServed(8443),
            Clamp(4, table.routed, 1368),
            Force(4, table.routed),
        ],
    }


def test_nothing_routed_marks_nothing():
    assert chains(make()) == {PREROUTING: [PassOwn(1420)], OUTGOING: [PassOwn(1420), PassLoopback(), PassNeighbours()]}


def test_the_mtu_is_cut_to_sixteen_bits():
    assert chains(make("10.0.0.0/8", mtu=65536 + 1420))[OUTGOING][3] == Clamp(4, make("10.0.0.0/8").routed, 1368)


def test_a_whole_family_needs_no_set():
    script = firewall.render(make("0.0.0.0/0"))
    assert "daddr" not in script
    assert "meta nfproto ipv4 meta mark set" in script


def test_the_script_is_one_transaction_that_touches_no_other_table():
    script = firewall.render(make("10.0.0.0/8"))
    assert script.startswith("table inet kubespan\ndelete table inet kubespan\ntable inet kubespan {\n")
    assert firewall.render(None) == "table inet kubespan\ndelete table inet kubespan\n"
    assert "flush" not in script


# What nft 1.0.6 lists for make("10.0.0.2/31", "10.0.0.4/32", "10.1.0.0/16", "fd00::1/128").
MARK = {"meta": {"key": "mark"}}
MSS = {"tcp option": {"name": "maxseg", "field": "size"}}
FLAGS = {"payload": {"protocol": "tcp", "field": "flags"}}
OWN = {"match": {"op": "==", "left": {"&": [MARK, 96]}, "right": 32}}
FORCE = {"mangle": {"key": MARK, "value": {"|": [{"&": [MARK, 4294967263]}, 64]}}}
SYN = {"match": {"op": "==", "left": {"&": [FLAGS, ["syn", "rst"]]}, "right": "syn"}}
ACCEPT = {"accept": None}
TO_FOUR = {
    "match": {
        "op": "==",
        "left": {"payload": {"protocol": "ip", "field": "daddr"}},
        "right": {"set": [{"range": ["10.0.0.2", "10.0.0.4"]}, {"prefix": {"addr": "10.1.0.0", "len": 16}}]},
    }
}
NEIGHBOURS = {
    "match": {
        "op": "==",
        "left": {"payload": {"protocol": "icmpv6", "field": "type"}},
        "right": {"set": list(firewall.NEIGHBOUR_DISCOVERY)},
    }
}
TO_SIX = {"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "daddr"}}, "right": "fd00::1"}}


def above(mss):
    return {"match": {"op": ">", "left": MSS, "right": mss}}


def clamp(mss):
    return {"mangle": {"key": MSS, "value": mss}}


LISTED = make("10.0.0.2/31", "10.0.0.4/32", "10.1.0.0/16", "fd00::1/128")
RULES = {
    PREROUTING: [[OWN, ACCEPT], [TO_FOUR, FORCE, ACCEPT], [TO_SIX, FORCE, ACCEPT]],
    OUTGOING: [
        [OWN, ACCEPT],
        [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "lo"}}, ACCEPT],
        [NEIGHBOURS, ACCEPT],
        [TO_FOUR, SYN, above(1368), clamp(1368)],
        [TO_SIX, SYN, above(1348), clamp(1348)],
        [TO_FOUR, FORCE, ACCEPT],
        [TO_SIX, FORCE, ACCEPT],
    ],
}


def listing(rules=None, *, table=None, extra=(), **chain):
    objects = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name": "kubespan"} | (table or {})}]
    objects += [
        {"chain": {"name": PREROUTING, "type": "filter", "hook": "prerouting", "prio": 0, "policy": "accept"} | chain},
        {"chain": {"name": OUTGOING, "type": "route", "hook": "output", "prio": 0, "policy": "accept"}},
        *extra,
    ]
    for name, contents in (RULES if rules is None else rules).items():
        for content in contents:
            comment = {"comment": "mtu 1420"} if content[0] == OWN else {}
            objects.append({"rule": {"chain": name, "expr": content} | comment})
    return json.dumps({"nftables": objects})


def test_a_listing_is_understood():
    assert firewall.read(listing()) == LISTED


def varied(change):
    rules = deepcopy(RULES)
    change(rules)
    return rules


def put(chain, rule, statement, value):
    def change(rules):
        rules[chain][rule][statement] = value

    return change


SAME = {
    "flat operands, as later versions have them": put(
        OUTGOING, 3, 1, {"match": {"op": "==", "left": {"&": [FLAGS, {"|": ["rst", "syn"]}]}, "right": 2}}
    ),
    "exclusive or": put(PREROUTING, 1, 1, {"mangle": {"key": MARK, "value": {"^": [{"&": [MARK, 0xFFFFFF9F]}, 0x40]}}}),
    "protocol said": lambda rules: rules[OUTGOING][3].insert(
        0, {"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv4"}}
    ),
    "transport said": lambda rules: rules[OUTGOING][3].insert(
        1, {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}
    ),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_another_spelling_is_the_same_table(change):
    assert firewall.read(listing(varied(change))) == LISTED


DIFFERENT = {
    "a rule lost": lambda rules: rules[OUTGOING].pop(1),
    "rules in another order": lambda rules: rules[OUTGOING].reverse(),
    "a rule more": lambda rules: rules[PREROUTING].append([ACCEPT]),
    "drop in place of accept": put(PREROUTING, 1, 2, {"drop": None}),
    "another mask": put(PREROUTING, 0, 0, {"match": {"op": "==", "left": {"&": [MARK, 97]}, "right": 32}}),
    "another mark passes": put(PREROUTING, 0, 0, {"match": {"op": "==", "left": {"&": [MARK, 96]}, "right": 64}}),
    "unequal": put(PREROUTING, 0, 0, {"match": {"op": "!=", "left": {"&": [MARK, 96]}, "right": 32}}),
    "other bits are lost": put(PREROUTING, 1, 1, {"mangle": {"key": MARK, "value": 64}}),
    "another network in one chain": put(PREROUTING, 2, 0, TO_FOUR),
    "another mss": put(OUTGOING, 3, 3, clamp(1300)),
    "syn and fin": put(OUTGOING, 3, 1, {"match": {"op": "==", "left": {"&": [FLAGS, ["syn", "fin"]]}, "right": "syn"}}),
    "a condition more": lambda rules: rules[PREROUTING][1].insert(
        0, {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}
    ),
    "another transport": lambda rules: rules[OUTGOING][2].insert(
        0, {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}
    ),
    "fewer kinds of neighbour discovery": lambda rules: rules[OUTGOING][2][0]["match"]["right"]["set"].pop(),
    "a counter": lambda rules: rules[PREROUTING][1].insert(1, {"counter": {"packets": 0, "bytes": 0}}),
    "another interface": put(
        OUTGOING, 1, 0, {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "eth0"}}
    ),
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_another_meaning_is_drift(change):
    assert firewall.read(listing(varied(change))) == ALTERED


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(listing(table={"flags": "dormant"}), id="a sleeping table"),
        pytest.param(listing(policy="drop"), id="another policy"),
        pytest.param(listing(prio=10), id="another priority"),
        pytest.param(listing(extra=[{"chain": {"name": "other"}}]), id="a chain more"),
        pytest.param(listing(extra=[{"set": {"name": "other"}}]), id="a set more"),
        pytest.param("{}", id="nothing"),
        pytest.param("nonsense", id="nonsense"),
        pytest.param('{"nftables": [{"rule": 7}]}', id="another shape"),
    ],
)
def test_whatever_else_is_listed_is_drift(text):
    assert firewall.read(text) == ALTERED


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_listing_raises(content):
    assert firewall.read(json.dumps({"nftables": content})) == ALTERED


def test_no_wanted_table_equals_an_altered_one():
    assert ALTERED != make(mtu=1280)


@pytest.fixture
def machine():
    with Lab() as lab:
        yield lab.machine("one")


REAL = {
    "nothing": make(),
    "one address": make("192.0.2.1/32"),
    "ranges": make("10.0.0.2/31", "10.0.0.4/32", "10.1.0.0/16", "192.0.2.128/25"),
    "both families": make("10.0.0.0/8", "2001:db8::/32", "fd00::1/128", "2001:db9::/127"),
    "everything of IPv4": make("0.0.0.0/0", "2001:db8::/32"),
    "everything": make("0.0.0.0/0", "::/0"),
    "halves": make("0.0.0.0/1", "::/1"),
    "smallest mtu": make("10.0.0.0/8", mtu=1280),
    "a console's port": make("10.0.0.0/8", exempt=(8443,)),
    "several ports": make("10.0.0.0/8", "2001:db8::/32", exempt=(80, 443, 65535)),
    "a port, and nothing routed": make(exempt=(443,)),
    "a thousand": make(*(f"10.{n // 128}.{n % 128 * 2}.0/24" for n in range(1000))),
}


@pytest.mark.root
def test_what_nft_was_given_is_read_back(machine):
    async def there_and_back():
        found = {}
        for name, wanted in REAL.items():
            await firewall.apply(wanted)
            found[name] = await firewall.observe()
        await firewall.apply(None)
        return found, await firewall.observe()

    found, after = machine.call(there_and_back)
    assert found == REAL
    assert after is None


@pytest.mark.root
def test_removing_no_table_is_no_error(machine):
    machine.call(lambda: firewall.apply(None))


@pytest.mark.root
def test_other_tables_are_left_alone(machine):
    machine.run("nft", "add table inet other; add chain inet other input")
    machine.call(lambda: firewall.apply(make("10.0.0.0/8")))
    machine.call(lambda: firewall.apply(None))
    assert "table inet other" in machine.run("nft", "list", "ruleset")


@pytest.mark.root
def test_a_refused_table_changes_nothing_and_says_why(machine):
    machine.call(lambda: firewall.apply(make("10.0.0.0/8")))
    with pytest.raises(KernelError, match="nft refuses the table kubespan"):
        machine.call(lambda: firewall.apply(make("10.0.0.0/8", mtu=10)))  # an MSS below nothing
    assert machine.call(firewall.observe) == make("10.0.0.0/8")


@pytest.mark.root
def test_marks_of_others_survive(machine):
    """Only the bits 0x60 are ours: spec/kubespan.md §0."""
    machine.ip("link add wire type veth peer name end")
    machine.ip("address add 192.0.2.1/24 dev wire")
    machine.ip("link set wire up")
    machine.ip("link set end up")
    machine.call(lambda: firewall.apply(make("192.0.2.0/24")))
    script = (
        "add table ip test; add chain ip test before { type route hook output priority -10; };"
        "add chain ip test after { type filter hook postrouting priority 0; };"
        "add rule ip test before meta mark set 0xff00ff00;"
        "add rule ip test after meta mark 0xff00ff40 counter"
    )
    machine.run("nft", script)
    machine.run("ping", "-c1", "-W1", "192.0.2.2", check=False)
    listed = machine.run("nft", "list", "chain", "ip", "test", "after")
    assert "packets 0" not in listed


@pytest.mark.root
@pytest.mark.parametrize(
    "script",
    [
        pytest.param("delete rule inet kubespan kubespan_outgoing handle {served}", id="lost"),
        pytest.param(
            "replace rule inet kubespan kubespan_outgoing handle {served} tcp dport 443 accept", id="other way"
        ),
        pytest.param("replace rule inet kubespan kubespan_outgoing handle {served} udp sport 443 accept", id="UDP"),
        pytest.param(
            "replace rule inet kubespan kubespan_outgoing handle {served} tcp sport 444 accept", id="other port"
        ),
        pytest.param("replace rule inet kubespan kubespan_outgoing handle {served} tcp sport 443 drop", id="drop"),
        pytest.param("insert rule inet kubespan kubespan_outgoing tcp sport 444 accept", id="a port more"),
    ],
)
def test_an_exempt_port_that_is_altered_is_drift(machine, script):
    wanted = make("10.0.0.0/8", exempt=(443,))
    machine.call(lambda: firewall.apply(wanted))
    listed = machine.run("nft", "-a", "list", "chain", "inet", "kubespan", OUTGOING)
    (line,) = [line for line in listed.splitlines() if "sport 443" in line]
    machine.run("nft", script.format(served=line.rpartition(" ")[2]))
    assert machine.call(firewall.observe) == ALTERED
