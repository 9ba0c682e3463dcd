"""Load in a process of its own, told what to do by JSON lines, one object a line each way.

`Apart` is the end that asks. At the other, `answer_lines` calls `do_VERB(**values)` of an object for each line, and
writes what that gives with the asking's number, or `error`. Several may be under way at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

FILES = 20_000


class ApartError(Exception):
    """The process could not do what it was asked for."""


class Apart:
    """A module that runs in a process of its own; a context manager, which ends it."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        self._numbers = itertools.count(1)
        self._told: dict[int, dict] = {}
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def begin(self, verb: str, **values: object) -> int:
        """Ask without waiting; the number to `finish` with."""
        number = next(self._numbers)
        self.process.stdin.write(json.dumps({"id": number, "do": verb, **values}).encode() + b"\n")
        self.process.stdin.flush()
        return number

    def finish(self, number: int, patience: float = 600.0) -> dict:
        """Wait for the answer; raises ApartError."""
        deadline = time.monotonic() + patience
        while number not in self._told:
            self._hear(deadline - time.monotonic())
        told = self._told.pop(number)
        if "error" in told:
            raise ApartError(told["error"])
        return told

    def ask(self, verb: str, **values: object) -> dict:
        """Have something done, and wait until it is; raises ApartError."""
        return self.finish(self.begin(verb, **values))

    def _hear(self, seconds: float) -> None:
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, seconds))
        if not ready:
            raise ApartError("the process does not answer in time")
        if not (data := self.process.stdout.read1(1 << 20)):
            raise ApartError("the process ended")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self._told[told.pop("id")] = told


async def answer_lines(actor: object) -> None:
    """Do what the lines of standard input say until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(actor, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer(actor: object, asked: dict) -> None:
    number, verb = asked.pop("id", None), asked.pop("do")
    try:
        told = await getattr(actor, f"do_{verb}")(**asked)
    except Exception as error:  # noqa: BLE001 - whoever asked is told
        told = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps({"id": number, **told}) + "\n")
    sys.stdout.flush()


def allow_files(count: int = FILES) -> None:
    """Raise this process' limit of open files as far as it may go."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
