"""The discovery service in a process of its own, as `manage.py discovery` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from tests.consoles import place_rows

ROOT = Path(__file__).resolve().parents[1]


def environment(directory: Path) -> dict[str, str]:
    """The settings of a console that serves any cluster, with its database made; Redis is this test run's."""
    base = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environ = base | {
        "KUBESPAN_DATA": str(directory),
        "KUBESPAN_SECRET_KEY": "only for checks, and long enough: 0123456789 abcdefghijklmnopqrstuvwxyz",
        "KUBESPAN_KEYS": "check:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "REDIS_URL": settings.REDIS_URL,
        "DISCOVERY_SERVE": "all",
    }
    place_rows(directory)
    return environ


@contextmanager
def running(environ: Mapping[str, str], port: int, metrics: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run it on a port of loopback, from when it listens on; it is killed unless it ended before."""
    command = ["manage.py", "discovery", "--listen", f"127.0.0.1:{port}", "--metrics", metrics]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"discovery: 127.0.0.1:{port}\n"
            yield process
        finally:
            process.kill()
