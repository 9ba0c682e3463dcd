"""A process that holds a state directory as an agent does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOLD = """
import signal, sys, time
from pathlib import Path
from kubespan.agent.store import Store
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "late":
    open(sys.argv[3]).read()
with Store(Path(sys.argv[1])).lock():
    print("ready", flush=True)
    time.sleep(600)
"""


def holding(directory: Path, kind: str, *arguments: str) -> list[str]:
    """The command that holds it: `polite`, `stubborn` (does not end when asked), `late` (first reads that pipe)."""
    return [sys.executable, "-c", HOLD, str(directory), kind, *arguments]


def hold(directory: Path, kind: str) -> subprocess.Popen[str]:
    """A process that holds it already."""
    process = subprocess.Popen(holding(directory, kind), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
