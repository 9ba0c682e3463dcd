"""Agents in the form that a console hands out: small ones of a few lines, and real ones made to fail."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load_script(name: str) -> ModuleType:
    """One of scripts/agent as a module."""
    spec = importlib.util.spec_from_file_location(f"agent_{name}", ROOT / "scripts" / "agent" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_script("build")
BOOTSTRAP = (ROOT / "scripts" / "agent" / "bootstrap.py").read_bytes()


def make_archive(files: Mapping[str, bytes], **parts: Mapping[str, bytes]) -> bytes:
    """An archive whose `kubespan` part has these files."""
    empty: Mapping[str, bytes] = {}
    names = ("common", *build.ARCHITECTURES)
    return build.archive(
        {"kubespan": build.pack(files), **{name: build.pack(parts.get(name, empty)) for name in names}}, BOOTSTRAP
    )


def small_archive(program: str, **parts: Mapping[str, bytes]) -> bytes:
    """An agent whose whole program is this; `main` is called."""
    return make_archive(
        {
            "kubespan/__init__.py": b"",
            "kubespan/agent/__init__.py": b"",
            "kubespan/agent/__main__.py": program.encode(),
            "kubespan/ctl/__init__.py": b"",
            "kubespan/ctl/__main__.py": b"def main():\n    print('ctl')\n",
        },
        **parts,
    )


def alter(archive: bytes, version: str, change: Callable[[dict[str, bytes]], None] = lambda _: None) -> bytes:
    """A real agent with another version, and whatever else is done to its modules."""
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
        parts = {name.removesuffix(".tar.xz"): zipped.read(name) for name in zipped.namelist() if ".tar" in name}
        start = zipped.read("__main__.py")
    with tarfile.open(fileobj=io.BytesIO(parts["kubespan"]), mode="r:xz") as tar:
        files = {member.name: _content(tar, member) for member in tar}
    first = files["kubespan/__init__.py"]
    files["kubespan/__init__.py"] = re.sub(rb'(?m)^__version__ = ".*"', b'__version__ = "%s"' % version.encode(), first)
    change(files)
    return bytes(build.archive({**parts, "kubespan": build.pack(files)}, start))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    assert opened is not None
    return opened.read()


def sha256(content: bytes) -> str:
    """Its checksum in hex."""
    return hashlib.sha256(content).hexdigest()
