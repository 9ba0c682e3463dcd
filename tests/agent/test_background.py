"""An agent that no service manager keeps."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from kubespan.agent.__main__ import main
from kubespan.agent.background import NotRunning, StillRunning, start, stop
from kubespan.agent.home import LAUNCHER, Home
from kubespan.agent.store import Store
from tests.agent.console_double import Bench
from tests.agent.held import HOLD, hold, holding


@pytest.fixture
def state(tmp_path):
    """An enrolled machine's state directory."""
    Bench(tmp_path / "state")
    return tmp_path / "state"


@contextlib.contextmanager
def started(state, output, *command):
    """Started, and ended with the test."""
    process = start(Store(state), command, output=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_whoever_comes_next_finds_it(state, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    opened = []

    def open_the_gate():
        with gate.open("w"):  # waits until the process is there and reads
            opened.append(Store(state).is_locked())

    thread = threading.Thread(target=open_the_gate, daemon=True)
    thread.start()
    with started(state, tmp_path / "log", *holding(state, "late", str(gate))) as process:
        thread.join()
        assert opened == [False], "it was held before it could be"
        assert Store(state).holder() == process.pid
        assert stop(Store(state))
        assert process.wait() != 0


def test_the_one_before_ends_first(state, tmp_path):
    with hold(state, "polite") as former, started(state, tmp_path / "log", *holding(state, "polite")) as process:
        assert former.wait() != 0
        assert Store(state).holder() == process.pid


def test_it_goes_by_itself_and_writes_to_a_file(state, tmp_path):
    with started(state, tmp_path / "log", *holding(state, "polite")) as process:
        assert os.getsid(process.pid) == process.pid
        assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
        assert (tmp_path / "log").read_text() == "ready\n"


@pytest.mark.parametrize("kind", ["useless", "gone"])
def test_one_that_ends_before_it_works_is_told_with_where_its_last_words_are(state, tmp_path, kind):
    command = holding(state, kind) if kind == "useless" else [sys.executable, "-c", "import sys; sys.exit('no such')"]
    with pytest.raises(NotRunning, match=rf"ended at once, with exit status 1: its last words are in {tmp_path}/log"):
        start(Store(state), command, output=tmp_path / "log")
    assert "no " in (tmp_path / "log").read_text()


def test_a_signal_that_ends_it_is_named(state, tmp_path):
    with pytest.raises(NotRunning, match="ended at once, by signal 9"):
        start(Store(state), ["/bin/sh", "-c", "kill -KILL $$"], output=tmp_path / "log")


def test_one_that_does_not_begin_is_ended_with_its_children(state, tmp_path, monkeypatch):
    monkeypatch.setattr("kubespan.agent.background.START_SECONDS", 0.5)
    with pytest.raises(NotRunning, match=f"did not begin to work .*, and was ended: see {tmp_path}/log") as told:
        start(Store(state), ["/bin/sh", "-c", "sleep 600 & wait"], output=tmp_path / "log")
    (session,) = re.findall(r"process (\d+)", str(told.value))
    deadline = time.monotonic() + 60
    while session in sessions():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sessions():
    """Of all processes that are not zombies."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
            if state != "Z":
                found.add(session)
    return found


def test_one_that_works_and_cannot_say_so_goes_on(state, tmp_path, monkeypatch):
    monkeypatch.setattr("kubespan.agent.background.START_SECONDS", 5.0)
    with started(state, tmp_path / "log", *holding(state, "silent")) as process:
        assert Store(state).holder() == process.pid


def test_anothers_lock_is_not_its_own(state, tmp_path):
    """A service manager started one in between: ours ends, and is not said to run."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    busy = ["/bin/sh", "-c", f"cat {gate}; exit 1"]
    others = []

    def begin():
        with gate.open("w"):
            others.append(hold(state, "polite"))

    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    with pytest.raises(NotRunning, match="exit status 1"):
        start(Store(state), busy, output=tmp_path / "log")
    thread.join()
    (other,) = others
    with other:
        assert Store(state).holder() == other.pid
        other.kill()


def test_what_cannot_be_started_is_named(state, tmp_path):
    with pytest.raises(NotRunning, match=f"not started: cannot run {tmp_path}/nothing: No such file"):
        start(Store(state), [str(tmp_path / "nothing")], output=tmp_path / "log")
    with pytest.raises(NotRunning, match=f"not started: cannot write to {tmp_path}/none/log: No such file"):
        start(Store(state), ["true"], output=tmp_path / "none" / "log")


def test_an_agent_that_does_not_end_is_named_and_nothing_goes(state, monkeypatch):
    monkeypatch.setattr("kubespan.agent.background.STOP_SECONDS", 0.2)
    with hold(state, "stubborn") as process:
        with pytest.raises(StillRunning, match=f"process {process.pid}"):
            stop(Store(state))
        process.kill()
    deadline = time.monotonic() + 60
    while Store(state).is_locked():
        assert time.monotonic() < deadline
    assert not stop(Store(state))


def test_where_an_agent_is_on_trial_the_one_that_is_started_takes_its_place(state, tmp_path, monkeypatch):
    """Its launcher would start it once more, beside ours, and take its ends for failures of the release."""
    home = Home(tmp_path / "home")
    home.agents.mkdir(parents=True)
    shutil.copy(LAUNCHER, home.launcher)
    home.launcher.chmod(0o755)
    for name in ("present", "former"):
        home.archive(name).write_text(HOLD.replace("sys.argv[1]", "sys.argv[-1]"))
        home._point("current" if name == "present" else name, home.archive(name))
    (home.directory / "trial").write_text("0 1.0\n")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("KUBESPAN_AGENT_HOME", str(home.directory))
    monkeypatch.setenv("KUBESPAN_AGENT_ARCHIVE", str(home.archive("present")))
    monkeypatch.setattr("kubespan.agent.__main__.RUNNING", tmp_path / "no systemd")
    begun = []

    def start_here(store, command):
        begun.append(start(store, command, output=tmp_path / "log"))

    monkeypatch.setattr("kubespan.agent.__main__.start", start_here)
    with started(state, tmp_path / "log", str(home.launcher), "run", "--state-dir", str(state)) as first:
        assert home.on_trial()
        done = CliRunner().invoke(main, ["install", "--background", "--state-dir", str(state)])
        (second,) = begun
        try:
            assert done.exit_code == 0, done.output
            first.wait(timeout=30)
            assert os.getsid(Store(state).holder()) == second.pid
            assert (home.failure(), home.present()) == (None, "present")
        finally:
            os.killpg(second.pid, signal.SIGKILL)
            second.wait()
