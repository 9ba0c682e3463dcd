"""Those that wait at the gate are let in together, and each for itself."""

import asyncio
import threading

import pytest
from django.db import OperationalError

from nodes.agents import gate
from tests.players import PATIENCE

pytestmark = pytest.mark.django_db


class Sessions:
    """In place of the database's: what it is asked waits until the test lets it go on."""

    def __init__(self, monkeypatch):
        self.asked = []
        self.go_on = threading.Semaphore(0)
        monkeypatch.setattr(gate.sessions, "open_sessions", self.open)

    def open(self, greetings, _now):
        self.asked.append(list(greetings))
        assert self.go_on.acquire(timeout=PATIENCE)
        if "fault" in greetings:
            raise ZeroDivisionError
        if "away" in greetings:
            raise OperationalError("away")
        return [ValueError(one) if one == "bad" else f"session of {one}" for one in greetings]


@pytest.fixture
def sessions(monkeypatch):
    return Sessions(monkeypatch)


async def until(true):
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0)


async def test_who_comes_meanwhile_goes_together(sessions):
    entrance = gate.Gate()
    first = asyncio.create_task(entrance.enter(lambda: "first"))
    await until(lambda: sessions.asked)
    others = [asyncio.create_task(entrance.enter(lambda name=name: name)) for name in ("a", "bad", "gone", "b")]
    await asyncio.sleep(0)
    others[2].cancel()
    sessions.go_on.release(2)
    assert await first == "session of first"
    told = await asyncio.gather(*others, return_exceptions=True)
    assert told[0] == "session of a"
    assert isinstance(told[1], ValueError)
    assert isinstance(told[2], asyncio.CancelledError)
    assert told[3] == "session of b"
    assert sessions.asked == [["first"], ["a", "bad", "b"]]


async def test_not_more_than_so_many_wait_for_each_other(sessions):
    entrance = gate.Gate()
    sessions.go_on.release(2)
    tasks = [asyncio.create_task(entrance.enter(lambda n=n: n)) for n in range(gate.TOGETHER + 1)]
    await asyncio.gather(*tasks)
    assert list(map(len, sessions.asked)) == [gate.TOGETHER, 1]


async def test_without_a_database_all_hear_so_and_the_next_are_let_in(sessions):
    entrance = gate.Gate()
    sessions.go_on.release(2)
    told = await asyncio.gather(entrance.enter(lambda: "away"), entrance.enter(lambda: "a"), return_exceptions=True)
    assert list(map(type, told)) == [OperationalError, OperationalError]
    assert await entrance.enter(lambda: "later") == "session of later"


async def test_a_fault_of_ours_has_them_come_later_and_is_logged(sessions, caplog):
    entrance = gate.Gate()
    sessions.go_on.release(1)
    told = await asyncio.gather(entrance.enter(lambda: "fault"), entrance.enter(lambda: "a"), return_exceptions=True)
    assert list(map(type, told)) == [OperationalError, OperationalError]
    assert "sessions could not be opened" in caplog.text


async def test_where_the_opening_is_cancelled_nobody_waits_on(sessions):
    entrance = gate.Gate()
    first = asyncio.create_task(entrance.enter(lambda: "first"))
    await until(lambda: sessions.asked)
    second = asyncio.create_task(entrance.enter(lambda: "second"))
    await until(lambda: entrance._waiting)
    entrance._opening.cancel()
    sessions.go_on.release(2)
    told = await asyncio.gather(first, second, return_exceptions=True)
    assert list(map(type, told)) == [asyncio.CancelledError, asyncio.CancelledError]
    assert await entrance.enter(lambda: "later") == "session of later"


async def test_what_is_said_is_what_is_so_when_the_turn_comes(sessions):
    entrance = gate.Gate()
    first = asyncio.create_task(entrance.enter(lambda: "first"))
    await until(lambda: sessions.asked)
    clock = ["early"]
    second = asyncio.create_task(entrance.enter(lambda: clock[0]))
    await asyncio.sleep(0)
    clock[0] = "late"
    sessions.go_on.release(2)
    assert await second == "session of late"
    await first
