"""Real child processes: kept alive, ended together, the foundation last."""

import asyncio
import os
import signal
import sys

import pytest

from nodes import supervisor
from nodes.supervisor import Child, next_pause, supervise

PATIENCE = 60

SAY = "import os, sys, time; open(sys.argv[1], 'a').write(f'{sys.argv[2]} {os.getpid()}\\n')"
STAY = SAY + "; time.sleep(600)"
TELL_END = (
    "import os, signal, sys, time\n"
    "def end(*_):\n open(sys.argv[1], 'a').write(f'{sys.argv[2]} ended\\n'); os._exit(0)\n"
    "signal.signal(signal.SIGTERM, end)\n"
    "open(sys.argv[1], 'a').write(f'{sys.argv[2]} {os.getpid()}\\n')\n"
    "while True: time.sleep(1)"
)


@pytest.fixture
def diary(tmp_path):
    path = tmp_path / "diary"
    path.touch()
    return path


def child(program, diary, name, **more):
    return Child(name, [sys.executable, "-c", program, str(diary), name], **more)


async def lines(diary, wanted):
    """Wait for so many lines."""
    async with asyncio.timeout(PATIENCE):
        while len(found := diary.read_text().splitlines()) < wanted:
            await asyncio.sleep(0.01)
    return found


async def test_what_dies_is_started_again(diary):
    stop = asyncio.Event()
    task = asyncio.create_task(supervise(None, [child(STAY, diary, "web")], stop))
    (first,) = await lines(diary, 1)
    os.kill(int(first.split()[1]), signal.SIGKILL)
    _, second = await lines(diary, 2)
    assert first != second
    stop.set()
    await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(second.split()[1]), 0)


async def test_the_foundation_ends_last(diary):
    stop = asyncio.Event()
    children = [child(TELL_END, diary, name) for name in ("web", "worker")]
    task = asyncio.create_task(supervise(child(TELL_END, diary, "valkey"), children, stop))
    await lines(diary, 3)
    stop.set()
    await task
    *_, one, two, last = diary.read_text().splitlines()
    assert {one, two} == {"web ended", "worker ended"}
    assert last == "valkey ended"


async def test_the_others_wait_for_the_foundation(diary):
    stop, asked = asyncio.Event(), []

    async def ready():
        asked.append(diary.read_text())
        return len(asked) > 1

    foundation = child(STAY, diary, "valkey", ready=ready)
    task = asyncio.create_task(supervise(foundation, [child(STAY, diary, "web")], stop))
    await lines(diary, 2)
    stop.set()
    await task
    assert len(asked) == 2
    assert not any("web" in seen for seen in asked)


async def test_stopping_does_not_wait_for_a_pause(diary, monkeypatch):
    stop, pausing = asyncio.Event(), asyncio.Event()

    def pause(*_):
        pausing.set()
        return 10 * PATIENCE

    monkeypatch.setattr(supervisor, "next_pause", pause)
    task = asyncio.create_task(supervise(None, [child(SAY, diary, "broken")], stop))
    async with asyncio.timeout(PATIENCE):
        await pausing.wait()
        stop.set()
        await task


@pytest.mark.parametrize(
    ("pause", "lived", "expected"),
    [
        pytest.param(0, 0.1, 0.5, id="first death"),
        pytest.param(0.5, 0.1, 1.0, id="again at once"),
        pytest.param(8.0, 0.1, 10.0, id="not beyond the longest"),
        pytest.param(10.0, 60, 0.5, id="had settled"),
    ],
)
def test_next_pause(pause, lived, expected):
    assert next_pause(pause, lived) == expected
