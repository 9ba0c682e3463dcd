"""How far a long work has come, for somebody who waits."""

from __future__ import annotations

import time

from django.core.management.base import OutputWrapper

PAUSE = 2.0
"""Seconds between two lines."""


class Lines:
    """A line now and then with the number of rows so far; nothing for what is done in a moment."""

    def __init__(self, stream: OutputWrapper, what: str = "") -> None:
        self._stream = stream
        self._what = what
        self._said = time.monotonic()

    def __call__(self, rows: int) -> None:
        """Hear how many rows there are so far."""
        now = time.monotonic()
        if now - self._said >= PAUSE:
            self._said = now
            self._stream.write(f"{rows} rows {self._what}".rstrip())
