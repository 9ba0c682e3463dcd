"""What `make agent` lays out, with content of the test's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from kubespan.core.release import ARCHIVE_PATH, RELEASE_PATH, SCRIPT_PATH, Release

SCRIPT = b'IFS= read -r token\necho "ran with $* and $token"\n'
ARCHIVE = b"an agent\0" * 1000


def hand_out(
    directory: Path, script: bytes = SCRIPT, archive: bytes = ARCHIVE, version: str = "0.2.0+1a2b3c4d"
) -> Release:
    """Lay out the three files."""
    release = Release(
        version=version,
        sha256=hashlib.sha256(archive).hexdigest(),
        size=len(archive),
        script_sha256=hashlib.sha256(script).hexdigest(),
    )
    for path, content in ((ARCHIVE_PATH, archive), (SCRIPT_PATH, script), (RELEASE_PATH, msgspec.json.encode(release))):
        (directory / Path(path).name).write_bytes(content)
    return release
