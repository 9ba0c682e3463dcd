"""Enrolment against a small HTTP server that answers as the test tells it."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import msgspec
import pytest
import structlog

from kubespan.agent.enrol import EnrolError, Machine, Wish, enrol, make_identity
from kubespan.agent.patience import ATTEMPTS
from kubespan.agent.store import ENROLLING, SETTINGS, Busy, Settings, Store, StoreError
from kubespan.agent.trust import TrustError
from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import decode_node_id, node_address
from kubespan.core.messages import ENROL_PATH, EnrolReply, EnrolRequest, Refusal, parse_body
from tests.agent.certificates import make_certificate
from tests.agent.console_double import CLUSTER, CLUSTER_ID, CONSOLE_KEY, SECRET

MACHINE = Machine("alpha.example", "Testing Linux 1", ("192.0.2.1",), bytes.fromhex("2e1ab6538169"))
TOKEN = "token-that-nobody-may-see"


def agree(request, **other):
    """The reply of a console that says yes."""
    address = node_address(ula_prefix(CLUSTER_ID), bytes.fromhex(request.interface_id))
    values = {
        "version": 1,
        "status": "approved",
        "cluster": CLUSTER,
        "cluster_id": CLUSTER_ID,
        "cluster_name": "office",
        "console_key": CONSOLE_KEY,
        "node_id": request.node_id,
        "address": str(address),
    }
    return 200, msgspec.json.encode(EnrolReply(**(values | other)))


@contextmanager
def console(*answers, tls=None):
    """Answer requests in turn: each answer is a function of the request, or None to hang up without one."""
    seen = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = parse_body(self.rfile.read(int(self.headers["Content-Length"])), EnrolRequest)
            seen.append((self.path, request))
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, body, *headers = answer(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # a client that does not trust us hangs up
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        scheme = "http" if tls is None else "https"
        yield SimpleNamespace(url=f"{scheme}://127.0.0.1:{server.server_address[1]}", seen=seen)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "state")


def wish(url, **other):
    return Wish(url=url, token=TOKEN, **other)


def everything(store):
    return b"".join(path.read_bytes() for path in store.directory.iterdir())


def test_a_machine_joins(store):
    with console(agree) as there:
        reply = enrol(store, wish(there.url, name="alpha", listen_port=4000, networks=("10.9.0.0/16",)), MACHINE)
    path, request = there.seen[0]
    assert path == ENROL_PATH
    assert (request.token, request.name, request.hostname) == (TOKEN, "alpha", "alpha.example")
    assert (request.listen_port, request.addresses, request.networks) == (4000, ("192.0.2.1",), ("10.9.0.0/16",))
    # spec/kubespan.md §1.5, a known answer.
    assert request.interface_id == "2c1ab6fffe538169"
    assert reply.address == "fd7f:175a:b97c:5602:2c1a:b6ff:fe53:8169"
    state = store.agent()
    assert (state.enrolment.cluster, state.enrolment.console_key) == (CLUSTER, CONSOLE_KEY)
    assert (state.listen_port, state.networks, state.mac) == (4000, ("10.9.0.0/16",), "2e:1a:b6:53:81:69")
    assert request.public_key == store.keys().public_key
    assert len(decode_node_id(request.node_id)) == 32


def test_neither_token_nor_private_keys_go_where_they_should_not(store):
    with console(agree) as there:
        enrol(store, wish(there.url), MACHINE)
    assert TOKEN.encode() not in everything(store)
    assert TOKEN not in repr(wish(there.url))
    sent = msgspec.json.encode(there.seen[0][1]).decode()
    assert store.keys().private_key not in sent
    assert store.agent().signing_key not in sent


def test_a_machine_without_an_interface_gets_one_address_for_ever(store):
    machine = Machine("alpha", "", (), None)
    with console(agree) as there:
        first = enrol(store, wish(there.url), machine)
        second = enrol(store, wish(there.url), machine)
    assert first.address == second.address
    made = bytes.fromhex(store.agent().mac.replace(":", ""))
    assert made[0] & 0x03 == 0x02


def test_an_interface_that_appears_later_changes_nothing(store):
    with console(agree) as there:
        first = enrol(store, wish(there.url), Machine("alpha", "", (), None))
        assert enrol(store, wish(there.url), MACHINE).address == first.address


def test_a_lost_reply_is_asked_for_again_with_the_same_keys(store):
    with console(None, agree) as there:
        enrol(store, wish(there.url), MACHINE)
    first, second = (request for _, request in there.seen)
    assert first == second


def test_a_front_whose_console_restarts_is_waited_for(store):
    with console(lambda _: (502, b"Bad Gateway"), agree) as there:
        assert enrol(store, wish(there.url), MACHINE).status == "approved"


def test_a_console_that_is_busy_is_waited_for(store, monkeypatch):
    monkeypatch.setattr("kubespan.agent.enrol.READ_SECONDS", 1.0)  # in which the last one is to answer
    answered = threading.Event()

    def late(_request):
        answered.wait(30)
        return 503, b""

    with structlog.testing.capture_logs() as logs, console(*[late] * (ATTEMPTS + 2), agree) as there:
        reply = enrol(store, wish(there.url), MACHINE)
        answered.set()
    assert reply.status == "approved"
    assert len(there.seen) == ATTEMPTS + 3
    assert len({request.public_key for _, request in there.seen}) == 1
    assert [log["reason"] for log in logs] == ["no answer yet"] * (ATTEMPTS + 2)


def test_a_console_that_never_answers_is_given_up(store, monkeypatch):
    monkeypatch.setattr("kubespan.agent.enrol.READ_SECONDS", 0.1)
    monkeypatch.setattr("kubespan.agent.patience.LATE_ATTEMPTS", 6)
    ended = threading.Event()

    def never(_request):
        ended.wait(30)
        return 503, b""

    with console(never) as there:
        with pytest.raises(EnrolError, match=r"port \d+ takes the request and does not answer: it is busy"):
            enrol(store, wish(there.url), MACHINE)
        deadline = time.monotonic() + 30
        while len(there.seen) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)  # what was sent last may have yet to be read
        ended.set()
    assert len(there.seen) == 6


def test_a_second_run_after_a_lost_reply_has_the_same_keys(store):
    with console(None) as there, pytest.raises(EnrolError, match="cannot reach"):
        enrol(store, wish(there.url), MACHINE)
    with console(agree) as again:
        enrol(store, wish(again.url), MACHINE)
    assert {request.public_key for _, request in there.seen + again.seen} == {store.keys().public_key}
    assert {request.verify_key for _, request in there.seen + again.seen} == {store.agent().verify_key}


REFUSALS = [
    pytest.param(
        lambda _: (403, msgspec.json.encode(Refusal(code="expired", reason="This token has expired."))),
        "This token has expired. (expired)",
        id="refused with a reason",
    ),
    pytest.param(lambda _: (404, b"<html>Not Found</html>"), "not a console of this kind", id="another site"),
    pytest.param(lambda _: (200, b"{}"), "not a console of this kind", id="not a reply"),
    pytest.param(lambda _: (200, b"x" * 10_000_000), "not a console of this kind", id="endless"),
    pytest.param(lambda _: (302, b"", ("Location", "/elsewhere")), "not a console of this kind", id="redirect"),
    pytest.param(lambda request: agree(request, node_id="other"), "another machine", id="for another machine"),
    pytest.param(lambda request: agree(request, address="fd00::1"), "it must be fd7f:", id="another address"),
    pytest.param(lambda request: agree(request, version=99), "protocol version 99", id="a future version"),
]


@pytest.mark.parametrize(("answer", "sentence"), REFUSALS)
def test_what_is_no_yes_leaves_keys_and_nothing_else(store, answer, sentence):
    with console(answer) as there, pytest.raises(EnrolError) as error:
        enrol(store, wish(there.url), MACHINE)
    assert sentence in str(error.value)
    assert TOKEN not in str(error.value)
    assert len(there.seen) == 1
    assert store.agent().enrolment is None


def test_a_refused_second_enrolment_leaves_the_first(store):
    with console(agree) as there:
        enrol(store, wish(there.url), MACHINE)
        before = store.agent()
    with console(REFUSALS[0].values[0]) as there, pytest.raises(EnrolError):
        enrol(store, wish(there.url), MACHINE)
    assert store.agent() == before


def test_nobody_there_is_a_sentence(store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(EnrolError, match=r"cannot reach the console at 127\.0\.0\.1 port \d+: Connection refused$"):
            enrol(store, wish(f"http://127.0.0.1:{free.getsockname()[1]}"), MACHINE)


def test_joining_another_cluster_of_the_console_forgets_the_secret_of_the_first(store):
    def agree_to_another(request):
        return agree(request, cluster="another")

    with console(agree, agree, agree_to_another) as there:
        enrol(store, wish(there.url), MACHINE)
        store.save_settings(Settings(cluster=CLUSTER, secret=SECRET, secret_generation=1))
        enrol(store, wish(there.url), MACHINE)
        assert store.settings(CLUSTER) is not None
        enrol(store, wish(there.url), MACHINE)
    assert not store.path(SETTINGS).exists()


def test_one_cluster_a_machine(store):
    """A second console is refused before it hears of this machine; what is held of the first stays."""
    with console(agree) as there, console(agree) as elsewhere:
        enrol(store, wish(there.url), MACHINE)
        store.save_settings(Settings(cluster=CLUSTER, secret=SECRET, secret_generation=1))
        with pytest.raises(
            EnrolError, match=f"enrolled in the cluster office .*kubespan-agent leave .*{store.directory}"
        ):
            enrol(store, wish(elsewhere.url), MACHINE)
        assert elsewhere.seen == []
        assert store.settings(CLUSTER) is not None
        # What the remedy does, but for the mesh itself.
        store.forget_settings()
        store.forget_enrolment(store.agent().enrolment)
        enrol(store, wish(elsewhere.url), MACHINE)
        assert store.agent().enrolment.url == elsewhere.url


def test_a_console_that_moved_is_known_by_its_certificate(store, tmp_path):
    certificate = make_certificate(tmp_path)
    with console(agree, tls=certificate.context) as there:
        enrol(store, wish(there.url, pin=certificate.pin), MACHINE)
    with console(agree, tls=certificate.context) as there:
        enrol(store, wish(there.url, pin=certificate.pin), MACHINE)
        assert store.agent().enrolment.url == there.url


def test_a_pinned_console_is_trusted_and_its_certificate_kept(store, tmp_path):
    certificate = make_certificate(tmp_path)
    with console(agree, tls=certificate.context) as there:
        enrol(store, wish(there.url, pin=certificate.pin), MACHINE)
    assert store.agent().enrolment.pin == certificate.pin
    assert store.agent().enrolment.certificate


@pytest.mark.parametrize(
    ("pin", "error", "sentence"),
    [
        pytest.param("sha256:" + 32 * "00", TrustError, "another fingerprint", id="by another pin"),
        pytest.param("", EnrolError, r"does not trust \(self-signed certificate\): .* --pin", id="without a pin"),
    ],
)
def test_a_console_that_is_not_trusted_never_sees_the_token(store, tmp_path, pin, error, sentence):
    certificate = make_certificate(tmp_path)
    with console(agree, tls=certificate.context) as there, pytest.raises(error, match=sentence):
        enrol(store, wish(there.url, pin=pin), MACHINE)
    assert there.seen == []


def test_a_damaged_identity_is_not_replaced(store):
    with console(agree) as there:
        enrol(store, wish(there.url), MACHINE)
        path = store.path("kubespan-identity.yaml")
        path.write_text("privateKey: half")
        with pytest.raises(StoreError, match="damaged"):
            enrol(store, wish(there.url), MACHINE)
    assert path.read_text() == "privateKey: half"
    assert len(there.seen) == 1


def test_one_enrolment_at_a_time(store):
    with console(agree) as there, store.lock(ENROLLING), pytest.raises(Busy):
        enrol(store, wish(there.url), MACHINE)
    assert there.seen == []


def test_keys_come_from_the_random_bytes_given(store):
    identity = make_identity(store, None, random=lambda size: bytes(range(size)))
    assert identity.node_id == "fwjO4YDNyAjLsoCKmQiIg4BHaghFUIBEOwgCIYABCAA"
    assert identity.state.mac == "02:01:02:03:04:05"


def test_a_reply_has_only_fields_that_are_known(store):
    def newer(request):
        status, body = agree(request)
        return status, json.dumps(json.loads(body) | {"later": 1}).encode()

    with console(newer) as there, pytest.raises(EnrolError, match="not a console of this kind"):
        enrol(store, wish(there.url), MACHINE)
