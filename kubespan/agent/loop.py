"""When to look: the agent's running part.

One task looks, decides and acts: on news, on events of the kernel, on a timer. One waits for such events. One talks to
the console (`console.py`, `talk.py`): nothing that happens there can hold up a look, and no look waits for a socket.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Network
from typing import Protocol

import structlog

from kubespan import __version__
from kubespan.agent.clock import Clock
from kubespan.agent.console import converse
from kubespan.agent.drift import describe, find_drift, pause
from kubespan.agent.held import Held
from kubespan.agent.home import Home
from kubespan.agent.kernel import Backend, Kernel, KernelError
from kubespan.agent.lead import MakeLead
from kubespan.agent.mesh import Decision, Mesh, Misfit, Own
from kubespan.agent.preflight.facts import Mine
from kubespan.agent.probe import Echo, Probes
from kubespan.agent.publish import Condition, Publisher
from kubespan.agent.registries import ports_here
from kubespan.agent.rerouting import destinations, read_sessions, tell
from kubespan.agent.shelf import FileShelf
from kubespan.agent.stand_in import StandIn
from kubespan.agent.store import Enrolment, Store, StoreError
from kubespan.agent.talk import MOST_NOTICES, Talk
from kubespan.agent.trust import Way
from kubespan.agent.upgrade import FetchApart, Succession
from kubespan.agent.whereabouts import Whereabouts
from kubespan.core.history import Histories
from kubespan.core.identity import SUBNET_LENGTH
from kubespan.core.messages import MAX_TEXT, Applied, Claim, Finding
from kubespan.core.peer_status import NEVER, TICK
from kubespan.core.plan import NOTHING, Desired, Observed, plan

log = structlog.get_logger()

CHECK_OFTEN, CHECK_RARELY = 30.0, 600.0
"""Seconds between two preflights: at the start and while something is found, and otherwise."""
CHECKS_AT_START = 3
RETRY_FIRST = 1.0
RETRY_MOST = 30.0
"""Seconds until a look that failed is repeated."""
TEARDOWN_ATTEMPTS = 5
STOP_SECONDS = 5.0
"""For the look that is under way when the agent is told to stop."""


class Ending(Enum):
    """Why the agent ended."""

    STOPPED = "stopped"
    """By a signal; the mesh stays."""
    REMOVED = "removed"
    """By the console; the mesh is gone."""
    REPLACED = "replaced"
    """Another agent is in place and takes over; the mesh stays."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the machine says of itself at the moment."""

    hostname: str
    operating_system: str
    addresses: tuple[str, ...]
    pod_networks: tuple[str, ...] = ()
    """Of the node of Kubernetes that it is, if it is one."""


class Host(Protocol):
    """What the loop needs of a machine besides its data plane."""

    async def facts(self) -> Facts:
        """Read name, system and addresses. Raises KernelError."""

    def watch(self) -> AsyncIterator[object]:
        """Give something whenever links, addresses, routes or rules changed. Raises KernelError."""


Preflight = Callable[[Mine, float | None, float], Awaitable[tuple[Finding, ...]]]
"""Looks for what keeps the mesh from working: given what is ours here, this clock's skew against the console's, and by
how many seconds it is behind what it showed before. May raise KernelError."""


@dataclass(frozen=True, slots=True)
class Place:
    """The agent's machine: what it looks at and changes."""

    kernel: Kernel
    host: Host
    backend: Backend
    networks: tuple[str, ...] = ()
    """That the operator asked to advertise."""
    exempt: frozenset[int] = frozenset()
    """TCP ports whose connections the operator wants outside the tunnel."""
    preflight: Preflight | None = None
    echo: Callable[[], Echo] | None = None
    """Opens what probes go through, or raises OSError; without it nothing is measured."""


