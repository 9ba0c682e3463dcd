"""What is believed of discovery: tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network, ip_address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.affiliate import Affiliate, from_member, to_member
from kubespan.core.endpoint import Endpoint
from kubespan.core.identity import KeyPair
from kubespan.core.listed import LEFT_KEPT, MOST_ENDPOINTS, Entry, add_endpoints, find_doubles, follow, tidy
from kubespan.core.messages import Member

PREFIX = IPv6Network("fd7f:175a:b97c:5602::/64")
KEY, OTHER_KEY = (KeyPair.make(bytes([number]) * 32).public_key for number in (1, 2))
NOW = 1000.0


def machine(node_id="one", **other):
    values = {"nodename": node_id, "public_key": KEY, "address": IPv6Address("fd7f:175a:b97c:5602::1")}
    return Affiliate(node_id=node_id, **values | other)


ONE, TWO = machine(), machine("two", public_key=OTHER_KEY, address=IPv6Address("fd7f:175a:b97c:5602::2"))


@pytest.mark.parametrize(
    ("left", "up", "stays", "since"),
    [
        pytest.param(None, set(), True, NOW, id="missing for the first time"),
        pytest.param(NOW - LEFT_KEPT + 1, set(), True, NOW - LEFT_KEPT + 1, id="for a while"),
        pytest.param(NOW - LEFT_KEPT, set(), False, None, id="for long, and silent"),
        pytest.param(NOW - 86400, {KEY}, True, NOW - 86400, id="for long, but its handshakes go on"),
        pytest.param(NOW - 86400, {OTHER_KEY}, False, None, id="for long, and another one's handshakes go on"),
    ],
)
def test_who_is_listed_no_longer(left, up, stays, since):
    found = follow({"one": Entry(ONE, left), "two": Entry(TWO)}, {"two": TWO}, up, NOW)
    assert found.pop("two") == Entry(TWO)
    assert found == ({"one": Entry(ONE, since)} if stays else {})


def test_who_is_listed_is_a_member_by_its_newest_words():
    changed = replace(ONE, public_key=OTHER_KEY)
    assert follow({"one": Entry(ONE, NOW - 5)}, {"one": changed, "two": TWO}, set(), NOW) == {
        "one": Entry(changed), "two": Entry(TWO),
    }  # fmt: skip


A, B, C = (Endpoint(ip_address(f"192.0.2.{number}"), 51820) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        pytest.param({"one": machine(endpoints=(B, A, C))}, (A, B, C), id="behind those that were named, none twice"),
        pytest.param({"one": machine(endpoints=(B,), public_key=OTHER_KEY)}, (A,), id="another key for the same id"),
        pytest.param({"two": machine("two", endpoints=(B,))}, (A,), id="the same key for another id"),
        pytest.param({}, (A,), id="nothing listed"),
    ],
)
def test_discovery_adds_endpoints_to_whom_it_knows_by_id_and_key(listed, expected):
    assert add_endpoints([machine(endpoints=(A,))], listed) == [machine(endpoints=expected)]


def test_discovery_adds_nothing_but_endpoints_and_nobody():
    lie = machine(
        endpoints=(B,), nodename="lie", address=IPv6Address("fd7f:175a:b97c:5602::bad"), machine_type="controlplane",
        addresses=(ip_address("10.0.0.1"),), hostname="lie", operating_system="lie",
    )  # fmt: skip
    assert add_endpoints([ONE], {"one": lie, "two": TWO}) == [replace(ONE, endpoints=(B,))]


def test_a_machine_without_kubespan_is_given_no_endpoints():
    assert add_endpoints([machine(public_key="")], {"one": machine(public_key="", endpoints=(A,))}) == [
        machine(public_key="")
    ]


NOWHERE = (
    Endpoint(ip_address("192.0.2.9"), 0),
    *(
        Endpoint(ip_address(text), 51820)
        for text in ("127.0.0.1", "::1", "fe80::1", "224.0.0.1", "0.0.0.0", "fd7f:175a:b97c:5602::9")
    ),
)
MANY = tuple(Endpoint(ip_address("192.0.2.1"), port) for port in range(1, 999))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"nodename": "a\x1b[2Jb\n", "hostname": "x" * 999}, {"nodename": "a[2Jb", "hostname": "x" * 256},
                     id="words that terminals obey, and very long ones"),
        pytest.param({"public_key": "nonsense"}, {"public_key": ""}, id="a key that is none"),
        pytest.param({"address": IPv6Address("fd7f:175a:b97c:9902::1")}, {"address": None}, id="another cluster's"),
        pytest.param({"endpoints": (*NOWHERE, A)}, {"endpoints": (A,)}, id="endpoints at which nobody is reached"),
        pytest.param({"endpoints": MANY}, {"endpoints": MANY[:MOST_ENDPOINTS]}, id="more than a service keeps"),
    ],
)  # fmt: skip
def test_what_is_left_of_odd_words(given, expected):
    assert tidy(machine(**given), PREFIX) == machine(**expected)


@pytest.mark.parametrize("node_id", ["", "a\nb", "x" * 257])
def test_who_cannot_be_named_is_nobody(node_id):
    assert tidy(machine(node_id), PREFIX) is None


def test_what_is_fine_stays():
    assert tidy(ONE, PREFIX) == ONE


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        pytest.param(machine("two", nodename="me"), "another machine (two) has this one's name, me", id="the name"),
        pytest.param(machine("two", nodename="you", address=IPv6Address("fd7f:175a:b97c:5602::5")),
                     "another machine (you) has this one's address", id="the address"),
        pytest.param(TWO, None, id="neither"),
    ],
)  # fmt: skip
def test_a_double_is_named(other, sentence):
    found = find_doubles(machine("own", nodename="me", address=IPv6Address("fd7f:175a:b97c:5602::5")), [other])
    assert [sentence in text for text in found] == ([True] if sentence else [])


texts = st.text(max_size=300)
endpoints = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 65535))
affiliates = st.builds(
    Affiliate,
    node_id=texts, nodename=texts, hostname=texts, operating_system=texts, public_key=st.one_of(texts, st.just(KEY)),
    addresses=st.lists(st.ip_addresses(), max_size=4).map(tuple),
    address=st.one_of(st.none(), st.ip_addresses(v=6), st.ip_addresses(network=PREFIX)),
    endpoints=st.lists(endpoints, max_size=70).map(tuple),
)  # fmt: skip


@given(affiliates)
def test_whatever_was_sealed_can_be_kept_and_read_again(affiliate):
    """A member that cannot be read from the store would keep the agent from starting."""
    tidied = tidy(affiliate, PREFIX)
    if tidied is None:
        return
    kept = msgspec.json.decode(msgspec.json.encode(to_member(tidied, 7)), type=Member)
    again = from_member(kept)
    assert again.node_id == tidied.node_id
    assert len(again.endpoints) == len(tidied.endpoints)
