"""The launcher and the agents that it starts: a new one that does not reach its console, and one that does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubespan.agent.home import EXIT_START_AGAIN, LAUNCHER, Home

PATIENCE = 60.0

SAY = "import os, pathlib, sys, time, signal\nhome = pathlib.Path(os.environ['KUBESPAN_AGENT_HOME'])\n"
NOTE = SAY + "with (home / 'said').open('a') as said: print({name!r}, *sys.argv[1:], file=said)\n"
CONFIRM = "(home / 'trial').unlink()\n"
WAIT = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nwhile True: time.sleep(0.05)\n"


class Place:
    """A home whose agents are programs of a few lines."""

    def __init__(self, directory):
        self.home = Home(directory)
        self.home.agents.mkdir(parents=True)
        shutil.copy(LAUNCHER, self.home.launcher)
        self.home.launcher.chmod(0o755)
        (directory / "kubespanctl").symlink_to("kubespan-agent")
        self.process = None

    def put(self, name, program):
        self.home.archive(name).write_text(NOTE.format(name=name) + program)

    def lead(self, name, link="current"):
        self.home._point(link, self.home.archive(name))

    def run(self, *words, program="kubespan-agent", seconds=60):
        # This Python by the name that the launcher looks for, and the tools of the machine.
        tools = self.home.directory / "tools"
        tools.mkdir(exist_ok=True)
        if not (tools / "python3").exists():
            (tools / "python3").symlink_to(Path(sys.executable).resolve())
        env = {
            "PATH": f"{tools}:/usr/bin:/bin",
            "KUBESPAN_AGENT_HOME": str(self.home.directory),
            "KUBESPAN_TRIAL_SECONDS": str(seconds),
        }
        command = [self.home.directory / program, *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.end()
        self.process = subprocess.Popen(command, env=env, start_new_session=True, **quiet)
        return self.process

    def said(self):
        try:
            return (self.home.directory / "said").read_text().splitlines()
        except FileNotFoundError:
            return []

    def processes(self):
        """Ids of all that this start of the launcher has begotten, and its own while it runs."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if session(pid) == self.process.pid]

    def watched(self):
        """Whether anybody is there but the launcher and the agent."""
        return len(self.processes()) > 2

    def until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"it never came to be; said: {self.said()}"
            time.sleep(0.02)

    def end(self):
        if self.process is not None and self.processes():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def session(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:  # it has just ended
        return None


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "home")
    place.put("old", WAIT)
    place.lead("old")
    yield place
    place.end()


def offer(place, program):
    """Put a new agent on trial, whose program is this."""
    place.put("new", program)
    place.home.stage("new", "0.2.0+new")


def back(place):
    """Whether the former agent runs again."""
    return place.said() and place.said()[-1].startswith("old") and place.home.present() == "old"


def test_without_a_trial_the_agent_is_the_process_that_was_started(place):
    process = place.run("run", "--state-dir", "/x y")
    place.until(lambda: place.said() == ["old kubespan-agent run --state-dir /x y"])
    assert Path(f"/proc/{process.pid}/exe").resolve() == Path(sys.executable).resolve()
    process.terminate()
    assert process.wait(PATIENCE) == 0


def test_other_commands_and_the_other_program_are_passed_on_even_during_a_trial(place):
    offer(place, "print('hello')\n")
    assert place.run("status").wait(PATIENCE) == 0
    assert place.run("get", "kubespanidentities", program="kubespanctl").wait(PATIENCE) == 0
    assert place.said() == ["new kubespan-agent status", "new kubespanctl get kubespanidentities"]
    assert place.home.on_trial()


def test_one_that_crashes_is_started_three_times_and_put_away(place):
    offer(place, "sys.exit(1)\n")
    place.run("run")
    place.until(lambda: back(place))
    assert place.said() == ["new kubespan-agent run"] * 3 + ["old kubespan-agent run"]
    failure = place.home.failure()
    assert failure.version == "0.2.0+new"
    assert failure.reason == "it ended 3 times before it was connected to the console"
    assert not place.home.on_trial()


def test_one_that_cannot_even_be_read_is_put_away(place):
    offer(place, "")
    place.home.archive("new").write_bytes(b"\0 no program")
    place.run("run")
    place.until(lambda: back(place))
    assert place.home.failure() is not None


