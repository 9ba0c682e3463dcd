"""Programs of Go that tests run: built where Go and the modules are at hand, skipped aloud where not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD_SECONDS = 900
ABSENT = ("dial tcp", "module lookup disabled", "go.mod requires go >=")
"""What Go says where a module, or a Go as new as it, cannot be had."""


def build(sources: Path, program: Path) -> Path:
    """Build a program and give its path; skips the test where that cannot be."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        pytest.skip("no Go on this machine: upstream's code cannot be built")
    built = subprocess.run(
        [go, "build", "-trimpath", "-o", program, "."],
        cwd=sources,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    if any(word in built.stderr for word in ABSENT):
        pytest.skip(f"it cannot be built here: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    return program
