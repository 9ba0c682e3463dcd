"""Discovery beside a console: while the console is away, further endpoints of members that it has named.

A machine that has a console publishes nothing: its console does that. It believes nothing else of what is listed either
(docs/security.md), and nothing at all any more once the console is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from kubespan.agent.clock import Clock
from kubespan.agent.held import Held
from kubespan.agent.registries import Open, Registry, Standing
from kubespan.agent.store import Discovery
from kubespan.agent.talk import Talk
from kubespan.core.cluster import ula_prefix
from kubespan.core.listed import Reading

log = structlog.get_logger()

AWAY_SECONDS = 30.0
"""For which the console is not asked for anybody else's word; up to twice as long, so that a cluster does not come to
its discovery service all at once."""


class StandIn:
    """A `Lead`: the console says who the members are."""

    fault = ""
    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        held: Held,
        talk: Talk,
        clock: Clock,
        *,
        open_registry: Open | None = None,
        given: Discovery | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._held = held
        self._talk = talk
        self._clock = clock
        self._open = open_registry
        self._given = given
        self._patience = AWAY_SECONDS * (1 + chance())
        self._away_since: float | None = None
        self._useless: Discovery | None = None
        self._registry: Registry | None = None
        self._reading: Reading
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()

    def begin(self) -> None:
        """Have nothing to take up."""

    async def run(self) -> None:
        """Talk to discovery whenever that is wanted, for ever."""
        while True:
            await self._wanted.wait()
            if (registry := self._registry) is None:
                continue
            talking = asyncio.create_task(registry.run())
            try:
                await self._unwanted.wait()
            finally:
                talking.cancel()
                await asyncio.gather(talking, return_exceptions=True)

    def look(self) -> None:
        """See whether the console is there, and learn what discovery knows where it is not; before each look."""
        if self._talk.connected:
            self._away_since = None
            self._end()
            return
        now = self._clock.now()
        if self._away_since is None:
            self._away_since = now
        if self._registry is None and now - self._away_since >= self._patience:
            self._start()
        if self._registry is not None:
            self._held.mesh.learn(self._reading.read((self._registry.listed() or {}).values()))

    def _start(self) -> None:
        held = self._held
        discovery = self._given or held.discovery
        secret = held.settings.secret
        possible = discovery.services and secret and held.enrolment.cluster_id and discovery != self._useless
        if self._open is None or not possible:
            return
        try:
            self._registry = self._open(discovery, held.enrolment, secret, self._talk.news.set)
        except ValueError as error:
            log.warning("discovery cannot be asked", reason=str(error))
            self._useless = discovery
            return
        self._reading = Reading(ula_prefix(held.enrolment.cluster_id))
        log.info("the console is away: discovery is asked for further endpoints of its members")
        self._unwanted.clear()
        self._wanted.set()

    def _end(self) -> None:
        if self._registry is None:
            return
        self._registry = None
        self._wanted.clear()
        self._unwanted.set()
        self._held.mesh.learn({})

    @property
    def standings(self) -> tuple[Standing, ...]:
        """How it stands with each discovery service; none while none is asked."""
        return () if self._registry is None else self._registry.standings

    @property
    def exempt(self) -> frozenset[int]:
        """TCP ports of discovery services on this very machine, as far as that is known."""
        return frozenset() if self._registry is None else self._registry.exempt
