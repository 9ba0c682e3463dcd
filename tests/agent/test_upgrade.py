"""Becoming another agent: asked for, fetched, checked, put in place, and confirmed or reported."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from kubespan import __version__
from kubespan.agent.__main__ import main
from kubespan.agent.fetch import UpgradeError, ask_release, fetch
from kubespan.agent.home import LAUNCHER, Failure, Home, HomeError, find_home
from kubespan.agent.kernel import KernelError
from kubespan.agent.loop import Agent, Ending, Place
from kubespan.agent.mesh import Own
from kubespan.agent.trust import ConsoleUrl, Way, tls_context
from kubespan.agent.upgrade import Succession
from kubespan.core.messages import Applied, Claim, Upgrade, UpgradeFailed
from kubespan.core.release import ARCHIVE_PATH, RELEASE_PATH, Release
from tests.agent.archives import sha256, small_archive
from tests.agent.certificates import make_certificate
from tests.agent.console_double import ALPHA, SIGNING_KEY, Bench, ConsoleDouble, running, sealed_secret, snapshot

NEW = "0.2.0+1a2b3c4d"
SAYS_ITS_VERSION = f"def main():\n    print('{NEW}')\n"
OFFER = Upgrade(version=NEW, sha256="b" * 64, size=3)


def make_home(directory):
    """A home with one agent in it."""
    home = Home(directory)
    home.agents.mkdir(parents=True)
    home.archive("a" * 64).write_bytes(b"old")
    home._point("current", home.archive("a" * 64))
    return home


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


# The home.


def test_settling_puts_agent_launcher_and_links_in_place_and_may_be_repeated(tmp_path):
    home, links, archive = Home(tmp_path / "opt" / "agent"), tmp_path / "bin", tmp_path / "downloaded"
    archive.write_bytes(b"an agent")
    for _ in range(2):
        home.settle(archive, links)
        assert home.present() == sha256(b"an agent")
        assert home.archive(home.present()).read_bytes() == b"an agent"
        assert home.launcher.read_bytes() == LAUNCHER.read_bytes()
        assert os.access(home.launcher, os.X_OK)
        assert sorted(path.name for path in links.iterdir()) == ["kubespan-agent", "kubespanctl"]
        assert {path.resolve() for path in links.iterdir()} == {home.launcher.resolve()}


def test_a_damaged_archive_is_put_right_by_settling_again(tmp_path):
    home, archive = Home(tmp_path / "home"), tmp_path / "downloaded"
    archive.write_bytes(b"an agent")
    home.settle(archive, tmp_path / "bin")
    home.archive(home.present()).write_bytes(b"an ag")
    home.settle(archive, tmp_path / "bin")
    assert home.archive(home.present()).read_bytes() == b"an agent"


def test_settling_by_hand_is_no_trial(home, tmp_path):
    home.stage("b" * 64, NEW)
    (home.directory / "failed").write_text(f"{NEW} hung\n")
    archive = tmp_path / "downloaded"
    archive.write_bytes(b"an agent")
    home.settle(archive, tmp_path / "bin")
    assert not home.on_trial()
    assert home.failure() is None


def test_only_the_present_and_the_former_agent_are_kept(home):
    for name in ("b", "c"):
        home.archive(name * 64).write_bytes(name.encode())
        (home.directory / "unpacked" / f"{name * 64}-cpython-311").mkdir(parents=True)
        home.stage(name * 64, NEW)
        assert home.confirm()
    assert {path.stem[0] for path in home.agents.iterdir()} == {"b", "c"}
    assert not home.confirm()


def test_a_link_of_somebody_elses_stays_when_the_agent_goes(home, tmp_path):
    links = tmp_path / "bin"
    links.mkdir()
    (links / "kubespan-agent").symlink_to("/usr/bin/true")
    (links / "kubespanctl").symlink_to(home.launcher)
    assert home.sweep(links) == [str(links / "kubespanctl"), str(home.directory)]
    assert [path.name for path in links.iterdir()] == ["kubespan-agent"]


def test_a_home_that_leads_nowhere_stages_nothing(tmp_path):
    with pytest.raises(HomeError, match="leads nowhere"):
        Home(tmp_path).stage("b" * 64, NEW)


@pytest.mark.parametrize(
    ("archive", "found"),
    [
        pytest.param("agents/x.pyz", True, id="started by the launcher"),
        pytest.param("../downloads/x.pyz", False, id="started from elsewhere"),
        pytest.param(None, False, id="run from its sources"),
    ],
)
def test_only_an_agent_that_lives_there_has_a_home(tmp_path, monkeypatch, archive, found):
    monkeypatch.setenv("KUBESPAN_AGENT_HOME", str(tmp_path))
    monkeypatch.delenv("KUBESPAN_AGENT_ARCHIVE", raising=False)
    if archive is not None:
        monkeypatch.setenv("KUBESPAN_AGENT_ARCHIVE", os.path.normpath(tmp_path / archive))
    assert (find_home() is not None) is found


# The running agent.


@dataclass
class Fetched:
    """Stands for the console's files."""

    error: str = ""
    asked: list[Upgrade] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, home: Home, offered: Upgrade) -> None:
        self.asked.append(offered)
        self.done.set()
        if self.error:
            raise UpgradeError(self.error)


