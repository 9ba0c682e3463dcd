"""A console and its agents at work, watched from all sides: no known secret is where it should not be.

That the search would find them is tried in tests/nodes/test_trust_leaks.py.
"""

from __future__ import annotations

import base64
import http.cookiejar
import re
import socket
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

import pytest
import redis
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from websockets.sync.client import connect

from kubespan.agent.store import Store
from kubespan.core.identity import KeyPair, make_signing_key
from kubespan.core.messages import ENROL_PATH, VERSIONS, EnrolRequest, dump
from nodes import embedded
from nodes.certificates import fingerprint
from nodes.playground import TLS_PORT, Mesh, RunningConsole, await_true, open_site
from tests.consoles import PreparedConsole
from tests.end_to_end.conftest import UP_SECONDS
from tests.factories import cluster_identity
from tests.leaks import Monitor, Processes, dump_redis, find, find_in_files
from tests.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

PASSWORD = "a password that only this test knows, 7481"
NAMES = ["alpha", "bravo", "charlie"]
MOST_PAGES = 400
EXPECTED = {"keys.env", "key.pem"}
"""Files whose very business is a secret: the keys that the console was given, and its certificate's."""


class Browser:
    """Somebody's browser: it keeps cookies, follows every link, and remembers all that it was shown."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookies = http.cookiejar.CookieJar()
        self.shown: dict[str, bytes] = {}
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def open(self, path: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
        """Get a page, or send a form; what comes, errors as well, is remembered."""
        body = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            with self._opener.open(request, timeout=60) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        self.shown[f"{path} ({status}{'' if form is None else ', form'})"] = content
        return status, content.decode(errors="replace")

    def send(self, path: str, form: dict[str, str], page: str = "") -> tuple[int, str]:
        """Fill in the form of a page."""
        _, text = self.open(page or path)
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', text)
        assert found, text
        return self.open(path, {"csrfmiddlewaretoken": found[1], **form})

    def crawl(self) -> int:
        """Open every page that can be reached by links; how many there were."""
        seen, waiting = {"/"}, ["/"]
        while waiting and len(seen) < MOST_PAGES:
            _, text = self.open(waiting.pop())
            for link in re.findall(r'href="(/[^"#]*)"', text):
                path = unescape(link)
                if path not in seen and not path.startswith(("/static/", "/logout", "/agent/")):
                    seen.add(path)
                    waiting.append(path)
        return len(seen)

    def listen(self, path: str, frames: int) -> None:
        """What a page's socket is told."""
        cookie = "; ".join(f"{one.name}={one.value}" for one in self.cookies)
        url = self.url.replace("http", "ws", 1) + path
        with connect(url, additional_headers={"Cookie": cookie}, origin=self.url, open_timeout=60) as live:
            said = [live.recv(timeout=60) for _ in range(frames)]
        self.shown[path] = b"\n".join(one if isinstance(one, bytes) else one.encode() for one in said)


@dataclass
class Traces:
    """What everybody left, and what must not be in it."""

    directory: Path
    secrets: dict[str, str]
    capabilities: dict[str, str]
    """Not for pages, logs, processes and Redis, but kept in the database as they are."""
    browser: Browser
    pages: int = 0
    revealed: dict[str, bytes] = field(default_factory=dict)
    redis_said: bytes = b""
    redis_kept: bytes = b""
    processes: bytes = b""

    @property
    def all(self) -> dict[str, str]:
        """Both."""
        return self.secrets | self.capabilities


class WatchedConsole(PreparedConsole):
    """Whose commands have command lines of their own, to be looked at."""

    execute = RunningConsole.execute


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """An imported cluster, two members and one that waits; everything that people do; then what was left of it."""
    directory = tmp_path_factory.mktemp("leaks")
    here = directory / "console"
    here.mkdir()
    cluster_id, secret = cluster_identity("leaks")
    (directory / "secret").write_text(secret)
    processes = Processes()
    with open_site(NAMES) as site, Mesh(site, directory) as mesh, processes.watched():
        console = WatchedConsole(here, listen=f"127.0.0.1:{free_port()}", tls_listen=f"{site.host}:{TLS_PORT}")
        try:
            console.start()
            monitor = Monitor(str(embedded.socket_path(here)))
            browser = Browser(console.url)
            traces = Traces(directory, {"cluster secret": secret}, {"cluster id": cluster_id}, browser)
            become_administrator(browser, console)
            made = console.call(
                "create_cluster", "office", "--cluster-id", cluster_id, "--secret-file", str(directory / "secret")
            )
            office = f"/clusters/{made['uuid']}/"
            tokens = {
                "token": console.call("create_token", "office", "--uses", "2")["token"],
                "waiting token": console.call("create_token", "office", "--approval-required")["token"],
            }
            pin = fingerprint((here / "tls" / "certificate.pem").read_bytes())
            for name, token in zip(NAMES, [tokens["token"]] * 2 + [tokens["waiting token"]], strict=True):
                mesh.agents[name].enrol(console.tls_url, pin, token)
                mesh.agents[name].start()
            await_true(lambda: mesh.agents["alpha"].links().get("bravo") == "up", UP_SECONDS, "no mesh")
            traces.secrets |= tokens | known_keys(mesh) | consoles_keys(here)
            traces.secrets["invitation"] = invite(browser)
            work(browser, office, console, tokens["token"])
            traces.pages = browser.crawl()
            for path in (f"/live{office[:-1].replace('clusters', 'cluster')}", "/live/overview"):
                browser.listen(path, 1)
            look(browser, office, traces)
            await_true(lambda: mesh.agents["alpha"].links().get("charlie") == "up", UP_SECONDS, "no mesh with charlie")
            rotate(console)
            traces.secrets["next cluster secret"] = secret_held(mesh, "alpha")
            fail(browser, here, tokens["token"])
            with redis.Redis(unix_socket_path=str(embedded.socket_path(here))) as client:
                traces.redis_kept = dump_redis(client)
            traces.redis_said = monitor.stop()
        finally:
            console.stop()
        traces.processes = processes.lines
        yield traces


