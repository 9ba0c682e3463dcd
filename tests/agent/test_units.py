"""The service of systemd."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from kubespan.agent.units import EXIT_REMOVED, EXIT_SETUP, UNIT, UnitError, install, write_unit

COMMAND = ["/opt/kube span/bin/kubespan-agent", "run", "--state-dir", "/srv/100%/$HOME"]


def test_the_unit_does_not_start_again_what_only_a_person_can_change():
    text = write_unit(["/usr/bin/kubespan-agent", "run"])
    assert "ExecStart=/usr/bin/kubespan-agent run\n" in text
    assert f"RestartPreventExitStatus={EXIT_REMOVED} {EXIT_SETUP}\n" in text
    assert "KillMode=process\n" in text


def test_words_are_quoted_for_systemd():
    assert 'ExecStart="/opt/kube span/bin/kubespan-agent" run --state-dir "/srv/100%%/$$HOME"' in write_unit(COMMAND)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)")
@pytest.mark.parametrize("command", [["/bin/true", "run"], ["/bin/true", "run", "--state-dir", "/srv/100%/$HOME dir"]])
def test_systemd_understands_the_unit(tmp_path, command):
    path = tmp_path / UNIT
    path.write_text(write_unit(command))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(path)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A systemctl that notes what it is asked for, first in PATH."""
    calls = tmp_path / "calls"
    tool = tmp_path / "bin" / "systemctl"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" != "$FAILS" ] || {{ echo "it failed" >&2; exit 1; }}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    (tmp_path / "running").mkdir()
    (tmp_path / "units").mkdir()
    return calls


def test_install_writes_enables_and_starts(tmp_path, systemctl):
    path = install(COMMAND, directory=tmp_path / "units", running=tmp_path / "running")
    assert path.read_text() == write_unit(COMMAND)
    assert systemctl.read_text().splitlines() == ["daemon-reload", f"enable {UNIT}", f"restart {UNIT}"]


def test_without_systemd_there_is_a_sentence_and_no_file(tmp_path, systemctl):
    with pytest.raises(UnitError, match="systemd does not run"):
        install(COMMAND, directory=tmp_path / "units", running=tmp_path / "none")
    assert list((tmp_path / "units").iterdir()) == []


def test_what_systemctl_says_is_passed_on(tmp_path, systemctl, monkeypatch):
    monkeypatch.setenv("FAILS", "enable")
    with pytest.raises(UnitError, match=f"systemctl enable {UNIT} failed: it failed"):
        install(COMMAND, directory=tmp_path / "units", running=tmp_path / "running")


def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path, systemctl):
    with pytest.raises(UnitError, match="run this as root"):
        install(COMMAND, directory=tmp_path / "no such directory", running=tmp_path / "running")
