"""Reports: changes only, transitions at once, the rest in its time."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from kubespan.agent.reports import LONGEST_LEASE, NEVER, Reporter, Row
from kubespan.core.messages import Revision, dump, parse_from_agent

REVISION = Revision(1, 7)
UP = Row(1, "192.0.2.2:51820", 990.0, 100, 200)
DOWN = Row(2, "192.0.2.3:51820", NEVER, 0, 300)
MORE = Row(1, "192.0.2.2:51820", 990.0, 150, 250)
MOVED = Row(1, "198.51.100.2:4000", 990.0, 150, 250)


def test_the_first_report_of_a_connection_is_complete():
    report = Reporter().collect({2: UP, 3: DOWN}, REVISION, 1000.0)
    assert (report.number, report.complete, report.revision) == (0, True, REVISION)
    assert (report.members, report.states) == ((2, 3), (1, 2))
    assert report.endpoints == ("192.0.2.2:51820", "192.0.2.3:51820")
    assert report.handshakes == (10_000, -1)
    assert (report.received, report.sent) == ((100, 0), (200, 300))
    assert parse_from_agent(dump(report)) == report


def test_figures_wait_for_their_time_and_only_changes_are_told():
    reporter = Reporter(every=30.0)
    reporter.collect({2: UP, 3: DOWN}, REVISION, 1000.0)
    assert reporter.collect({2: MORE, 3: DOWN}, REVISION, 1029.9) is None
    report = reporter.collect({2: MORE, 3: DOWN}, REVISION, 1030.0)
    assert (report.number, report.complete, report.members, report.received) == (1, False, (2,), (150,))


def test_a_report_is_due_even_when_nothing_changed():
    reporter = Reporter(every=30.0)
    reporter.collect({2: UP}, REVISION, 1000.0)
    assert reporter.collect({2: UP}, REVISION, 1030.0).members == ()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(Row(2, UP.endpoint, 990.0, 100, 200), id="state"),
        pytest.param(MOVED, id="endpoint"),
    ],
)
def test_a_transition_is_told_at_once_and_alone(row):
    reporter = Reporter(every=30.0)
    reporter.collect({2: UP, 3: UP}, REVISION, 1000.0)
    report = reporter.collect({2: row, 3: MORE}, REVISION, 1000.1)
    assert (report.complete, report.members) == (False, (2,))
    assert reporter.collect({2: row, 3: MORE}, REVISION, 1000.2) is None
    assert reporter.collect({2: row, 3: MORE}, REVISION, 1030.0).members == (3,)


def test_round_trip_and_loss_are_told_where_anything_was_measured():
    reporter = Reporter()
    measured = replace(UP, rtt=1500, loss=0)
    report = reporter.collect({2: measured, 3: DOWN}, REVISION, 1000.0)
    assert (report.rtts, report.losses) == ((1500, -1), (0, -1))
    report = reporter.collect({2: UP, 3: DOWN}, REVISION, 1030.0)
    assert (report.members, report.rtts, report.losses) == ((2,), (), ())


def test_a_console_of_version_1_is_told_nothing_that_it_does_not_know():
    report = Reporter(version=1).collect({2: replace(UP, rtt=1500, loss=0)}, REVISION, 1000.0)
    assert not {"rtts", "losses"} & set(msgspec.json.decode(dump(report)))


def test_another_round_trip_is_no_transition():
    reporter = Reporter()
    reporter.collect({2: UP}, REVISION, 1000.0)
    assert reporter.collect({2: replace(UP, rtt=1500, loss=0)}, REVISION, 1001.0) is None


def test_a_new_peer_is_a_transition():
    reporter = Reporter()
    reporter.collect({}, REVISION, 1000.0)
    assert reporter.collect({3: DOWN}, REVISION, 1001.0).members == (3,)


def test_a_peer_that_left_and_came_back_is_told_again():
    reporter = Reporter(every=30.0)
    reporter.collect({2: UP}, REVISION, 1000.0)
    reporter.collect({}, REVISION, 1030.0)
    assert reporter.collect({2: UP}, REVISION, 1031.0).members == (2,)


def test_numbers_count_without_a_gap():
    reporter = Reporter(every=1.0)
    reports = [reporter.collect({2: UP}, REVISION, 1000.0 + second) for second in range(5)]
    assert [report.number for report in reports] == [0, 1, 2, 3, 4]


def test_resync_tells_everything_at_once():
    reporter = Reporter()
    reporter.collect({2: UP, 3: DOWN}, REVISION, 1000.0)
    reporter.resync()
    report = reporter.collect({2: UP, 3: DOWN}, REVISION, 1000.5)
    assert (report.complete, report.members, report.number) == (True, (2, 3), 1)


def test_a_lease_quickens_until_it_ends():
    reporter = Reporter(every=30.0)
    reporter.collect({2: UP}, REVISION, 1000.0)
    reporter.quicken(2.0, 10.0, 1001.0)
    assert reporter.patience(1001.0) == 2.0
    assert reporter.collect({2: MORE}, REVISION, 1003.0).members == (2,)
    assert reporter.patience(1003.0) == 2.0
    assert reporter.collect({2: MORE}, REVISION, 1010.9) is not None
    assert reporter.interval(1011.0) == 30.0


def test_nobody_can_ask_for_a_storm():
    reporter = Reporter(every=30.0)
    reporter.collect({}, REVISION, 1000.0)
    reporter.quicken(0.0, 1e12, 1000.0)
    assert reporter.patience(1000.0) == 0.5
    assert reporter.interval(1000.0 + LONGEST_LEASE) == 30.0


def test_an_overdue_report_asks_for_no_look_after_look():
    """It waits for a socket that takes nothing; looking more often would not help."""
    assert Reporter(every=30.0).patience(1000.0) == 30.0
