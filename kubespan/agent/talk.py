"""This machine's side of the conversation with its console: what is understood, and what is said when.

The loop leaves here what there is to say (`claim`, `applied`, `rows`, notices) and sets `sayable`; what the console
says ends in the settings held, and in `news` for the loop. Nothing here waits, and nothing is queued but notices: what
is said is always the newest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import structlog

from kubespan import __version__
from kubespan.agent.clock import Clock
from kubespan.agent.console import AskAgain
from kubespan.agent.held import Held
from kubespan.agent.reports import Reporter, Row
from kubespan.agent.store import Enrolment
from kubespan.core.findings import fit
from kubespan.core.history import Histories
from kubespan.core.identity import sign
from kubespan.core.messages import (
    REPORT_SECONDS,
    VERSIONS,
    Applied,
    Challenge,
    Claim,
    ClaimRefused,
    ClusterSecret,
    Delta,
    FetchHistory,
    Finding,
    Findings,
    FromAgent,
    FromConsole,
    Hello,
    History,
    MessageError,
    Notice,
    Pace,
    Removed,
    Resync,
    SecretKept,
    Snapshot,
    TryAgain,
    Upgrade,
    UpgradeFailed,
    Welcome,
    challenge_text,
    negotiate,
)
from kubespan.core.rotation import ROTATION_VERSION

log = structlog.get_logger()

MOST_FETCHES = 8
"""Histories that are asked for and not yet told; the oldest go first, and whoever asked asks again."""
MOST_NOTICES = 32
"""Notices kept while nobody takes them; the oldest go first."""
SHORTEST_REPORT = 0.5
"""Seconds between reports that a console cannot ask to undercut."""

FINDINGS_SINCE = 2
"""The version of the protocol that has Findings."""
DISCOVERY_SINCE = 2
"""The version of the protocol since which the console says where discovery is."""
UPGRADES_SINCE = 2
"""The first version of the protocol that knows of them."""

NOTICE_LENGTH = 1024
"""Characters; a warning that names all members must not outgrow a frame."""
NOTICE_AGAIN = 30.0
"""Seconds until the same words are said again: two programs that undo each other's work say much."""

NOT_YET = "not connected yet"
PENDING = "an operator must approve this machine at the console"


@dataclass
class _Told:
    """What the console has heard of us on one connection."""

    reporter: Reporter = field(default_factory=Reporter)
    version: int = VERSIONS[0]
    welcomed: bool = False
    approved: bool = False
    informed: bool = False
    claim: Claim | None = None
    findings: tuple[Finding, ...] | None = None
    applied: Applied | None = None
    kept: int = 0
    """The generation of the newest cluster secret that the console knows to be stored here."""


