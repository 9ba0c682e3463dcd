"""Where a self-contained agent lives, and how one takes the place of another.

Below /opt/kubespan-agent::

    kubespan-agent       the launcher; /usr/local/bin/kubespan-agent and kubespanctl lead to it
    agents/SHA256.pyz    what a console handed out, whole
    current, former      which of them runs, and which one ran before
    trial                how often `current` was started, and its version, until it has reached its console
    failed               version and reason of the last one that did not; gone when the console has heard of it
    unpacked/…           the archives' modules, by checksum and Python (made by the archive itself)

All changes are one rename. The launcher reads and writes `trial`, `failed` and `current` too (see there).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = "/opt/kubespan-agent"
LINKS = Path("/usr/local/bin")
PROGRAMS = ("kubespan-agent", "kubespanctl")
LAUNCHER = Path(__file__).with_name("launcher")

EXIT_START_AGAIN = 79
"""Tells the launcher that another agent is in place; its own `start_again`."""


class HomeError(Exception):
    """The agent could not be put in place; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An agent that did not reach its console, and was put away for it."""

    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of a self-contained agent."""

    directory: Path

    @property
    def launcher(self) -> Path:
        """What starts the agent."""
        return self.directory / PROGRAMS[0]

    @property
    def agents(self) -> Path:
        """Where archives are kept."""
        return self.directory / "agents"

    def archive(self, sha256: str) -> Path:
        """Where the archive of that checksum is kept."""
        return self.agents / f"{sha256}.pyz"

    def present(self) -> str:
        """The checksum of the archive that is started; empty where there is none."""
        try:
            return Path(os.readlink(self.directory / "current")).stem
        except OSError:
            return ""

    # Putting an agent in place.

    def settle(self, archive: Path, links: Path = LINKS) -> None:
        """Put an archive, the launcher and the links in place; what is there already stays. Raises HomeError."""
        try:
            self.agents.mkdir(parents=True, exist_ok=True, mode=0o755)
            kept = self.archive(checksum(archive))
            if not kept.exists() or checksum(kept) != kept.stem:
                _write(kept, archive.read_bytes())
            _write(self.launcher, LAUNCHER.read_bytes(), mode=0o755)
            self._point("current", kept)
            # Somebody who stands at the machine put it there: it is no trial.
            for name in ("trial", "failed"):
                (self.directory / name).unlink(missing_ok=True)
            links.mkdir(parents=True, exist_ok=True)
            for program in PROGRAMS:
                _link(links / program, self.launcher)
            self._prune()
        except OSError as error:
            raise HomeError(f"cannot install into {self.directory}: {_explain(error)}") from None

    def stage(self, sha256: str, version: str) -> None:
        """Let the archive of that checksum be started next, on trial. Raises HomeError."""
        present = self.present()
        if not present:
            raise HomeError(f"{self.directory / 'current'} leads nowhere")
        try:
            # In this order, so that whoever is killed in between leaves a present agent on trial at worst.
            self._point("former", self.archive(present))
            _write(self.directory / "trial", f"0 {version}\n".encode())
            self._point("current", self.archive(sha256))
        except OSError as error:
            raise HomeError(f"cannot put another agent in place: {_explain(error)}") from None

    def confirm(self) -> bool:
        """Note that the present agent has reached its console; whether it was on trial."""
        try:
            (self.directory / "trial").unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise HomeError(f"cannot note that this agent is connected: {_explain(error)}") from None
        self._prune()
        return True

    def on_trial(self) -> bool:
        """Whether the present agent has not reached its console yet."""
        return (self.directory / "trial").exists()

    # What came of the last one.

    def failure(self) -> Failure | None:
        """Which agent did not reach its console, if the console has not heard of it yet."""
        try:
            version, _, reason = (self.directory / "failed").read_text().strip().partition(" ")
        except (OSError, UnicodeError):
            return None
        return Failure(version, f"it {reason}") if version else None

    def forget_failure(self) -> None:
        """The console has heard of it."""
        (self.directory / "failed").unlink(missing_ok=True)
        self._prune()

    # Taking it away.

    def sweep(self, links: Path = LINKS) -> list[str]:
        """Remove everything, links first; the paths that are gone. Raises HomeError."""
        gone = []
        try:
            for program in PROGRAMS:
                link = links / program
                if link.is_symlink() and Path(os.readlink(link)) == self.launcher:
                    link.unlink()
                    gone.append(str(link))
            if self.directory.is_dir():
                shutil.rmtree(self.directory)
                gone.append(str(self.directory))
        except OSError as error:
            raise HomeError(f"cannot remove {error.filename}: {_explain(error)}") from None
        return gone

    def _point(self, name: str, archive: Path) -> None:
        _link(self.directory / name, archive.relative_to(self.directory))

    def _prune(self) -> None:
        """Forget archives, and what they unpacked, that are neither the present nor the former one."""
        kept = set(self._named())
        for path in (*self.agents.glob("*.pyz"), *(self.directory / "unpacked").glob("[0-9a-f]*-*")):
            if path.name.partition("-")[0].partition(".")[0] in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _named(self) -> Iterator[str]:
        for name in ("current", "former"):
            link = self.directory / name
            if link.is_symlink():
                yield Path(os.readlink(link)).stem


def find_home() -> Home | None:
    """The home of the agent that runs; none where it was installed by other means than the console's script."""
    home = Home(default_directory())
    archive = os.environ.get("KUBESPAN_AGENT_ARCHIVE")
    return home if archive and Path(archive).parent == home.agents else None


def default_directory() -> Path:
    """Where a self-contained agent lives, on this machine."""
    return Path(os.environ.get("KUBESPAN_AGENT_HOME", DEFAULT_HOME))


def start_again(home: Home, arguments: list[str]) -> None:
    """Give the process to whatever agent is in place now; does not return."""
    if os.environ.get("KUBESPAN_AGENT_SUPERVISED"):
        sys.exit(EXIT_START_AGAIN)  # the launcher that waits for us does it
    os.execv(home.launcher, [PROGRAMS[0], *arguments])  # noqa: S606 - the same process goes on as another program


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file whole, and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _link(path: Path, target: Path) -> None:
    """Have a link lead there, from one moment to the next."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _explain(error: OSError) -> str:
    return error.strerror or str(error)