def become_administrator(browser: Browser, console: PreparedConsole) -> None:
    code = re.search(r"one-time code: (\w+)", console.log.read_text())
    assert code
    form = {"code": code[1], "username": "alice", "password": PASSWORD, "again": PASSWORD}
    browser.send("/first/", form)
    assert browser.open("/clusters/")[0] == 200


def known_keys(mesh: Mesh) -> dict[str, str]:
    """Every machine's own."""
    found = {}
    for name, agent in mesh.agents.items():
        store = Store(agent.state)
        found[f"WireGuard key of {name}"] = store.keys().private_key
        found[f"signing key of {name}"] = store.agent().signing_key
    return found


def consoles_keys(here: Path) -> dict[str, str]:
    """Those of the console's own files, and its administrator's password."""
    named = dict(line.split("=", 1) for line in (here / embedded.KEY_FILE).read_text().splitlines() if "=" in line)
    key = load_pem_private_key((here / "tls" / "key.pem").read_bytes(), None)
    scalar = key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    return {
        "KUBESPAN_KEYS": named["KUBESPAN_KEYS"].strip("'\"").partition(":")[2],
        "KUBESPAN_SECRET_KEY": named["KUBESPAN_SECRET_KEY"].strip("'\""),
        "certificate's key": base64.b64encode(scalar).decode(),
        "password": PASSWORD,
    }


def invite(browser: Browser) -> str:
    """Invite somebody, who opens the link, whole and cut short, and sends its form without the form's token."""
    form = {"name": "bob", "role": "viewer", "where": "", "lifetime": "1"}
    _, made = browser.send("/settings/people/", form)
    browser.shown.pop("/settings/people/ (200, form)")  # it shows that link, once
    link = re.search(r"/invitation/([^/<]+)/", made)
    assert link
    guest = Browser(browser.url)
    opened = [guest.open(path)[0] for path in (link[0], link[0].rstrip("/"), f"{link[0]}more/")]
    opened.append(guest.open(link[0], {"username": "bob"})[0])
    assert opened == [200, 200, 404, 403]
    browser.shown |= guest.shown
    return link[1]


def work(browser: Browser, office: str, console: PreparedConsole, token: str) -> None:
    """What people do, and what liars send."""
    options = {
        "routing": "after-handshake",
        "mtu": "1400",
        "enabled": "on",
        "discovery": "on",
        "probes": "on",
        "harvest_extra_endpoints": "on",
    }
    browser.send(f"{office}options/", options)
    _, listed = browser.open("/nodes/?q=charlie")
    charlie = re.search(r"/nodes/\d+/", listed)
    assert charlie
    browser.send(f"{charlie[0]}approve/", {}, charlie[0])
    form = {"cluster": office.split("/")[2], "uses": "1", "lifetime": "3600"}
    browser.send(f"{office}enrolment/", form)
    browser.shown.pop(f"{office}enrolment/ (200, form)")  # it shows that token, once
    request = dump(newcomer(token))
    for body in (request, request[:-5], b"token=" + token.encode()):
        post(console.url + ENROL_PATH, body, browser)
    browser.open("/nothing/")
    browser.open("/account/confirm/", {"password": PASSWORD})  # without the form's token
    browser.open("/", Host="liar.example")
    browser.open("/login/", {"login": "alice", "password": PASSWORD})


def post(url: str, body: bytes, browser: Browser) -> int:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    browser.shown[f"enrolment of {len(body)} bytes ({status})"] = content
    return status


def look(browser: Browser, office: str, traces: Traces) -> None:
    """Look at what may be looked at."""
    browser.send("/account/confirm/", {"password": PASSWORD})
    browser.send(f"{office}secret/", {})
    browser.send(f"{office}id/", {}, f"{office}options/")
    for name in (f"{office}secret/ (200, form)", f"{office}id/ (200, form)"):
        traces.revealed[name] = browser.shown.pop(name)


def rotate(console: PreparedConsole) -> None:
    """Everybody gets another secret."""
    started = console.call("rotate_secret", "office", "start", "--automatic")
    generation = started["rotation"]["generation"]

    def done() -> bool:
        told = console.call("rotate_secret", "office")
        return told["secret_generation"] == generation and not told["not_yet_switched"]

    await_true(done, UP_SECONDS, "the secret was not rotated")


