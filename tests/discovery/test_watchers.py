"""Who hears what, and when: the broadcast of one cluster, without a service around it."""

from __future__ import annotations

import asyncio
import math

import pytest

from kubespan.discovery import watchers
from kubespan.discovery.proto.cluster_pb2 import WatchResponse
from kubespan.discovery.state import Event, SealedAffiliate
from kubespan.discovery.watchers import GATHER_MOST_SECONDS, Broadcast, next_message

PATIENCE = 60.0
NEVER = 3600.0
"""Seconds that no test waits."""


def affiliate(name):
    return SealedAffiliate(name, 60.0, b"d")


def change(name):
    return Event(name, affiliate(name))


async def hear(watcher):
    """Whom the next message speaks of."""
    async with asyncio.timeout(PATIENCE):
        return [one.id for one in WatchResponse.FromString(await watcher.take()).affiliates]


async def join(broadcast, *names):
    """Somebody who has their snapshot."""
    watcher = broadcast.join(lambda: map(affiliate, names))
    assert await hear(watcher) == list(names)
    return watcher


async def test_a_change_goes_out_at_once_and_what_follows_is_gathered():
    broadcast = Broadcast(gather=NEVER)
    watcher = await join(broadcast)
    broadcast.tell([change("one")])
    assert await hear(watcher) == ["one"]
    broadcast.tell([change("two")])
    await asyncio.sleep(0)
    broadcast.tell([change("three")])
    await asyncio.sleep(0)
    assert not watcher.behind
    broadcast.flush()
    assert await hear(watcher) == ["two", "three"]


async def test_what_one_turn_of_the_loop_brings_is_one_message():
    broadcast = Broadcast()
    watcher = await join(broadcast)
    broadcast.tell([change("one")])
    broadcast.tell([change("two")])
    assert await hear(watcher) == ["one", "two"]


async def test_changes_at_rest_wait_no_longer_than_they_must():
    broadcast = Broadcast(gather=0.01)
    watcher = await join(broadcast)
    for name in ("one", "two", "three"):
        broadcast.tell([change(name)])
        assert await hear(watcher) == [name]


async def test_who_joins_wakes_nobody_and_lacks_nothing():
    broadcast = Broadcast(gather=NEVER)
    before = await join(broadcast)
    broadcast.tell([change("one")])
    await hear(before)
    broadcast.tell([change("two")])
    await asyncio.sleep(0)
    after = await join(broadcast, "one", "two")
    await asyncio.sleep(0)
    assert not before.behind
    broadcast.flush()
    assert await hear(before) == await hear(after) == ["two"]


async def test_those_who_come_while_nothing_changes_are_told_the_same_bytes():
    asked = []

    def snapshot():
        asked.append(True)
        return [affiliate("one")]

    broadcast = Broadcast(gather=NEVER)
    for _ in range(3):
        broadcast.join(snapshot)
    assert len(asked) == 1
    broadcast.tell([change("one")])
    broadcast.join(snapshot)
    assert len(asked) == 2


async def test_what_changed_while_nobody_watched_is_in_the_snapshot():
    broadcast = Broadcast()
    broadcast.leave(await join(broadcast))
    broadcast.tell([change("one")])
    await join(broadcast, "one")


async def test_who_takes_nothing_holds_nobody_up_for_long(monkeypatch):
    monkeypatch.setattr(watchers, "GATHER_MOST_SECONDS", 0.05)
    broadcast = Broadcast(gather=0.01)
    stuck, live = await join(broadcast), await join(broadcast)
    for name in ("one", "two", "three"):
        broadcast.tell([change(name)])
        assert await hear(live) == [name]
    assert stuck.behind
    assert stuck not in broadcast._prompt


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        pytest.param([], 100.05, id="nobody: the shortest"),
        pytest.param([100.001] * 10, 100.05, id="sent in no time"),
        pytest.param([100.1] * 10, 100.3, id="a rest of three times as long as it took"),
        pytest.param([100.1] * 9 + [100.2], 100.6, id="the slowest of ten counts"),
        pytest.param([100.1] * 90 + [100.1, *[math.inf] * 9], 100.3, id="fewer than a tenth do not"),
        pytest.param([math.inf] * 10, 100.0 + GATHER_MOST_SECONDS, id="nobody has it yet"),
        pytest.param([102.0] * 10, 100.0 + GATHER_MOST_SECONDS, id="a very busy process"),
    ],
)
def test_when_the_next_message_goes_out(taken, expected):
    assert next_message(100.0, taken, 0.05) == pytest.approx(expected)
