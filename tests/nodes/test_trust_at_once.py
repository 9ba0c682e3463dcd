"""A token for one, and a hundred who want it at once."""

from __future__ import annotations

import itertools
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from threading import Barrier
from urllib.parse import urlsplit

import pytest
from django.db import connection

from kubespan.core.messages import ENROL_PATH, EnrolReply, Refusal, dump, parse_body
from nodes.models import Change, Node
from nodes.playground import RunningConsole
from nodes.services import enrolment
from tests.factories import NOW, PEER, Machine, make_cluster, make_token
from tests.faults.site import free_port
from tests.postgresql import PostgreSQL, find_programs

ROOT = Path(__file__).resolve().parents[2]
ONE, PARALLEL, PROCESSES = 1, 100, 4
SECONDS = 120.0
"""After which an answer is not waited for any more."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """An environment whose database is migrated and nobody else's."""
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'rows.sqlite3'}"
        if request.param == "postgresql":
            if (programs := find_programs()) is None:
                pytest.skip("no PostgreSQL on this machine")
            # Its socket's path must be short, and its user is not root.
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubespan-trust-")))
            server = PostgreSQL(programs, directory)
            server.make()
            stack.callback(server.stop)
            server.start()
            url = server.url
        settings = {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "kubespan_web.settings", "PYTHONPATH": str(ROOT)}
        env = {**os.environ, **settings}
        manage(env, "migrate", "--verbosity=0")
        yield env


def manage(env, *arguments):
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout[:1] in ("{", "[") else {}


def enrol_at_once(env, token, *name):
    """What each of a hundred requests was answered, from several processes that began together."""
    command = [sys.executable, "tests/nodes/enrolling.py", token, str(PARALLEL // PROCESSES), *name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        workers = [stack.enter_context(subprocess.Popen(command, cwd=ROOT, env=env, **pipes)) for _ in range(PROCESSES)]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return list(itertools.chain.from_iterable(json.loads(worker.stdout.readline()) for worker in workers))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_machines_of_many_processes_with_a_token_for_one_are_one_node(database):
    manage(database, "create_cluster", "office")
    token = manage(database, "create_token", "office", "--uses", str(ONE))["token"]

    assert sorted(enrol_at_once(database, token)) == ["approved"] + ["token-used-up"] * (PARALLEL - 1)
    assert len(manage(database, "list_nodes", "office")["nodes"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_requests_of_one_machine_in_many_processes_are_one_use(database):
    manage(database, "create_cluster", "office")
    token = manage(database, "create_token", "office", "--uses", str(ONE))["token"]

    assert enrol_at_once(database, token, "same") == ["approved"] * PARALLEL
    assert [node["name"] for node in manage(database, "list_nodes", "office")["nodes"]] == ["same"]


@pytest.mark.django_db(transaction=True)
def test_a_hundred_identical_requests_at_once_have_one_answer_and_one_use():
    token, plain = make_token(make_cluster())
    machine, workers = Machine(), 10
    start = Barrier(workers)

    def work(_):
        start.wait()
        try:
            return [enrolment.enrol(machine.request(plain), peer=PEER, now=NOW) for _ in range(PARALLEL // workers)]
        finally:
            connection.close()

    with ThreadPoolExecutor(workers) as pool:
        replies = list(itertools.chain.from_iterable(pool.map(work, range(workers))))
    assert len(replies) == PARALLEL
    assert all(reply == replies[0] for reply in replies)
    token.refresh_from_db()
    assert (token.used, Node.objects.count(), Change.objects.count()) == (1, 1, 1)


# The same by what machines really send, to both web processes of a running console.


@pytest.fixture
def running(database, tmp_path):
    """A console with plain HTTP and with TLS, on that database."""
    console = RunningConsole(tmp_path, listen=f"127.0.0.1:{free_port()}", tls_listen=f"127.0.0.1:{free_port()}")
    console.env["DATABASE_URL"] = database["DATABASE_URL"]
    try:
        console.start()
        yield console
    finally:
        console.stop()


def post_at_once(console, bodies):
    """What each of these enrolment requests was answered: all are connected before the first one is sent."""
    trust = ssl.create_default_context(cafile=console.directory / "tls" / "certificate.pem")
    ready = Barrier(len(bodies), timeout=SECONDS)

    def post(number):
        plain, tls = urlsplit(console.url).netloc, urlsplit(console.tls_url).netloc
        line = (
            HTTPSConnection(tls, timeout=SECONDS, context=trust)
            if number % 2
            else HTTPConnection(plain, timeout=SECONDS)
        )
        with closing(line):
            line.connect()
            ready.wait()
            line.request("POST", ENROL_PATH, bodies[number], {"Content-Type": "application/json"})
            response = line.getresponse()
            return response.status, response.read()

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(post, range(len(bodies))))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_http_requests_at_once_with_a_token_for_one_are_one_node(running, database):
    running.call("create_cluster", "office")
    token = running.call("create_token", "office", "--uses", str(ONE))["token"]

    answers = post_at_once(running, [dump(Machine().request(token)) for _ in range(PARALLEL)])
    assert Counter(status for status, _ in answers) == {200: 1, 403: PARALLEL - 1}
    codes = {parse_body(body, Refusal).code for status, body in answers if status != 200}
    assert codes == {"token-used-up"}
    (winner,) = [parse_body(body, EnrolReply) for status, body in answers if status == 200]
    (node,) = manage(database | running.env, "dumpdata", "nodes.node")
    assert node["fields"]["node_id"] == winner.node_id
    (row,) = manage(database | running.env, "dumpdata", "nodes.token")
    assert (row["fields"]["uses"], row["fields"]["used"]) == (ONE, 1)
