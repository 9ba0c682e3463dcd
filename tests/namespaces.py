"""A laboratory whose machines can also run functions of the tests' own process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from nodes import lab

CLONE_FS, CLONE_NEWNET, CLONE_NEWNS = 0x200, 0x40000000, 0x20000

_libc = ctypes.CDLL(None, use_errno=True)
_thread = threading.local()
"""Which machine the running thread is in; from inside, the way in is not to be seen."""


class Machine(lab.Machine):
    """A machine that a thread of ours can enter."""

    def inside(self, *command: str) -> list[str]:
        """The command line for a command in this machine; from inside, the command itself."""
        return list(command) if getattr(_thread, "machine", None) is self else super().inside(*command)

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run an async function inside, on an event loop in a thread of its own; what it starts is inside too."""
        outcome: dict[str, Any] = {}

        def enter_and_run() -> None:
            try:
                self._enter()
                outcome["value"] = asyncio.run(function())
            except BaseException as error:  # noqa: BLE001 - raised again where the function was called
                outcome["error"] = error

        thread = threading.Thread(target=enter_and_run, name=self.name)
        thread.start()
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    def _enter(self) -> None:
        """Put this thread into the namespaces; only this one, and for good."""
        _check(_libc.unshare(CLONE_FS))  # a thread that shares its root cannot change its mounts
        for path, kind in ((self.net, CLONE_NEWNET), (self.mounts, CLONE_NEWNS)):
            with path.open() as handle:
                _check(_libc.setns(handle.fileno(), kind))
        _thread.machine = self


class Lab(lab.Lab[Machine]):
    """Machines that threads of ours can enter."""

    kind = Machine


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
