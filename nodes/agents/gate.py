"""Where connections are let in: those that wait meanwhile, together.

A thousand agents come back at once when a process dies. To find each by a query of its own would be a third of what
their return costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from nodes.agents.rows import in_thread
from nodes.services import sessions
from nodes.services.sessions import Greeting, Session

TOGETHER = 32
"""So many at most: the first of them waits until the last is let in."""


class Gate:
    """The sessions that a process is asked to open."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Greeting], asyncio.Future[Session]]] = deque()
        self._opening: asyncio.Task[None] | None = None

    async def enter(self, greet: Callable[[], Greeting]) -> Session:
        """Open a session, for what `greet` says when it is its turn; raises what `sessions.open_session` does."""
        entered: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._waiting.append((greet, entered))
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await entered

    async def _open(self) -> None:
        try:
            while self._waiting:
                count = min(TOGETHER, len(self._waiting))
                turn = [self._waiting.popleft() for _ in range(count)]
                await self._open_for([(greet, entered) for greet, entered in turn if not entered.done()])
        finally:
            self._opening = None

    async def _open_for(self, turn: list[tuple[Callable[[], Greeting], asyncio.Future[Session]]]) -> None:
        try:
            opened = await in_thread(sessions.open_sessions, [greet() for greet, _ in turn], datetime.now(UTC))
        except Exception as error:  # noqa: BLE001 - each hears what went wrong
            opened = [error] * len(turn)
        for (_, entered), one in zip(turn, opened, strict=True):
            if entered.done():
                continue  # who asked has gone
            if isinstance(one, Exception):
                entered.set_exception(one)
            else:
                entered.set_result(one)
