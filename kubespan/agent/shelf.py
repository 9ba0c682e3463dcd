"""A file for what is bounded, wanted rarely, and too much for memory: the history of links.

It has no name, so nothing is left of it when the agent ends, however it ends. Where the disk is full or fails, what is
read is nothing known, and the mesh does not notice.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import structlog

log = structlog.get_logger()


class FileShelf:
    """A `Shelf` in a directory; opened with its first use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: int | None = None
        self._fault = ""

    def read(self, offset: int, size: int) -> bytes:
        """Give so many bytes; zeros for what is not there."""
        try:
            held = os.pread(self._open(), size, offset)
        except OSError as error:
            self._note(error)
            held = b""
        return held.ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there, if the disk takes them."""
        try:
            os.pwrite(self._open(), data, offset)
        except OSError as error:
            self._note(error)

    def _open(self) -> int:
        if self._file is None:
            with tempfile.TemporaryFile(dir=self._directory) as file:
                self._file = os.dup(file.fileno())
        return self._file

    def _note(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason != self._fault:
            self._fault = reason
            log.warning("the history of links cannot be kept", reason=reason)

    def close(self) -> None:
        """Let go of the file, and so of what is in it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
