"""Findings in words for a terminal, and as JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from kubespan.core.findings import stops
from kubespan.core.messages import Finding

EVERYTHING = "all"
"""Given instead of a code: whatever is found."""


def refusing(findings: Iterable[Finding], ignored: Collection[str] = ()) -> tuple[Finding, ...]:
    """Those that stop the mesh, and that nobody said to ignore."""
    if EVERYTHING in ignored:
        return ()
    return tuple(finding for finding in findings if stops(finding) and finding.code not in ignored)


def write_table(findings: Sequence[Finding]) -> str:
    """Each with what it means, what was found, and the command that mends it."""
    if not findings:
        return "nothing on this machine stands in the mesh's way\n"
    return "\n".join(line for finding in findings for line in _write(finding)) + "\n"


def _write(finding: Finding) -> Iterator[str]:
    yield f"{'ERROR' if stops(finding) else 'WARNING':<7}  {finding.code}: {finding.text}"
    yield f"         {finding.remedy}"


def write_json(findings: Sequence[Finding], rerouted: Iterable[str], sessions: Iterable[str]) -> str:
    """One object; `stops` of a finding says whether the mesh, or a part of it, carries nothing for it."""
    document = {
        "findings": [msgspec.structs.asdict(finding) | {"stops": stops(finding)} for finding in findings],
        "rerouted": list(rerouted),
        "sessions": list(sessions),
    }
    return json.dumps(document, indent=4) + "\n"


def refuse(found: Sequence[Finding], so_far: str = "nothing was changed") -> str:
    """Why a machine does not join, and how it does all the same."""
    codes = " ".join(f"--ignore {code}" for code in dict.fromkeys(finding.code for finding in found))
    return (
        f"{so_far}: what is marked ERROR above would keep the mesh from working here. Run the commands, "
        f"and this again; or add {codes}"
    )
