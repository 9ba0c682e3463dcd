"""Upgrades of agents: offered, begun with one node, spread to the others, stopped at the first that fails.

A step ends when its node is connected with the new version, and the first node's only when as many of its links are up
as before. `advance_all` looks at the rows and at the last reports, and may be called at any time by anybody: what a
lost message or a restart left undone is found the next time. An agent that does not reach its console goes back to the
former one by itself, and says so; one that is heard of no more has failed when its time is over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import redis
import structlog
from django.db import transaction

from kubespan.core.messages import Upgrade
from kubespan.core.release import Release, may_follow, parse_version
from nodes import delivery, live
from nodes.access import needs
from nodes.models import Cluster, Node, Rollout, RolloutStep, Transition
from nodes.services import after, audit, claims, revisions, transitions
from nodes.services.refused import Refused

BATCH = 20
"""Nodes under way at a time, after the first: each fetches some 8 MB."""
TOLD_FOR = timedelta(minutes=10)
"""For fetching, for three starts of ninety seconds, and for coming back."""
TELL_AGAIN = timedelta(seconds=30)
"""A node that is connected and still runs the former agent may not have heard."""
REASON_LIMIT = 1000

log = structlog.get_logger(__name__)


class Agent(NamedTuple):
    """Of a member, what is read of it here."""

    pk: int
    version: str
    session: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What could be upgraded in a cluster now, by name."""

    release: Release | None
    """None where this console has no agent to hand out."""
    nodes: Sequence[Agent]
    """Members that run an older agent, or another build, and are connected."""
    away: Sequence[Agent]
    """Such members that are not connected now."""
    otherwise: Sequence[Agent]
    """Members whose agent was not handed out by a console: they are upgraded the way they were installed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a step that was told."""

    state: RolloutStep.State
    reason: str = ""


def read_offer(cluster: Cluster) -> Offer:
    """Look which members may be upgraded to what this console hands out."""
    release = delivery.read_release()
    agents = Node.objects.approved().filter(cluster=cluster, kind=Node.Kind.LINUX)
    members = [Agent(*row) for row in agents.order_by("name").values_list("pk", "agent_version", "session")]
    versions = {agent.version for agent in members}
    strange = {version for version in versions if not _handed_out(version)}
    older = {version for version in versions if release and may_follow(release.version, version)}
    return Offer(
        release,
        nodes=[agent for agent in members if agent.version in older and agent.session],
        away=[agent for agent in members if agent.version in older and not agent.session],
        otherwise=[agent for agent in members if agent.version in strange],
    )


def _handed_out(version: str) -> bool:
    try:
        return bool(parse_version(version)[1])
    except ValueError:
        return False


@needs("upgrade_agents")
def start_rollout(
    actor: audit.Actor, cluster: Cluster, now: datetime, *, only: Collection[int] | None = None
) -> Rollout:
    """Begin: one node is told at once; `only` these, by primary key, take part. Raises Refused."""
    with transaction.atomic():
        cluster = revisions.lock(cluster.pk)
        offer = read_offer(cluster)
        if offer.release is None:
            raise Refused("no-agent", "This console has no agent to hand out; build one by `make agent`.", 409)
        if cluster.rollouts.filter(state=Rollout.State.RUNNING).exists():
            raise Refused("rollout-running", f"The agents of {cluster} are being upgraded already.", 409)
        chosen = [agent for agent in offer.nodes if only is None or agent.pk in only]
        if not chosen:
            raise Refused(
                "nothing-to-upgrade",
                f"No connected agent {'of' if only is None else 'among those chosen in'} {cluster} is older than "
                f"{offer.release.version}.",
                409,
            )
        rollout = Rollout.objects.create(
            cluster=cluster,
            version=offer.release.version,
            sha256=offer.release.sha256,
            size=offer.release.size,
            started=now,
            started_by=str(actor or audit.CONSOLE)[: audit.NAME_LENGTH],
        )
        RolloutStep.objects.bulk_create(
            RolloutStep(rollout=rollout, node_id=agent.pk, order=order, before=agent.version)
            for order, agent in enumerate(chosen)
        )
        details = {"version": rollout.version, "nodes": len(chosen)}
        audit.write(actor, "rollout.started", cluster, now, **details)
        _advance(rollout, now)
    return rollout