class Agent:
    """One machine's agent."""

    def __init__(
        self,
        store: Store,
        enrolment: Enrolment,
        signing_key: str,
        own: Own,
        place: Place,
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        home: Home | None = None,
        lead: MakeLead = StandIn,
    ) -> None:
        clock = clock or Clock()
        self._chance = chance
        self.mesh = Mesh(own)
        self.held = Held(store, enrolment, self.mesh)
        self._shelf = FileShelf(store.directory)
        self.history = Histories(self._shelf)
        self.probes = Probes(clock, self.history, place.echo)
        self.talk = Talk(enrolment, signing_key, self.held, clock, self.history)
        self.lead = lead(self.held, self.talk, clock)
        self.succession = Succession(home, self.talk, FetchApart(store))
        self.fault = ""
        """Why the data plane does not follow the settings; empty when it does."""
        self._store = store
        self._place = place
        self._clock = clock
        self._publisher = Publisher(store, self._write)
        # One thread, so that what is written last is what was decided last; `run` waits for it at its end.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._stopped = asyncio.Event()
        self._replaced = asyncio.Event()
        self._settled: Desired | None = None
        self._warned: tuple[str, ...] = ()
        self._facts_due = NEVER
        self._claims_pods = False
        self._drifts = 0
        self._failures = 0
        self._whereabouts: Whereabouts | None = None
        self._latest = 0.0
        self._fresh = False

    def _tell_damage(self) -> None:
        if (damage := self._store.damage()) is not None:
            attempts = f"{damage.starts} attempt{'s' if damage.starts > 1 else ''}"
            self.talk.notice("fault", f"the agent could not start ({attempts}): {damage.last}")
            self._store.forget_damage()

    async def run(self, way: Way | None) -> Ending:
        """Mesh until told to stop, or removed; the way is to the console, if there is one.

        Raises StoreError when the last settings cannot be read, and ValueError when they cannot be.
        """
        self.held.restore()
        self._fresh = not self.held.mesh.membership.members
        if way is not None:
            self._whereabouts = Whereabouts(way.url, self._store, self._place.exempt)
        self.lead.begin()
        self._tell_damage()
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop}
        if self.succession.possible:
            handlers[signal.SIGHUP] = self._replaced.set
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        self.succession.begin()
        succeeded = asyncio.create_task(self._await_successor())
        looking = asyncio.create_task(self._look_on())
        work = [self._stopped.wait(), self.talk.removed.wait(), self._watch(), self._check_always(), self.lead.run()]
        work.append(self._probe_always())
        if way is not None:
            work.append(converse(way, self.talk, self._chance, self._whereabouts))
        tasks = [looking, succeeded, *(asyncio.ensure_future(part) for part in work)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # A look that is under way comes to its end, so that no change is left half made.
            self._stopped.set()
            self.talk.news.set()
            await asyncio.wait([looking], timeout=STOP_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.shutdown()
            self._shelf.close()
            for number in handlers:
                loop.remove_signal_handler(number)
        for task in done:
            task.result()
        if self.talk.removal is None:
            return Ending.REPLACED if succeeded in done else Ending.STOPPED
        await self._leave(self.talk.removal)
        return Ending.REMOVED

    def stop(self) -> None:
        """End `run`; the mesh stays."""
        self._stopped.set()

    async def _await_successor(self) -> None:
        """End when another agent is in place: the console sent it, or somebody at the machine put it there (SIGHUP)."""
        waits = [asyncio.create_task(wait) for wait in (self.succession.await_successor(), self._replaced.wait())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for wait in done:
            wait.result()

    async def _look_on(self) -> None:
        news = self.talk.news
        while not self._stopped.is_set():
            news.clear()
            await self.look()
            try:
                async with asyncio.timeout(self.patience()):
                    await news.wait()
            except TimeoutError:
                continue

    def patience(self) -> float:
        """Seconds until the next look, if nothing asks for one before."""
        if self._failures:
            return float(min(RETRY_MOST, RETRY_FIRST * 2 ** min(self._failures - 1, 16)))
        now = self._clock.now()
        return min(self.mesh.next_look(now), self.talk.patience(now))

    async def _watch(self) -> None:
        while True:
            try:
                async for _ in self._place.host.watch():
                    await asyncio.sleep(pause(self._drifts))
                    await self.read_facts()
                    self.talk.news.set()
            except (KernelError, OSError) as error:
                log.warning("the kernel's events cannot be heard, the timer alone is left", reason=str(error))
            except Exception:
                # A fault of ours in listening leaves the timer, too.
                log.exception("listening to the kernel failed")
            await asyncio.sleep(RETRY_MOST)

    async def _check_always(self) -> None:
        """Look for what keeps the mesh from working: often at the start, where ever more is known, then rarely."""
        checks = 0
        while True:
            await self.check()
            checks += 1
            often = checks < CHECKS_AT_START or self.talk.findings
            await asyncio.sleep(CHECK_OFTEN if often else CHECK_RARELY)

    async def _probe_always(self) -> None:
        while True:
            try:
                await self.probes.run()
            except Exception:
                # A fault of ours in measuring leaves the mesh, too.
                log.exception("measuring failed")
            await asyncio.sleep(RETRY_MOST)

    async def check(self) -> None:
        """Look once, and leave what was found where the console hears of it."""
        if self._place.preflight is None:
            return
        own = self.mesh.own
        mine = Mine(
            listen_port=own.listen_port,
            data_plane=self._place.backend,
            prefix=None if own.address is None else IPv6Network((int(own.address), SUBNET_LENGTH), strict=False),
            destinations=destinations(self.mesh.specs.values()),
        )
        try:
            found = await self._place.preflight(mine, self.talk.skew, self._latest - self._clock.wall())
        except (KernelError, OSError) as error:
            log.warning("this machine could not be looked at", reason=str(error))
            return
        except Exception:
            log.exception("looking at this machine failed")
            return
        for finding in found:
            if finding not in (self.talk.findings or ()):
                log.warning("preflight", code=finding.code, text=finding.text, remedy=finding.remedy)
        self.talk.findings = found
        self.talk.sayable.set()

    def _tell_rerouting(self) -> None:
        """Say in the log, once, what a machine that has just been let in reroutes, and which connections it moves."""
        self._fresh = False
        rerouted = destinations(self.mesh.specs.values())
        for line in tell(rerouted, read_sessions(rerouted), self.mesh.followed.options):
            log.warning("rerouting", what=line.strip())

    async def look(self) -> None:
        """One pass: observe, decide, store, change what differs; afterwards there is something to say."""
        self._latest = max(self._latest, self._clock.wall())
        try:
            if self._clock.now() >= self._facts_due or self._claims_pods != self._is_to_claim_pods:
                await self.read_facts()
            self.lead.look()
            self.mesh.exempt = self._find_exempt()
            observed = await self._place.kernel.observe()
            decision = self.mesh.decide(observed, wall=self._clock.wall(), now=self._clock.now())
            if self._fresh and decision.desired.peers:
                self._tell_rerouting()
            unstored = await self.held.keep(self._write)
            changes = plan(decision.desired, observed)
            if changes:
                await self._place.kernel.apply(changes)
        except (KernelError, Misfit) as error:
            self._failed(str(error))
        except Exception as error:
            # A fault of ours in one look must not end the looking: the next one begins from what is there.
            log.exception("a look failed")
            self._failed(f"a fault of this agent: {type(error).__name__}")
        else:
            self._succeeded(decision, observed, unstored)
        await self._publish()
        self.talk.sayable.set()

    def _find_exempt(self) -> frozenset[int]:
        """The TCP ports of a console or discovery service on this machine, and those that the operator exempted."""
        exempt = self._place.exempt | self.lead.exempt
        if self._whereabouts is not None:
            exempt |= self._whereabouts.exempt | ports_here(self.held.discovery, self._whereabouts.leads_here)
        return exempt

    def _succeeded(self, decision: Decision, observed: Observed, unstored: str) -> None:
        drift = find_drift(self._settled, observed)
        self._drifts = self._drifts + 1 if drift else 0
        if drift:
            self.talk.notice("drift", describe(drift))
        self._failures = 0
        fault = unstored or self.held.shortage or self.lead.fault
        self._set_fault(fault)
        self.mesh.settle(decision)
        self._settled = decision.desired
        self._measure(self._clock.now())
        if decision.revision is not None and decision.complete:
            self.talk.applied = Applied(revision=decision.revision, fault=fault)
        self._warn((*decision.warnings, *self.lead.warnings))
        self.succession.look()

    def _measure(self, now: float) -> None:
        """Say what is known of the peers, keep it, and probe those that are up."""
        members = self.mesh.followed.members
        self.talk.rows = self.mesh.rows(now, self.probes.prober.measured)
        self.history.note(self.talk.rows, members, now)
        self.probes.aim(self.mesh.targets(now), members)
        self.probes.quicken(*self.talk.attention)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        self._set_fault(reason)
        if self.held.revision is not None:
            self.talk.applied = Applied(revision=self.held.revision, fault=reason)

    def _set_fault(self, fault: str) -> None:
        if fault and fault != self.fault:
            self.talk.notice("fault", fault)
        elif self.fault and not fault:
            log.info("the mesh follows its settings again")
        self.fault = fault

    def _warn(self, warnings: tuple[str, ...]) -> None:
        if warnings != self._warned:
            self._warned = warnings
            for warning in warnings[: MOST_NOTICES // 2]:
                self.talk.notice("fault", warning)

    async def _publish(self) -> None:
        talk, followed = self.talk, self.mesh.followed.revision
        condition = Condition(
            connected=talk.connected,
            console=talk.reason,
            fault=self.fault,
            revision="" if followed is None else str(followed),
            backend=self._place.backend,
            unusable=talk.unusable,
            skew=talk.skew,
            discovery=self.lead.standings,
        )
        try:
            now, wall = self._clock.now(), self._clock.wall()
            await self._publisher.publish(
                self.mesh, self.held.enrolment, condition, wall=wall, now=now, measure=self.probes.prober.measured
            )
        except StoreError as error:
            log.warning("what this machine knows cannot be published", reason=str(error))

    async def _write(self, write: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, write)

    @property
    def _is_to_claim_pods(self) -> bool:
        return self.mesh.membership.options.advertise_kubernetes_networks

    async def read_facts(self) -> None:
        """Bring the claim up to date; what cannot be read stays as it was. Of a new name there is no event."""
        self._facts_due = self._clock.now() + TICK
        self._claims_pods = self._is_to_claim_pods
        try:
            facts = await self._place.host.facts()
        except KernelError as error:
            log.warning("the machine's addresses cannot be read", reason=str(error))
            return
        own = str(self.mesh.own.address)
        claim = Claim(
            hostname=facts.hostname[:MAX_TEXT],
            operating_system=facts.operating_system[:MAX_TEXT],
            agent_version=__version__,
            backend=self._place.backend,
            listen_port=self.mesh.own.listen_port,
            addresses=tuple(address for address in facts.addresses if address != own),
            networks=tuple(dict.fromkeys((*self._place.networks, *(facts.pod_networks if self._claims_pods else ())))),
        )
        if claim != self.talk.claim:
            self.talk.claim = claim
            self.talk.sayable.set()

    async def _leave(self, reason: str) -> None:
        """Take the mesh down after removal: the secret first, so that a kill half-way leaves a start that goes on."""
        log.warning("the console removed this machine from its cluster", reason=reason)
        self._store.forget_settings()
        await take_down(self._place.kernel)
        self.held.forget_enrolment()


async def take_down(kernel: Kernel) -> None:
    """Remove everything of ours from the data plane. Raises KernelError."""
    for attempt in range(1, TEARDOWN_ATTEMPTS + 1):
        try:
            await kernel.apply(plan(NOTHING, await kernel.observe()))
        except KernelError:
            if attempt == TEARDOWN_ATTEMPTS:
                raise
            await asyncio.sleep(RETRY_FIRST)
        else:
            return
