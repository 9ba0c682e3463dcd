"""Upstream's own client, built once a run where Go is at hand."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "discovery"
BUILD_SECONDS = 600


def find_go():
    return shutil.which("go") or shutil.which("/usr/local/go/bin/go")


@pytest.fixture(scope="session")
def go_client(tmp_path_factory):
    """The program of `discovery/`, as a path."""
    go = find_go()
    if go is None:
        pytest.skip("no Go on this machine: upstream's client cannot be built")
    program = tmp_path_factory.mktemp("go") / "discovery"
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
