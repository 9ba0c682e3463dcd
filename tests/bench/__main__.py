"""What things cost on this machine: `make -s bench`, or `make -s bench ARGS=plan` for one.

`make -s bench ARGS='join sizes=[100] rounds=2'` is a quicker look: its figures say with what they were `asked`.

Each benchmark is a module of this folder with `bench() -> dict`, and prints one JSON object on a line of its own. Both
sides of a ratio run in the same process or beside the same load, in turns, so that a noisy machine troubles both alike;
figures are medians, in milliseconds where nothing else is said, with the spread of the middle half. What cannot run
here says `skipped` and why.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys

from tests.bench.console import CannotRun

BENCHMARKS = (
    "frame", "plan", "fanout", "join", "memory", "apply", "reports", "datapath",
    "live", "matrix", "map",
    "discovery_fanout", "discovery_boot", "discovery_idle", "page",
)  # fmt: skip
"""In the order in which they run; `memory` has the agent's own figures in it."""

SECONDS = 3600.0
"""After which a benchmark is given up."""


def run_here(name: str, *asked: str) -> dict[str, object]:
    """Run one benchmark in this process, with what is asked of it: `rounds=3`."""
    values = {key: json.loads(value) for key, value in (one.split("=", 1) for one in asked)}
    try:
        found = importlib.import_module(f"tests.bench.{name}").bench(**values)
    except CannotRun as reason:
        found = {"skipped": str(reason)}
    except ModuleNotFoundError as error:
        if error.name != f"tests.bench.{name}":
            raise
        found = {"skipped": "there is no such benchmark yet"}
    return {"name": name, **({"asked": values} if values else {}), **found}


def run_apart(name: str, *asked: str) -> bool:
    """Run one benchmark in a process of its own, whose settings and memory no other has touched; whether it did."""
    command = [sys.executable, "-m", "tests.bench", "--here", name, *asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(process.pid, signal.SIGTERM)
            output, _ = process.communicate()
    lines = output.decode().splitlines()
    if process.returncode == 0 and lines:
        print(lines[-1], flush=True)
        return True
    print(json.dumps({"name": name, "failed": f"ended with status {process.returncode}"}), flush=True)
    return False


def main() -> int:
    """Run the benchmarks that are named, or all; the exit status says whether all ran."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "words", nargs="*", help=f"which of {', '.join(BENCHMARKS)} (default: all), and NAME=VALUE for it"
    )
    parser.add_argument("--here", action="store_true", help="in this process, one alone")
    options = parser.parse_args()
    names = [word for word in options.words if "=" not in word]
    asked = [word for word in options.words if "=" in word]
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if options.here:
        signal.signal(
            signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
        )  # what was started is ended and removed
        print(json.dumps(run_here(*names, *asked)), flush=True)
        return 0
    ran = [run_apart(name, *asked) for name in names or BENCHMARKS]
    return 0 if all(ran) else 1


if __name__ == "__main__":
    sys.exit(main())
