"""A console that lies: what the agent does not tell it, does not believe, and keeps doing all the same."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import click.testing
import msgspec
import pytest

from kubespan.agent.__main__ import main
from kubespan.agent.clock import Clock
from kubespan.agent.console import Way
from kubespan.agent.enrol import EnrolError, enrol
from kubespan.agent.held import Held
from kubespan.agent.loop import Agent, Place
from kubespan.agent.mesh import Mesh, Own
from kubespan.agent.start import load, own_address, run_agent
from kubespan.agent.store import Settings, Store
from kubespan.agent.talk import PENDING, Talk
from kubespan.agent.trust import ConsoleUrl, TrustError, tls_context
from kubespan.core.identity import verify
from kubespan.core.messages import Applied, Challenge, Claim, Hello, Notice, VersionError, Welcome, challenge_text
from tests.agent.certificates import make_certificate
from tests.agent.console_double import (
    ALPHA,
    BRAVO,
    CLUSTER,
    CLUSTER_ID,
    CONSOLE_KEY,
    OWN_INDEX,
    SECRET,
    SIGNING_KEY,
    VERIFY_KEY,
    Bench,
    ConsoleDouble,
    running,
    sealed_secret,
    snapshot,
)
from tests.agent.test_enrol import MACHINE, agree, console, wish
from tests.agent.test_trust import tls_server

OTHER_CLUSTER_ID = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@dataclass
class Waiting(Bench):
    """A machine that waits for approval: it knows its console, and nothing of its cluster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        state = self.store.agent()
        if state.enrolment.cluster_id and not self.store.path("settings.json").exists():
            self.enrolment = msgspec.structs.replace(state.enrolment, cluster_id="", cluster_name="", address="")
            self.store.save_agent(msgspec.structs.replace(state, enrolment=self.enrolment))

    def agent(self) -> Agent:
        """As `run` would make it of the store."""
        identity, enrolment = load(self.store)
        own = Own(identity.keys, identity.node_id, own_address(identity, enrolment), 51820)
        return Agent(self.store, enrolment, SIGNING_KEY, own, Place(self.kernel, self.host, "kernel"), clock=self.clock)


def welcome(status="approved", *, version=2, **said):
    index = OWN_INDEX if status == "approved" else None
    return Welcome(version=version, status=status, console_time=0.0, index=index, **said)


def let_in(**other):
    """What a machine is told with the yes."""
    said = {"cluster_id": CLUSTER_ID, "cluster_name": "office", "address": str(ALPHA.address)} | other
    return welcome(**said)


def store_of(tmp_path):
    return Store(tmp_path / "state")


# Who is it?


async def test_a_console_with_another_certificate_is_told_nothing(tmp_path):
    pinned, other = make_certificate(tmp_path), make_certificate(tmp_path, name="liar")
    agent = Bench(tmp_path / "state").agent()
    with tls_server(other.context) as (url, heard):
        async with running(agent, Way(url, tls_context(url, pinned.der))):
            async with asyncio.timeout(30):
                while "not trusted" not in agent.talk.reason:
                    await asyncio.sleep(0.01)
    assert [said for said in heard if said] == []


@pytest.mark.parametrize("url", ["http://192.0.2.1", "http://console.example"])
async def test_a_stored_console_beyond_loopback_is_not_spoken_to_in_plain_http(tmp_path, url):
    store = Bench(tmp_path / "state").store
    state = store.agent()
    enrolment = msgspec.structs.replace(state.enrolment, url=url)
    store.save_agent(msgspec.structs.replace(state, enrolment=enrolment))
    with pytest.raises(TrustError, match="plain HTTP"):
        await run_agent(store, "userspace")


