"""What needs an operator, worst first, each as a sentence: computed from rows and last reports, no IO here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

from nodes.live import Summary
from nodes.models import Cluster, Node, Obstacle
from nodes.pairs import Why
from nodes.standing import AnyNode
from nodes.words import clock, count

SHOWN = 12
"""More sentences than these are counted, not shown."""

NAMED = 2
"""Of several machines that cannot reach the same one, so many are named."""


class Attention(NamedTuple):
    """One thing that somebody should look at."""

    rank: int
    icon: str
    tone: str
    subject: AnyNode | Cluster
    text: str
    since: datetime | None = None
    at_least: bool = False
    """Whether it may be so for longer."""
    pair: tuple[AnyNode, AnyNode] | None = None
    """Of a link: who does not reach whom, for the page that says why."""
    weight: int = 1
    """Of two that are as bad, the one that concerns more machines comes first."""


Reasons = Mapping[tuple[int, int], Why]
"""As nodes.pairs.read_reasons has them."""

PASSING = frozenset({"trying", "unsaid", "fading"})
"""Reasons that go by themselves: a link that is `unknown` for one of them, or still up, is nothing to look at yet."""


class Broken(NamedTuple):
    """A peer, and who has its worst link to it, which carries nothing; `mutual` where it misses the one as well."""

    peer: AnyNode
    seers: list[AnyNode]
    mutual: bool = False
    down: bool = True
    """Whether one of them says so; a peer of several endpoints is `unknown` most of the time that it is silent."""
    mute: bool = False
    """Whether the link is up by its handshakes, and no probe is answered."""

    @property
    def pair(self) -> tuple[AnyNode, AnyNode]:
        """The link that stands for all."""
        return self.seers[0], self.peer


def find_broken(nodes: Iterable[AnyNode], summaries: Mapping[int, Summary]) -> list[Broken]:
    """Links that carry nothing, by the peer at their other end: down, unknown, then those that are up and mute.

    Of the same those that most machines miss go first. A machine that is away is missed by all others, which is one
    thing to look at and not a thousand.
    """
    nodes = list(nodes)
    members = {(node.cluster_id, node.index): node for node in nodes if node.index is not None}
    peers = {node.pk: node for node in nodes}
    seers: defaultdict[tuple[int, bool], list[AnyNode]] = defaultdict(list)
    down: set[tuple[int, bool]] = set()
    for node in nodes:
        summary = summaries.get(node.pk)
        if summary is None:
            continue
        for index, mute in ((summary.worst, False), (summary.mute_to, True)):
            peer = None if index is None else members.get((node.cluster_id, index))
            if peer is not None:
                seers[peer.pk, mute].append(node)
                if summary.down and not mute:
                    down.add((peer.pk, mute))
    missed = [
        Broken(peers[pk], sorted(those, key=attrgetter("name")), down=(pk, mute) in down, mute=mute)
        for (pk, mute), those in seers.items()
    ]
    ordered = sorted(missed, key=lambda one: (not one.down, one.mute, -len(one.seers), one.seers[0].name))
    return _join_mutual(ordered)[:SHOWN]


def _join_mutual(ordered: Iterable[Broken]) -> list[Broken]:
    """Of two machines that miss each other and that nobody else misses, the first stands for both."""
    found: dict[tuple[int, int], Broken] = {}
    for broken in ordered:
        seer, peer = broken.pair
        twin = found.get((peer.pk, seer.pk))
        if twin and len(twin.seers) == len(broken.seers) == 1:
            # What one end misses altogether is mute to the other.
            found[peer.pk, seer.pk] = twin._replace(mutual=twin.mute == broken.mute)
        else:
            found[seer.pk, peer.pk] = broken
    return list(found.values())


def collect(
    nodes: Iterable[AnyNode],
    clusters: Mapping[int, Cluster],
    summaries: Mapping[int, Summary],
    obstacles: Iterable[Obstacle] = (),
    broken: Sequence[Broken] = (),
    reasons: Reasons | None = None,
) -> list[Attention]:
    """All that needs somebody, worst first; `reasons` are why the pairs of `broken` are not up, as far as known."""
    found_on: defaultdict[int, list[Obstacle]] = defaultdict(list)
    for obstacle in obstacles:
        found_on[obstacle.node_id].append(obstacle)
    reasons = reasons or {}
    broken = [one for one in broken if one.down or _lasts(reasons.get((one.pair[0].pk, one.pair[1].pk)))]
    told = {broken_one.peer.pk for broken_one in broken if not broken_one.mute}
    found = [_of_link(one, summaries, reasons) for one in broken]
    for node in nodes:
        found += _of_node(node, clusters[node.cluster_id], found_on.get(node.pk, ()), missed=node.pk in told)
    return sorted(found, key=lambda entry: (entry.rank, -entry.weight, entry.subject.name))


def _lasts(why: Why | None) -> bool:
    return why is not None and why.reason.code not in PASSING


def _of_link(broken: Broken, summaries: Mapping[int, Summary], reasons: Reasons) -> Attention:
    seer, peer = broken.pair
    known = reasons.get((seer.pk, peer.pk))
    why = f": {clause(known.reason.brief or known.reason.text, seer.name, peer.name)}" if known else ""
    since, at_least = (known.since, known.at_least) if known else (None, False)
    if len(broken.seers) > 1:
        names = ", ".join(node.name for node in broken.seers[:NAMED])
        more = len(broken.seers) - NAMED
        who = f"{names} and {count(more, 'other')}" if more > 0 else names.replace(", ", " and ")
        lacks = f"gives no answer to {who}" if broken.mute else f"cannot be reached by {who}"
        return Attention(1, "link-off", "bad", peer, lacks + why, since, at_least, broken.pair, len(broken.seers))
    summary = summaries[seer.pk]
    others = max(0, (summary.mute if broken.mute else summary.down) - 1)
    whom = f"{peer.name} and {count(others, 'other')}" if others else peer.name
    back = ", nor the other way round" if broken.mutual else ""
    lacks = f"gets no answer from {whom}" if broken.mute else f"cannot reach {whom}"
    return Attention(1, "link-off", "bad", seer, f"{lacks}{back}{why}", since, at_least, broken.pair)


def clause(sentence: str, *names: str) -> str:
    """A sentence as it stands after a colon: its first word small unless it is a name, or one like KubeSpan or UDP."""
    first = sentence.partition(" ")[0]
    is_name = sentence.startswith(names) if names else False
    small = first[1:].islower() and not is_name
    return (sentence[:1].lower() + sentence[1:] if small else sentence).removesuffix(".")


def _of_node(node: AnyNode, cluster: Cluster, obstacles: Sequence[Obstacle], *, missed: bool) -> Iterable[Attention]:
    if node.status == Node.Status.PENDING:
        yield Attention(3, "user-check", "warn", node, f"waits for approval in {cluster.name}", node.enrolled)
        return
    if node.fault:
        yield Attention(0, "alert-triangle", "bad", node, f"could not apply its settings: {node.fault}")
    elif node.session and (behind := node.behind(cluster)):
        yield Attention(4, "refresh", "warn", node, f"is behind by {count(behind, 'revision')}")
    if not (node.is_here or missed):
        yield _of_presence(node)
    if node.claimed_networks and (waiting := set(node.claimed_networks) - set(node.networks or ())):
        text = f"asks to advertise {', '.join(sorted(waiting))}; nobody has said yes"
        yield Attention(5, "route", "warn", node, text)
    if obstacles:
        yield _of_findings(node, obstacles)
    if node.clock_skew and (odd := clock(node.clock_skew)):
        yield Attention(6, "clock", "warn", node, f"has a clock that is {odd}")


def _of_findings(node: AnyNode, obstacles: Sequence[Obstacle]) -> Attention:
    worst = obstacles[0]
    others = f" (and {count(len(obstacles) - 1, 'more finding')})" if len(obstacles) > 1 else ""
    rank, tone = (1, "bad") if worst.stops else (6, "warn")
    text = f"preflight: {clause(worst.text)}{others}"
    return Attention(rank, "alert-triangle", tone, node, text, worst.since)


def _of_presence(node: AnyNode) -> Attention:
    if node.is_talos:
        text, since = "left discovery; its peers keep it while they hear it", node.left_at
    elif node.last_seen:
        text, since = "is away; its mesh goes on, but changes do not reach it", node.last_seen
    else:
        text, since = "has never connected", node.enrolled
    return Attention(2, "plug-connected", "warn", node, text, since)
