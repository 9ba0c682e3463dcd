"""An agent without a data plane: enrols, follows, claims, reports."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from kubespan import __version__
from kubespan.agent.console import slow_retry
from kubespan.agent.patience import ATTEMPTS, LATE_ATTEMPTS
from kubespan.core import sealing
from kubespan.core.identity import sign
from kubespan.core.membership import Membership
from kubespan.core.messages import (
    AGENT_PATH,
    ENROL_PATH,
    VERSIONS,
    Applied,
    Challenge,
    ClusterSecret,
    Delta,
    EnrolReply,
    FromConsole,
    Hello,
    MessageError,
    Pace,
    Refused,
    Removed,
    Resync,
    Revision,
    SecretKept,
    Snapshot,
    Welcome,
    challenge_text,
    dump,
    negotiate,
    parse_body,
)
from tests.crowd.caller import Caller
from tests.crowd.http import post
from tests.crowd.machine import Machine

if TYPE_CHECKING:
    from tests.crowd.simulation import Simulation


HISTORY = 64
"""Arrivals that an agent remembers."""


class Agent(Caller):
    """One node: enrolled, and then connected whenever possible."""

    def __init__(self, crowd: Simulation, machine: Machine) -> None:
        super().__init__(crowd, crowd.urls, AGENT_PATH, machine.number)
        self.machine = machine
        self.enrolled: EnrolReply | None = None
        self.version = VERSIONS[0]
        self.held = Membership()
        self.generation = 0
        self.frame_at = 0.0
        self.connected_at = 0.0
        self.acknowledged: Revision | None = None
        self.arrivals: deque[tuple[Revision, float]] = deque(maxlen=HISTORY)
        self.acknowledgements: deque[tuple[Revision, float]] = deque(maxlen=HISTORY)
        self.greeted = self.approved = False
        self._at_the_door: Refused | None = None
        self._reports = itertools.count()
        self._report: asyncio.TimerHandle | None = None
        self._reported = False

    # Enrolment.

    async def enrol(self, token: str) -> str:
        """Join; the code of the refusal, or nothing."""
        request = self.machine.request(token, self.crowd.versions)
        failed = late = 0
        while failed < ATTEMPTS and late < LATE_ATTEMPTS:
            attempt = failed + late
            url = self.crowd.urls[(self.machine.number + attempt) % len(self.crowd.urls)]
            try:
                async with asyncio.timeout(self.crowd.enrol_seconds):
                    status, body = await post(url + ENROL_PATH, dump(request))
            except TimeoutError:
                late += 1
                self.crowd.counts["enrol.late"] += 1
                continue
            except (OSError, ValueError, asyncio.IncompleteReadError):
                status, body = 0, b""
            if status == 200:
                self.enrolled = parse_body(body, EnrolReply)
                return ""
            if status not in (0, 502, 503, 504):
                return msgspec.json.decode(body)["code"] if body.startswith(b"{") else str(status)
            failed += 1
            self.crowd.counts["enrol.again"] += 1
            await asyncio.sleep(random.uniform(0.5, 1) * 0.25 * 2**failed)
        return "unreachable"

    # Connections.

    def start(self) -> None:
        """Be connected from now on, if it is enrolled."""
        if self.enrolled:
            super().start()

    def opened(self) -> None:
        """Wait for the challenge."""
        self.crowd.counts["opened"] += 1

    def closed(self, code: int | None) -> None:
        """Come back later."""
        self.crowd.counts[f"closed.{code}"] += 1
        self.greeted = self.approved = False
        if self._report:
            self._report.cancel()
        super().closed(code)

    def _wait(self, code: int | None) -> float:
        refusal, self._at_the_door = self._at_the_door, None
        return slow_retry(random.random()) if refusal else super()._wait(code)

    def heard(self, frame: bytes, at: float) -> None:
        """Take a frame."""
        self.frame_at = at
        counts = self.crowd.counts
        counts["frames"] += 1
        counts["bytes_heard"] += len(frame)
        try:
            self._hear(self.crowd.views.parse(frame, self.version), frame, at)
        except (MessageError, ValueError) as error:
            counts[f"misheard: {error}"[:200]] += 1
            self._close(1008)
        except Exception as error:  # noqa: BLE001 - a fault of ours is counted, and told with the rest
            counts[f"{type(error).__name__}: {error}"[:200]] += 1
            self._close(1008)

    def _close(self, code: int | None) -> None:
        if self.wire:
            self.wire.close(code)

    def _hear(self, message: FromConsole, frame: bytes, at: float) -> None:
        match message:
            case Challenge():
                self._greet(message)
            case Welcome(status=status):
                self.greeted, self.approved = True, status == "approved"
                self.connected_at = at
                self._say(self.machine.claim())
            case ClusterSecret():
                self._keep_secret(message)
            case Snapshot() | Delta():
                self._apply(self.crowd.views.apply(self.held, frame, message), at)
            case Pace(seconds=seconds):
                self._report_after(seconds * random.random())
            case Resync():
                self._say(self.machine.claim())
                self._send_report(complete=True)
            case Removed():
                self.wanted = False
                self.crowd.counts["removed"] += 1
                self._close(1000)
            case Refused():
                self._at_the_door = None if self.greeted else message
                self.crowd.counts[f"refused.{message.code}"] += 1
                self._close(1000)
            case _:
                self.crowd.counts[type(message).__name__] += 1

    def _greet(self, challenge: Challenge) -> None:
        reply = self.enrolled
        self.version = negotiate(challenge.versions, self.crowd.versions)
        self._reports = itertools.count()
        self._reported = False
        self.acknowledgements.clear()
        text = challenge_text(reply.console_key, reply.cluster, reply.node_id, challenge.nonce)
        hello = Hello(
            version=self.version,
            cluster=reply.cluster,
            node_id=reply.node_id,
            signature=sign(self.machine.signing[0], text),
            held=self.held.revision,
            secret_generation=self.generation,
            agent_version=__version__,
            agent_time=time.time(),
        )
        self._say(hello)

    def _keep_secret(self, message: ClusterSecret) -> None:
        sealing.open_sealed(
            message.sealed,
            self.machine.keys.private_key,
            cluster=self.enrolled.cluster,
            node_id=self.machine.node_id,
            generation=message.generation,
        )
        self.generation = message.generation
        if self.version > 1:
            self._say(SecretKept(generation=message.generation))

    def _apply(self, held: Membership, at: float) -> None:
        self.held = held
        self.arrivals.append((held.revision, at))
        self._say(Applied(revision=held.revision))
        self.acknowledged = held.revision
        self.acknowledgements.append((held.revision, time.monotonic()))
        if self.wire:
            self.wire.slow = True
        if self.crowd.every and not self._reported:
            self._reported = True
            self._send_report(complete=True)
            self._report_after(self.crowd.every * random.random())

    def forget(self) -> None:
        """Hold nothing, as when it had just enrolled."""
        self.held, self.generation = Membership(), 0

    # Reports.

    def begin_reports(self) -> None:
        """Report from now on, if it does not yet."""
        if self.approved and self.held.revision and not self._reported and self.crowd.every:
            self._reported = True
            self._report_after(self.crowd.every * random.random())

    def _report_after(self, seconds: float) -> None:
        if self._report:
            self._report.cancel()
        self._report = self.crowd.loop.call_later(seconds, self._report_now)

    def _report_now(self) -> None:
        if self.approved and self.crowd.every:
            self._send_report(complete=False)
            self._report_after(self.crowd.every)

    def _send_report(self, *, complete: bool) -> None:
        if self.held.revision is None or not self.approved:
            return
        report = self.crowd.links.report(
            self.held,
            self.machine.node_id,
            next(self._reports),
            1.0 if complete else self.crowd.share,
            complete=complete,
        )
        self.crowd.counts["reports"] += 1
        raw = dump(report)
        self.crowd.counts["report_bytes"] += self.wire.send(raw) if self.wire else 0
        self.crowd.mirror(self.machine.number, raw)

    def _say(self, message: msgspec.Struct) -> int:
        return self.wire.say(message) if self.wire else 0
