"""Build the self-contained agent that the console hands out, from requirements/agent.lock and this tree's sources.

One archive for both architectures and every Python that it names: `kubespan` is the agent itself, `common` what is the
same everywhere and native modules that bear Python and architecture in their names, a part for each architecture the
rest. The same inputs give the same bytes: entries are sorted and bear no time, owner or mode of their own. The build's
name, a piece of the checksum over all parts, is in the agent's version, so that two builds of one version can be told
apart.

Beside it lie the install script, which names the archive's checksum, and `release.json`, which names both.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import re
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LOCK = ROOT / "requirements" / "agent.lock"

ARCHITECTURES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

ARCHIVE, SCRIPT, RELEASE = "kubespan-agent.pyz", "install.sh", "release.json"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip archive can tell."""
BUILD_DIGITS = 8

LEFT_OUT = re.compile(
    # What only developers and compilers read, scripts, and what an installation notes of itself.
    r".*\.(pyi|c|h|pxd|pyx)|.*/py\.typed|bin/.*|.*\.dist-info/(RECORD|INSTALLER|REQUESTED|WHEEL|METADATA|.*\.txt)"
    # cryptography needs of cffi the native module alone, which makes no bindings any more.
    r"|cffi/.*|cffi-.*|pycparser.*"
    # PyYAML does without libyaml: the agent's documents have ten lines.
    r"|_yaml/.*|yaml/_yaml\..*"
    # The agent has one WebSocket, by asyncio.
    r"|websockets/(legacy|sync|trio)/.*|urllib3/contrib/emscripten/.*"
)
LICENCES = re.compile(r".*\.dist-info/(licenses/.*|LICEN[CS]E.*|COPYING.*|NOTICE.*)")

Files = Mapping[str, bytes]


def install(uv: str, directory: Path, architecture: str, python: str) -> Files:
    """What the lock file names, for one architecture and Python; every file is checked by its hash."""
    target = [
        "--target",
        directory,
        "--python-platform",
        f"{architecture}-unknown-linux-gnu",
        "--python-version",
        python,
    ]
    checked = ["--requirements", LOCK, "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([uv, "pip", "install", "--quiet", *target, *checked], check=True)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    found = {path.relative_to(directory).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in found.items() if is_needed(name)}


def is_needed(name: str) -> bool:
    """Whether the agent needs a file of an installation, or its licence wants it to stay."""
    return bool(LICENCES.fullmatch(name)) or not LEFT_OUT.fullmatch(name)


def divide(installed: Mapping[tuple[str, str], Files]) -> dict[str, dict[str, bytes]]:
    """Put what is the same in all of them into `common`, and what differs by architecture under its name."""
    parts: dict[str, dict[str, bytes]] = {"common": {}, **{one: {} for one in ARCHITECTURES}}
    for name in sorted({name for files in installed.values() for name in files}):
        by_place = {place: files[name] for place, files in installed.items() if name in files}
        if len(set(by_place.values())) == 1:
            parts["common"][name] = next(iter(by_place.values()))
            continue
        for architecture in ARCHITECTURES:
            contents = {content for (one, _), content in by_place.items() if one == architecture}
            if len(contents) != 1:
                raise SystemExit(f"{name} differs from Python to Python and does not say so in its name")
            parts[architecture][name] = contents.pop()
    return parts


def read_sources(build: str = "") -> dict[str, bytes]:
    """The agent's own modules, with the build's name in the version."""
    paths = (path for path in (ROOT / "kubespan").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in sorted(paths)}
    if build:
        first = files["kubespan/__init__.py"]
        files["kubespan/__init__.py"] = re.sub(rb'(?m)^(__version__ = "[^"]+)"', rb'\1+%s"' % build.encode(), first)
    return files


def read_version(sources: Files) -> str:
    """The version that the sources state."""
    found = re.search(rb'(?m)^__version__ = "([^"]+)"', sources["kubespan/__init__.py"])
    if found is None:
        raise SystemExit("kubespan/__init__.py states no version")
    return found[1].decode()


def checksum(parts: Mapping[str, bytes]) -> str:
    """Over the names and contents of all parts."""
    lines = (f"{name} {hashlib.sha256(parts[name]).hexdigest()}\n" for name in sorted(parts))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pack(files: Files) -> bytes:
    """One part as a compressed tar archive."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def read_packages(uv: str, cache: Path) -> dict[str, bytes]:
    """The compressed parts of what the lock file names; made once for each lock file and each way of making them."""
    key = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    kept = cache / key
    names = ("common", *ARCHITECTURES)
    if not kept.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            places = [(one, python) for one in ARCHITECTURES for python in PYTHONS]
            parts = divide({place: install(uv, Path(scratch, *place), *place) for place in places})
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
        for name in names:
            (made / name).write_bytes(pack(parts[name]))
        made.rename(kept)
    return {name: (kept / name).read_bytes() for name in names}


def archive(parts: Mapping[str, bytes], start: bytes) -> bytes:
    """The archive that Python runs."""
    made = io.BytesIO()
    made.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(made, "a") as zipped:
        for name, content in [("__main__.py", start), *((f"{part}.tar.xz", parts[part]) for part in sorted(parts))]:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, wherever this runs
            # Stored: the parts are compressed, and deflate differs from one zlib to another.
            zipped.writestr(entry, content, zipfile.ZIP_STORED)
    return made.getvalue()


def build(uv: str, cache: Path, to: Path) -> None:
    """Build all three files."""
    start = (HERE / "bootstrap.py").read_bytes()
    parts = read_packages(uv, cache)
    stamped = read_sources(checksum({**parts, "start": start, "kubespan": pack(read_sources())})[:BUILD_DIGITS])
    content = archive({**parts, "kubespan": pack(stamped)}, start)
    release = {
        "version": read_version(stamped),
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    script = (HERE / "install.sh").read_text()
    for key, value in release.items():
        script = script.replace(f"@{key}@", str(value))
    release["script_sha256"] = hashlib.sha256(script.encode()).hexdigest()
    to.mkdir(parents=True, exist_ok=True)
    # The release last, for it says that the others are whole.
    (to / RELEASE).unlink(missing_ok=True)
    (to / ARCHIVE).write_bytes(content)
    (to / SCRIPT).write_text(script)
    (to / RELEASE).write_text(json.dumps(release, indent=2) + "\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="the program that installs")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIRECTORY", help="where packages are kept")
    parser.add_argument("--to", type=Path, required=True, metavar="DIRECTORY")
    options = parser.parse_args()
    build(options.uv, options.cache, options.to)


if __name__ == "__main__":
    main()
