"""The start of the self-contained agent: this file is `__main__.py` of the archive that the console hands out.

Native modules cannot be loaded out of an archive, so what this machine needs is unpacked once, below the home of the
agent, into a directory named after the archive's SHA-256 and this Python. It appears there whole or not at all, and is
looked over at every start: everything in it is root's alone, and each file is what was unpacked. Whatever else is found
is put aside, and unpacked anew. Any Python reads this far, so that one that is too old is told so in a sentence.
"""

import sys

PROGRAMS = ("kubespan-agent", "kubespanctl")
OLDEST, NEWEST = (3, 11), (3, 14)

if not OLDEST <= sys.version_info[:2] <= NEWEST:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    sys.exit(f"kubespan-agent: this is Python {here}; 3.{OLDEST[1]} to 3.{NEWEST[1]} is needed")

import fcntl
import hashlib
import io
import json
import os
import py_compile
import re
import shutil
import stat
import sysconfig
import tarfile
import zipfile
from pathlib import Path

HOME = Path(os.environ.get("KUBESPAN_AGENT_HOME", "/opt/kubespan-agent"))
INDEX = ".index"
"""Every file that was unpacked, with its SHA-256."""
ARCHITECTURES = ("x86_64", "aarch64")
READ = 1 << 20


class NotSound(Exception):
    """What was unpacked earlier is not there, or not as it was left."""


def main() -> None:
    archive = Path(sys.argv[0]).resolve()
    place = unpacked(archive)
    # The archive's own place in the path goes: all that is loaded from now on comes from what was looked over.
    sys.path[0] = str(place)
    os.environ["KUBESPAN_AGENT_ARCHIVE"] = str(archive)
    program = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in PROGRAMS else PROGRAMS[0]
    sys.argv[0] = program
    sys.dont_write_bytecode = True
    if program == "kubespanctl":
        from kubespan.ctl.__main__ import main as run  # noqa: PLC0415 - there only by now
    else:
        from kubespan.agent.__main__ import main as run  # noqa: PLC0415
    run()


def unpacked(archive: Path) -> Path:
    """Where the archive's modules are, unpacked by now."""
    place = HOME / "unpacked" / (checksum(archive) + "-" + sysconfig.get_config_var("SOABI"))
    try:
        look_over(place)
    except NotSound as reason:
        unpack(archive, place, reason)
    return place


def checksum(archive: Path) -> str:
    """SHA-256 of an archive; an installed one bears it as its name, and was compared when it was put there."""
    if archive.parent == HOME / "agents" and re.fullmatch("[0-9a-f]{64}[.]pyz", archive.name):
        return archive.stem
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def look_over(place: Path) -> None:
    """Raise NotSound unless all in it is root's (or ours) alone and has the content that was unpacked."""
    check_way()
    check_owner(place)
    try:
        index = json.loads((place / INDEX).read_bytes())
    except (OSError, ValueError):
        raise NotSound(str(place / INDEX) + " cannot be read") from None
    found = 0
    for directory, names, files in os.walk(place):
        for name in names:
            check_owner(Path(directory, name))
        for name in files:
            path = Path(directory, name)
            check_owner(path)
            if name == INDEX:
                continue
            found += 1
            if index.get(str(path.relative_to(place))) != hashlib.sha256(path.read_bytes()).hexdigest():
                raise NotSound(f"{path} is not what was unpacked")
    if found != len(index):
        raise NotSound("files are missing in " + str(place))


def check_way() -> None:
    """Raise NotSound where somebody else could put another directory in our place."""
    for directory in (HOME, HOME / "unpacked"):
        check_owner(directory)
    for directory in HOME.resolve().parents:
        status = directory.stat()
        # In one that is sticky, such as /tmp, nobody renames what is not theirs.
        if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            raise NotSound(f"others may change {directory}")


def is_sound(place: Path) -> bool:
    try:
        look_over(place)
    except NotSound:
        return False
    return True


def check_owner(path: Path) -> None:
    try:
        status = os.lstat(path)
    except OSError:
        raise NotSound(str(path) + " is missing") from None
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022 or stat.S_ISLNK(status.st_mode):
        raise NotSound("others may change " + str(path))


def unpack(archive: Path, place: Path, reason: NotSound) -> None:
    """Unpack what this machine needs, and let it appear as `place` in one step; several at once wait for each other."""
    os.umask(0o022)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = (place.parent / ".lock").open("w")
    except OSError as error:
        sys.exit(f"kubespan-agent: cannot unpack into {place.parent} ({error.strerror}): run this as root")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            check_way()
        except NotSound as problem:
            sys.exit(f"kubespan-agent: {problem}, so nothing is run from there")
        for old in place.parent.glob(".new-*"):
            shutil.rmtree(old)  # of a start that was killed
        if is_sound(place):
            return  # somebody else was faster
        made = place.parent / f".new-{os.getpid()}"
        fill(archive, made)
        if os.path.lexists(place):
            sys.stderr.write(f"kubespan-agent: unpacking anew: {reason}\n")
            # A running agent may still load from it: it goes only once the new one is in its place.
            aside = place.parent / f".new-old-{os.getpid()}"
            place.rename(aside)
            made.rename(place)
            shutil.rmtree(aside) if not aside.is_symlink() else aside.unlink()
        else:
            made.rename(place)


def fill(archive: Path, directory: Path) -> None:
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        sys.exit(f"kubespan-agent: made for {' and '.join(ARCHITECTURES)}; this machine is {machine}")
    directory.mkdir()
    index = {}
    with zipfile.ZipFile(archive) as parts:
        for part in ("kubespan", "common", machine):
            with tarfile.open(fileobj=io.BytesIO(parts.read(part + ".tar.xz")), mode="r:xz") as files:
                for member in files:
                    put(directory, member.name, files.extractfile(member).read(), index)
    (directory / INDEX).write_text(json.dumps(index))


def put(directory: Path, name: str, content: bytes, index: dict) -> None:
    """Write one file, and a module's byte code with it."""
    if ".cpython-" in name and sysconfig.get_config_var("SOABI") not in name:
        return  # for another Python or architecture
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    index[name] = hashlib.sha256(content).hexdigest()
    if name.endswith(".py"):
        # Not compared with the source at each import: both are looked over at each start.
        code = py_compile.compile(
            path, dfile=name, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
        index[os.path.relpath(code, directory)] = hashlib.sha256(Path(code).read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