def test_what_is_signed_for_one_challenge_serves_no_other(tmp_path):
    """Another console's challenge, cluster, node or nonce: none of them is what was signed."""
    bench = Bench(tmp_path / "state")
    held = Held(bench.store, bench.enrolment, Mesh(Own(ALPHA.keys, ALPHA.node_id, ALPHA.address, 51820)))
    talk = Talk(bench.enrolment, SIGNING_KEY, held, Clock())
    hello = talk.greet(Challenge(nonce="fresh", versions=(2, 1)))

    true = {"console_key": CONSOLE_KEY, "cluster": CLUSTER, "node_id": ALPHA.node_id, "nonce": "fresh"}
    assert verify(VERIFY_KEY, hello.signature, challenge_text(**true))
    for name in true:
        assert not verify(VERIFY_KEY, hello.signature, challenge_text(**(true | {name: "other"})))
    assert talk.greet(Challenge(nonce="next", versions=(2, 1))).signature != hello.signature


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("a", "bc", "d", "e"), ("ab", "c", "d", "e"), id="console and cluster"),
        pytest.param(("a", "b", "c1:d,", "e"), ("a", "b", "c", "1:d,e"), id="a length of one's own"),
        pytest.param(("a", "", "b", "c"), ("a", "b", "", "c"), id="nothing in one"),
    ],
)
def test_no_two_challenges_are_signed_alike(one, other):
    assert challenge_text(*one) != challenge_text(*other)


# Downgrade.


@pytest.mark.parametrize("offered", [(), (99,), (3, 0)])
def test_a_console_that_speaks_no_version_of_ours_gets_no_signature(tmp_path, offered):
    bench = Bench(tmp_path / "state")
    held = Held(bench.store, bench.enrolment, Mesh(Own(ALPHA.keys, ALPHA.node_id, ALPHA.address, 51820)))
    with pytest.raises(VersionError, match="upgrade the older one"):
        Talk(bench.enrolment, SIGNING_KEY, held, Clock()).greet(Challenge(nonce="n", versions=offered))


async def test_a_downgrade_teaches_a_waiting_machine_nothing_and_gets_it_to_do_nothing(tmp_path):
    bench = Waiting(tmp_path / "state")
    async with ConsoleDouble().listening() as there:
        there.first = Challenge(nonce="nonce of this connection", versions=(1,))
        async with running(bench.agent(), there.way):
            line = await there.line()
            assert line.hello.version == 1
            await line.say(welcome(version=1), sealed_secret(), snapshot())
            assert await line.gone() == (1008, "the console does not say of which cluster this machine is")
    assert bench.store.agent().enrolment.cluster_id == ""
    assert not bench.store.path("settings.json").exists()
    assert bench.kernel.applied == []


async def test_in_version_1_there_are_no_orders_of_version_2(tmp_path):
    bench = Bench(tmp_path / "state")
    async with ConsoleDouble().listening() as there:
        there.first = Challenge(nonce="nonce of this connection", versions=(1,))
        async with running(bench.agent(), there.way):
            line = await there.line()
            await line.say(welcome(version=1), '{"type":"upgrade","version":"9","sha256":"00","size":1}')
            code, reason = await line.gone()
    assert code == 1008
    assert "upgrade" in reason


# Waiting for approval.


async def test_who_waits_keeps_nothing_and_learns_all_with_the_yes(tmp_path):
    bench = Waiting(tmp_path / "state")
    agent = bench.agent()
    async with ConsoleDouble().listening() as there, running(agent, there.way):
        line = await there.line()
        await line.say(welcome("pending"))
        await line.hear(Claim)
        assert (agent.mesh.own.address, agent.talk.reason) == (None, PENDING)
        assert bench.kernel.applied == []
        await line.say(let_in(), sealed_secret(), snapshot())
        await line.hear(Applied)
        assert agent.mesh.own.address == ALPHA.address
    kept = bench.store.agent().enrolment
    assert (kept.cluster_id, kept.cluster_name, kept.address) == (CLUSTER_ID, "office", str(ALPHA.address))

    again = Waiting(tmp_path / "state").agent()  # and after a restart, with no console
    again.held.restore()
    assert again.mesh.own.address == ALPHA.address
    assert again.mesh.membership.members.keys() == {1, 2, 3}


