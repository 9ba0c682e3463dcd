"""`manage.py run`, from an empty directory: everything comes up, whatever dies comes back, nothing stays behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3

from nodes import certificates
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60


def descendants(pid):
    """All processes below one, with their command lines."""
    found = {}
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return found
    for child in children:
        try:
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found |= descendants(int(child))
    return found


class Console:
    """One that was started for a test."""

    def __init__(self, data):
        self.data, self.log = data, data.parent / "log"
        self.port, self.tls_port = free_port(), free_port()
        listen = ["--listen", f"127.0.0.1:{self.port}", "--tls-listen", f"127.0.0.1:{self.tls_port}"]
        self.command = [sys.executable, "manage.py", "run", "--data", str(data), *listen]
        self.environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=self.environ, stdout=log, stderr=log)

    def ready(self):
        try:
            reply = urllib3.request("GET", f"http://127.0.0.1:{self.port}/readyz", retries=False, timeout=5)
        except urllib3.exceptions.HTTPError:
            return False
        return json.loads(reply.data)["ready"]

    def await_true(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def child(self, *words):
        """The process whose command line has these words."""
        for pid, command in descendants(self.process.pid).items():
            if all(word in command for word in words):
                return pid
        return None

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture
def console(tmp_path):
    started = Console(tmp_path / "data")
    yield started
    if started.process.poll() is None:
        started.end(signal.SIGKILL)


def await_gone(pids):
    """Wait until none of these processes is there: whose parent has ended is taken away by another one."""
    deadline = time.monotonic() + SECONDS
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_console_from_nothing(console):
    console.await_true(console.ready)
    assert "first administrator: " in console.log.read_text()
    assert "exception" not in console.log.read_text()

    second = subprocess.run(console.command, cwd=ROOT, env=console.environ, capture_output=True, text=True, check=False)
    assert (second.returncode, "another console runs on" in second.stderr) == (1, True)

    for words in (("uvicorn", str(console.port)), ("celery", "worker"), ("valkey-server",)):
        old = console.child(*words)
        os.kill(old, signal.SIGKILL)
        console.await_true(lambda old=old, words=words: console.child(*words) not in {old, None})
        console.await_true(console.ready)

    pids = list(descendants(console.process.pid))
    assert console.end() == 0
    await_gone(pids)
    assert oct(console.data.stat().st_mode & 0o777) == "0o700"


@pytest.mark.slow
def test_killed_outright_it_leaves_nothing_and_starts_again(console, tmp_path):
    console.await_true(lambda: console.child("celery", "beat"))
    pids = list(descendants(console.process.pid))
    console.process.kill()
    console.process.wait()
    await_gone(pids)
    again = Console(console.data)
    try:
        again.await_true(again.ready)
    finally:
        assert again.end() == 0


@pytest.mark.slow
def test_agents_find_the_certificate_that_they_pin(console):
    console.await_true((console.data / "tls" / "certificate.pem").exists)
    pinned = certificates.fingerprint((console.data / "tls" / "certificate.pem").read_bytes())
    console.await_true(console.ready)
    pool = urllib3.HTTPSConnectionPool(
        "127.0.0.1", console.tls_port, assert_fingerprint=pinned.removeprefix("sha256:"), cert_reqs="CERT_NONE"
    )

    def answers():
        try:
            return pool.request("GET", "/healthz", retries=False).status == 200
        except urllib3.exceptions.NewConnectionError:  # it listens a moment later than the plain one
            return False

    with pool:
        console.await_true(answers)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--listen", "0.0.0.0:1"], "plain HTTP is for loopback only; use --tls-listen", id="plain HTTP"),
        pytest.param(["--listen", "127.0.0.1"], "127.0.0.1: expected HOST:PORT", id="no port"),
        pytest.param(
            ["--discovery-listen", "0.0.0.0:1"],
            "discovery on 0.0.0.0:1: plain is for loopback only; use --tls-listen as well",
            id="plain discovery",
        ),
        pytest.param(
            ["--tls-listen", "127.0.0.1:1", "--discovery-plain-listen", "[::]:1"],
            "discovery on [::]:1: plain is for loopback only",
            id="plain discovery besides",
        ),
        pytest.param(["--tls-listen", "192.0.2.1:1"], "cannot listen on 192.0.2.1 port 1", id="not ours"),
    ],
)
def test_what_cannot_be_is_said_at_once(tmp_path, arguments, sentence):
    assert sentence in refusal(tmp_path, *arguments)


@pytest.mark.parametrize("option", ["--listen", "--discovery-listen", "--discovery-plain-listen"])
def test_a_port_that_is_taken_is_said_with_the_option_that_names_another(tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(tmp_path, "--listen", "127.0.0.1:0", option, f"127.0.0.1:{port}")
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use; name another by {option}, " in said


def refusal(data, *arguments):
    """What `manage.py run` says that cannot run so."""
    environ = {"PATH": os.environ["PATH"], "KUBESPAN_URL": "http://127.0.0.1:8000"}
    command = [sys.executable, "manage.py", "run", "--data", str(data), *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    return ran.stderr
