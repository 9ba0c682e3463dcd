"""What an agent keeps of its links' past: rings, what goes into them, and how they travel."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubespan.core.history import (
    LONGEST_LOOK,
    MINUTE,
    MOST_POINTS,
    PER_QUARTER,
    QUARTER,
    Histories,
    Point,
    fold,
    pack,
    read_track,
    unpack,
)
from kubespan.core.messages import FRAME_BASE, History, Track, dump
from kubespan.core.peer_status import PeerState

UNKNOWN, UP, DOWN = PeerState.UNKNOWN, PeerState.UP, PeerState.DOWN
BEGIN = 1_000 * QUARTER.seconds  # a quarter of an hour begins here
MEMBERS = frozenset(range(10))


@dataclass
class Row:
    state: int = 1
    received: int = 0
    sent: int = 0


shares = st.floats(0, 1)
numbers = st.floats(0, 2**63)
points = st.builds(
    Point,
    st.sampled_from(PeerState),
    shares,
    st.none() | st.floats(1e-6, 2_000),
    st.none() | shares,
    numbers,
    numbers,
)


@given(points)
def test_a_point_is_read_as_it_was_written(point):
    (read,) = unpack(pack(point))
    assert read.state is point.state
    assert read.up == pytest.approx(point.up, abs=0.01)
    assert (read.rtt is None, read.loss is None) == (point.rtt is None, point.loss is None)
    if point.rtt is not None:
        assert read.rtt == pytest.approx(point.rtt, rel=0.001, abs=5e-7)
    if point.loss is not None:
        assert read.loss == pytest.approx(point.loss, abs=0.003)
    assert read.received == pytest.approx(point.received, rel=0.001, abs=1)
    assert read.sent == pytest.approx(point.sent, rel=0.001, abs=1)


def test_no_point_is_eight_zeros():
    assert pack(None) == bytes(8)
    assert list(unpack(bytes(16))) == [None, None]


def test_half_a_point_is_none():
    with pytest.raises(ValueError, match="8 bytes each, but these are 12"):
        list(unpack(bytes(12)))


@given(st.binary(max_size=64))
def test_whatever_eight_bytes_are_they_are_a_point_or_none(packed):
    for point in unpack(packed[: len(packed) // 8 * 8]):
        assert point is None or (0 <= point.up <= 1 and point.received >= 0)


GOOD = Point(UP, 1.0, 0.010, 0.0, 100, 200)
BAD = Point(DOWN, 0.0, None, None, 0, 0)
POOR = Point(UNKNOWN, 0.5, 0.030, 0.5, 50, 0)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([None, None], None, id="nothing known"),
        pytest.param([GOOD], GOOD, id="one"),
        pytest.param([GOOD, None], GOOD, id="what is not known changes nothing"),
        pytest.param([GOOD, BAD], Point(DOWN, 0.5, 0.010, 0.0, 100, 200), id="the worst state, half the time up"),
        pytest.param([POOR, BAD], Point(DOWN, 0.25, 0.030, 0.5, 50, 0), id="down is worse than unknown"),
        pytest.param([GOOD, POOR], Point(UNKNOWN, 0.75, 0.020, 0.25, 150, 200), id="unknown is worse than up"),
    ],
)
def test_fold(given_, expected):
    assert fold(given_) == expected


def look(histories, *, until, since=BEGIN, every=30, state=UP, rate=10, member=1, members=MEMBERS):
    """Look every so many seconds, with a link that receives `rate` bytes a second and sends twice as many."""
    for now in range(since, until + 1, every):
        moved = (now - BEGIN) * rate
        histories.note({member: Row(state, moved, 2 * moved)}, members, now)


def read(histories, now, member=1):
    """Points of the two rings, with their beginnings."""
    minutes, quarters = histories.tracks(member, now)
    return read_track(minutes, now), read_track(quarters, now)


def test_a_minute_has_its_state_its_traffic_and_what_the_probes_found():
    histories = Histories()
    look(histories, until=BEGIN + 60)
    histories.probed(1, 0.010)
    histories.probed(1, 0.030)
    histories.probed(1, None)
    histories.probed(1, None)
    look(histories, since=BEGIN + 90, until=BEGIN + 120)
    minutes, quarters = read(histories, BEGIN + 125)
    assert [began for began, _ in minutes] == [BEGIN, BEGIN + 60]
    (_, first), (_, second) = minutes
    assert (first.state, first.up, first.rtt, first.loss) == (UP, 1.0, None, None)
    assert (first.received, first.sent) == (pytest.approx(600, rel=0.001), pytest.approx(1200, rel=0.001))
    assert (second.rtt, second.loss) == (pytest.approx(0.020, rel=0.001), 0.5)
    assert quarters == []


def test_traffic_between_two_looks_is_of_the_minutes_that_it_was_in():
    histories = Histories()
    look(histories, until=BEGIN + 200, every=40, rate=100)
    minutes, _ = read(histories, BEGIN + 200)
    assert [round(point.received, -2) for _, point in minutes] == [6000, 6000, 6000]


def test_the_worst_state_and_the_time_up():
    histories = Histories()
    look(histories, until=BEGIN + 30, every=15)
    look(histories, since=BEGIN + 45, until=BEGIN + 45, state=DOWN)
    look(histories, since=BEGIN + 60, until=BEGIN + 120, every=15)
    ((_, first), (_, second)), _ = read(histories, BEGIN + 120)
    assert (first.state, first.up) == (DOWN, pytest.approx(0.75, abs=0.01))
    assert (second.state, second.up) == (UP, 1.0)


def test_counters_that_begin_again_are_no_negative_traffic():
    histories = Histories()
    for now, received in ((0, 5000), (30, 6000), (60, 10)):
        histories.note({1: Row(UP, received, 0)}, MEMBERS, BEGIN + now)
    ((_, point),), _ = read(histories, BEGIN + 60)
    assert point.received == pytest.approx(1000, rel=0.001)


def test_a_quarter_of_an_hour_is_made_of_its_minutes():
    histories = Histories()
    look(histories, until=BEGIN + QUARTER.seconds, rate=100)
    minutes, quarters = read(histories, BEGIN + QUARTER.seconds)
    ((began, point),) = quarters
    assert (began, point.state, len(minutes)) == (BEGIN, UP, PER_QUARTER)
    assert point.received == pytest.approx(90_000, rel=0.01)


def test_what_nobody_looked_at_is_not_known():
    histories = Histories()
    look(histories, until=BEGIN + 60)
    gap = BEGIN + 3 * QUARTER.seconds
    look(histories, since=gap, until=gap + 60)
    minutes, quarters = read(histories, gap + 60)
    known = [began for began, point in minutes if point is not None]
    assert known == [BEGIN, gap]
    assert [point is None for _, point in quarters] == [False, True, True]


@pytest.mark.parametrize(
    ("asleep", "minutes", "quarters"),
    [
        pytest.param(MINUTE.seconds * MINUTE.points, 0, 1, id="longer than the minutes are kept"),
        pytest.param(QUARTER.seconds * QUARTER.points, 0, 0, id="longer than anything is kept"),
        pytest.param(30 * QUARTER.seconds * QUARTER.points, 0, 0, id="half a year"),
    ],
)
def test_a_long_sleep_leaves_nothing_of_before_in_the_wrong_place(asleep, minutes, quarters):
    histories = Histories()
    look(histories, until=BEGIN + QUARTER.seconds)
    now = BEGIN + QUARTER.seconds + asleep
    histories.note({1: Row()}, MEMBERS, now)
    found = read(histories, now)
    assert [sum(point is not None for _, point in track) for track in found] == [minutes, quarters]


def test_rings_keep_the_newest():
    histories = Histories()
    end = BEGIN + MINUTE.seconds * (MINUTE.points + 30)
    look(histories, until=end, every=60)
    minutes, _ = read(histories, end)
    assert (len(minutes), minutes[-1][0]) == (MINUTE.points, end - 60)
    assert all(point is not None for _, point in minutes)


def test_who_is_no_member_any_more_is_forgotten():
    histories = Histories()
    look(histories, until=BEGIN + 120)
    histories.note({}, MEMBERS, BEGIN + 150)
    assert histories.tracks(1, BEGIN + 150)
    histories.note({}, MEMBERS - {1}, BEGIN + 180)
    assert histories.tracks(1, BEGIN + 180) == ()


def test_a_column_of_who_is_forgotten_has_nothing_of_them():
    histories = Histories()
    look(histories, until=BEGIN + 120)
    now = BEGIN + 150
    histories.note({2: Row()}, {2}, now)
    look(histories, since=now, until=now + 60, member=2)
    minutes, _ = read(histories, now + 60, member=2)
    assert [began for began, point in minutes if point is not None] == [BEGIN + 120, BEGIN + 180][: len(minutes)]


def test_room_for_more_links_leaves_what_is_known():
    histories = Histories()
    look(histories, until=BEGIN + QUARTER.seconds + 60)
    before = read(histories, BEGIN + QUARTER.seconds + 60)
    many = {index: Row() for index in range(1, 200)}
    histories.note(many, many, BEGIN + QUARTER.seconds + 65)
    assert read(histories, BEGIN + QUARTER.seconds + 60) == before
    histories.note(many, many, BEGIN + QUARTER.seconds + 120)
    for member in (1, 2, 199):
        minutes, _ = read(histories, BEGIN + QUARTER.seconds + 125, member)
        assert minutes[-1][1].state is UP


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sets(st.integers(1, 40), max_size=20), st.integers(20, 90)), max_size=8))
def test_links_keep_to_their_own_columns(looks):
    """Whoever comes and goes, a link's points say how much itself sent."""
    histories, now = Histories(), BEGIN
    for members, seconds in looks:
        now += seconds
        histories.note({m: Row(UP, 0, m * 1000 * (now - BEGIN)) for m in members}, members, now)
    for member in looks[-1][0] if looks else ():
        minutes, _ = read(histories, now, member)
        for _, point in minutes:
            assert point is None or point.sent <= member * 1000 * 60 * 1.01


