"""The first connection after enrolment: what the console has for this machine is looked at, and nothing is applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from websockets.exceptions import WebSocketException

from kubespan import __version__
from kubespan.agent.console import RefusedError, visit
from kubespan.agent.enrol import EnrolError
from kubespan.agent.sockets import explain
from kubespan.agent.store import Enrolment
from kubespan.agent.trust import Way
from kubespan.agent.whereabouts import Whereabouts
from kubespan.core.identity import sign
from kubespan.core.membership import Membership
from kubespan.core.messages import (
    Challenge,
    FromAgent,
    FromConsole,
    Hello,
    Removed,
    Snapshot,
    Welcome,
    challenge_text,
    negotiate,
)

GLANCE_SECONDS = 20.0
"""For all of it; the console has everything at hand."""


class GlanceError(EnrolError):
    """Joined, but the console could not be asked; the sentence says why."""


class _Enough(Exception):
    """All that there is to see was seen."""


class Glance:
    """A `Party` for `console.visit` that listens until it has seen the members."""

    def __init__(self, enrolment: Enrolment, signing_key: str, wall: Callable[[], float]) -> None:
        self.membership: Membership | None = None
        """Members and options; none while the machine waits for approval."""
        self.skew: float | None = None
        """Seconds by which this machine's clock is ahead of the console's."""
        self.address = ""
        """The machine's KubeSpan address, where the console says it."""
        self._enrolment = enrolment
        self._signing_key = signing_key
        self._wall = wall

    def greet(self, challenge: Challenge) -> Hello:
        """Answer the challenge as one who holds nothing yet."""
        enrolment = self._enrolment
        text = challenge_text(enrolment.console_key, enrolment.cluster, enrolment.node_id, challenge.nonce)
        return Hello(
            version=negotiate(challenge.versions),
            cluster=enrolment.cluster,
            node_id=enrolment.node_id,
            signature=sign(self._signing_key, text),
            agent_version=__version__,
            agent_time=self._wall(),
        )

    def hear(self, message: FromConsole) -> None:
        """Take note; the rest is for the agent that runs."""
        match message:
            case Welcome(status=status, console_time=time):
                self.skew = self._wall() - time
                if status != "approved":
                    raise _Enough
            case Snapshot():
                self.membership = Membership().apply(message)
                raise _Enough
            case Removed():
                raise _Enough

    def speak(self) -> Iterator[FromAgent]:
        """Say nothing."""
        return iter(())

    async def need(self) -> None:
        """Have nothing to say, ever."""
        await asyncio.Event().wait()

    def misheard(self) -> None:
        """Leave it to the agent that runs."""

    def left(self, reason: str) -> None:
        """Leave it to the agent that runs."""


async def glance(way: Way, glimpse: Glance, whereabouts: Whereabouts) -> None:
    """Look once; raises GlanceError where the console does not show anything."""
    try:
        async with asyncio.timeout(GLANCE_SECONDS):
            await visit(way, glimpse, whereabouts)
    except _Enough:
        return
    except OSError as error:
        raise GlanceError(f"the console cannot be asked: {explain(error)}") from None
    except (RefusedError, ValueError, WebSocketException) as error:
        raise GlanceError(f"the console cannot be asked: {error}") from None
