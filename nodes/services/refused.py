"""What a service says when it does not do what was asked."""

from __future__ import annotations


class Refused(Exception):
    """A change that was asked for and not made; nothing has changed.

    `code` names the fault for programs (and counters), `reason` tells a person what was wrong and what to do,
    `status` is the HTTP status that fits.
    """

    def __init__(self, code: str, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.status = status