def test_one_that_hangs_is_killed_when_its_time_is_over(place):
    offer(place, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)\n")
    place.run("run", seconds=5)
    place.until(lambda: back(place))
    assert place.said() == ["new kubespan-agent run", "old kubespan-agent run"]
    assert place.home.failure().reason == "it was not connected to the console within 5 seconds"


def test_one_that_is_connected_stays_and_its_end_is_the_launchers_own(place):
    offer(place, CONFIRM + WAIT.replace("sys.exit(0)", "sys.exit(77)"))
    process = place.run("run")
    place.until(lambda: place.said() and not place.home.on_trial() and not place.watched())
    assert len(place.processes()) == 2  # nobody is left who would come for it
    process.terminate()
    assert process.wait(PATIENCE) == 77
    assert place.home.present() == "new"
    assert place.home.failure() is None


def test_a_stop_in_the_middle_of_a_trial_is_a_stop(place):
    offer(place, WAIT)
    process = place.run("run")
    place.until(lambda: place.said() == ["new kubespan-agent run"])
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert place.home.on_trial()
    assert place.home.present() == "new"


def test_starts_are_counted_over_the_launchers_own_end(place):
    offer(place, WAIT)
    for _ in range(3):
        process = place.run("run")
        before = len(place.said())
        place.until(lambda before=before: len(place.said()) > before)
        place.end()  # the machine loses its power
        assert process.returncode == -signal.SIGKILL
    place.run("run")
    place.until(lambda: back(place))
    assert place.said() == ["new kubespan-agent run"] * 3 + ["old kubespan-agent run"]


def test_another_agent_in_place_is_started_by_the_launcher_that_waits(place):
    # The new one is connected, then becomes a newer one, by which the launcher is told.
    place.put("newer", CONFIRM + WAIT)
    stage = (
        "(home / 'former').unlink(); (home / 'former').symlink_to('agents/new.pyz')\n"
        "(home / 'trial').write_text('0 0.3.0\\n')\n"
        "(home / 'current').unlink(); (home / 'current').symlink_to('agents/newer.pyz')\n"
    )
    told = "while not (home / 'told').exists(): time.sleep(0.05)\n"
    offer(place, f"{CONFIRM}{told}{stage}sys.exit({EXIT_START_AGAIN})\n")
    place.run("run")
    place.until(lambda: place.said() and not place.home.on_trial() and not place.watched())
    (place.home.directory / "told").touch()
    place.until(lambda: len(place.said()) == 2 and not place.home.on_trial())
    assert place.said() == ["new kubespan-agent run", "newer kubespan-agent run"]


def test_without_a_former_one_the_present_one_goes_on(place):
    place.put("only", "sys.exit(3)\n")
    place.lead("only")
    (place.home.directory / "trial").write_text("0 0.1.0\n")
    assert place.run("run").wait(PATIENCE) == 3
    assert place.said() == ["only kubespan-agent run"] * 4


def killed_with_its_agent_on_trial(place):
    """A launcher that was killed outright; gives the id of the agent that it had started."""
    offer(place, "(home / 'new.pid').write_text(str(os.getpid()))\n(home / 'new.pid').rename(home / 'pid')\n" + WAIT)
    process = place.run("run")
    place.until((place.home.directory / "pid").exists)
    process.kill()
    process.wait()
    return int((place.home.directory / "pid").read_text())


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (package util-linux)")
def test_an_agent_on_trial_ends_with_its_launcher(place):
    child = killed_with_its_agent_on_trial(place)
    place.until(lambda: not Path(f"/proc/{child}").exists())


def test_whoever_watches_a_trial_ends_with_the_launcher_and_holds_nothing_against_the_next_one(place):
    child = killed_with_its_agent_on_trial(place)
    place.until(lambda: set(place.processes()) <= {child})
    assert place.home.on_trial()
    assert not (place.home.directory / "late").exists()


def test_without_a_python_there_is_a_sentence(place):
    tools = place.home.directory / "bare"
    tools.mkdir()
    for tool in ("readlink", "dirname", "basename"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        ["/bin/sh", place.home.launcher, "run"], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("Python 3.11 or later is needed; this machine has none any more\n")
