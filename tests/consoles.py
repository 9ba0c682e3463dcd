"""Consoles for tests: each begins with a copy of tables that were made once, which spares its start some seconds.

So does what runs their commands (tests/commands.py), of which tests ask some over and over.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nodes import embedded
from nodes.playground import RunningConsole
from tests.commands import Commands

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".make" / "rows"
ROWS = "console.sqlite3"


class PreparedConsole(RunningConsole):
    """As `manage.py run` starts it, in a directory where nothing but empty tables is; its commands answer at once."""

    _commands: Commands | None = None
    _of: object = None
    """What `_commands` began with."""

    def start(self) -> None:
        """Start it; again, where it has run here before."""
        place_rows(self.directory)
        super().start()

    def execute(self, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command; one with variables of its own, as anybody would start it."""
        if env:
            return super().execute(*arguments, env=env)
        began = (dict(self.env), embedded.read_keys(self.directory))
        if self._commands is None or self._of != began:
            self._forget()
            self._commands, self._of = Commands(self.env), began
        return self._commands.execute(*arguments)

    def kill(self) -> None:
        """Kill every process of it at once, as a power cut would."""
        self._forget()
        super().kill()

    def stop(self) -> None:
        """End it politely."""
        self._forget()
        super().stop()

    def _forget(self) -> None:
        if self._commands is not None:
            self._commands.close()
        self._commands = None


def place_rows(directory: Path) -> None:
    """Put a migrated database without a row of anybody's there, unless there is one."""
    directory.mkdir(mode=0o700, exist_ok=True)
    if not (directory / ROWS).exists():
        shutil.copyfile(migrated(), directory / ROWS)


def migrated() -> Path:
    """Such a database to copy, made anew whenever a migration or a library is another one."""
    sources = [*sorted(ROOT.glob("nodes/**/migrations/*.py")), ROOT / "requirements" / "dev.lock"]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
    kept = KEPT / f"{digest[:16]}.sqlite3"
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=KEPT) as making:
                _migrate(Path(making))
                (Path(making) / ROWS).rename(kept)
    return kept


def _migrate(directory: Path) -> None:
    environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {
        "KUBESPAN_DATA": str(directory),
        "KUBESPAN_SECRET_KEY": "for making tables, and long enough: 0123456789 abcdefghijklmnopqrstuvwxyz",
        "KUBESPAN_KEYS": "tables:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "REDIS_URL": "redis://127.0.0.1:1/0",  # nobody asks it
    }
    subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=environ, check=True)
