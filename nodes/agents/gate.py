"""Where connections are let in: those that wait meanwhile, together.

A thousand agents come back at once when a process dies. To find each by a query of its own would be a third of what
their return costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog
from django.db import OperationalError

from nodes.agents.rows import AWAY, in_thread
from nodes.services import sessions
from nodes.services.sessions import Greeting, Session

TOGETHER = 32
"""So many at most: the first of them waits until the last is let in."""

_Waiting = tuple[Callable[[], Greeting], "asyncio.Future[Session]"]

log = structlog.get_logger(__name__)


class Gate:
    """The sessions that a process is asked to open."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._opening: asyncio.Task[None] | None = None

    async def enter(self, greet: Callable[[], Greeting]) -> Session:
        """Open a session, for what `greet` says when its turn comes; raises what was wrong with it."""
        entered: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._waiting.append((greet, entered))
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await entered

    async def _open(self) -> None:
        turn: list[_Waiting] = []
        try:
            while self._waiting:
                count = min(TOGETHER, len(self._waiting))
                turn = [self._waiting.popleft() for _ in range(count)]
                await _open_for([(greet, entered) for greet, entered in turn if not entered.done()])
        finally:
            self._opening = None
            # Where this was cancelled, nobody waits on for what does not come.
            for _, entered in (*turn, *self._waiting):
                entered.cancel()
            self._waiting.clear()


async def _open_for(turn: Sequence[_Waiting]) -> None:
    opened: Sequence[Session | Exception]
    try:
        opened = await in_thread(sessions.open_sessions, [greet() for greet, _ in turn], datetime.now(UTC))
    except AWAY as error:
        opened = [OperationalError(*error.args) for _ in turn]
    except Exception:
        log.exception("sessions could not be opened")
        opened = [OperationalError("a fault of the console's own") for _ in turn]
    for (_, entered), one in zip(turn, opened, strict=True):
        if entered.done():
            continue  # who asked has gone
        if isinstance(one, Exception):
            entered.set_exception(one)
        else:
            entered.set_result(one)