@pytest.mark.parametrize("frame", [sealed_secret(), snapshot()], ids=["secret", "members"])
async def test_who_waits_takes_no_secret_and_no_members(tmp_path, frame):
    bench = Waiting(tmp_path / "state")
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        line = await there.line()
        await line.say(welcome("pending"), frame)
        code, reason = await line.gone()
    assert (code, reason.endswith("does not belong here")) == (1008, True)
    assert not bench.store.path("settings.json").exists()


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        pytest.param({"address": str(BRAVO.address)}, "it must be", id="another member's address"),
        pytest.param({"address": "10.0.0.1"}, "it must be", id="an address of another kind"),
        pytest.param({"address": ""}, "it must be", id="no address"),
        pytest.param({"cluster_id": OTHER_CLUSTER_ID}, "it must be", id="an address of another cluster"),
        pytest.param({"cluster_id": ""}, "does not say of which cluster", id="no cluster"),
    ],
)
async def test_an_address_that_does_not_follow_from_the_cluster_is_not_taken(tmp_path, lie, reason):
    bench = Waiting(tmp_path / "state")
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        line = await there.line()
        await line.say(let_in(**lie), sealed_secret(), snapshot())
        code, said = await line.gone()
    assert (code, reason in said) == (1008, True)
    assert bench.store.agent().enrolment.cluster_id == ""
    assert bench.kernel.applied == []


async def test_a_member_is_not_moved_to_another_cluster(tmp_path):
    bench = Bench(tmp_path / "state")
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        line = await there.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(let_in(cluster_id=OTHER_CLUSTER_ID))
        code, said = await line.gone()
        assert (code, "another cluster" in said) == (1008, True)
    assert bench.store.agent().enrolment.cluster_id == CLUSTER_ID
    assert bench.store.settings(CLUSTER).secret == SECRET
    assert bench.kernel.link is not None


# The secret.


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(sealed_secret(to=BRAVO), id="sealed to another machine"),
        pytest.param(msgspec.structs.replace(sealed_secret(), generation=2), id="said to be of another generation"),
        pytest.param(sealed_secret("short"), id="that is none"),
        pytest.param(msgspec.structs.replace(sealed_secret(), sealed="AAAA"), id="of nothing"),
    ],
)
async def test_a_secret_that_is_not_for_this_machine_is_not_taken_and_told_of(tmp_path, lie):
    bench = Bench(tmp_path / "state")
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        line = await there.line()
        await line.let_in(lie, snapshot())
        assert (await line.hear(Notice)).kind == "fault"
    kept = bench.store.settings(CLUSTER)
    assert kept is None or kept.secret == ""
    assert bench.kernel.link is None


# Enrolment.


def pending(request, **other):
    unknown = {"version": 2, "status": "pending", "cluster_id": "", "cluster_name": "", "address": ""}
    return agree(request, **(unknown | other))


def test_a_machine_that_waits_keeps_what_it_must_and_no_more(tmp_path):
    store = store_of(tmp_path)
    with console(pending) as there:
        enrol(store, wish(there.url), MACHINE)
    kept = store.agent().enrolment
    assert (kept.cluster, kept.console_key) == (CLUSTER, CONSOLE_KEY)
    assert (kept.cluster_id, kept.cluster_name, kept.address) == ("", "", "")


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        pytest.param({"status": "approved"}, "does not say of which cluster", id="approved, and of no cluster"),
        pytest.param({"cluster_id": CLUSTER_ID}, "it must be", id="pending, and with no address"),
        pytest.param({"cluster_id": CLUSTER_ID, "address": "fd00::1"}, "it must be", id="pending, and elsewhere"),
    ],
)
def test_a_reply_that_cannot_be_leaves_nothing(tmp_path, lie, sentence):
    store = store_of(tmp_path)
    with console(lambda request: pending(request, **lie)) as there, pytest.raises(EnrolError, match=sentence):
        enrol(store, wish(there.url), MACHINE)
    assert store.agent().enrolment is None


