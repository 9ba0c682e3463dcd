"""Which agent a console hands out, and which agents it may take the place of."""

from __future__ import annotations

import re

import msgspec

ARCHIVE_PATH = "/agent/kubespan-agent.pyz"
SCRIPT_PATH = "/agent/install.sh"
RELEASE_PATH = "/agent/release.json"

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:\+([0-9a-f]{4,64}))?")


class Release(msgspec.Struct, frozen=True):
    """What was built together: an archive, and the script that installs it."""

    version: str
    """With the name of the build: `0.2.0+1a2b3c4d`."""
    sha256: str
    """Of the archive, in hex."""
    size: int
    """Bytes of the archive."""
    script_sha256: str


def parse_version(text: str) -> tuple[tuple[int, int, int], str]:
    """Read a version: its three numbers, and its build, which an agent run from its sources has not. ValueError."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a version such as 0.2.0+1a2b3c4d")
    return (int(found[1]), int(found[2]), int(found[3])), found[4] or ""


def may_follow(offered: str, present: str) -> bool:
    """Whether an agent may be offered to one that runs `present`: it is newer, or another build of the same version.

    One that was not handed out by a console has no build's name, and is upgraded the way that it was installed.
    """
    try:
        (new, new_build), (old, old_build) = parse_version(offered), parse_version(present)
    except ValueError:
        return False
    return bool(new_build and old_build) and new_build != old_build and new >= old
