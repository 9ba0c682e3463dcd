"""A snapshot of 1,000 members from objects to bytes and back, beside the standard library's JSON for the same."""

from __future__ import annotations

import json

from kubespan.core.messages import dump, parse_from_console
from tests.bench.example import MEMBERS, make_snapshot
from tests.bench.figures import ROUNDS, in_turns, ratio


def bench(members: int = MEMBERS, rounds: int = ROUNDS) -> dict[str, object]:
    """Encode and decode it."""
    snapshot = make_snapshot(members)
    frame = dump(snapshot)
    plain = json.loads(frame)
    ours, reference = in_turns(
        lambda: parse_from_console(dump(snapshot)),
        lambda: json.loads(json.dumps(plain, separators=(",", ":"))),
        rounds=rounds,
    )
    return {
        "members": members,
        "bytes": len(frame),
        "ours": ours,
        "json": reference,
        "ratio": ratio(ours, reference),
    }
