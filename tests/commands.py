"""A console's commands without the second of a processor that each takes to load Django.

`python -m tests.commands` has loaded it, and becomes the command that a line asks for: a process of its own from there
on, forked before anything was opened. Only what a command reads at its start is older than the call: the environment
and the key file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from nodes import embedded
from nodes.lab import LabError

ROOT = Path(__file__).resolve().parents[1]


class Commands:
    """Commands of one console, in an environment that stays."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "tests.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=dict(env),
            start_new_session=True,
        )

    def execute(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one to its end; raises LabError where what runs them is no more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(arguments) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BaseException:
            os.killpg(self._process.pid, signal.SIGKILL)  # or its answer would be taken for the next call's
            raise
        if not answer:
            raise LabError(f"what runs the console's commands ended with status {self._process.wait()}")
        return subprocess.CompletedProcess(arguments, **json.loads(answer))

    def close(self) -> None:
        """End the process that waits for calls."""
        self._process.communicate()


def main() -> None:
    """Load what every command needs, and then become what each line says."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "kubespan_web.settings"
    embedded.prepare(["manage.py", "list_nodes"], os.environ)
    _load()
    for line in sys.stdin:
        print(json.dumps(_execute(json.loads(line))), flush=True)


def _load() -> None:
    import django  # noqa: PLC0415 - once the environment is complete
    from django.core.management import get_commands, load_command_class  # noqa: PLC0415

    django.setup()
    for name in [name for name, app in get_commands().items() if app == "nodes"]:
        load_command_class("nodes", name)


def _execute(arguments: list[str]) -> dict[str, int | str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            _become(arguments, out, err)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return {"returncode": os.waitstatus_to_exitcode(status), "stdout": out.read(), "stderr": err.read()}


def _become(arguments: list[str], out: IO[str], err: IO[str]) -> None:
    """Be that command, as `manage.py` would be, and end; what it left for the interpreter's own end is not done."""
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    status = 1
    try:
        execute_from_command_line(["manage.py", *arguments])
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - what the interpreter does with what nobody caught
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
