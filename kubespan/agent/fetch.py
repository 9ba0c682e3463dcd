"""Fetching an agent from the console, and seeing that it starts on this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from kubespan.agent.home import PROGRAMS, Home
from kubespan.agent.sockets import MARK, explain, may_mark
from kubespan.agent.store import Enrolment
from kubespan.agent.trust import ConsoleUrl, Way, parse_certificate, tls_context
from kubespan.core.messages import Upgrade
from kubespan.core.release import ARCHIVE_PATH, RELEASE_PATH, Release

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""Without a single byte of an answer."""
PROOF_SECONDS = 120.0
"""For a new agent to unpack itself and to say its version."""
MOST_BYTES = 256 * 1024 * 1024
CHUNK = 1 << 16
_OK = 200


class UpgradeError(Exception):
    """The new agent is not in place, and the old one goes on; the sentence says why."""


def way_to(enrolment: Enrolment) -> Way:
    """Where the console is and how it is known. Raises TrustError, ValueError."""
    url = ConsoleUrl.parse(enrolment.url, insecure_http=enrolment.insecure_http)
    return Way(url, tls_context(url, parse_certificate(enrolment.certificate)))


def fetch(home: Home, way: Way, offered: Upgrade) -> None:
    """Get an archive into the home, unless it is there, and see that it starts. Raises UpgradeError."""
    target = home.archive(offered.sha256)
    if not (len(offered.sha256) == 64 and target.parent == home.agents and offered.size <= MOST_BYTES):  # noqa: PLR2004
        raise UpgradeError("what is offered has no checksum, or is too large")
    partial = home.agents / f".fetched.{os.getpid()}"
    try:
        if not target.exists():
            _download(way, offered, partial)
            partial.rename(target)
        prove(target, offered.version)
    except OSError as error:
        raise UpgradeError(f"it cannot be kept in {home.agents}: {error.strerror}") from None
    except UpgradeError:
        if target.stem != home.present():
            target.unlink(missing_ok=True)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _download(way: Way, offered: Upgrade, to: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with to.open("xb") as file:
        os.fchmod(file.fileno(), 0o644)  # whatever the service's umask: everybody may ask for help
        for chunk in _read(way, ARCHIVE_PATH):
            size += len(chunk)
            if size > offered.size:
                break
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if size != offered.size:
        raise UpgradeError(f"what the console sent has not the {offered.size} bytes that it spoke of")
    if digest.hexdigest() != offered.sha256:
        raise UpgradeError("what the console sent has not the checksum that it spoke of")


def prove(archive: Path, version: str) -> None:
    """Have an archive unpack itself, load, and say its version. Raises UpgradeError."""
    command = [sys.executable, "-I", str(archive), PROGRAMS[0], "version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROOF_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UpgradeError(f"it did not say its version within {PROOF_SECONDS:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UpgradeError(f"it does not start here: {lines[-1]}")
    if done.stdout.strip() != version:
        raise UpgradeError(f"it says that it is {done.stdout.strip()[:64]}, not {version}")


def ask_release(way: Way) -> Release:
    """Ask the console which agent it hands out. Raises UpgradeError."""
    try:
        return msgspec.json.decode(b"".join(_read(way, RELEASE_PATH)), type=Release)
    except msgspec.DecodeError:
        raise UpgradeError("the console does not say which agent it hands out") from None


def _read(way: Way, path: str) -> Iterator[bytes]:
    import urllib3  # noqa: PLC0415 - one MB that an agent that runs has no use for

    options = [*urllib3.connection.HTTPConnection.default_socket_options, *([MARK] if may_mark() else [])]
    tls: dict[str, Any] = {"ssl_context": way.tls} if way.tls is not None else {}
    if way.tls is not None and not way.tls.check_hostname:
        tls["assert_hostname"] = False  # the context trusts one certificate, whatever names stand in it
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    with urllib3.PoolManager(socket_options=options, **tls) as pool:
        try:
            answer = pool.request(
                "GET", way.url.at(path), timeout=timeout, retries=False, redirect=False, preload_content=False
            )
            if answer.status != _OK:
                raise UpgradeError(f"the console hands out no agent (HTTP status {answer.status})")
            yield from answer.stream(CHUNK)
        except urllib3.exceptions.HTTPError as error:
            reason = explain(error) if isinstance(error, OSError) else str(error).rpartition(": ")[2]
            raise UpgradeError(f"it cannot be fetched: {reason}") from None
