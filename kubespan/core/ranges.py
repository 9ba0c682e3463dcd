"""Sets of IP addresses as sorted, disjoint ranges of integers: union, difference, and the fewest prefixes for them.

A range is (first, last), both included. IPv4 and IPv6 are two different number lines, so each function works on one.
A cluster of 1,000 machines is a few thousand ranges; comparing networks pairwise would be millions of steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from itertools import islice

from kubespan.core.endpoint import IPInterface, IPNetwork, share

Range = tuple[int, int]

FAMILIES = (4, 6)
_BITS = {4: 32, 6: 128}


def network_range(network: IPNetwork | IPInterface) -> Range:
    """Give the first and the last address of a network as integers."""
    size = 1 << (network.max_prefixlen - _length(network))
    first = int(network.network_address if isinstance(network, (IPv4Network, IPv6Network)) else network) & -size
    return first, first + size - 1


def _length(network: IPNetwork | IPInterface) -> int:
    if isinstance(network, (IPv4Network, IPv6Network)):
        return network.prefixlen
    return network.network.prefixlen


def unite(ranges: Iterable[Range]) -> list[Range]:
    """Sort, and join what overlaps or touches."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def subtract(ranges: Iterable[Range], holes: Sequence[Range]) -> list[Range]:
    """Cut holes out of ranges; both sorted and disjoint, as `unite` leaves them."""
    left = []
    place = 0
    for first, last in ranges:
        start = first
        while place < len(holes) and holes[place][1] < start:
            place += 1
        # The last hole that matters may reach into the next range: it is not passed yet.
        for hole_first, hole_last in islice(holes, place, None):
            if hole_first > last:
                break
            if start < hole_first:
                left.append((start, hole_first - 1))
            start = hole_last + 1
        if start <= last:
            left.append((start, last))
    return left


def prefixes(ranges: Iterable[Range], family: int) -> list[IPNetwork]:
    """Write sorted, disjoint ranges as the fewest networks, ascending."""
    bits = _BITS[family]
    form: type[IPv4Network | IPv6Network] = IPv4Network if family == FAMILIES[0] else IPv6Network
    networks = []
    for start, last in ranges:
        first = start
        while first <= last:
            # As large as the alignment of the first address and what is left both allow.
            aligned = (first & -first).bit_length() - 1 if first else bits
            length = min(aligned, (last - first + 1).bit_length() - 1)
            networks.append(share(form((first, bits - length))))
            first += 1 << length
    return networks


@dataclass
class TakenRanges:
    """Who has which addresses of one family: claims are disjoint, the first claim stands."""

    starts: list[int] = field(default_factory=list)
    claims: list[tuple[int, int, str]] = field(default_factory=list)
    """(first, last, owner), in the order of `starts`."""

    def claim(self, wanted: Range, owner: str) -> tuple[list[Range], set[str]]:
        """Give the part of a range that was free, now the owner's, and the owners of the rest."""
        first, last = wanted
        place = bisect_left(self.starts, first)
        if place and self.claims[place - 1][1] >= first:
            place -= 1
        end = bisect_left(self.starts, last + 1, lo=place)
        taken = self.claims[place:end]
        free = subtract([wanted], [(start, stop) for start, stop, _ in taken])
        self.claims[place:end] = sorted([*taken, *((start, stop, owner) for start, stop in free)])
        self.starts[place:end] = [start for start, _, _ in self.claims[place : place + len(taken) + len(free)]]
        return free, {holder for _, _, holder in taken if holder != owner}
