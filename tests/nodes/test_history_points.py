"""Arithmetic on points of history: packing, rolling up, rates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nodes.history import looks, points
from nodes.history.points import GAP, MINUTES, QUARTERS, Point, Total
from nodes.live import Seen, Summary

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(Point(1, 1, 3, 1, 0, 0.012345, 0.25, 1024.0, 0.0), id="all of it"),
        pytest.param(Point(1, 1, 3, 0, 0), id="nothing measured"),
        pytest.param(Point(1), id="not connected"),
        pytest.param(Point(15, 15, 15_000, 0, 0, 0.0, 0.0, 0.0, 0.0), id="a thousand links over a quarter"),
    ],
)
def test_a_point_is_what_it_was_packed_from(point):
    assert list(points.unpack(points.pack(point))) == [(0, point)]


@pytest.mark.parametrize(
    ("point", "kept"),
    [
        pytest.param(Point(1, 1, 70_000), Point(1, 1, 65_535), id="more links than a column holds"),
        pytest.param(Point(1, 1, rtt=9999.0), Point(1, 1, rtt=4294.967294), id="a round trip of hours"),
        pytest.param(Point(1, 1, loss=1.0), Point(1, 1, loss=1.0), id="everything lost"),
    ],
)
def test_what_does_not_fit_is_the_most_that_does(point, kept):
    ((_, found),) = points.unpack(points.pack(point))
    assert found == kept


def test_a_row_has_gaps_where_nothing_was_put():
    row = points.put(points.put(b"", 2, Point(1, 1, 1)), 5, Point(1))
    assert len(row) == 6 * points.SIZE
    assert [place for place, _ in points.unpack(row)] == [2, 5]
    assert [place for place, _ in points.unpack(row, range(3, 60))] == [5]


def test_putting_a_point_once_more_changes_that_one_alone():
    row = points.put(points.put(b"", 0, Point(1)), 1, Point(1))
    assert list(points.unpack(points.put(row, 0, Point(1, 1, 4)))) == [(0, Point(1, 1, 4)), (1, Point(1))]


@pytest.mark.parametrize(
    ("minutes", "merged"),
    [
        pytest.param([], GAP, id="nothing"),
        pytest.param([GAP, GAP], GAP, id="gaps alone"),
        pytest.param([Point(1, 1, 2, 1, 0), Point(1, 1, 3, 0, 0)], Point(2, 2, 5, 1, 0), id="counts are added"),
        pytest.param([Point(1, 1, 2), GAP, Point(1)], Point(2, 1, 2), id="a gap is no look, an absence is one"),
        pytest.param(
            [Point(1, 1, rtt=0.25, loss=0.0), Point(1, 1), Point(1, 1, rtt=0.75, loss=1.0)],
            Point(3, 3, rtt=0.5, loss=0.5),
            id="a mean is over what was measured",
        ),
        pytest.param(
            [Point(1, 1, received=100.0, sent=0.0), Point(1, 1)], Point(2, 2, received=100.0, sent=0.0), id="rates"
        ),
    ],
)
def test_minutes_become_one_point(minutes, merged):
    assert points.merge(minutes) == merged


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param(Total(0.0, 1000, 500), (10.0, 20.0), id="a minute ago"),
        pytest.param(None, (None, None), id="nothing before"),
        pytest.param(Total(60.0, 1000, 500), (None, None), id="the same report"),
        pytest.param(Total(0.0, 9999, 500), (None, None), id="received went backwards: it restarted"),
        pytest.param(Total(0.0, 1000, 9999), (None, None), id="sent went backwards"),
        pytest.param(Total(-3600.0, 1000, 500), (None, None), id="an hour ago: no telling when"),
    ],
)
def test_rates_are_differences_of_counters(before, expected):
    assert points.rates(before, Total(60.0, 1600, 1700)) == expected


@pytest.mark.parametrize(
    ("resolution", "at", "row", "place"),
    [
        pytest.param(MINUTES, NOON, NOON, 0, id="the first minute"),
        pytest.param(MINUTES, NOON + timedelta(minutes=59, seconds=59.9), NOON, 59, id="the last minute"),
        pytest.param(QUARTERS, NOON, NOON - timedelta(hours=12), 48, id="noon's quarter"),
        pytest.param(QUARTERS, NOON + timedelta(hours=11.99), NOON - timedelta(hours=12), 95, id="the last quarter"),
    ],
)
def test_a_moment_has_one_place(resolution, at, row, place):
    assert (resolution.row_start(at), resolution.place(at)) == (row, place)


SUMMARY = Summary("s", 60.0, 1, 3, 1, 2, received=1600, sent=1700, rtt=0.5, loss=0.25)


@pytest.mark.parametrize(
    ("summary", "before", "point"),
    [
        pytest.param(SUMMARY, Total(0.0, 1000, 500), Point(1, 1, 3, 1, 2, 0.5, 0.25, 10.0, 20.0), id="all of it"),
        pytest.param(SUMMARY, None, Point(1, 1, 3, 1, 2, 0.5, 0.25), id="its first report"),
        pytest.param(Summary("s"), None, Point(1, 1), id="connected, and said nothing yet"),
        pytest.param(None, Total(0.0, 1, 1), Point(1), id="away"),
    ],
)
def test_a_node_at_a_look(summary, before, point):
    assert looks.node_point(summary, before) == point


SEEN = Seen("down", "", None, 1600, 1700, 60.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("connected", "point"),
    [
        pytest.param({1: SUMMARY}, Point(1, 1, 0, 0, 1, 0.5, 0.25), id="its node says so"),
        pytest.param({}, Point(1), id="its node is away: what it last said is no news"),
    ],
)
def test_a_link_at_a_look(connected, point):
    assert looks.link_points([(1, 2)], {(1, 2): SEEN}, connected, looks.Counters()) == {(1, 2): point}


SENT, NOTHING, UNCOUNTED = Point(1, 1, 1, sent=1000.0), Point(1, 1, 1, sent=0.0, received=0.0), Point(1)


def came(*rates):
    return [Point(1, 1, 1, received=float(rate)) for rate in rates]


@pytest.mark.parametrize(
    ("sent", "received", "share"),
    [
        pytest.param([NOTHING, SENT, SENT, NOTHING], came(0, 1000, 1000, 0), 1.0, id="all of it"),
        pytest.param([NOTHING, SENT, SENT, NOTHING], came(0, 500, 0, 0), 0.25, id="a quarter"),
        pytest.param([NOTHING, SENT, SENT, NOTHING], came(0, 0, 1000, 1000), 1.0, id="counted in the minute after"),
        pytest.param([NOTHING, SENT, SENT, SENT], came(0, 1000, 1000, 0), 1.0, id="the newest may come yet"),
        pytest.param([SENT, SENT, SENT, SENT], came(2000, 2000, 0, 0), 1.0, id="no more than all"),
        pytest.param([SENT, SENT, NOTHING, SENT], came(0, 0, 0, 0), None, id="too little was sent to tell"),
        pytest.param([NOTHING, SENT, SENT, NOTHING], [UNCOUNTED, *came(0, 0, 0)], None, id="not counted there"),
        pytest.param([NOTHING, SENT, UNCOUNTED, NOTHING], came(0, 0, 0, 0), None, id="not counted here"),
    ],
)
def test_what_arrived_is_a_share_of_what_was_sent(sent, received, share):
    assert points.arrived(sent, received, 60.0) == share


def test_counters_come_back_as_they_went(valkey):
    counters = looks.count({1: SUMMARY, 2: Summary("s")}, {(1, 2): SEEN})
    looks.write_counters(7, counters)
    assert looks.read_counters(7) == counters
    assert counters == looks.Counters({1: Total(60.0, 1600, 1700)}, [(1, 2, Total(60.0, 1600, 1700))])
    assert looks.read_counters(8) == looks.Counters()