class Upgradable(Bench):
    """An enrolled machine whose agent has a home."""

    def upgradable(self, home: Home | None, fetched: Fetched | None = None) -> Agent:
        own = Own(ALPHA.keys, ALPHA.node_id, ALPHA.address, 51820)
        place = Place(self.kernel, self.host, "kernel")
        agent = Agent(self.store, self.enrolment, SIGNING_KEY, own, place, chance=lambda: 0.01, home=home)
        agent.succession = Succession(home, agent.talk, fetched or Fetched())
        return agent


@pytest.fixture
def machine(tmp_path):
    return Upgradable(tmp_path / "state")


async def test_what_the_console_offers_is_fetched_put_in_place_and_made_way_for(machine, home):
    fetched = Fetched()
    async with ConsoleDouble().listening() as console:
        agent = machine.upgradable(home, fetched)
        task = asyncio.create_task(agent.run(console.way))
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(OFFER)
        assert await task is Ending.REPLACED
    assert fetched.asked == [OFFER]
    assert home.present() == OFFER.sha256
    assert (home.directory / "former").readlink().stem == "a" * 64
    assert (home.directory / "trial").read_text() == f"0 {NEW}\n"
    assert machine.kernel.link is not None, "the mesh stays"


async def test_what_cannot_be_fetched_is_reported_and_the_agent_goes_on(machine, home):
    async with ConsoleDouble().listening() as console:
        async with running(machine.upgradable(home, Fetched("its checksum is another")), console.way):
            line = await console.line()
            await line.let_in(sealed_secret(), snapshot())
            for _ in range(2):  # asked again, it tries again
                await line.say(OFFER)
                assert await line.hear(UpgradeFailed) == UpgradeFailed(version=NEW, reason="its checksum is another")
        assert home.present() == "a" * 64
        assert not home.on_trial()


