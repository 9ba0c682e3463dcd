"""Known bytes, and where to look for them; tests/nodes/test_trust_leaks.py plants some, and finds them again."""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import redis

BEGINNING = 24
"""Characters of a text that give it away even where the rest was cut off."""


def forms(secret: str) -> dict[str, bytes]:
    """How a secret text may be written: as it is, as the bytes that it stands for, and as others write these."""
    found = {
        "as it is": secret.encode(),
        "its beginning": secret[:BEGINNING].encode(),
        "in a URL": quote(secret, safe="").encode(),
    }
    for at in range(3):
        # Within other base64, such as a task's body, whose groups of three bytes begin somewhere.
        wrapped = base64.b64encode(b"\0" * at + secret.encode() + b"\0" * (-(at + len(secret)) % 3))
        found[f"base64 of the text, {at}"] = wrapped[4 if at else 0 : -4]
    raw = raw_bytes(secret)
    if raw:
        found |= {
            "raw bytes": raw,
            "base64": base64.b64encode(raw).rstrip(b"="),
            "URL-safe base64": base64.urlsafe_b64encode(raw).rstrip(b"="),
            "hex": raw.hex().encode(),
            "upper-case hex": raw.hex().upper().encode(),
        }
    return found


def raw_bytes(secret: str) -> bytes:
    """What a text in either alphabet of base64, padded or not, stands for; nothing where it is none."""
    text = secret.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return b""


def find(haystack: bytes, secrets: Mapping[str, str]) -> list[str]:
    """Name each secret that is in there, with the form that it was found in."""
    return [
        f"{name} ({form})"
        for name, text in secrets.items()
        for form, needle in forms(text).items()
        if needle in haystack
    ]


def find_in_files(paths: Iterable[Path], secrets: Mapping[str, str]) -> list[str]:
    """The same for whole files, by their names."""
    return [f"{path.name}: {found}" for path in paths if path.is_file() for found in find(path.read_bytes(), secrets)]


def dump_redis(client: redis.Redis) -> bytes:
    """Every key and value of every type."""
    read = {
        b"string": lambda key: [client.get(key)],
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"hash": lambda key: [part for pair in client.hgetall(key).items() for part in pair],
        b"stream": lambda key: [part for _, pairs in client.xrange(key) for pair in pairs.items() for part in pair],
    }
    parts = []
    for key in client.scan_iter():
        # It may be gone by now.
        kind = client.type(key)
        parts += [key, *((part or b"") for part in (read[kind](key) if kind != b"none" else []))]
    return b"\n".join(parts)


class Monitor:
    """Everything that anybody tells a Redis server, channels and all, from the moment that it is made."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.sendall(b"MONITOR\r\n")
        self._file = self._socket.makefile("rb")
        assert self._file.readline() == b"+OK\r\n"
        self._lines: list[bytes] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._file:
                self._lines.append(line)

    def stop(self) -> bytes:
        """All of it, as it was said: the server shows what cannot be printed by escapes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._file.close()
        self._socket.close()
        return b"\n".join(codecs.escape_decode(line)[0] for line in self._lines)  # type: ignore[attr-defined,misc]


class Processes:
    """The command lines of all processes of this machine, looked at again and again while it is entered."""

    PAUSE = 0.005

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stopped = threading.Event()

    def look(self) -> None:
        """Once."""
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    self.seen.add(Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" "))

    @contextlib.contextmanager
    def watched(self) -> Iterator[Processes]:
        """Look on until the block ends."""
        thread = threading.Thread(target=self._look_on)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join()

    def _look_on(self) -> None:
        while not self._stopped.wait(self.PAUSE):
            self.look()

    @property
    def lines(self) -> bytes:
        """All that were seen."""
        return b"\n".join(self.seen)
