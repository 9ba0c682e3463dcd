"""Upstream's own discovery client (tests/interop/discovery), built where Go is at hand."""

from __future__ import annotations

from pathlib import Path

from tests import golang

SOURCES = Path(__file__).parent / "interop" / "discovery"


def build(directory: Path) -> Path:
    """Build the program into a directory and give its path; skips the test where that cannot be."""
    return golang.build(SOURCES, directory / "discovery")
