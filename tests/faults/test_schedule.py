"""What the schedule of faults promises."""

from __future__ import annotations

from collections import Counter

from tests.faults.schedule import schedule

PROCESSES = ["web", "worker", "rows"]
CUTS = ["connections"] * 2


def test_so_many_kills_are_of_processes_and_what_happens_besides_is_more():
    victims = Counter(fault.victim for fault in schedule(1, PROCESSES, 20, CUTS))
    assert victims.pop("connections") == 2
    assert sorted(victims.values()) == [6, 7, 7]
    assert set(victims) == set(PROCESSES)


def test_of_twins_the_first_that_is_killed_stays_away():
    twins = [("web", "rows"), ("worker",)]
    faults = [*schedule(1, PROCESSES, 20, CUTS, twins)]
    staying = [fault.victim for fault in faults if fault.away is None]
    first = next(fault.victim for fault in faults if fault.victim in twins[0])
    assert sorted(staying) == sorted([first, "worker"])
    assert [fault.victim for fault in faults] == [fault.victim for fault in schedule(1, PROCESSES, 20, CUTS)]


def test_a_seed_says_all_of_it():
    assert [*schedule(1, PROCESSES, 20, CUTS)] == [*schedule(1, PROCESSES, 20, CUTS)]
    assert [*schedule(1, PROCESSES, 20, CUTS)] != [*schedule(2, PROCESSES, 20, CUTS)]