def test_a_machine_that_was_removed_and_asks_again_forgets_the_secret(tmp_path):
    store = store_of(tmp_path)
    with console(agree, pending) as there:
        enrol(store, wish(there.url), MACHINE)
        store.save_settings(Settings(cluster=CLUSTER, secret=SECRET, secret_generation=1))
        enrol(store, wish(there.url), MACHINE)
    assert not store.path("settings.json").exists()
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in store.directory.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"cluster": "another"}, id="in another cluster"),
        pytest.param({"url": "https://console.example", "pin": "sha256:" + 64 * "0"}, id="at the console's new place"),
    ],
)
async def test_what_was_learnt_is_not_kept_over_another_enrolment(tmp_path, other):
    """The operator enrolled the machine once more while its agent still waited for an answer to the first time."""
    bench = Waiting(tmp_path / "state")
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        line = await there.line()
        await line.say(welcome("pending"))
        anew = msgspec.structs.replace(bench.enrolment, **other)
        bench.store.save_agent(msgspec.structs.replace(bench.store.agent(), enrolment=anew))
        await line.say(let_in(), sealed_secret(), snapshot())
        await line.hear(Applied)
    assert bench.store.agent().enrolment == anew


# What a person reads.


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBESPAN_STATE_DIR", str(tmp_path / "state"))
    return lambda *arguments, **other: click.testing.CliRunner().invoke(main, arguments, **other)


def test_enrolling_and_status_of_a_machine_that_waits(call, tmp_path):
    with console(pending) as there:
        said = call("enrol", there.url, "--name", "alpha", input="token").output
    assert "an operator must approve it at the console before it meshes" in said
    assert "enrolled in cluster" not in said
    said = call("status").output
    assert "cluster   not told before an operator approves this machine\n" in said
    assert f"key       {store_of(tmp_path).keys().public_key}\n" in said
    assert "address" not in said


async def test_status_of_a_running_agent_that_waits_and_then_is_let_in(call, tmp_path):
    bench = Waiting(tmp_path / "state")
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        line = await there.line()
        await line.say(welcome("pending"))
        await line.hear(Claim)
        with bench.store.lock():
            for _ in itertools.count():
                said = call("status")
                if PENDING in said.output:
                    break
                await asyncio.sleep(0.01)
        assert said.exit_code == 0, said.output
        assert "not told before an operator" in said.output
        assert call("get", "kubespanidentities").exit_code == 0
        await line.say(let_in(), sealed_secret(), snapshot())
        await line.hear(Applied)
    with bench.store.lock():
        said = call("status").output
    assert f"cluster   office ({CLUSTER_ID})\naddress   {ALPHA.address}\n" in said


def test_hello_has_no_secret_and_no_private_key(tmp_path):
    bench = Bench(tmp_path / "state")
    bench.store.save_settings(Settings(cluster=CLUSTER, secret=SECRET, secret_generation=1))
    held = Held(bench.store, bench.enrolment, Mesh(Own(ALPHA.keys, ALPHA.node_id, ALPHA.address, 51820)))
    held.restore()
    hello = Talk(bench.enrolment, SIGNING_KEY, held, Clock()).greet(Challenge(nonce="n", versions=(2,)))
    said = msgspec.json.encode(hello).decode()
    assert isinstance(hello, Hello)
    assert not [secret for secret in (SECRET, ALPHA.keys.private_key, SIGNING_KEY) if secret in said]


def test_a_url_cannot_pass_for_loopback():
    for url in (
        "http://127.0.0.1@192.0.2.1",
        "http://localhost.example",
        "http://0.0.0.0",
        "http://[::ffff:192.0.2.1]",
    ):
        with pytest.raises(TrustError):
            ConsoleUrl.parse(url)
