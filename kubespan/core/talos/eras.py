"""Which releases of Talos differ in how their machines are told where discovery is (spec/kubespan.md §3, and Talos' own
release notes and command references), and the commands of each.

An era is a run of releases that take the same patch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Release(NamedTuple):
    """A minor release of Talos."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Release:
        """Read `1.8`, `v1.8.3`, or `Talos (v1.8.3)`. Raises ValueError."""
        found = re.search(r"(?:^|[\s(])v?(\d{1,3})\.(\d{1,3})(?=$|[.\s)-])", text, re.ASCII)
        if found is None:
            raise ValueError(f"{text!r} is not a release of Talos, such as 1.8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


FIRST = Release(0, 12)
"""Before it there was no discovery, and no cluster id."""

MODES = Release(1, 0)
"""`talosctl patch --mode`; before, `--immediate`."""
STRATEGIC_MERGE = Release(1, 2)
"""Patches look like configurations; before, they are JSON patches (RFC 6902)."""
TRUSTED_ROOTS = Release(1, 8)
"""The document TrustedRootsConfig, and `$patch: delete`."""
KUBESPAN_DOCUMENT = Release(1, 13)
"""KubeSpanConfig in the place of `machine.network.kubespan`."""
DISCOVERY_DOCUMENTS = Release(1, 14)
"""DiscoveryServiceConfig, of which there may be several, and DiscoveryIdentityConfig."""

OPTIONS: Mapping[str, Release] = {
    "enabled": FIRST,
    "advertise_kubernetes_networks": Release(1, 2),
    "allow_down_peer_bypass": Release(1, 2),
    "mtu": Release(1, 5),
    "endpoint_filters": Release(1, 5),
    "harvest_extra_endpoints": Release(1, 7),
    "exclude_advertised_networks": Release(1, 13),
    "peer_endpoint_filters": Release(1, 15),
}
"""From which release on an option of KubeSpan is set here. Some may be older: an unknown key makes Talos refuse a
patch, so each is used from the first release whose documentation has it."""


@dataclass(frozen=True, slots=True)
class Era:
    """The releases from `first` to `last`; none is the last of those that are not out yet."""

    first: Release
    last: Release | None

    @property
    def name(self) -> str:
        """As people read it: `1.8 to 1.12`."""
        if self.last is None:
            return f"{self.first} and later"
        return str(self.first) if self.last == self.first else f"{self.first} to {self.last}"

    def has(self, since: Release) -> bool:
        """Whether all its releases have what came with that one."""
        return self.first >= since


def _eras() -> tuple[Era, ...]:
    firsts = sorted(
        {FIRST, MODES, STRATEGIC_MERGE, TRUSTED_ROOTS, KUBESPAN_DOCUMENT, DISCOVERY_DOCUMENTS, *OPTIONS.values()}
    )
    # The last release of 0 was 0.14.
    befores = [
        Release(0, 14) if after == MODES else Release(after.major, after.minor - 1) for _, after in pairwise(firsts)
    ]
    return tuple(Era(first, last) for first, last in zip(firsts, [*befores, None], strict=True))


ERAS = _eras()
"""All of them, oldest first."""

USUAL = next(era for era in ERAS if era.first == DISCOVERY_DOCUMENTS)
"""The one to begin with where nothing is known of the machines."""


def find_era(release: Release) -> Era:
    """The era of a release; those before discovery take the first one's patch, once they are upgraded."""
    return next((era for era in reversed(ERAS) if era.first <= release), ERAS[0])
