"""How agents without machines see each other."""

from __future__ import annotations

import random
import time
from collections import OrderedDict

from kubespan.core.membership import Membership
from kubespan.core.messages import Report
from tests.crowd.views import keep


class Links:
    """How all see each other: every link is up, at its peer's first endpoint, and has moved some bytes again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple] = OrderedDict()

    def report(self, held: Membership, node_id: str, number: int, share: float, *, complete: bool) -> Report:
        """One node's report of `share` of its links."""
        rows = self._rows(held)
        start = random.randrange(len(rows)) if rows and share < 1 else 0
        stop = start + round(share * len(rows))
        chosen = [row for row in (rows + rows if stop > len(rows) else rows)[start:stop] if row[0] != node_id]
        _, members, endpoints, handshakes = zip(*chosen, strict=True) if chosen else ((), (), (), ())
        moved = int(time.monotonic() * 1000)
        return Report(
            number=number,
            complete=complete,
            revision=held.revision,
            members=members,
            states=(1,) * len(members),
            endpoints=endpoints,
            handshakes=handshakes,
            received=(moved,) * len(members),
            sent=(moved + 148,) * len(members),
        )

    def _rows(self, held: Membership) -> list[tuple[str, int, str, int]]:
        kept = self._kept.get(id(held))
        if kept is None:
            rows = [
                (member.node_id, index, next(iter(member.endpoints), ""), random.randrange(120_000))
                for index, member in sorted(held.members.items())
            ]
            kept = (held, rows)
            keep(self._kept, id(held), kept)
        return kept[1]
