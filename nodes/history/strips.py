"""When a link was up, unknown and down, from its transitions; no IO, time is an argument.

Transitions are exact, and kept longer than any strip is long. Between two of them nothing changed, except where nobody
could say so: before the node was a member, and while its agent was away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

NONE = "none"
"""Nobody could say."""


class Change(NamedTuple):
    """A transition: when, from what, to what."""

    at: float
    before: str
    after: str


class Stretch(NamedTuple):
    """A time in which a link was in one state."""

    start: float
    end: float
    state: str


def stretches(
    changes: Sequence[Change], present: str | None, absences: Iterable[tuple[float, float]], start: float, end: float
) -> list[Stretch]:
    """A link from `start` to `end`; `changes` are in the order of time, `present` is how it is seen now, if it is."""
    found = _between(changes, present or NONE, start, end)
    for gone, back in absences:
        found = _overlay(found, gone, back)
    return _joined(found)


def _between(changes: Sequence[Change], present: str, start: float, end: float) -> list[Stretch]:
    inside = [change for change in changes if start < change.at < end]
    earlier = [change for change in changes if change.at <= start]
    state = earlier[-1].after if earlier else inside[0].before if inside else present
    found = []
    for change in inside:
        found.append(Stretch(start, change.at, state))
        start, state = change.at, change.after
    return [*found, Stretch(start, end, state)]


def _overlay(found: list[Stretch], gone: float, back: float) -> list[Stretch]:
    """The same, with nothing known between these two times."""
    shown = []
    for one in found:
        first, last = max(one.start, gone), min(one.end, back)
        if first >= last:
            shown.append(one)
            continue
        parts = (one._replace(end=first), Stretch(first, last, NONE), one._replace(start=last))
        shown += [part for part in parts if part.start < part.end]
    return shown


def _joined(found: Iterable[Stretch]) -> list[Stretch]:
    joined: list[Stretch] = []
    for one in found:
        if joined and joined[-1].state == one.state:
            joined[-1] = joined[-1]._replace(end=one.end)
        else:
            joined.append(one)
    return joined


def absences(changes: Sequence[Change], start: float, end: float, *, away: bool) -> list[tuple[float, float]]:
    """When an agent was away, from its node's transitions; `away` is whether it is now."""
    found, since = [], start if changes and changes[0].after == "connected" else None
    for change in changes:
        if change.after != "connected":
            since = change.at if since is None else since
        elif since is not None:
            found.append((since, change.at))
            since = None
    if since is None and away and not changes:
        since = start
    return [*found, (since, end)] if since is not None else found
