"""The socket of the page about the console itself."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from nodes.access import ENTER
from nodes.consumers.base import FollowingConsumer, Sent
from nodes.pages import Flushed
from nodes.vitals.parts import read_vitals


class AboutConsumer(FollowingConsumer):
    """How the console's parts stand; looked at as often as any page's rows are read anew."""

    permission = ENTER

    def find(self) -> set[int | None]:
        """It is about no cluster."""
        self._vitals: Sent[str, tuple[Any, ...]] = Sent()
        return {None}

    def read(self) -> None:
        """A few queries and a call to Redis."""
        self._vitals.now = {"vitals": read_vitals(timezone.now()).standing}

    def take(self, flushed: Flushed) -> bool:
        """What agents report is not shown."""
        return False

    def differs(self) -> bool:
        """A part that stands otherwise, or was heard again."""
        return bool(self._vitals.news()[0])