def secret_held(mesh: Mesh, name: str) -> str:
    """What a machine's own file has."""
    store = Store(mesh.agents[name].state)
    settings = store.settings(store.agent().enrolment.cluster)  # type: ignore[union-attr]
    assert settings is not None
    return settings.secret


def fail(browser: Browser, here: Path, token: str) -> None:
    """Have the console fail in the middle of its work: error pages, and traces in its log."""
    changes = (
        ("ALTER TABLE nodes_token RENAME TO nodes_token_away", "ALTER TABLE nodes_token_away RENAME TO nodes_token"),
        (
            "UPDATE nodes_cluster SET options = json_set(options, '$.nonsense', 1)",
            "UPDATE nodes_cluster SET options = json_remove(options, '$.nonsense')",
        ),
    )
    _, listed = browser.open("/clusters/")
    office = re.search(r"/clusters/[0-9a-f-]{36}/", listed)
    assert office
    with closing(sqlite3.connect(here / "console.sqlite3", timeout=60)) as rows:
        for spoil, mend in changes:
            rows.execute(spoil)
            rows.commit()
            try:
                statuses = [browser.open(path)[0] for path in ("/tokens/", f"{office[0]}options/")]
                statuses.append(post(browser.url + ENROL_PATH, dump(newcomer(token)), browser))
            finally:
                rows.execute(mend)
                rows.commit()
            assert {500, 503} & set(statuses), statuses


def newcomer(token: str) -> EnrolRequest:
    """A request that is good in itself."""
    pair = KeyPair.make(bytes(range(32)))
    _, verify_key = make_signing_key(bytes(range(1, 33)))
    return EnrolRequest(
        versions=VERSIONS,
        token=token,
        node_id="newcomer",
        name="newcomer",
        public_key=pair.public_key,
        verify_key=verify_key,
        interface_id="1" * 16,
    )


def test_the_journey_was_whole(traces: Traces) -> None:
    """Else the silence of the others would mean little."""
    assert traces.pages > 25
    statuses = {int(status) for name in traces.browser.shown for status in re.findall(r"\((\d{3})", name)}
    assert {200, 400, 403, 404, 500, 503} <= statuses
    assert len(traces.secrets) == 15
    assert traces.secrets["next cluster secret"] != traces.secrets["cluster secret"]
    assert b"PUBLISH" in traces.redis_said
    assert b"kubespan-agent" in traces.processes
    assert "Traceback" in (traces.directory / "console" / "console.log").read_text()


def test_a_look_shows_what_was_asked_for_and_nothing_else(traces: Traces) -> None:
    """Also the proof that pages are searched in a way that finds what they show."""
    secret, cluster_id = traces.revealed.values()
    assert {found.partition(" (")[0] for found in find(text_of(secret), traces.all)} == {"cluster secret"}
    assert {found.partition(" (")[0] for found in find(text_of(cluster_id), traces.all)} == {"cluster id"}


def text_of(page: bytes) -> bytes:
    return page + b"\n" + unescape(page.decode(errors="replace")).encode()


def test_no_page_and_no_error_page_shows_a_secret(traces: Traces) -> None:
    assert {
        name: found for name, page in traces.browser.shown.items() if (found := find(text_of(page), traces.all))
    } == {}


def test_no_secret_is_in_redis_or_passes_it(traces: Traces) -> None:
    assert find(traces.redis_kept, traces.all) == []
    assert find(traces.redis_said, traces.all) == []


def test_no_secret_is_in_a_list_of_processes(traces: Traces) -> None:
    assert find(traces.processes, traces.secrets) == []  # the import above has the cluster id among its arguments


def test_no_secret_is_in_a_log(traces: Traces) -> None:
    logs = [traces.directory / "console" / "console.log", *traces.directory.glob("*.log")]
    assert len(logs) == 1 + len(NAMES)
    assert find_in_files(logs, traces.all) == []


def test_no_secret_is_in_the_database_or_another_file_of_the_console(traces: Traces) -> None:
    files = [path for path in (traces.directory / "console").rglob("*") if path.name not in EXPECTED]
    assert any(path.name == "console.sqlite3" for path in files)
    assert find_in_files(files, traces.secrets) == []


def test_only_a_machines_own_files_hold_its_keys_and_only_the_present_secret(traces: Traces) -> None:
    for name in NAMES:
        files = list((traces.directory / f"{name}.state").iterdir())
        foreign = {key: text for key, text in traces.secrets.items() if name not in key and "next" not in key}
        assert find_in_files(files, foreign) == []
        open_files = [path.name for path in files if path.is_file() and path.stat().st_mode & 0o077]
        assert open_files == []


def test_the_socket_of_redis_is_its_owners_alone(traces: Traces) -> None:
    path = embedded.socket_path(traces.directory / "console")
    with socket.socket(socket.AF_UNIX):
        assert path.parent.stat().st_mode & 0o077 == 0
