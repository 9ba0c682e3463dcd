"""What the agent lets others on its machine read: resources for `get`, its own condition for `status`.

Derived from what is known, so it may be lost: versions then count from one again.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from kubespan.agent.kernel import Backend
from kubespan.agent.mesh import Measure, Mesh, not_measured
from kubespan.agent.registries import Standing
from kubespan.agent.store import RESOURCES, STATUS, Enrolment, Store, StoreError
from kubespan.core.resources import (
    Kept,
    Record,
    affiliate_records,
    condense,
    config_record,
    dump,
    endpoint_records,
    harvested,
    identity_record,
    info_record,
    member_records,
    node_identity_record,
    parse_kept,
    peer_spec_records,
    peer_status_records,
    steady_offset,
    update,
)

log = structlog.get_logger()

REFRESH = 5.0
"""Seconds for which mere counters need not be published anew; whatever else changes is, at once."""

Write = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs a blocking write beside the loop."""


class Condition(msgspec.Struct, frozen=True):
    """The agent's own condition, as `status.json` has it."""

    connected: bool
    console: str
    """Why there is no connection, or what an operator must do; empty when all is well."""
    fault: str
    """Why the data plane does not follow the settings; empty when it does."""
    revision: str
    backend: Backend
    unusable: int = 0
    """Frames of the console that could not be used, since the agent's start."""
    skew: float | None = None
    """Seconds by which this machine's clock is ahead of the console's, as of the last connection's start."""
    process: int = msgspec.field(default_factory=os.getpid)
    discovery: tuple[Standing, ...] = ()
    """How it stands with the discovery services that are asked."""


class Publisher:
    """Keeps both files up to date."""

    def __init__(self, store: Store, write: Write) -> None:
        self._store = store
        self._write = write
        self._resources: list[Kept] | None = None
        self._condition: Condition | None = None
        self._shown: object = None
        self._due = float("-inf")
        self._offset: float | None = None
        self._enrolment: Enrolment
        self._measure: Measure = not_measured
        self._lasting: tuple[int, Enrolment, list[Record]] | None = None

    async def publish(
        self,
        mesh: Mesh,
        enrolment: Enrolment,
        condition: Condition,
        *,
        wall: float,
        now: float,
        measure: Measure = not_measured,
    ) -> None:
        """Write what changed. Raises StoreError."""
        self._enrolment, self._measure = enrolment, measure
        if condition != self._condition:
            content = msgspec.json.encode(condition)
            await self._write(lambda: self._store.publish(STATUS, content))
            self._condition = condition
        shown = enrolment, _shape(mesh, now)
        if shown == self._shown and now < self._due:
            return
        resources = self._renew(mesh, wall, now)
        await self._write(lambda: self._store.publish(RESOURCES, dump(resources)))
        self._resources, self._shown, self._due = resources, shown, now + REFRESH

    def _renew(self, mesh: Mesh, wall: float, now: float) -> list[Kept]:
        if self._resources is None:
            self._resources = self._read()
        self._offset = steady_offset(self._offset, wall - now)
        return update(self._resources, self._records(mesh, now, self._offset), wall)

    def _records(self, mesh: Mesh, now: float, offset: float) -> list[Record]:
        reckoned = self._lasting
        if reckoned is None or reckoned[0] != mesh.reckonings or reckoned[1] is not self._enrolment:
            reckoned = self._lasting = mesh.reckonings, self._enrolment, condense(self._lasting_records(mesh))
        return [
            *reckoned[2],
            *peer_status_records(mesh.statuses, now, offset, mesh.measured(self._measure)),
            *endpoint_records(harvested(mesh.affiliates, mesh.statuses, mesh.followed.options, now)),
        ]

    def _lasting_records(self, mesh: Mesh) -> list[Record]:
        """What changes with the settings alone: most of it, and rarely."""
        options = mesh.followed.options
        records = [node_identity_record(mesh.own.node_id)]
        if mesh.own.address is not None:
            records = [
                identity_record(mesh.own.address, mesh.own.keys.public_key),
                *records,
                info_record(self._enrolment.cluster_id, self._enrolment.cluster_name),
            ]
        if mesh.own.address is None or mesh.followed.revision is None:
            return records
        return [
            *records,
            config_record(options, self._enrolment.cluster_id),
            *peer_spec_records(mesh.specs if options.enabled else {}),
            *affiliate_records(mesh.affiliates),
            *member_records(mesh.affiliates),
        ]

    def _read(self) -> list[Kept]:
        try:
            content = self._store.read_last_resources()
            return [] if content is None else parse_kept(content)
        except (StoreError, ValueError) as error:
            log.warning("what was published before cannot be read; versions count from one", reason=str(error))
            return []


def _shape(mesh: Mesh, now: float) -> Any:
    """What must be published at once when it changes: all but times and counters."""
    states = {key: (one.state(now), one.endpoint, one.last_used_endpoint) for key, one in mesh.statuses.items()}
    return mesh.reckonings, states
