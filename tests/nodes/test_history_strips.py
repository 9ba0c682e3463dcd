"""Strips from transitions, points from agents' rings, and what came of endpoints: pure, by tables."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from kubespan.core import history
from kubespan.core.peer_status import PeerState
from nodes import pairs
from nodes.agents.history import Ring
from nodes.history import rings, strips
from nodes.history.points import MINUTES, QUARTERS, Point
from nodes.history.strips import Change
from nodes.models import Transition
from tests.factories import NOW

DOWN_AT_10 = [Change(10, "up", "down"), Change(20, "down", "unknown"), Change(25, "unknown", "up")]


@pytest.mark.parametrize(
    ("changes", "present", "absences", "expected"),
    [
        pytest.param([], "up", [], [(0, 100, "up")], id="nothing happened: as it is now"),
        pytest.param([], None, [], [(0, 100, "none")], id="nothing happened, and nobody says how it is"),
        pytest.param(
            DOWN_AT_10,
            None,
            [],
            [(0, 10, "up"), (10, 20, "down"), (20, 25, "unknown"), (25, 100, "up")],
            id="from change to change",
        ),
        pytest.param([Change(-5, "up", "down")], "down", [], [(0, 100, "down")], id="it changed before"),
        pytest.param(
            DOWN_AT_10,
            "up",
            [(15, 30)],
            [(0, 10, "up"), (10, 15, "down"), (15, 30, "none"), (30, 100, "up")],
            id="nobody could say for a while",
        ),
        pytest.param([], "up", [(0, 40), (90, 100)], [(0, 40, "none"), (40, 90, "up"), (90, 100, "none")], id="twice"),
        pytest.param([], "up", [(-50, 200)], [(0, 100, "none")], id="all the time"),
    ],
)
def test_stretches(changes, present, absences, expected):
    assert strips.stretches(changes, present, absences, 0, 100) == expected


@pytest.mark.parametrize(
    ("changes", "away", "expected"),
    [
        pytest.param([], False, [], id="here all along"),
        pytest.param([], True, [(0, 100)], id="away all along"),
        pytest.param([(10, "away"), (20, "connected")], False, [(10, 20)], id="away, and back"),
        pytest.param([(20, "connected")], False, [(0, 20)], id="away since before"),
        pytest.param([(10, "away")], True, [(10, 100)], id="away now"),
        pytest.param([(10, "away"), (15, "away"), (20, "connected")], False, [(10, 20)], id="told twice"),
    ],
)
def test_absences(changes, away, expected):
    rows = [Change(at, "", after) for at, after in changes]
    assert strips.absences(rows, 0, 100, away=away) == expected


UP = history.Point(PeerState.UP, 1.0, 0.02, 0.1, 6000, 600)
BAD = history.Point(PeerState.DOWN, 0.5, None, 1.0, 0, 0)


@pytest.mark.parametrize(
    ("point", "looks", "expected"),
    [
        pytest.param(UP, 1, Point(1, 1, 1, 0, 0, 0.02, 0.1, 100, 10), id="up"),
        pytest.param(BAD, 1, Point(1, 1, 0, 0, 1, None, 1.0, 0, 0), id="down for a part of the minute"),
        pytest.param(BAD, 15, Point(15, 15, 8, 0, 7, None, 1.0, 0, 0), id="down for a half of a quarter"),
        pytest.param(
            BAD._replace(up=0.99), 15, Point(15, 15, 14, 0, 1, None, 1.0, 0, 0), id="down for a moment is not lost"
        ),
        pytest.param(
            BAD._replace(state=PeerState.UNKNOWN, up=0.0), 1, Point(1, 1, 0, 1, 0, None, 1.0, 0, 0), id="unknown"
        ),
    ],
)
def test_a_point_of_a_ring_is_so_many_looks(point, looks, expected):
    assert rings.noted(point, 60, looks) == expected


def test_the_consoles_own_points_come_first_then_minutes_then_quarters():
    own = {1800: Point(1, 1, 1)}
    found = [Ring(60, [(1799.0, UP), (1861.0, UP), (1921.0, None)]), Ring(900, [(900.0, BAD), (1800.0, BAD)])]
    filled = rings.fill(own, found, MINUTES, 1740)
    assert list(filled) == list(range(1740, 2700, 60))
    assert filled[1800] == Point(1, 1, 1)
    assert filled[1860].rtt == 0.02
    assert {filled[at].loss for at in (1740, 1920, 2640)} == {1.0}, "the quarter's mean stands in each of its minutes"


def test_quarters_are_not_made_of_a_rings_minutes():
    filled = rings.fill({}, [Ring(60, [(900.0, UP)]), Ring(900, [(910.0, UP), (1800.0, None)])], QUARTERS, 0)
    assert list(filled) == [900]
    assert filled[900].looks == 15


A, B = "192.0.2.1:51820", "198.51.100.1:51820"


def row(minutes, before, after, text):
    return Transition(kind="link", before=before, after=after, text=text, at=NOW - timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([row(1, "unknown", "up", f"endpoint {A}")], {A: (1, "answered")}, id="it came up there"),
        pytest.param([row(1, "unknown", "down", f"endpoint {A}")], {A: (1, "no answer")}, id="it did not"),
        pytest.param(
            [row(1, "unknown", "unknown", f"endpoint {A} → {B}"), row(2, "down", "unknown", f"endpoint {A}")],
            {A: (1, "no answer"), B: (1, "tried")},
            id="it went on to the next one",
        ),
        pytest.param(
            [row(1, "up", "up", f"endpoint {A} → {B}")], {A: (1, "answered"), B: (1, "answered")}, id="the peer moved"
        ),
        pytest.param(
            [row(1, "unknown", "up", f"endpoint {A}"), row(9, "unknown", "down", f"endpoint {A}")],
            {A: (1, "answered")},
            id="the last try counts",
        ),
        pytest.param([row(1, "up", "down", "no endpoint")], {"no endpoint": (1, "no answer")}, id="none was known"),
    ],
)
def test_what_came_of_endpoints(rows, expected):
    wanted = {text: (NOW - timedelta(minutes=ago), result) for text, (ago, result) in expected.items()}
    assert pairs.last_tries(rows) == wanted


def test_a_try_is_shown_beside_its_endpoint():
    candidates = [SimpleNamespace(endpoint=A), SimpleNamespace(endpoint=B)]
    node = SimpleNamespace(candidates=SimpleNamespace(all=lambda: candidates))
    cluster = SimpleNamespace(kubespan=SimpleNamespace(peer_endpoint_filters=()))
    tried = pairs.try_order(node, cluster, None, {B: pairs.Try(NOW, "no answer")})
    assert [one.last for one in tried] == [None, pairs.Try(NOW, "no answer")]
