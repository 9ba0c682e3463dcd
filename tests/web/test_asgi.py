"""Who is handed which connection, and whose word on where it comes from is believed."""

import asyncio
import gc
import threading
import time
from pathlib import Path

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.layers import get_channel_layer
from django.conf import settings

from kubespan.core.messages import AGENT_PATH, ENROL_PATH, EnrolReply, Refusal, dump, parse_body
from kubespan_web import asgi
from nodes import counters
from nodes.agents import rows
from nodes.agents.rows import at_door, in_thread
from nodes.announce import announce, group
from tests.factories import Machine
from tests.players import make_cluster

# Channels looks after a connection to the database that another test may have left in its thread.
pytestmark = pytest.mark.django_db

PATIENCE = 60


def http(path, **more):
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [(b"host", b"127.0.0.1")], "client": ("10.0.0.9", 1), "scheme": "http"}
    return scope | more


async def test_a_page_goes_to_django():
    communicator = ApplicationCommunicator(asgi.application, http("/healthz"))
    await communicator.send_input({"type": "http.request", "body": b""})
    assert (await communicator.receive_output(PATIENCE))["status"] == 200
    await communicator.wait(PATIENCE)


async def test_a_browsers_socket_from_another_site_is_refused():
    headers = [(b"host", b"127.0.0.1"), (b"origin", b"https://elsewhere.example")]
    path = "/live/cluster/00000000-0000-0000-0000-000000000000"
    communicator = ApplicationCommunicator(asgi.application, http(path, type="websocket", headers=headers))
    await communicator.send_input({"type": "websocket.connect"})
    assert (await communicator.receive_output(PATIENCE))["type"] == "websocket.close"
    await communicator.send_input({"type": "websocket.disconnect", "code": 1006})
    await communicator.wait(PATIENCE)


def count_connections():
    """How often this process has the database open."""
    path = settings.DATABASES["default"]["TEST"]["NAME"]
    return sum(file.resolve() == Path(path) for file in Path("/proc/self/fd").iterdir() if file.exists())


@pytest.mark.django_db(transaction=True)
async def test_requests_leave_no_connections_to_the_database_behind():
    found = []
    gc.disable()  # which would close some of them at a time of its own
    try:
        for _ in range(4):
            communicator = ApplicationCommunicator(asgi.application, http("/readyz"))
            await communicator.send_input({"type": "http.request", "body": b""})
            answer = [await communicator.receive_output(PATIENCE) for _ in range(2)]
            assert b'"database": "ok"' in answer[1]["body"]
            await communicator.wait(PATIENCE)
            found.append(count_connections())
    finally:
        gc.enable()
    # SQLite may keep one file open for others' locks; what a test before left behind may be closed meanwhile.
    assert found[-1] <= found[0]


async def test_an_enrolment_leaves_what_it_announces_to_the_loop_and_does_not_wait():
    layer, left = get_channel_layer(), []
    channel = await layer.new_channel()
    await layer.group_add(group(None), channel)

    def act():
        announce(None, "cluster.created")
        left.append(True)

    acting = asyncio.ensure_future(at_door(act))
    await asyncio.sleep(0)  # it has been called
    deadline = time.monotonic() + PATIENCE
    while not left:  # and this loop does nothing else, as one that is busy
        assert time.monotonic() < deadline, "the thread waits for the loop"
    await acting
    async with asyncio.timeout(PATIENCE):
        assert await layer.receive(channel) == {"type": "cluster.created"}


def test_agents_have_their_paths():
    assert (asgi.AGENT_PATH, asgi.ENROL_PATH) == (AGENT_PATH, ENROL_PATH)


