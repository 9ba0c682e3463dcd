"""Who has something to say in the settings besides the console, or instead of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kubespan.agent.clock import Clock
from kubespan.agent.held import Held
from kubespan.agent.registries import Standing
from kubespan.agent.talk import Talk


class Lead(Protocol):
    """What discovery says: all (`Standalone`), or a little (`StandIn`). All is called from the loop's own tasks."""

    def begin(self) -> None:
        """Take up the settings of the last run. May raise ValueError."""

    def look(self) -> None:
        """Bring the settings up to date, before each look at the machine."""

    async def run(self) -> None:
        """Talk to discovery, for ever; ends only by cancellation."""

    @property
    def fault(self) -> str:
        """Why what discovery lists is of no use; empty when it is."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about who is listed."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How it stands with each discovery service that is asked."""

    @property
    def exempt(self) -> frozenset[int]:
        """TCP ports of discovery services on this machine, whose connections must stay outside the tunnel."""


MakeLead = Callable[[Held, Talk, Clock], Lead]
