"""Pings that run beside a test and afterwards say whether anything was lost."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from nodes.lab import Machine
from nodes.playground import await_true
from tests.answers import await_answer

INTERVAL = "0.1"
SECONDS = 60.0


class Pinger:
    """Pings an address from a machine ten times a second while the block runs."""

    def __init__(self, machine: Machine, address: str, directory: Path) -> None:
        self.machine = machine
        self.address = address
        self.log = directory / f"ping-{machine.name}-{address.replace(':', '_')}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # -O speaks of every packet whose answer has not come when the next one leaves.
        with self.log.open("wb") as output:
            ping = ("ping", "-n", "-O", "-i", INTERVAL, self.address)
            self.process = self.machine.start(*ping, stdout=output, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    @property
    def answered(self) -> int:
        """How many answers have come."""
        return self.log.read_text().count("bytes from")

    @property
    def lost(self) -> set[int]:
        """Sequence numbers that were never answered; a late answer, on a busy machine, is an answer.

        What left after the last one that was answered was still on its way when pinging ended.
        """
        text = self.log.read_text()
        refused = {int(number) for number in re.findall(r"icmp_seq=(\d+) .*nreachable", text)}
        late = {int(number) for number in re.findall(r"no answer yet for icmp_seq=(\d+)", text)}
        answered = {int(number) for number in re.findall(r"bytes from .*icmp_seq=(\d+)", text)}
        return (refused | {number for number in late if number < max(answered, default=0)}) - answered


@contextmanager
def no_ping_lost(pings: Iterable[tuple[Machine, str]], directory: Path) -> Iterator[list[Pinger]]:
    """Ping addresses, each from a machine, while the block runs: answers come before and after it, and none lacks."""
    pings = list(pings)
    for machine, address in pings:
        await_answer(machine, address)
    with ExitStack() as stack:
        pingers = [stack.enter_context(Pinger(machine, address, directory)) for machine, address in pings]
        await_true(lambda: all(pinger.answered >= 3 for pinger in pingers), SECONDS, "no answers before")
        yield pingers
        await_more(pingers, 10, "no answers after")
    assert {pinger.log.name: pinger.lost for pinger in pingers if pinger.lost} == {}


def await_more(pingers: list[Pinger], count: int, what: str) -> None:
    """Wait until each has had more than so many further answers."""
    before = [pinger.answered for pinger in pingers]
    await_true(
        lambda: all(pinger.answered > seen + count for pinger, seen in zip(pingers, before, strict=True)), SECONDS, what
    )
