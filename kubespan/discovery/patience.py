"""A time limit for each of many steps of one task, for next to nothing a step.

`asyncio.timeout` around each message would be a tenth of what it costs to tell a thousand watchers.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Patience:
    """A block that ends, quietly, once a step within it has taken so many seconds: `with Patience(20.0) as patience`.

    A step is what happens between `begin` and `end`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._over = False

    def __enter__(self) -> Self:
        if (task := asyncio.current_task()) is None:
            raise RuntimeError("there is no task to end")
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        # Cancelled by somebody else as well, it ends as cancelled.
        return self._over and kind is asyncio.CancelledError and self._task.uncancel() == 0

    def begin(self) -> None:
        """A step begins."""
        self._since = self._loop.time()

    def end(self) -> None:
        """It has ended."""
        self._since = None

    def _look(self) -> None:
        since = self._loop.time() if self._since is None else self._since
        left = since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._over = True
            self._task.cancel()