async def test_the_same_version_is_no_upgrade(machine, home):
    fetched = Fetched()
    async with ConsoleDouble().listening() as console, running(machine.upgradable(home, fetched), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.say(Upgrade(version=__version__, sha256="b" * 64, size=3))
        await line.say(OFFER)
        await fetched.done.wait()
    assert fetched.asked == [OFFER]


async def test_an_agent_from_its_sources_says_that_it_cannot(machine):
    async with ConsoleDouble().listening() as console, running(machine.upgradable(None), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.say(OFFER)
        failed = await line.hear(UpgradeFailed)
    assert "the way that it was installed" in failed.reason


async def test_a_pending_machine_is_offered_nothing(machine, home):
    async with ConsoleDouble().listening() as console, running(machine.upgradable(home), console.way):
        line = await console.line()
        await line.let_in(OFFER, status="pending")
        code, reason = await line.gone()
    assert (code, "upgrade" in reason) == (1008, True)


async def test_an_agent_on_trial_is_kept_once_it_is_connected_and_follows_the_settings(machine, home):
    home.stage("b" * 64, NEW)
    async with ConsoleDouble().listening() as console:
        agent = machine.upgradable(home)
        async with running(agent, console.way):
            line = await console.line()
            await line.let_in(sealed_secret())
            await line.hear(Claim)
            assert home.on_trial(), "it has not been told the settings yet"
            await line.say(snapshot())
            while home.on_trial():
                await asyncio.sleep(0.01)
    assert home.present() == "b" * 64


async def test_a_pending_machine_keeps_its_new_agent_once_it_is_welcome(machine, home):
    home.stage("b" * 64, NEW)
    async with ConsoleDouble().listening() as console, running(machine.upgradable(home), console.way):
        await (await console.line()).let_in(status="pending")
        while home.on_trial():
            await asyncio.sleep(0.01)


async def test_an_agent_whose_looks_fail_stays_on_trial(machine, home):
    home.stage("b" * 64, NEW)
    agent = machine.upgradable(home)
    agent.succession.begin()
    agent.talk.connected, agent.talk._told.welcomed = True, True
    machine.kernel.fault = KernelError("the kernel refuses")
    await agent.look()
    assert home.on_trial()
    machine.kernel.fault = None
    await agent.look()
    assert not home.on_trial()


async def test_one_that_is_back_tells_the_console_why_and_once(machine, home):
    (home.directory / "failed").write_text(f"{NEW} was not connected to the console within 90 seconds\n")
    assert home.failure() == Failure(NEW, "it was not connected to the console within 90 seconds")
    async with ConsoleDouble().listening() as console, running(machine.upgradable(home), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        failed = await line.hear(UpgradeFailed)
        assert failed.reason == "it was not connected to the console within 90 seconds"
        while home.failure() is not None:
            await asyncio.sleep(0.01)


async def test_sighup_makes_way_for_an_agent_that_was_put_in_place_by_hand(machine, home):
    async with ConsoleDouble().listening() as console:
        task = asyncio.create_task(machine.upgradable(home).run(console.way))
        await console.line()
        os.kill(os.getpid(), signal.SIGHUP)
        assert await task is Ending.REPLACED


# Fetching, from a server with a certificate of its own.


class Server:
    """Serves files over TLS."""

    def __init__(self, directory):
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.certificate = make_certificate(directory)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                content = server.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.socket = self.certificate.context.wrap_socket(self._http.socket, server_side=True)
        self._http.handle_error = lambda *_: None
        self._thread = threading.Thread(target=self._http.serve_forever)

    def way(self, certificate=None):
        url = ConsoleUrl.parse(f"https://127.0.0.1:{self._http.server_port}")
        return Way(url, tls_context(url, (certificate or self.certificate).der))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path) as server:
        yield server


@pytest.fixture
def real_home(home, monkeypatch):
    """A home that archives unpack themselves into."""
    monkeypatch.setenv("KUBESPAN_AGENT_HOME", str(home.directory))
    monkeypatch.setattr(sys, "executable", str(Path(sys.executable).resolve()))
    return home


def offer(content, version=NEW):
    return Upgrade(version=version, sha256=sha256(content), size=len(content))


def test_an_archive_is_fetched_once_and_starts_here(server, real_home):
    content = small_archive(SAYS_ITS_VERSION)
    server.files[ARCHIVE_PATH] = content
    for _ in range(2):
        fetch(real_home, server.way(), offer(content))
    assert server.asked == [ARCHIVE_PATH]
    assert real_home.archive(sha256(content)).read_bytes() == content
    assert real_home.present() == "a" * 64, "it is not in place by that"


@pytest.mark.parametrize(
    ("serve", "offered", "reason"),
    [
        pytest.param(b"short", Upgrade(version=NEW, sha256="c" * 64, size=9), "not the 9 bytes", id="too short"),
        pytest.param(b"x" * 99, Upgrade(version=NEW, sha256="c" * 64, size=9), "not the 9 bytes", id="too long"),
        pytest.param(b"x" * 9, Upgrade(version=NEW, sha256="c" * 64, size=9), "not the checksum", id="another"),
        pytest.param(None, Upgrade(version=NEW, sha256="c" * 64, size=9), "HTTP status 404", id="none"),
        pytest.param(b"x", Upgrade(version=NEW, sha256="../../etc", size=1), "no checksum", id="a path"),
        pytest.param(b"x", Upgrade(version=NEW, sha256="c" * 64, size=2**40), "too large", id="too large"),
    ],
)
def test_what_is_not_as_offered_is_not_kept(server, real_home, serve, offered, reason):
    if serve is not None:
        server.files[ARCHIVE_PATH] = serve
    with pytest.raises(UpgradeError, match=reason):
        fetch(real_home, server.way(), offered)
    assert [path.stem for path in real_home.agents.iterdir()] == ["a" * 64]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        pytest.param("raise SystemExit('no module named x')", "no module named x", id="does not start"),
        pytest.param("def main():\n    print('0.0.1')\n", "it says that it is 0.0.1", id="is another version"),
    ],
)
def test_what_does_not_start_here_is_not_kept(server, real_home, program, reason):
    content = small_archive(program)
    server.files[ARCHIVE_PATH] = content
    with pytest.raises(UpgradeError, match=reason):
        fetch(real_home, server.way(), offer(content))
    assert [path.stem for path in real_home.agents.iterdir()] == ["a" * 64]


def test_another_console_than_the_pinned_one_is_not_even_asked(server, real_home, tmp_path):
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    with pytest.raises(UpgradeError, match="cannot be fetched"):
        fetch(real_home, server.way(other), offer(b"x"))
    assert server.asked == []


def test_the_console_says_which_agent_it_hands_out(server):
    release = Release(version=NEW, sha256="c" * 64, size=9, script_sha256="d" * 64)
    server.files[RELEASE_PATH] = msgspec.json.encode(release)
    assert ask_release(server.way()) == release
    server.files[RELEASE_PATH] = b"{}"
    with pytest.raises(UpgradeError, match="does not say"):
        ask_release(server.way())


@pytest.mark.parametrize("command", ["upgrade", "settle"])
def test_an_agent_from_its_sources_is_upgraded_otherwise(tmp_path, command):
    options = ["--state-dir", str(tmp_path)] if command == "upgrade" else []
    done = CliRunner().invoke(main, [command, *options])
    assert done.exit_code == 1
    assert "installed" in done.output or "hands out" in done.output
