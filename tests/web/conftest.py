"""Processes of their own for what must be seen from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRODUCTION = {
    "KUBESPAN_SECRET_KEY": "only for checks, and long enough: 0123456789 abcdefghijklmnopqrstuvwxyz",
    "KUBESPAN_KEYS": "check:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "KUBESPAN_URL": "https://console.example",
    "DATABASE_URL": "postgresql://console@127.0.0.1:1/console",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "TRUSTED_PROXIES": "10.0.0.0/8",
}


@pytest.fixture
def production():
    """A console's settings as an operator would have them; nothing answers at its addresses."""
    return dict(PRODUCTION)


@pytest.fixture
def python():
    """Run Python in the project's folder with just these variables of ours."""

    def run(*arguments, **environ):
        base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=base | environ
        )

    return run
