"""Upstream's own discovery client (tests/interop/discovery), built where Go is at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "interop" / "discovery"
BUILD_SECONDS = 600


def find_go() -> str | None:
    """The compiler, if there is one."""
    return shutil.which("go") or shutil.which("/usr/local/go/bin/go")


def build(directory: Path) -> Path:
    """Build the program into a directory and give its path; skips the test where that cannot be."""
    go = find_go()
    if go is None:
        pytest.skip("no Go on this machine: upstream's client cannot be built")
    program = directory / "discovery"
    built = subprocess.run(
        [go, "build", "-trimpath", "-o", program, "."],
        cwd=SOURCES,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    if "dial tcp" in built.stderr or "module lookup disabled" in built.stderr:
        pytest.skip(f"Go's modules cannot be had here: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    return program