@needs("upgrade_agents")
def cancel_rollout(actor: audit.Actor, rollout: Rollout, now: datetime) -> Rollout:
    """Tell nobody else; nodes that were told go on. Raises Refused."""
    with transaction.atomic():
        rollout = _lock(rollout.pk)
        if rollout.state != Rollout.State.RUNNING:
            raise Refused("rollout-ended", "This upgrade has ended already.", 409)
        _end(rollout, Rollout.State.CANCELLED, "", now)
        audit.write(actor, "rollout.cancelled", rollout.cluster, now, version=rollout.version)
    return rollout


def advance_all(now: datetime) -> None:
    """Advance whatever is running; on a timetable."""
    for pk in Rollout.objects.filter(state=Rollout.State.RUNNING).values_list("pk", flat=True):
        with transaction.atomic(), suppress(Refused):  # its cluster was deleted this moment
            _advance(_lock(pk), now)


def record_failure(node_pk: int, version: str, reason: str, now: datetime) -> None:
    """Take in that a node went back to its former agent, or stayed with it."""
    node = Node.objects.approved().filter(pk=node_pk).first()
    if node is None:
        return
    reason = claims.printable(reason, REASON_LIMIT)
    version = claims.printable(version, 64)
    with transaction.atomic():
        text = f"agent {version} was not kept: {reason}"[: transitions.TEXT_LIMIT]
        row = Transition(node_id=node.pk, kind=Transition.Kind.FAULT, text=text, at=now)
        transitions.record_transitions(node.cluster_id, [row], now)
        running = Rollout.objects.filter(cluster=node.cluster_id, state=Rollout.State.RUNNING, version=version).first()
        if running is None:
            return
        rollout = _lock(running.pk)
        told = rollout.steps.filter(node=node, state=RolloutStep.State.TOLD)
        if told.update(state=RolloutStep.State.FAILED, reason=reason, ended=now):
            _advance(rollout, now)


def _lock(pk: int) -> Rollout:
    """Take a rollout, and its cluster before it, as every change of a cluster does. Raises Refused."""
    rollout = Rollout.objects.filter(pk=pk).first()
    if rollout is None:
        raise Refused("rollout-unknown", "This upgrade is no longer there: its cluster was deleted.", 409)
    revisions.lock(rollout.cluster_id)
    return Rollout.objects.select_for_update().get(pk=pk)


def _advance(rollout: Rollout, now: datetime) -> None:
    """Take the next steps, under the rollout's lock."""
    if rollout.state != Rollout.State.RUNNING:
        return
    steps = list(rollout.steps.select_related("node"))
    summaries = _read_summaries(step.node_id for step in steps)
    for step in steps:
        if step.state == RolloutStep.State.TOLD:
            _settle(step, judge(step, step.node, summaries.get(step.node_id), rollout.version, now), now)
    failed = next((step for step in steps if step.state == RolloutStep.State.FAILED), None)
    if failed is not None:
        _stop(rollout, f"{failed.node}: {failed.reason}", now)
        return
    release = delivery.read_release()
    if release is None or release.sha256 != rollout.sha256:
        _stop(rollout, "the console hands out another agent by now; begin again", now)
        return
    alone = not any(step.state == RolloutStep.State.DONE for step in steps)
    for step in choose(steps):
        _tell(rollout, step, summaries.get(step.node_id), now, alone=alone)
    for step in steps:
        if step.state == RolloutStep.State.TOLD and step.told_again and now - step.told_again >= TELL_AGAIN:
            _tell_again(rollout, step, now)
    if all(step.state in (RolloutStep.State.DONE, RolloutStep.State.SKIPPED) for step in steps):
        _end(rollout, Rollout.State.DONE, "", now)
        audit.write(None, "rollout.done", rollout.cluster, now, version=rollout.version)
    after.announce(rollout.cluster_id, "rollout.changed")


