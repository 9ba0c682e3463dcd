"""The agent as a service of systemd: written, enabled, started."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

UNIT = "kubespan-agent.service"
UNIT_DIRECTORY = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")
"""There where systemd is the machine's manager (sd_booted(3))."""

EXIT_REMOVED = 77
EXIT_SETUP = 78
"""Not enrolled, or a state file is damaged (EX_CONFIG of sysexits.h); starting again changes nothing."""
FINAL_STATUSES = (EXIT_REMOVED, EXIT_SETUP)


class UnitError(Exception):
    """The service was not set up; the sentence says why."""


def write_unit(command: Sequence[str]) -> str:
    """Write the unit's text for a command that runs the agent."""
    return f"""\
[Unit]
Description=KubeSpan agent: meshes this machine by WireGuard
Wants=network-pre.target
After=network-pre.target
# A machine whose WireGuard cannot be had yet is tried for as long as it takes.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={" ".join(map(_quote, command))}
Restart=always
RestartSec=2
# Removed by the console, or not enrolled: only a person can change that.
RestartPreventExitStatus={" ".join(map(str, FINAL_STATUSES))}
# The mesh stays when the agent stops, and so does wireguard-go where it serves the link.
KillMode=process
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes

[Install]
WantedBy=multi-user.target
"""


def install(command: Sequence[str], *, directory: Path = UNIT_DIRECTORY, running: Path = RUNNING) -> Path:
    """Write the unit, enable it and start it; raises UnitError."""
    if not running.is_dir():
        raise UnitError(
            f"systemd does not run on this machine: let your own service manager run `{' '.join(command)}`, "
            f"and not start it again after exit status {' or '.join(map(str, FINAL_STATUSES))}"
        )
    path = directory / UNIT
    try:
        path.write_text(write_unit(command))
    except OSError as error:
        raise UnitError(f"cannot write {path}: {error.strerror}; run this as root") from None
    # restart, not start: an agent of a former release that runs already is replaced, and the mesh does not notice.
    for arguments in (("daemon-reload",), ("enable", UNIT), ("restart", UNIT)):
        _systemctl(*arguments)
    return path


def remove(*, directory: Path = UNIT_DIRECTORY, running: Path = RUNNING) -> Iterator[str]:
    """Stop the service and take its unit away, saying so; none is no error. Raises UnitError."""
    path = directory / UNIT
    if not path.exists():
        return
    alive = running.is_dir()
    if alive:
        _systemctl("disable", "--now", UNIT)
    try:
        path.unlink()
    except OSError as error:
        raise UnitError(f"cannot remove {path}: {error.strerror}; run this as root") from None
    if alive:
        _systemctl("daemon-reload")
        # A service that ended by itself stays listed as failed; one that did not is unknown by now.
        subprocess.run(["systemctl", "reset-failed", UNIT], check=False, capture_output=True)
    yield str(path)


def _systemctl(*arguments: str) -> None:
    try:
        subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip()
        raise UnitError(f"systemctl {' '.join(arguments)} failed: {detail}") from None


def _quote(word: str) -> str:
    """Write a word so that systemd takes it as it is (systemd.service(5), command lines)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or any(char.isspace() for char in word) or "'" in word else escaped
