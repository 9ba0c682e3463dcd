"""Handshakes keep their place on the timeline, whatever becomes of the wall clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.agent.handshakes import NEVER, Handshakes

WALL = 1_700_000_000.0


@pytest.mark.parametrize(
    ("handshake", "wall", "now", "expected"),
    [
        pytest.param(0.0, WALL, 500.0, NEVER, id="never"),
        pytest.param(WALL - 60, WALL, 500.0, 440.0, id="a minute ago"),
        pytest.param(WALL - 900, WALL, 500.0, -400.0, id="before the machine's start, as after a suspend"),
        pytest.param(WALL + 900, WALL, 500.0, 500.0, id="the clock was set back since: not in the future"),
    ],
)
def test_first_sight(handshake, wall, now, expected):
    assert Handshakes().convert("peer", handshake, wall=wall, now=now) == expected


def test_a_step_of_the_clock_moves_nothing():
    handshakes = Handshakes()
    first = handshakes.convert("peer", WALL - 10, wall=WALL, now=500.0)
    assert handshakes.convert("peer", WALL - 10, wall=WALL - 86400, now=530.0) == first
    assert handshakes.convert("peer", WALL - 10, wall=WALL + 86400, now=560.0) == first


def test_a_new_handshake_was_after_the_look_before():
    """The clock was set forward by a day between handshake and look; it still was in these 30 seconds."""
    handshakes = Handshakes()
    handshakes.convert("peer", WALL - 100, wall=WALL, now=500.0)
    assert handshakes.convert("peer", WALL + 10, wall=WALL + 86400, now=530.0) == 500.0


def test_a_link_made_anew_counts_from_zero():
    handshakes = Handshakes()
    handshakes.convert("peer", WALL - 10, wall=WALL, now=500.0)
    assert handshakes.convert("peer", 0.0, wall=WALL + 1, now=501.0) == NEVER
    assert handshakes.convert("peer", WALL + 2, wall=WALL + 2, now=502.0) == 502.0


def test_peers_that_are_gone_are_forgotten():
    handshakes = Handshakes()
    handshakes.convert("peer", WALL - 10, wall=WALL, now=500.0)
    handshakes.keep(frozenset())
    assert handshakes.convert("peer", WALL - 10, wall=WALL + 90, now=530.0) == 430.0


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(-1e9, 1e9), st.booleans()), max_size=30))
def test_a_handshake_is_never_in_the_future_and_never_moves(steps):
    handshakes = Handshakes()
    now, wall, handshake, before = 0.0, WALL, WALL, None
    for passed, clock_step, fresh in steps:
        now, wall = now + passed, wall + passed + clock_step
        handshake = wall if fresh else handshake
        at = handshakes.convert("peer", handshake, wall=wall, now=now)
        assert at == NEVER or at <= now
        if before is not None and before[0] == handshake:
            assert at == before[1]
        before = handshake, at
