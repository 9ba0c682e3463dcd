"""Leaving nothing behind; systemd is a tool that notes what it is asked for."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from kubespan.agent.__main__ import main
from kubespan.agent.home import Home
from kubespan.agent.store import Store
from kubespan.agent.uninstall import uninstall
from kubespan.agent.units import UNIT, UnitError, remove
from tests.agent.console_double import Bench
from tests.agent.held import hold


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A systemctl that notes what it is asked for, first in PATH."""
    calls = tmp_path / "calls"
    tool = tmp_path / "tools" / "systemctl"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" != "$FAILS" ] || {{ echo "it failed" >&2; exit 1; }}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    return calls


@pytest.fixture
def machine(tmp_path):
    """A machine with everything on it."""
    for name in ("units", "running", "bin", "sockets"):
        (tmp_path / name).mkdir()
    (tmp_path / "output").touch()
    (tmp_path / "units" / UNIT).write_text("[Unit]\n")
    archive = tmp_path / "downloaded"
    archive.write_bytes(b"an agent")
    Home(tmp_path / "home").settle(archive, tmp_path / "bin")
    Bench(tmp_path / "state")
    return tmp_path


class Down:
    """Notes when the mesh is taken down, and what is still there then."""

    def __init__(self, machine):
        self.machine = machine
        self.seen = []

    async def __call__(self):
        self.seen.append(sorted(path.name for path in self.machine.iterdir()))


def take_away(machine, down, running="running"):
    # None of this machine's own: a directory that goes takes what other mount namespaces have mounted there with it.
    places = {"links": "bin", "units": "units", "running": running, "output": "output", "sockets": "sockets"}
    places = {place: machine / name for place, name in places.items()}
    return list(uninstall(Store(machine / "state"), Home(machine / "home"), down, **places))


def test_service_mesh_state_and_files_go_in_this_order(machine, systemctl):
    down = Down(machine)
    gone = take_away(machine, down)
    assert systemctl.read_text().splitlines() == [f"disable --now {UNIT}", "daemon-reload", f"reset-failed {UNIT}"]
    assert len(down.seen) == 1
    assert {"home", "state"} <= set(down.seen[0]), "what takes the mesh down needs them"
    assert not any((machine / name).exists() for name in ("home", "state", "output", "sockets"))
    assert list((machine / "bin").iterdir()) == list((machine / "units").iterdir()) == []
    assert gone[0] == str(machine / "units" / UNIT)
    assert gone[-1] == str(machine / "home")


def test_it_may_be_repeated(machine, systemctl):
    take_away(machine, Down(machine))
    down = Down(machine)
    assert take_away(machine, down) == ["link, addresses, routes, rules and firewall table"]
    assert len(down.seen) == 1


def test_another_programs_socket_stays(machine, systemctl):
    (machine / "sockets" / "wg0.sock").touch()
    take_away(machine, Down(machine))
    assert (machine / "sockets" / "wg0.sock").exists()


def test_where_systemd_does_not_run_the_unit_goes_all_the_same(machine, systemctl):
    take_away(machine, Down(machine), running="none")
    assert not systemctl.exists()
    assert list((machine / "units").iterdir()) == []


def test_a_service_that_does_not_stop_keeps_everything(machine, systemctl, monkeypatch):
    monkeypatch.setenv("FAILS", "disable")
    down = Down(machine)
    with pytest.raises(UnitError, match="it failed"):
        take_away(machine, down)
    assert down.seen == []
    assert (machine / "state").exists()


def test_no_unit_is_no_error(tmp_path, systemctl):
    assert list(remove(directory=tmp_path, running=tmp_path)) == []
    assert not systemctl.exists()


def test_an_agent_that_nobody_keeps_is_stopped(machine, systemctl):
    with hold(machine / "state", "polite") as process:
        gone = take_away(machine, Down(machine))
        assert "the agent's process" in gone
        assert process.wait() != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be let so far")
def test_it_asks_and_no_is_no(machine, monkeypatch):
    monkeypatch.setenv("KUBESPAN_AGENT_HOME", str(machine / "home"))
    done = CliRunner().invoke(main, ["uninstall", "--state-dir", str(machine / "state")], input="n\n")
    assert done.exit_code == 1
    assert "with this machine's keys" in done.output
    assert (machine / "state").exists()
    assert (machine / "home").exists()
