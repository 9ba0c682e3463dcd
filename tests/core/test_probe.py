"""Whom to probe when, and what the answers come to."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubespan.core.probe import (
    FASTEST,
    GRAIN,
    INTERVAL,
    LEAST,
    MOST_A_SECOND,
    PATIENT,
    RARELY,
    TIMEOUT,
    WINDOW,
    Answers,
    Outcome,
    Prober,
)

BEGIN = 1_000_000.0


def address(index):
    return IPv6Address(f"fd00::{index:x}")


def targets(count):
    return {index: address(index) for index in range(1, count + 1)}


def make(count):
    """A prober of so many peers, none of which is new any more."""
    prober = Prober()
    prober.aim(targets(count), range(count + 1))
    now = BEGIN - 1000
    while prober.patience(now) <= GRAIN and prober._new:
        prober.due(now)
        now += GRAIN
    return prober


def run(prober, seconds, step=GRAIN, since=BEGIN):
    """Who is asked in this time, by the turn."""
    prober.due(since)
    return [prober.due(since + number * step) for number in range(1, round(seconds / step) + 1)]


def count(turns):
    return Counter(member for turn in turns for member, _ in turn)


@pytest.mark.parametrize("peers", [0, 1, 4, 1000])
def test_each_peer_is_asked_once_an_interval(peers):
    asked = count(run(make(peers), INTERVAL))
    assert asked == Counter(dict.fromkeys(range(1, peers + 1), 1))


def test_a_thousand_peers_are_spread_evenly():
    turns = run(make(1000), INTERVAL)
    each = 1000 / INTERVAL * GRAIN
    assert max(map(len, turns)) <= 1.5 * each + 2
    assert min(map(len, turns)) >= 0.5 * each - 2


def test_a_peer_is_asked_at_its_own_moment_whoever_else_comes_and_goes():
    alone, among = Prober(), Prober()
    alone.aim({7: address(7)}, range(99))
    among.aim(targets(50), range(99))
    moments = [
        [number for number, turn in enumerate(run(prober, 2 * INTERVAL)) if 7 in dict(turn)][-1]
        for prober in (alone, among)
    ]
    assert moments[0] == moments[1]


def test_who_just_came_up_is_asked_at_once():
    prober = make(3)
    prober.due(BEGIN)
    prober.aim(targets(3) | {77: address(77)}, range(99))
    assert prober.patience(BEGIN) == GRAIN
    assert (77, address(77)) in prober.due(BEGIN + GRAIN)


def test_a_thousand_that_come_up_together_are_no_burst():
    prober = Prober()
    prober.aim(targets(1000), range(1001))
    turns = run(prober, 20)
    assert max(map(len, turns)) <= 2 * MOST_A_SECOND * GRAIN
    assert set(count(turns)) == set(range(1, 1001))


@pytest.mark.parametrize(
    ("peers", "seconds", "interval"),
    [
        pytest.param(10, 2.0, 2.0, id="as asked"),
        pytest.param(10, 0.1, FASTEST, id="no faster than that"),
        pytest.param(10, 90.0, INTERVAL, id="no slower than always"),
        pytest.param(1000, 1.0, 1000 / MOST_A_SECOND, id="no more than so many a second"),
    ],
)
def test_somebody_looks(peers, seconds, interval):
    prober = make(peers)
    prober.quicken(seconds, BEGIN + 60)
    assert prober.interval(BEGIN) == interval
    assert prober.interval(BEGIN + 60) == INTERVAL
    asked = count(run(prober, 3 * interval))
    assert set(asked.values()) == {3}


def test_a_machine_that_was_busy_does_not_make_up_for_it():
    prober = make(1000)
    prober.due(BEGIN)
    assert len(prober.due(BEGIN + INTERVAL)) <= 1000 / INTERVAL * 1.5


def test_with_nobody_to_ask_it_waits_for_ever():
    assert Prober().patience(BEGIN) == float("inf")


def test_it_wakes_for_the_next_one_and_for_an_answer_that_does_not_come():
    prober = make(1)
    prober.due(BEGIN)
    wait = prober.patience(BEGIN)
    assert prober.due(BEGIN + wait + 0.001) == [(1, address(1))]
    prober.sent(5, 1, BEGIN + wait + 0.001)
    assert prober.patience(BEGIN + wait + 0.001) == pytest.approx(TIMEOUT)


@given(st.sets(st.integers(0, 5000), min_size=1, max_size=40), st.lists(st.floats(0.01, 1.0), max_size=60))
def test_nobody_is_left_out_and_nobody_asked_twice(members, steps):
    prober = Prober()
    prober.aim({index: address(index) for index in members}, members)
    now, asked = BEGIN, Counter()
    prober.due(now)
    prober._new.clear()
    for step in steps:
        now += step
        asked += Counter(member for member, _ in prober.due(now))
    assert all(number <= (now - BEGIN) / INTERVAL + 1 for number in asked.values())
    for _ in range(round(INTERVAL / 0.9) + 1):
        now += 0.9
        asked += Counter(member for member, _ in prober.due(now))
    assert set(asked) == members


# Answers.


def feed(outcomes):
    answers = Answers()
    for rtt in outcomes:
        answers.take(rtt)
    return answers


LOST = None


@pytest.mark.parametrize(
    ("outcomes", "rtt", "loss"),
    [
        pytest.param([], None, None, id="nothing yet"),
        pytest.param([LOST] * 50, None, None, id="never answered: not measured"),
        pytest.param([LOST] * 50 + [0.1], 0.1, None, id="what was before the first answer does not count"),
        pytest.param([0.1], 0.1, None, id="one answer is a round trip and no loss yet"),
        pytest.param([0.1] * LEAST, 0.1, 0.0, id="enough for a loss"),
        pytest.param([0.1, LOST, 0.1, LOST], 0.1, 0.5, id="half"),
        pytest.param([0.1] * 9 + [LOST], 0.1, 0.1, id="a tenth"),
        pytest.param([0.1] * 50 + [LOST] * WINDOW, None, 1.0, id="all of the window"),
        pytest.param([LOST] * 3 + [0.1] * WINDOW, 0.1, 0.0, id="what is older than the window is forgotten"),
        pytest.param([0.1, 0.9], 0.2, None, id="a new one counts for an eighth"),
        pytest.param([0.1] + [LOST] * WINDOW + [0.9], 0.9, 0.95, id="after silence it begins again"),
    ],
)
def test_what_the_outcomes_come_to(outcomes, rtt, loss):
    answers = feed(outcomes)
    assert answers.rtt == (None if rtt is None else pytest.approx(rtt))
    assert answers.loss == (None if loss is None else pytest.approx(loss))


@given(st.lists(st.none() | st.floats(1e-6, 5.0), max_size=80))
def test_loss_is_that_of_the_last_outcomes_and_the_round_trip_one_of_those_seen(outcomes):
    answers = feed(outcomes)
    first = next((place for place, rtt in enumerate(outcomes) if rtt is not None), len(outcomes))
    window = outcomes[first:][-WINDOW:]
    expected = window.count(None) / len(window) if len(window) >= LEAST else None
    assert answers.loss == (None if expected is None else pytest.approx(expected))
    seen = [rtt for rtt in outcomes if rtt is not None]
    if answers.rtt is None:
        assert all(rtt is None for rtt in window)
    else:
        assert min(seen) <= answers.rtt * 1.000001
        assert answers.rtt <= max(seen) * 1.000001


def test_an_answer_counts_for_whom_was_asked():
    prober = make(2)
    prober.sent(5, 1, BEGIN)
    assert prober.answered(6, address(1), 0.1) is None, "nobody asked that"
    assert prober.answered(5, address(2), 0.1) is None, "somebody else was asked"
    assert prober.answered(5, address(1), 0.1) == Outcome(1, 0.1)
    assert prober.answered(5, address(1), 0.1) is None, "it was answered already"
    assert prober.measured(1) == (0.1, None)
    assert prober.measured(2) == (None, None)


def test_what_is_not_answered_in_time_is_lost():
    prober = make(1)
    prober.sent(1, 1, BEGIN)
    assert prober.answered(1, address(1), 0.1)
    prober.sent(2, 1, BEGIN + 1)
    prober.sent(3, 1, BEGIN + 2)
    assert prober.expire(BEGIN + 1 + TIMEOUT - 0.01) == []
    assert prober.expire(BEGIN + 1 + TIMEOUT) == [Outcome(1, None)]
    assert prober.answered(2, address(1), 0.1) is None, "too late"
    assert prober.asked_at(3) == BEGIN + 2


def test_a_link_that_was_down_meanwhile_begins_anew_and_is_still_known_to_answer():
    prober = make(1)
    for cookie in range(LEAST):
        prober.sent(cookie, 1, BEGIN)
        prober.answered(cookie, address(1), 0.1)
    prober.sent(99, 1, BEGIN)
    prober.aim({}, range(2))
    assert prober.measured(1) == (None, None)
    assert prober.expire(BEGIN + TIMEOUT) == [], "nobody speaks of loss where the link is down"
    prober.aim(targets(1), range(2))
    prober.sent(100, 1, BEGIN)
    assert prober.expire(BEGIN + TIMEOUT) == [Outcome(1, None)]


def test_a_peer_that_never_answers_is_asked_rarely():
    prober = make(2)
    prober.sent(1, 2, BEGIN)
    prober.answered(1, address(2), 0.1)
    for cookie in range(PATIENT):
        prober.sent(cookie, 1, BEGIN)
    assert prober.expire(BEGIN + TIMEOUT) == [], "it is not measured"
    asked = count(run(prober, INTERVAL * 2 * RARELY, since=BEGIN + 100))
    assert (asked[1], asked[2]) == (2, 2 * RARELY)


def test_who_left_is_forgotten():
    prober = make(1)
    prober.sent(1, 1, BEGIN)
    prober.answered(1, address(1), 0.1)
    prober.aim({}, ())
    prober.aim(targets(1), range(2))
    prober.sent(2, 1, BEGIN)
    assert prober.expire(BEGIN + TIMEOUT) == [], "it has never answered, as far as anybody knows"
