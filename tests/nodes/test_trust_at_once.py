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

from kubespan.core.messages import ENROL_PATH, Refusal, dump, parse_body
from nodes.models import Change, Node
from nodes.services import enrolment
from tests.consoles import ROWS, PreparedConsole
from tests.factories import NOW, PEER, Machine, make_cluster, make_token
from tests.ports import free_port
from tests.postgresql import PostgreSQL, find_programs

pytestmark = pytest.mark.xdist_group("at once")  # its console takes long to start

KEYS = ("KUBESPAN_SECRET_KEY", "KUBESPAN_KEYS")
"""Of these tests, for the processes beside the console too."""
ROOT = Path(__file__).resolve().parents[2]
ONE, PARALLEL, PROCESSES = 1, 100, 4
SECONDS = 120.0
"""After which an answer is not waited for any more."""


@pytest.fixture(scope="module")
def running(request, tmp_path_factory):
    """A console with plain HTTP and with TLS, on a database of its own of the kind that these tests run on."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("console")
        url = f"sqlite:///{directory / ROWS}"
        if request.config.getoption("database") == "postgresql":
            # Its socket's path must be short, and its user is not root.
            short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubespan-trust-")))
            server = PostgreSQL(find_programs(), short)
            server.make()
            stack.callback(server.stop)
            server.start()
            url = server.url
        console = PreparedConsole(directory, listen=f"127.0.0.1:{free_port()}", tls_listen=f"127.0.0.1:{free_port()}")
        console.env |= {"DATABASE_URL": url, **{name: os.environ[name] for name in KEYS}}
        stack.callback(console.stop)
        console.start()
        yield console


@pytest.fixture
def cluster(running, request):
    """The name of a cluster that nobody else uses."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[-63:].strip("-")
    running.call("create_cluster", name)
    return name


@pytest.fixture
def token(running, cluster):
    """For one machine."""
    return running.call("create_token", cluster, "--uses", str(ONE))["token"]


def enrol_at_once(console, token, *name):
    """What each of a hundred requests was answered, from several processes that began together."""
    here = {"DJANGO_SETTINGS_MODULE": "kubespan_web.settings", "PYTHONPATH": str(ROOT)}
    env = {**os.environ, **here, "DATABASE_URL": console.env["DATABASE_URL"]}
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
def test_a_hundred_machines_of_many_processes_with_a_token_for_one_are_one_node(running, cluster, token):
    assert sorted(enrol_at_once(running, token)) == ["approved"] + ["token-used-up"] * (PARALLEL - 1)
    assert len(running.call("list_nodes", cluster)["nodes"]) == 1


@pytest.mark.slow
def test_a_hundred_requests_of_one_machine_in_many_processes_are_one_use(running, cluster, token):
    assert enrol_at_once(running, token, "same") == ["approved"] * PARALLEL
    assert [node["name"] for node in running.call("list_nodes", cluster)["nodes"]] == ["same"]


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
def test_a_hundred_http_requests_at_once_with_a_token_for_one_are_one_node(running, cluster, token):
    machines = [Machine(f"machine-{number}") for number in range(PARALLEL)]
    answers = post_at_once(running, [dump(machine.request(token)) for machine in machines])
    assert Counter(status for status, _ in answers) == {200: 1, 403: PARALLEL - 1}
    codes = {parse_body(body, Refusal).code for status, body in answers if status != 200}
    assert codes == {"token-used-up"}
    (winner,) = [machine.name for machine, (status, _) in zip(machines, answers, strict=True) if status == 200]
    assert [node["name"] for node in running.call("list_nodes", cluster)["nodes"]] == [winner]