def judge(step: RolloutStep, node: Node, summary: live.Summary | None, version: str, now: datetime) -> Verdict | None:
    """Say what became of a node that was told; none while that is open."""
    if node.status != Node.Status.APPROVED:
        return Verdict(RolloutStep.State.SKIPPED, "it was removed")
    back = bool(node.session) and node.agent_version == version
    if back and (not step.alone or _has_its_links(step, node, summary)):
        return Verdict(RolloutStep.State.DONE)
    if step.told is not None and now - step.told < TOLD_FOR:
        return None
    minutes = int(TOLD_FOR.total_seconds() // 60)
    if back:
        up = summary.up if summary else 0
        return Verdict(
            RolloutStep.State.FAILED,
            f"it runs {version}, but {up} of its {step.links} links came up in {minutes} minutes",
        )
    if node.session:
        return Verdict(RolloutStep.State.FAILED, f"it still runs {node.agent_version} after {minutes} minutes")
    return Verdict(RolloutStep.State.FAILED, f"it has not come back within {minutes} minutes")


def _has_its_links(step: RolloutStep, node: Node, summary: live.Summary | None) -> bool:
    """Whether it has reported, over the connection that it came back with, as many links up as before."""
    fresh = summary is not None and summary.at is not None and summary.session == node.session
    return fresh and summary is not None and summary.up >= step.links


def choose(steps: Sequence[RolloutStep]) -> list[RolloutStep]:
    """Say who is told next: the first alone; when one came through, the others, some at a time."""
    waiting = [step for step in steps if step.state == RolloutStep.State.WAITING]
    told = sum(step.state == RolloutStep.State.TOLD for step in steps)
    if any(step.state == RolloutStep.State.DONE for step in steps):
        return waiting[: max(0, BATCH - told)]
    return waiting[:1] if told == 0 else []


def _tell(rollout: Rollout, step: RolloutStep, summary: live.Summary | None, now: datetime, *, alone: bool) -> None:
    node = step.node
    if node.status != Node.Status.APPROVED or not node.session:
        reason = "it was not connected" if node.status == Node.Status.APPROVED else "it was removed"
        _settle(step, Verdict(RolloutStep.State.SKIPPED, reason), now)
        return
    step.state = RolloutStep.State.TOLD
    step.told = step.told_again = now
    step.links = summary.up if summary else 0
    step.alone = alone
    step.save(update_fields=["state", "told", "told_again", "links", "alone"])
    after.publish(node, _message(rollout))


def _tell_again(rollout: Rollout, step: RolloutStep, now: datetime) -> None:
    if step.node.session and step.node.agent_version != rollout.version:
        step.told_again = now
        step.save(update_fields=["told_again"])
        after.publish(step.node, _message(rollout))


def _message(rollout: Rollout) -> Upgrade:
    return Upgrade(version=rollout.version, sha256=rollout.sha256, size=rollout.size)


def _settle(step: RolloutStep, verdict: Verdict | None, now: datetime) -> None:
    if verdict is not None:
        step.state, step.reason, step.ended = verdict.state, verdict.reason, now
        step.save(update_fields=["state", "reason", "ended"])


def _stop(rollout: Rollout, reason: str, now: datetime) -> None:
    _end(rollout, Rollout.State.STOPPED, reason, now)
    audit.write(None, "rollout.stopped", rollout.cluster, now, version=rollout.version, reason=reason)


def _end(rollout: Rollout, state: Rollout.State, reason: str, now: datetime) -> None:
    rollout.state, rollout.reason, rollout.ended = state, reason, now
    rollout.save(update_fields=["state", "reason", "ended"])
    after.announce(rollout.cluster_id, "rollout.changed")


def _read_summaries(pks: Iterable[int]) -> Mapping[int, live.Summary]:
    try:
        return live.read_summaries_of(pks)
    except redis.RedisError as error:
        # Nobody's links are known then, so the first step waits.
        log.warning("live state cannot be read", error=str(error))
        return {}
