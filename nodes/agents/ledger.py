"""What agents said that belongs into rows: gathered, then written by the services many at a time.

The newest of each kind and node is kept while the database is away, so that nothing here makes an agent wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from kubespan.core import messages
from kubespan.core.endpoint import Endpoint, IPAddress
from kubespan.core.messages import Applied, Claim, Findings, Notice, Revision, SecretKept, UpgradeFailed, dump
from nodes.agents.rows import AWAY, in_thread
from nodes.agents.sockets import Socket
from nodes.announce import announce_soon
from nodes.counters import Tally
from nodes.fanout import CLOSE_POLICY
from nodes.live import Moved
from nodes.services import nodes, obstacles, rollouts, rotation, sessions, transitions
from nodes.services.refused import Refused
from nodes.services.transitions import LinkMoved

WRITE_SECONDS = 0.1
"""How often rows are written, many at a time."""

RETRY_SECONDS = 2.0
"""How long the next try waits after the database was found away."""

HARVEST_SECONDS = 2.0
"""How long harvested endpoints are gathered: each change of endpoints is a revision for everybody."""

KEPT = 20_000
"""Transitions, and notices, of a cluster that wait for a database that is away; the rest is counted as lost."""

NOTICES_A_MINUTE = 20
"""Of one node; the rest is counted as lost, so that a node that floods the console crowds out nobody."""

T = TypeVar("T")

Waiting = tuple[Socket, Claim, IPAddress | None]

log = structlog.get_logger(__name__)


class Ledger:
    """What waits to be written by this process."""

    def __init__(self, tally: Tally, clock: Callable[[], float] = time.time) -> None:
        self._tally = tally
        self._clock = clock
        self._left: dict[str, Socket] = {}
        self._applied: dict[int, tuple[int, Revision, str]] = {}
        self._kept: dict[int, tuple[int, int]] = {}
        self._claims: dict[int, Waiting] = {}
        self._failed_upgrades: dict[int, UpgradeFailed] = {}
        self._findings: dict[int, Findings] = {}
        self._notices: dict[int, list[tuple[int, Notice, datetime]]] = {}
        self._noticed: Counter[int] = Counter()
        """Notices of each node in this minute."""
        self._minute = 0
        self._links: dict[int, list[LinkMoved]] = {}
        self._harvest: dict[int, set[tuple[int, int, str]]] = {}
        self._harvested_at = float("-inf")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def note_applied(self, socket: Socket, applied: Applied) -> None:
        """A node follows a revision."""
        self._applied[socket.node] = (socket.cluster, applied.revision, applied.fault)

    def note_kept(self, socket: Socket, kept: SecretKept) -> None:
        """A node stored a cluster secret."""
        self._kept[socket.node] = (socket.cluster, kept.generation)

    def note_claim(self, socket: Socket, claim: Claim, peer: IPAddress | None) -> None:
        """A node says what it is."""
        self._claims[socket.node] = (socket, claim, peer)

    def note_notice(self, socket: Socket, notice: Notice) -> None:
        """Something at a machine."""
        if self._minute != (minute := int(self._clock() // 60)):
            self._minute, self._noticed = minute, Counter()
        waiting = self._notices.setdefault(socket.cluster, [])
        if self._noticed[socket.node] >= NOTICES_A_MINUTE or len(waiting) >= KEPT:
            self._tally["notices.lost"] += 1
            return
        self._noticed[socket.node] += 1
        waiting.append((socket.node, notice, self._now()))

    def note_findings(self, socket: Socket, findings: Findings) -> None:
        """What a node's preflight finds now."""
        self._findings[socket.node] = findings

    def note_failed_upgrade(self, socket: Socket, failed: UpgradeFailed) -> None:
        """The agent that was offered is not the one that runs."""
        self._failed_upgrades[socket.node] = failed

    def note_link(self, cluster: int, node: int, peer: int, moved: Moved) -> None:
        """A link changed its state or endpoint."""
        waiting = self._links.setdefault(cluster, [])
        if len(waiting) < KEPT:
            waiting.append(LinkMoved(node, peer, moved, self._now()))
        else:
            self._tally["transitions.lost"] += 1

    def note_left(self, socket: Socket) -> None:
        """A connection ended; pages hear of it once that is written."""
        self._left[socket.session] = socket

    def note_harvest(self, cluster: int, observer: int, member: int, endpoint: str) -> None:
        """A neighbour saw a member at an endpoint that this one does not know of."""
        self._harvest.setdefault(cluster, set()).add((observer, member, endpoint))

    async def write_always(self) -> None:
        """Write for ever; claims beside the rest, for each is a small investigation and there may be a thousand."""
        await asyncio.gather(self._repeat(self.write_claims), self._repeat(self.write))

    async def _repeat(self, write: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                written = await write()
            except Exception:
                log.exception("not written")
                written = False
            await asyncio.sleep(WRITE_SECONDS if written else RETRY_SECONDS)

    async def write(self) -> bool:
        """Write what waits but claims; false when the database is away, and then it waits on."""
        nodes = (
            self._write_left,
            self._write_kept,
            self._write_applied,
            self._write_notices,
            self._write_failed_upgrades,
            self._write_findings,
        )
        return await self._write(*nodes, self._write_links, self._write_harvest)

    async def write_claims(self) -> bool:
        """Write the claims that wait; false when the database is away, and then they wait on."""
        return await self._write(self._write_claims)

    async def _write(self, *steps: Callable[[], Awaitable[None]]) -> bool:
        for step in steps:
            try:
                await step()
            except AWAY as error:
                log.warning("not written yet", what=step.__name__, error=str(error))
                return False
        return True

    async def _write_left(self) -> None:
        waiting, self._left = self._left, {}
        if not waiting:
            return
        closed = {session: socket.node for session, socket in waiting.items()}
        try:
            await _try(in_thread(sessions.close_sessions, closed, self._now()), "ends of sessions")
        except AWAY:
            self._left = {**waiting, **self._left}
            raise
        for socket in waiting.values():
            await announce_soon(socket.cluster, "node.away", node=socket.node)

    async def _write_applied(self) -> None:
        waiting, self._applied = self._applied, {}
        if not waiting:
            return
        rows = [(node, revision, fault) for node, (_, revision, fault) in waiting.items()]
        try:
            await _try(in_thread(sessions.record_applied, rows, self._now()), "applied revisions")
        except AWAY:
            self._applied = {**waiting, **self._applied}
            raise
        for cluster in {cluster for cluster, _, _ in waiting.values()}:
            await announce_soon(cluster, "node.applied")

    async def _write_kept(self) -> None:
        waiting, self._kept = self._kept, {}
        if not waiting:
            return
        rows = {node: generation for node, (_, generation) in waiting.items()}
        try:
            await _try(in_thread(rotation.record_kept, rows, self._now()), "kept secrets")
        except AWAY:
            self._kept = {**waiting, **self._kept}
            raise
        for cluster in {cluster for cluster, _ in waiting.values()}:
            await announce_soon(cluster, "cluster.changed")

    async def _write_claims(self) -> None:
        waiting = dict(self._claims)
        if not waiting:
            return
        left = await self._settle_claims(waiting)
        for node, (socket, claim, peer) in waiting.items():
            if node in left:
                try:
                    await _try(in_thread(nodes.record_claim, node, claim, peer, self._now()), "a claim")
                except Refused as refusal:
                    self._tally[f"claim.{refusal.code}"] += 1
                    said = messages.Refused(code=refusal.code, reason=refusal.reason)
                    socket.close(CLOSE_POLICY, dump(said).decode())
            # While it was written a newer one may have come.
            if self._claims.get(node) == (socket, claim, peer):
                del self._claims[node]

    async def _settle_claims(self, waiting: Mapping[int, Waiting]) -> Collection[int]:
        """Write together those that bring nothing to judge; the nodes of the others."""
        said = [(node, claim, peer) for node, (_, claim, peer) in waiting.items()]
        try:
            return set(await in_thread(nodes.settle_claims, said))
        except AWAY:
            raise
        except Exception:
            log.exception("claims are written one by one")
            return waiting

    async def _write_notices(self) -> None:
        await self._write_queued(self._notices, sessions.record_notices, "notices")

    async def _write_failed_upgrades(self) -> None:
        for node, failed in list(self._failed_upgrades.items()):
            writing = in_thread(rollouts.record_failure, node, failed.version, failed.reason, self._now())
            await _try(writing, "a failed upgrade")
            if self._failed_upgrades.get(node) is failed:
                del self._failed_upgrades[node]

    async def _write_findings(self) -> None:
        for node, found in list(self._findings.items()):
            await _try(in_thread(obstacles.record_findings, node, found.findings, self._now()), "findings")
            if self._findings.get(node) is found:
                del self._findings[node]

    async def _write_links(self) -> None:
        await self._write_queued(self._links, transitions.record_links, "transitions")

    async def _write_queued(
        self, queued: dict[int, list[T]], record: Callable[[int, Sequence[T], datetime], object], what: str
    ) -> None:
        """Write what each cluster has by now; what comes meanwhile waits for the next time."""
        for cluster in list(queued):
            waiting = queued[cluster]
            count = len(waiting)
            await _try(in_thread(record, cluster, waiting[:count], self._now()), what)
            del waiting[:count]
            if not waiting:
                del queued[cluster]

    async def _write_harvest(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._harvested_at < HARVEST_SECONDS:
            return
        self._harvested_at = now
        for cluster in list(self._harvest):
            seen = set(self._harvest[cluster])
            parsed = [(observer, member, Endpoint.parse(text)) for observer, member, text in sorted(seen)]
            await _try(in_thread(nodes.record_harvest, cluster, parsed, self._now()), "harvested endpoints")
            self._harvest[cluster].difference_update(seen)
            if not self._harvest[cluster]:
                del self._harvest[cluster]


async def _try(writing: Awaitable[object], what: str) -> None:
    """Write; what fails for another reason than an absent database would fail for ever, and is left with a trace."""
    try:
        await writing
    except (*AWAY, Refused):
        raise
    except Exception:
        log.exception("not written", what=what)
