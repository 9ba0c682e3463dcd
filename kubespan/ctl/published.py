"""What the agent of this machine published, as both commands named `get` read it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from kubespan.core.resources import FILE_NAME, Resource, parse, rfc3339

LOCK_NAME = "lock"
"""The file of its state directory that an agent holds while it runs."""


@dataclass(frozen=True, slots=True)
class Published:
    """Records, and how far they can be believed."""

    resources: list[Resource]
    written: float
    """Unix time."""
    running: bool
    """Whether there is an agent that keeps them up to date."""

    @property
    def warning(self) -> str:
        """What whoever reads them must know first, in a sentence; empty where they are as of now."""
        return "" if self.running else f"the agent does not run; as of {rfc3339(self.written, whole=True)}"


def read_published(state_dir: Path) -> Published:
    """Read the agent's records; raises ValueError that says what to do."""
    path = state_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            text, written = file.read(), os.fstat(file.fileno()).st_mtime
        running = is_held(state_dir / LOCK_NAME)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: is kubespan-agent running here, with this state directory?") from None
    except PermissionError:
        raise ValueError(f"{path} may only be read by root: try again with sudo") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return Published(parse(text), written, running)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def is_held(lock: Path) -> bool:
    """Say whether a process holds that lock; it is in nobody's way for more than a moment. Raises OSError."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