async def post(body, *, more=(), **scope):
    """POST an enrolment request in one or more pieces; status, headers and body of the answer."""
    communicator = ApplicationCommunicator(asgi.application, http(ENROL_PATH, method="POST", **scope))
    pieces = [body, *more]
    for piece in pieces:
        await communicator.send_input({"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]})
    start = await communicator.receive_output(PATIENCE)
    answer = await communicator.receive_output(PATIENCE)
    await communicator.wait(PATIENCE)
    return start["status"], dict(start["headers"]), answer["body"]


@pytest.mark.django_db(transaction=True)
async def test_enrolments_use_few_threads_that_last():
    _, _, token = await in_thread(make_cluster, 0)
    before = {thread.ident for thread in threading.enumerate()}
    requests = [dump(Machine().request(token)) for _ in range(20)]
    answers = await asyncio.gather(*(post(request[:100], more=(request[100:],)) for request in requests))
    assert [status for status, _, _ in answers] == [200] * 20
    assert {parse_body(body, EnrolReply).status for _, _, body in answers} == {"approved"}
    assert len([thread for thread in threading.enumerate() if thread.ident not in before]) <= rows.DOORS


@pytest.mark.django_db(transaction=True)
async def test_an_enrolment_that_nobody_waits_for_is_let_go(valkey):
    """While one is answered two more come, and one of them gives up: it uses nothing of the token."""
    cluster, _, token = await in_thread(make_cluster, 0)
    begun, held = threading.Event(), threading.Event()

    def hold():
        begun.set()
        held.wait(PATIENCE)

    holding = asyncio.create_task(at_door(hold))
    await asyncio.to_thread(begun.wait, PATIENCE)
    stays = asyncio.create_task(post(dump(Machine("stays").request(token))))
    gives_up = ApplicationCommunicator(asgi.application, http(ENROL_PATH, method="POST"))
    await gives_up.send_input({"type": "http.request", "body": dump(Machine("gives-up").request(token))})
    await gives_up.send_input({"type": "http.disconnect"})
    assert await gives_up.receive_nothing(), "it is answered before its turn"
    held.set()
    await holding
    assert (await stays)[0] == 200
    await gives_up.wait(PATIENCE)
    assert gives_up.output_queue.empty()
    assert [node.name for node in await in_thread(list, cluster.nodes.all())] == ["stays"]
    assert (await in_thread(counters.read_counters))["enrol.gone"] == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"{}", 400, "request", id="no request"),
        pytest.param(b"x" * 70_000, 413, "too-large", id="too long"),
    ],
)
@pytest.mark.django_db(transaction=True)
async def test_a_bad_enrolment_is_refused_with_a_sentence(valkey, body, status, code):
    found, headers, answer = await post(body)
    assert (found, parse_body(answer, Refusal).code) == (status, code)
    assert headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    ("scheme", "redirect", "expected"),
    [
        pytest.param("http", False, True, id="a console without TLS"),
        pytest.param("https", True, True, id="by TLS"),
        pytest.param("http", True, False, id="Django says where there is TLS"),
    ],
)
def test_a_token_is_taken_by_tls_where_there_is_some(settings, scheme, redirect, expected):
    settings.SECURE_SSL_REDIRECT = redirect
    assert asgi._is_safe({"scheme": scheme}) is expected


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [
        pytest.param(["10.0.0.0/8"], ("192.0.2.7", "https"), id="a proxy of ours"),
        pytest.param(["172.16.0.0/12"], ("10.0.0.9", "http"), id="somebody who is none"),
        pytest.param([], ("10.0.0.9", "http"), id="no proxies"),
    ],
)
async def test_forwarded_headers(proxies, seen):
    found = []

    async def app(scope, receive, send):
        found.append((scope["client"][0], scope["scheme"]))

    # The first address was made up by the client, who came to the proxy from the second one.
    headers = [(b"x-forwarded-for", b"203.0.113.1, 192.0.2.7"), (b"x-forwarded-proto", b"https")]
    await asgi.behind(proxies, app)(http("/", headers=headers), None, None)
    assert found == [seen]


FOUND_LATE = """
import sys
import kubespan_web.asgi
from django.urls import resolve
before = set(sys.modules)
resolve("/login/")
print(*sorted(set(sys.modules) - before))
"""


def test_no_page_has_to_import_its_views_while_agents_wait(python, production):
    ran = python("-c", FOUND_LATE, **production)
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr
