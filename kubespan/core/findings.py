"""What a preflight may find, by code: which findings stop a mesh, and which are only worth knowing.

The agent finds (`kubespan.agent.preflight`), the console shows; both go by this list. A code that is not known here,
of a newer agent, is only worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubespan.core.messages import FRAME_BASE, Finding, dump

MOST_BYTES = FRAME_BASE * 3 // 4
"""Of all findings in one frame; a machine that waits for approval has no larger one."""

STOPPING: frozenset[str] = frozenset(
    {
        "address-overlap",
        "firewall-closed",
        "networkd-link",
        "nft-missing",
        "port-taken",
        "rp-filter",
        "rp-filter-rule",
        "rule-before",
        "table-taken",
        "wireguard-missing",
    }
)
"""With one of these the mesh, or a part of it, carries nothing: enrolment refuses, unless it is told to ignore it."""


def stops(finding: Finding) -> bool:
    """Say whether it keeps the mesh from working."""
    return finding.code in STOPPING


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put what stops the mesh before the rest; else as found."""
    return tuple(sorted(findings, key=lambda finding: not stops(finding)))


def fit(findings: Iterable[Finding], limit: int = MOST_BYTES) -> tuple[Finding, ...]:
    """As many as a frame holds; the first ones are the worst."""
    kept: list[Finding] = []
    room = limit
    for finding in findings:
        room -= len(dump(finding))
        if room < 0:
            break
        kept.append(finding)
    return tuple(kept)
