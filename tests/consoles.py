"""Consoles for tests: each begins with a copy of tables that were made once, which spares its start some seconds."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nodes.playground import RunningConsole

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".make" / "rows"
ROWS = "console.sqlite3"


class PreparedConsole(RunningConsole):
    """As `manage.py run` starts it, in a directory where nothing but empty tables is."""

    def start(self) -> None:
        """Start it; again, where it has run here before."""
        place_rows(self.directory)
        super().start()


def place_rows(directory: Path) -> None:
    """Put a migrated database without a row of anybody's there, unless there is one."""
    directory.mkdir(mode=0o700, exist_ok=True)
    if not (directory / ROWS).exists():
        shutil.copyfile(_migrated(), directory / ROWS)


def _migrated() -> Path:
    """Such a database, made anew whenever a migration or a library is another one."""
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
