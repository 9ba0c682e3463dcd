"""A ping that runs beside a test and afterwards says whether anything was lost."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from nodes.lab import Machine

INTERVAL = "0.1"


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
        """Sequence numbers that were never answered; a late answer, on a busy machine, is an answer."""
        text = self.log.read_text()
        missed = re.findall(r"no answer yet for icmp_seq=(\d+)|icmp_seq=(\d+) .*nreachable", text)
        answered = re.findall(r"bytes from .*icmp_seq=(\d+)", text)
        return {int(late or refused) for late, refused in missed} - {int(number) for number in answered}
