"""A time limit for each step of a task."""

from __future__ import annotations

import asyncio

import pytest

from kubespan.discovery.patience import Patience

PATIENCE = 60.0
NEVER = 3600.0


async def work(seconds, steps, begun=None):
    """Take steps, each a coroutine; whether all were taken, and those in time."""
    taken = 0
    with Patience(seconds) as patience:
        for step in steps:
            patience.begin()
            if begun is not None:
                begun.set()
            await step
            patience.end()
            taken += 1
        return True, taken
    return False, taken


async def test_a_step_that_never_ends_ends_the_block_and_nothing_else():
    async with asyncio.timeout(PATIENCE):
        ended = await work(1.0, [asyncio.sleep(0), asyncio.sleep(NEVER)])
    assert ended == (False, 1)
    assert asyncio.current_task().cancelling() == 0


async def test_many_steps_may_take_longer_together():
    assert await work(2.0, [asyncio.sleep(0.8) for _ in range(3)]) == (True, 3)


async def test_between_steps_there_is_no_limit():
    with Patience(0.01) as patience:
        for _ in range(3):
            patience.begin()
            patience.end()
            await asyncio.sleep(0.03)


async def test_who_is_cancelled_by_others_is_cancelled():
    begun = asyncio.Event()
    task = asyncio.create_task(work(NEVER, [asyncio.sleep(NEVER)], begun))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_faults_pass():
    with pytest.raises(ZeroDivisionError), Patience(NEVER):
        raise ZeroDivisionError