def test_an_outcome_of_nobody_is_nothing():
    Histories().probed(7, 0.1)
    assert Histories().tracks(7, BEGIN) == ()


@given(st.lists(st.tuples(st.integers(1, 400), st.sampled_from(PeerState)), max_size=40))
def test_whatever_the_looks_are_the_rings_cover_the_time_and_no_more(looks):
    histories, now = Histories(), BEGIN
    histories.note({1: Row()}, MEMBERS, now)
    for seconds, state in looks:
        now += seconds
        histories.note({1: Row(state, now, now)}, MEMBERS, now)
    for width, track in zip((MINUTE, QUARTER), read(histories, now), strict=True):
        begun = [began for began, _ in track]
        assert begun == sorted(begun)
        assert all(BEGIN <= began <= now - width.seconds for began in begun)
        if looks and max(seconds for seconds, _ in looks) <= LONGEST_LOOK:
            assert len(track) == (now - BEGIN) // width.seconds


def test_all_that_is_kept_fits_into_the_smallest_clusters_frame():
    packed = base64.b64encode(b"\xff" * 8 * QUARTER.points).decode()
    minutes = base64.b64encode(b"\xff" * 8 * MINUTE.points).decode()
    full = (Track(seconds=60, age=2**62, points=minutes), Track(seconds=900, age=2**62, points=packed))
    assert len(dump(History(request=2**63 - 1, member=10**6, tracks=full))) < FRAME_BASE


@pytest.mark.parametrize(
    ("track", "fault"),
    [
        pytest.param({"seconds": 0}, "0 s long", id="no width"),
        pytest.param({"seconds": 10**9}, "s long", id="wider than a week"),
        pytest.param({"points": "!"}, "base64", id="no base64"),
        pytest.param({"points": "AAAA"}, "8 bytes each", id="half a point"),
        pytest.param({"points": base64.b64encode(bytes(8 * (MOST_POINTS + 1))).decode()}, "more than", id="too many"),
    ],
)
def test_what_an_agent_sends_is_not_believed_unread(track, fault):
    with pytest.raises(ValueError, match=fault):
        read_track(Track(**({"seconds": 60, "age": 0, "points": ""} | track)), 0)
