"""The agent that the console hands out, and the line that brings it to a machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from django.urls import reverse
from django.utils import timezone

from kubespan.core.release import ARCHIVE_PATH, RELEASE_PATH, SCRIPT_PATH, Release
from nodes import delivery
from tests.factories import make_cluster
from tests.handout import ARCHIVE, SCRIPT, hand_out

pytestmark = pytest.mark.django_db


@pytest.fixture
def release(tmp_path, settings):
    settings.AGENT_FILES = tmp_path
    return hand_out(tmp_path)


def test_whoever_reaches_the_console_gets_the_agent_and_its_script(client, release):
    assert client.get(ARCHIVE_PATH).content == ARCHIVE
    script = client.get(SCRIPT_PATH)
    assert (script.content, script.headers["Content-Type"]) == (SCRIPT, "text/plain; charset=utf-8")
    assert msgspec.json.decode(client.get(RELEASE_PATH).content, type=Release) == release
    assert client.post(ARCHIVE_PATH).status_code == 405


@pytest.mark.parametrize("path", [ARCHIVE_PATH, SCRIPT_PATH])
def test_a_file_that_is_not_the_one_that_was_built_is_not_handed_out(client, release, tmp_path, path):
    hand_out(tmp_path, b"another script", b"another agent")  # none that the process has read already
    (tmp_path / Path(path).name).write_bytes(b"something else")
    answer = client.get(path)
    assert answer.status_code == 404
    assert b"make agent" in answer.content


def test_the_next_build_is_handed_out_at_once(client, release, tmp_path):
    assert client.get(ARCHIVE_PATH).content == ARCHIVE
    hand_out(tmp_path, archive=b"the next one")
    assert client.get(ARCHIVE_PATH).content == b"the next one"


def test_without_an_agent_the_console_says_how_to_have_one(client, admin_client, settings, tmp_path):
    settings.AGENT_FILES = tmp_path
    cluster = make_cluster("homelab", now=timezone.now())
    for path in (ARCHIVE_PATH, SCRIPT_PATH, RELEASE_PATH):
        assert client.get(path).status_code == 404
    page = make_line(admin_client, cluster)
    assert "make agent" in page
    assert "| sudo kubespan-agent enrol " in page


def make_line(client, cluster):
    given = {"cluster": cluster.uuid, "uses": 1, "lifetime": 3600, "name": "line"}
    return client.post(reverse("cluster-enrolment", args=[cluster.uuid]), given).content.decode()


def test_the_page_has_the_line_and_the_script_to_read_first(admin_client, release):
    page = make_line(admin_client, make_cluster("homelab", now=timezone.now()))
    assert release.script_sha256 in page
    assert f'href="{SCRIPT_PATH}"' in page
    assert release.version in page


def test_the_line_pins_console_and_checksum(settings, release):
    settings.KUBESPAN_AGENT_URL = "https://console.example:8443"
    own = settings.KUBESPAN_DATA / "tls"
    own.mkdir(exist_ok=True)
    from nodes import certificates  # noqa: PLC0415

    pin = certificates.ensure(settings.KUBESPAN_DATA, ["console.example"], timezone.now()).fingerprint
    line = delivery.write_line("kst_t", release)
    assert "\n" not in line
    assert f"https://console.example:8443 {pin};;" in line
    assert f"{release.script_sha256}*)" in line


# The line as a shell runs it, against a server that serves what the test wants.


class _Server:
    def __init__(self, content):
        self.content = content
        self.asked = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path != "/readyz":  # of somebody who still asks for a console that had this port before us
                    server.asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(server.content)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def run_line(line, tmp_path, shell="sh"):
    # What a bare machine has, and no sudo: the tests may run where it asks for a password.
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    for tool in ("sh", "sha256sum"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    return subprocess.run(
        [shell, "-c", line], capture_output=True, text=True, check=False, env={"PATH": str(tools)}, cwd=tmp_path
    )


@pytest.mark.parametrize("shell", [one for one in ("/bin/sh", "/bin/bash", "/bin/zsh") if os.path.exists(one)])
def test_a_shell_runs_the_script_with_the_token_on_its_standard_input(tmp_path, release, shell):
    with _Server(SCRIPT) as server:
        done = run_line(delivery.enrolment_line("kst_token", server.url, "", release), tmp_path, shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ran with {server.url} and kst_token\n", "")
    assert server.asked == [SCRIPT_PATH]
    assert {path.name for path in tmp_path.iterdir()} >= {"tools"}


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(SCRIPT.replace(b"ran", b"robbed"), id="one word is another"),
        pytest.param(SCRIPT + b"touch stolen\n", id="something is added"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_liar_in_between_gets_nowhere(tmp_path, release, lie):
    with _Server(lie) as server:
        done = run_line(delivery.enrolment_line("kst_token", server.url, "", release), tmp_path)
    assert done.returncode != 0
    assert "nothing was run" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "stolen").exists()
    assert not any("kst_token" in path for path in server.asked)


def test_a_console_that_is_not_there_is_said_without_a_traceback(tmp_path, release):
    done = run_line(delivery.enrolment_line("kst_token", "http://127.0.0.1:1", "", release), tmp_path)
    assert done.returncode != 0
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_built_script_is_short_and_asks_for_nothing_it_does_not_say():
    text = (Path(__file__).parents[2] / "scripts" / "agent" / "install.sh").read_text()
    assert len(text.splitlines()) < 120
    assert re.search(r"(?m)^set -eu$", text)
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
