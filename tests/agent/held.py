"""A process that holds a state directory as an agent does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOLD = """
import signal, sys, time
from pathlib import Path
import msgspec
from kubespan.agent.publish import Condition
from kubespan.agent.store import STATUS, Store
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "late":
    open(sys.argv[3]).read()
store = Store(Path(sys.argv[1]))
with store.lock():
    print("ready", flush=True)
    if sys.argv[2] == "useless":
        sys.exit("no WireGuard here")
    if sys.argv[2] != "silent":
        condition = Condition(connected=False, console="", fault="", revision="", backend="userspace")
        store.publish(STATUS, msgspec.json.encode(condition))
    time.sleep(600)
"""


def holding(directory: Path, kind: str, *arguments: str) -> list[str]:
    """The command that holds it.

    `polite`; `stubborn` does not end when asked; `late` reads that pipe first; `useless` ends before it says how it
    stands; `silent` never says.
    """
    return [sys.executable, "-c", HOLD, str(directory), kind, *arguments]


def hold(directory: Path, kind: str) -> subprocess.Popen[str]:
    """A process that holds it already."""
    process = subprocess.Popen(holding(directory, kind), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