class Talk:
    """A `Party` for `console.converse`."""

    def __init__(
        self, enrolment: Enrolment, signing_key: str, held: Held, clock: Clock, history: Histories | None = None
    ) -> None:
        self.claim: Claim | None = None
        self.applied: Applied | None = None
        self.rows: dict[int, Row] = {}
        self.findings: tuple[Finding, ...] | None = None
        """What preflight finds here; none before it has looked."""
        self.skew: float | None = None
        """Seconds by which this machine's clock is ahead of the console's; none before the console said its own."""
        self.connected = False
        self.reason = NOT_YET
        """Why it is not connected, or what an operator must do; empty when all is well."""
        self.unusable = 0
        """Frames of the console that could not be used, since the agent's start."""
        self.removal: str | None = None
        """Why the console removed this machine; none while it has not."""
        self.upgrade: Upgrade | None = None
        """The agent that the console wants here; `upgrade_wanted` is set with it."""
        self.upgrade_wanted = asyncio.Event()
        self.failed_upgrade: UpgradeFailed | None = None
        """What the console has not heard yet of one that did not work."""
        self.news = asyncio.Event()
        self.sayable = asyncio.Event()
        self.removed = asyncio.Event()
        self._enrolment = enrolment
        self._signing_key = signing_key
        self._held = held
        self._clock = clock
        self._history = history or Histories()
        self._fetches: deque[FetchHistory] = deque(maxlen=MOST_FETCHES)
        self._notices: deque[Notice] = deque(maxlen=MOST_NOTICES)
        self._noticed: dict[str, float] = {}
        self._told = _Told()
        self._asked = 0
        """The generation of the cluster secret that was missing, and asked for."""

    def notice(self, kind: Literal["drift", "fault"], text: str) -> None:
        """Let an operator know; kept until there is a console."""
        log.warning("drift was healed" if kind == "drift" else "fault", text=text)
        text, now = text[:NOTICE_LENGTH], self._clock.now()
        self._noticed = {said: when for said, when in self._noticed.items() if now - when < NOTICE_AGAIN}
        if text not in self._noticed:
            self._noticed[text] = now
            self._notices.append(Notice(kind=kind, text=text))
            self.sayable.set()

    @property
    def informed(self) -> bool:
        """Whether this connection has told all that there is to know: settings too, where this machine is a member."""
        return self.connected and (self._told.informed or not self._told.approved)

    def patience(self, now: float) -> float:
        """Seconds until the console should hear of fresh figures."""
        return self._told.reporter.patience(now)

    @property
    def attention(self) -> tuple[float, float]:
        """How often somebody who looks wants fresh figures, in seconds, and until when."""
        return self._told.reporter.pace, self._told.reporter.pace_until

    def greet(self, challenge: Challenge) -> Hello:
        """Answer the challenge with what is held; a new connection has heard nothing yet."""
        enrolment = self._enrolment
        version = negotiate(challenge.versions)
        self._told = _Told(Reporter(version), version=version, kept=self._held.secret_generation)
        text = challenge_text(enrolment.console_key, enrolment.cluster, enrolment.node_id, challenge.nonce)
        return Hello(
            version=version,
            cluster=enrolment.cluster,
            node_id=enrolment.node_id,
            signature=sign(self._signing_key, text),
            held=self._held.revision,
            secret_generation=self._held.secret_generation,
            agent_version=__version__,
            agent_time=self._clock.wall(),
        )

    def hear(self, message: FromConsole) -> None:
        """Take what the console says; what does not fit is a MessageError and changes nothing."""
        match message:
            case Welcome():
                self._welcome(message)
            case Removed(reason=reason):
                self.remove(reason)
            case Pace(seconds=seconds, lease=lease):
                self._told.reporter.quicken(seconds, lease, self._clock.now())
            case ClaimRefused(refused=refused):
                for one in refused[:MOST_NOTICES]:
                    log.warning("the console refuses a claim", claim=one.claim, reason=one.reason)
            case Resync():
                self._told.reporter.resync()
                self._told.claim = None
                self.sayable.set()
            case FetchHistory() if self._told.approved:
                self._fetches.append(message)
                self.sayable.set()
                return  # it asks for nothing that a look would find
            case Upgrade() if self._told.approved:
                self.upgrade = message
                self.upgrade_wanted.set()
            case TryAgain() | ClusterSecret() | Snapshot() | Delta() if self._told.approved:
                self._hear_settings(message)
            case _:
                raise MessageError(f"a frame of type {type(message).__name__.lower()} does not belong here")
        # Also where nothing changed: whoever waits reckons anew how long.
        self.news.set()

    def speak(self) -> Iterator[FromAgent]:
        """Give what the console has not heard yet; a machine that waits for approval says only what it is."""
        told = self._told
        if not told.welcomed:
            return
        if self.claim is not None and self.claim != told.claim:
            told.claim = self.claim
            yield self.claim
        if not told.approved:
            return
        yield from self._tell_findings(told)
        if self.applied is not None and self.applied != told.applied:
            told.applied = self.applied
            yield self.applied
        kept = self._held.secret_generation
        if told.version >= ROTATION_VERSION and kept not in {0, told.kept}:
            told.kept = kept
            yield SecretKept(generation=kept)
        if self.applied is not None:
            report = told.reporter.collect(self.rows, self.applied.revision, self._clock.now())
            if report is not None:
                yield report
        while self._fetches:
            fetch = self._fetches.popleft()
            tracks = self._history.tracks(fetch.member, self._clock.now())
            yield History(request=fetch.request, member=fetch.member, tracks=tracks)
        yield from self._tell_notices()
        if self.failed_upgrade is not None and told.version >= UPGRADES_SINCE:
            yield self.failed_upgrade
            self.failed_upgrade = None

    def _tell_notices(self) -> Iterator[FromAgent]:
        while self._notices:
            # Taken away only after it has gone: a connection that breaks here loses nothing.
            notice = self._notices[0]
            yield notice
            if self._notices and self._notices[0] is notice:  # else a newer one has pushed it out meanwhile
                self._notices.popleft()

    def _tell_findings(self, told: _Told) -> Iterator[FromAgent]:
        if self.findings is not None and self.findings != told.findings and told.version >= FINDINGS_SINCE:
            told.findings = self.findings
            yield Findings(findings=fit(self.findings))

    async def need(self) -> None:
        """Wait until there may be something to say."""
        await self.sayable.wait()
        self.sayable.clear()

    def misheard(self) -> None:
        """Count a frame that could not be used."""
        self.unusable += 1

    def left(self, reason: str) -> None:
        """Note that there is no connection; the same reason is logged once."""
        if self.connected or reason != self.reason:
            log.warning("no connection to the console", reason=reason)
            self.news.set()  # `status` need not say otherwise until the tick
        self.connected, self.reason = False, reason
        self._told = _Told()

    def remove(self, reason: str) -> None:
        """Note that this machine is no longer of the cluster."""
        self.removal = reason
        self.removed.set()

    def _welcome(self, message: Welcome) -> None:
        if message.status == "approved":
            self._held.join(message)
            if message.version >= DISCOVERY_SINCE:
                self._held.take_discovery(message.discovery)
        self.skew = self._clock.wall() - message.console_time
        told = self._told
        told.welcomed = True
        told.approved = message.status == "approved"
        told.reporter.every = min(REPORT_SECONDS, max(SHORTEST_REPORT, message.report_seconds))
        self.connected, self.reason = True, "" if told.approved else PENDING
        log.info("connected to the console", status=message.status)
        self.sayable.set()

    def _hear_settings(self, message: TryAgain | ClusterSecret | Snapshot | Delta) -> None:
        match message:
            case TryAgain(members=members):
                self._held.mesh.try_again(members)
            case ClusterSecret():
                try:
                    self._held.take_secret(message)
                except ValueError as error:
                    self.notice("fault", str(error))
            case _:
                self._held.take_membership(message)
                self._told.informed = True
                self._ask_for_secret()

    def _ask_for_secret(self) -> None:
        """Say hello again where a secret is missing: the answer brings it. Once; a console may not have it itself."""
        missing = self._held.missing
        if missing not in {0, self._asked}:
            self._asked = missing
            raise AskAgain(f"asking for generation {missing} of the cluster secret")
