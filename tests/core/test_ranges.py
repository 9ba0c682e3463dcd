"""Sets of addresses as ranges, against sets of integers and the standard library."""

import itertools
from ipaddress import IPv4Address, collapse_addresses, ip_interface, ip_network, summarize_address_range

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.ranges import TakenRanges, network_range, prefixes, subtract, unite

RANGE = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
RANGES = st.lists(RANGE, max_size=8)


def spread(ranges):
    return {number for first, last in ranges for number in range(first, last + 1)}


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        pytest.param(ip_network("10.244.3.0/24"), ("10.244.3.0", "10.244.3.255"), id="network"),
        pytest.param(ip_interface("10.244.3.1/24"), ("10.244.3.0", "10.244.3.255"), id="host bits"),
        pytest.param(ip_network("0.0.0.0/0"), ("0.0.0.0", "255.255.255.255"), id="everything"),
        pytest.param(ip_network("10.0.0.1/32"), ("10.0.0.1", "10.0.0.1"), id="one address"),
    ],
)
def test_network_range(network, expected):
    assert tuple(str(IPv4Address(number)) for number in network_range(network)) == expected


@given(RANGES)
def test_unite(ranges):
    united = unite(ranges)
    assert spread(united) == spread(ranges)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(united))


@given(RANGES, RANGES)
def test_subtract(ranges, holes):
    left = subtract(unite(ranges), unite(holes))
    assert spread(left) == spread(ranges) - spread(holes)
    assert left == sorted(left)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_prefixes_are_the_fewest(one, other):
    first, last = sorted((one, other))
    assert prefixes([(first, last)], 4) == list(summarize_address_range(IPv4Address(first), IPv4Address(last)))


@given(st.lists(st.ip_addresses(v=6).map(lambda ip: ip_network((int(ip) >> 64 << 64, 64))), max_size=5))
def test_prefixes_of_ipv6(networks):
    assert prefixes(unite(map(network_range, networks)), 6) == list(collapse_addresses(networks))


@given(st.lists(st.tuples(RANGE, st.sampled_from("abc")), max_size=12))
def test_first_claim_stands(claims):
    taken = TakenRanges()
    owners = {}
    for wanted, owner in claims:
        before = {number: owners[number] for number in spread([wanted]) if number in owners}
        free, others = taken.claim(wanted, owner)
        assert spread(free) == spread([wanted]) - before.keys()
        assert others == set(before.values()) - {owner}
        owners |= dict.fromkeys(spread(free), owner)
    assert taken.starts == [start for start, _, _ in taken.claims] == sorted(taken.starts)
