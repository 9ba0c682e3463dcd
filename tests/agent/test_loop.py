"""The running agent: real WebSocket, real store, a fake kernel; looks are called by hand where time matters."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import structlog
from msgspec import structs

from kubespan.agent.console import Way
from kubespan.agent.kernel import KernelError
from kubespan.agent.loop import Ending, Facts, take_down
from kubespan.agent.store import SETTINGS, StoreError
from kubespan.agent.talk import MOST_NOTICES
from kubespan.agent.trust import ConsoleUrl
from kubespan.core.messages import (
    FRAME_BASE,
    Applied,
    Claim,
    ClaimRefused,
    ClusterSecret,
    Delta,
    Notice,
    Pace,
    RefusedClaim,
    Removed,
    Report,
    Resync,
    Revision,
    TryAgain,
    Welcome,
    dump,
)
from kubespan.core.options import Options
from kubespan.core.plan import NOTHING, SetPeers, plan
from kubespan.core.resources import parse
from tests.agent.console_double import (
    ALPHA,
    BRAVO,
    CHARLIE,
    CLUSTER,
    SECRET,
    Bench,
    ConsoleDouble,
    FakeHost,
    SetClock,
    WatchedKernel,
    running,
    sealed_secret,
    snapshot,
    someone,
)

NOWHERE = Way(ConsoleUrl.parse("http://127.0.0.1:9"), None)
DELTA = someone("delta", 4)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "state")


@pytest.fixture
async def console():
    async with ConsoleDouble().listening() as console:
        yield console


async def mesh(bench, console=None):
    """Let an agent take settings and store them, then end; what it leaves is the kernel and the store."""
    async with AsyncExitStack() as stack:
        console = console or await stack.enter_async_context(ConsoleDouble().listening())
        async with running(bench.agent(), console.way):
            line = await console.line()
            await line.let_in(sealed_secret(), snapshot())
            await line.hear(Applied)


async def test_from_hello_to_a_mesh(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        assert (line.hello.cluster, line.hello.node_id) == (CLUSTER, ALPHA.node_id)
        assert (line.hello.held, line.hello.secret_generation) == (None, 0)
        await line.let_in(sealed_secret(), snapshot(7))
        claim = await line.hear(Claim)
        assert (claim.hostname, claim.addresses, claim.networks) == ("alpha.example", ("192.0.2.1",), ("10.9.0.0/16",))
        assert (claim.backend, claim.listen_port) == ("kernel", 51820)
        assert await line.hear(Applied) == Applied(revision=Revision(1, 7))
        report = await line.hear(Report)
        assert (report.number, report.complete, sorted(report.members)) == (0, True, [2, 3])
    assert {peer.preshared_key for peer in bench.kernel.peers.values()} == {SECRET}
    assert bench.kernel.peers.keys() == {BRAVO.keys.public_key, CHARLIE.keys.public_key}


async def test_the_mesh_stays_when_the_agent_is_told_to_stop(bench, console):
    async with running(bench.agent(), console.way) as task:
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task is Ending.STOPPED
    assert bench.kernel.link is not None


async def test_it_starts_from_the_store_with_no_console(bench):
    await mesh(bench)
    bench.kernel = WatchedKernel()
    async with running(bench.agent(), NOWHERE):
        await bench.kernel.until(lambda: len(bench.kernel.peers) == 2)


async def test_a_restart_changes_nothing_and_says_what_it_holds(bench, console):
    await mesh(bench, console)
    bench.kernel.applied.clear()
    async with running(bench.agent(), console.way):
        line = await console.line()
        assert (line.hello.held, line.hello.secret_generation) == (Revision(1, 1), 1)
        await line.let_in()
        assert await line.hear(Applied) == Applied(revision=Revision(1, 1))
    assert bench.kernel.applied == []


async def test_a_delta_adds_a_peer_and_touches_no_other(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        bench.kernel.applied.clear()
        await line.say(
            Delta(since=Revision(1, 1), revision=Revision(1, 2), secret_generation=1, changed=(DELTA.member(),))
        )
        assert await line.hear(Applied) == Applied(revision=Revision(1, 2))
    set_peers = [change for change in bench.kernel.applied if isinstance(change, SetPeers)]
    assert [[peer.public_key for peer in change.peers] for change in set_peers] == [[DELTA.keys.public_key]]


async def test_a_gap_ends_the_connection_and_the_next_one_begins_with_what_is_held(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot(5))
        await line.hear(Applied)
        await line.say(Delta(since=Revision(1, 9), revision=Revision(1, 10), secret_generation=1))
        code, reason = await line.gone()
        assert (code, "1.9 to 1.10" in reason) == (1008, True)
        again = await console.line()
        assert again.hello.held == Revision(1, 5)
        await again.let_in(snapshot(10))
        await again.hear(Applied)


async def test_a_new_epoch_comes_as_a_snapshot(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot(50))
        await line.hear(Applied)
        await line.say(snapshot(3, epoch=2))
        assert (await line.hear(Applied)).revision == Revision(2, 3)


async def test_a_pending_machine_waits_connected_and_says_what_it_is(bench, console):
    agent = bench.agent()
    async with running(agent, console.way):
        line = await console.line()
        await line.let_in(status="pending")
        await line.hear(Claim)
        assert "approve" in agent.talk.reason
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        assert agent.talk.reason == ""
    assert bench.kernel.link is not None


async def test_settings_for_a_machine_that_was_not_let_in_are_refused(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(snapshot(), status="pending")
        assert (await line.gone())[0] == 1008
    assert bench.kernel.applied == []


async def test_removal_takes_mesh_and_secret_and_leaves_the_identity(bench, console):
    async with running(bench.agent(), console.way) as task:
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(Removed(reason="lost"))
        assert await task is Ending.REMOVED
    assert plan(NOTHING, bench.kernel.look()) == []
    assert not bench.store.path(SETTINGS).exists()
    assert bench.store.agent().enrolment is None
    assert bench.store.keys() == ALPHA.keys
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in bench.directory.iterdir())


async def test_an_enrolment_made_while_the_mesh_is_taken_down_stays(bench, console):
    state = bench.store.agent()
    again = structs.replace(state, enrolment=structs.replace(state.enrolment, cluster="another"))

    class Operated(WatchedKernel):
        async def apply(self, changes):
            await super().apply(changes)
            if self.link is None:
                bench.store.save_agent(again)

    bench.kernel = Operated()
    async with running(bench.agent(), console.way) as task:
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(Removed(reason="lost"))
        assert await task is Ending.REMOVED
    assert plan(NOTHING, bench.kernel.look()) == []
    assert bench.store.agent() == again


async def test_killed_in_the_middle_of_leaving_the_next_start_goes_on(bench):
    """The secret goes first: an agent without settings wants no mesh."""
    await mesh(bench)
    bench.store.forget_settings()
    async with running(bench.agent(), NOWHERE):
        await bench.kernel.until(lambda: bench.kernel.link is None)
    assert plan(NOTHING, bench.kernel.look()) == []


async def test_drift_is_healed_at_a_kernel_event_and_reported(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        bench.kernel.delete_link()
        bench.host.events.put_nowait("link")
        notice = await line.hear(Notice)
        assert (notice.kind, "the link" in notice.text) == ("drift", True)
    assert len(bench.kernel.peers) == 2


async def test_what_is_undone_again_and_again_is_healed_each_time_and_told_once(bench):
    bench.clock = SetClock()
    agent = bench.agent()
    agent.talk.hear(Welcome(version=1, status="approved", console_time=0.0))
    agent.talk.hear(sealed_secret())
    agent.talk.hear(snapshot())
    await agent.look()
    for _ in range(3):
        bench.kernel.delete_link()
        await agent.look()
        assert len(bench.kernel.peers) == 2
    assert [type(message) for message in agent.talk.speak()].count(Notice) == 1
    bench.clock.pass_by(60.0)
    bench.kernel.delete_link()
    await agent.look()
    assert [type(message) for message in agent.talk.speak()].count(Notice) == 1


async def test_a_notice_fits_into_a_frame_whatever_there_is_to_say(bench):
    agent = bench.agent()
    agent.talk.hear(Welcome(version=1, status="approved", console_time=0.0))
    agent.talk.notice("fault", "peer address overlap: " + ", ".join(f"node-{number}" for number in range(10_000)))
    (notice,) = (message for message in agent.talk.speak() if isinstance(message, Notice))
    assert len(dump(notice)) < FRAME_BASE


async def test_a_notice_that_comes_while_others_are_sent_pushes_out_none_unsent(bench):
    agent = bench.agent()
    agent.talk.hear(Welcome(version=1, status="approved", console_time=0.0))
    for number in range(MOST_NOTICES):
        agent.talk.notice("fault", f"fault {number}")
    said = []
    for message in agent.talk.speak():
        said.append(message.text)
        if len(said) == 1:
            agent.talk.notice("fault", "the newest")
    assert said == [*(f"fault {number}" for number in range(MOST_NOTICES)), "the newest"]


async def test_a_new_address_is_claimed(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Claim)
        bench.host.now = Facts("alpha.example", "Testing Linux 1", ("192.0.2.1", "198.51.100.1", str(ALPHA.address)))
        bench.host.events.put_nowait("address")
        assert (await line.hear(Claim)).addresses == ("192.0.2.1", "198.51.100.1")


async def test_a_new_name_is_claimed_at_the_next_tick(bench):
    bench.clock = SetClock()
    agent = bench.agent()
    agent.talk.hear(Welcome(version=1, status="approved", console_time=0.0))
    await agent.look()
    bench.host.now = Facts("renamed.example", "Testing Linux 1", ("192.0.2.1",))
    bench.clock.pass_by(30.0)
    await agent.look()
    claims = [message for message in agent.talk.speak() if isinstance(message, Claim)]
    assert [claim.hostname for claim in claims] == ["renamed.example"]


async def test_pod_networks_are_claimed_where_the_option_says_so(bench, console):
    bench.host.now = replace(bench.host.now, pod_networks=("10.244.1.0/24",))
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot(1))
        assert (await line.hear(Claim)).networks == ("10.9.0.0/16",)
        await line.say(snapshot(2, options=Options(advertise_kubernetes_networks=True)))
        assert (await line.hear(Claim)).networks == ("10.9.0.0/16", "10.244.1.0/24")
        await line.say(snapshot(3))
        assert (await line.hear(Claim)).networks == ("10.9.0.0/16",)


async def test_addresses_that_cannot_be_read_cost_no_look(bench):
    class Blind(FakeHost):
        async def facts(self):
            raise RuntimeError("unforeseen")

    bench.host = Blind()
    await mesh(bench)
    bench.host.facts = FakeHost().facts
    await mesh(bench)
    assert bench.kernel.link is not None


async def test_a_refused_claim_is_logged_with_its_reason_and_the_talk_goes_on(bench, console):
    with structlog.testing.capture_logs() as logs:
        async with running(bench.agent(), console.way):
            line = await console.line()
            await line.let_in(sealed_secret(), snapshot())
            await line.say(ClaimRefused(refused=(RefusedClaim(claim="10.0.0.5", reason="it is holder's already"),)))
            await line.say(Resync())
            await line.hear(Report)
    assert [(log["claim"], log["reason"]) for log in logs if "claim" in log] == [("10.0.0.5", "it is holder's already")]


async def test_resync_brings_claim_and_complete_report(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        first = await line.hear(Report)
        await line.say(Resync())
        await line.hear(Claim)
        second = await line.hear(Report)
        assert (second.complete, second.number) == (True, first.number + 1)


async def test_a_link_that_comes_up_is_reported_at_once(bench, console):
    bench.clock = SetClock()
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Report)
        bench.clock.pass_by(1.0)
        bench.kernel.shake(BRAVO.keys.public_key, bench.clock.wall())
        bench.host.events.put_nowait("route")
        report = await line.hear(Report)
        while 2 not in report.members:
            report = await line.hear(Report)
        assert report.states[report.members.index(2)] == 1


async def test_somebody_looks_and_reports_come_faster(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Report)
        await line.say(Pace(seconds=0.5, lease=60.0))
        numbers = [(await line.hear(Report)).number for _ in range(2)]
        assert numbers == [1, 2]


async def test_try_again_reaches_wireguard(bench, console):
    members = (ALPHA.member(), BRAVO.member(endpoints=("192.0.2.2:51820", "198.51.100.2:51820")))
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot(1, *members))
        await line.hear(Applied)
        await line.say(TryAgain(members=(2,)))
        key = BRAVO.keys.public_key
        await bench.kernel.until(lambda: str(bench.kernel.peers[key].endpoint) == "198.51.100.2:51820")


async def test_a_refusal_of_the_kernel_is_a_fault_with_its_reason(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        bench.kernel.fault = KernelError("no WireGuard here", "install wireguard-go")
        await line.let_in(sealed_secret(), snapshot())
        applied = await line.hear(Applied)
        assert applied == Applied(revision=Revision(1, 1), fault="no WireGuard here; install wireguard-go")
        bench.kernel.fault = None
        assert await line.hear(Applied) == Applied(revision=Revision(1, 1))


async def test_a_fault_of_our_own_does_not_end_the_looking(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        bench.kernel.fault = RuntimeError("unforeseen")
        await line.let_in(sealed_secret(), snapshot())
        assert "RuntimeError" in (await line.hear(Applied)).fault
        bench.kernel.fault = None
        assert (await line.hear(Applied)).fault == ""


async def test_another_address_than_ours_is_a_fault_and_changes_nothing(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        bench.kernel.applied.clear()
        own = ALPHA.member()
        wrong = type(own)(
            index=1, node_id=own.node_id, name="alpha", public_key=own.public_key, address=str(BRAVO.address)
        )
        await line.say(snapshot(2, wrong))
        applied = await line.hear(Applied)
        assert (applied.revision, "enrol it again" in applied.fault) == (Revision(1, 2), True)
    assert bench.kernel.applied == []


async def test_a_secret_sealed_for_another_is_a_notice_and_nothing_else(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(to=BRAVO), sealed_secret("short"), snapshot())
        texts = {(await line.hear(Notice)).text for _ in range(2)}
        assert any("does not open" in text for text in texts)
        assert any("invalid cluster secret" in text for text in texts)
    assert bench.kernel.applied == []


async def test_options_that_cannot_be_are_refused(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
        await line.say(snapshot(2, options=Options(mtu=7)))
        assert "MTU" in (await line.gone())[1]
    assert bench.store.settings(CLUSTER).snapshot.revision == Revision(1, 1)


async def test_settings_that_cannot_be_stored_are_meshed_with_and_reported(bench, console):
    bench.store.path(f".{SETTINGS}.new").mkdir()
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        assert "cannot write" in (await line.hear(Applied)).fault
        assert len(bench.kernel.peers) == 2


async def test_settings_are_stored_before_they_are_applied(bench, console):
    stored = []

    class Looking(WatchedKernel):
        async def apply(self, changes):
            stored.append(bench.store.settings(CLUSTER))
            await super().apply(changes)

    bench.kernel = Looking()
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
    assert [settings.snapshot for settings in stored] == [snapshot()]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"}", b"", id="half"),
        pytest.param(SECRET.encode(), SECRET.encode()[4:], id="no secret"),
        pytest.param(b'"options":{}', b'"options":{"mtu":14}', id="options that cannot be"),
    ],
)
async def test_damaged_settings_stop_the_start_and_touch_nothing(bench, before, after):
    await mesh(bench)
    path = bench.store.path(SETTINGS)
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after))
    bench.kernel.applied.clear()
    with pytest.raises(StoreError, match="the console sends it again"):
        await bench.agent().run(NOWHERE)
    assert bench.kernel.applied == []


async def test_starts_that_came_to_nothing_are_told_by_the_one_that_did_not(bench):
    bench.store.count_damage("agent.yaml is damaged")
    console = ConsoleDouble()
    async with console.listening():
        task = asyncio.create_task(bench.agent().run(console.way))
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        notice = await line.hear(Notice)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert notice.text == "the agent could not start (1 attempt): agent.yaml is damaged"
    assert bench.store.damage() is None


async def test_a_console_that_comes_back_hears_everything_again(bench):
    console = ConsoleDouble()
    async with console.listening():
        port = console.server.sockets[0].getsockname()[1]
        way = console.way
        agent = bench.agent()
        task = asyncio.create_task(agent.run(way))
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
    bench.kernel.applied.clear()
    async with console.listening(port):
        line = await console.line()
        await line.let_in()
        await line.hear(Claim)
        await line.hear(Applied)
        assert (await line.hear(Report)).complete
        agent.stop()
        await task
    assert bench.kernel.applied == []


async def test_what_is_known_is_published(bench):
    bench.clock = SetClock()
    await mesh(bench)
    resources = parse(bench.store.read_published("resources.json"))
    labels = {resource.spec["label"] for resource in resources if resource.metadata.type.startswith("KubeSpanPeerS")}
    assert labels == {"bravo", "charlie"}
    assert SECRET.encode() not in bench.store.read_published("resources.json")
    assert ALPHA.keys.private_key.encode() not in bench.store.read_published("resources.json")


async def test_versions_of_resources_count_on_over_a_restart(bench):
    bench.clock = SetClock()
    await mesh(bench)
    await mesh(bench)

    def version():
        resources = parse(bench.store.read_published("resources.json"))
        return next(one.metadata.version for one in resources if one.metadata.id == "bravo")

    before = version()
    changed = snapshot(2, ALPHA.member(), BRAVO.member(hostname="renamed"), CHARLIE.member())
    async with ConsoleDouble().listening() as console, running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(changed)
        while (await line.hear(Applied)).revision != Revision(1, 2):
            pass
    assert version() == before + 1


async def test_taking_down_leaves_nothing_and_may_be_repeated(bench):
    await mesh(bench)
    await take_down(bench.kernel)
    assert plan(NOTHING, bench.kernel.look()) == []
    bench.kernel.applied.clear()
    await take_down(bench.kernel)
    assert bench.kernel.applied == []


NONSENSE = [
    pytest.param("", id="empty"),
    pytest.param("nonsense", id="no json"),
    pytest.param('{"type":"welcome"}', id="half a message"),
    pytest.param('{"type":"future"}', id="unknown type"),
    pytest.param('{"type":"resync","later":1}', id="unknown field"),
    pytest.param(b"\x00\xff\xfe", id="bytes"),
    pytest.param("[" * 50_000, id="deep"),
    pytest.param(
        '{"type":"snapshot","revision":[1,1],"secret_generation":1,"options":{},"members":[{}]}', id="bad member"
    ),
    pytest.param('{"type":"report","number":0,"complete":true,"revision":[1,1]}', id="the agent's own"),
    pytest.param('{"type":"challenge","nonce":"x","versions":[1]}', id="a second challenge"),
    pytest.param("x" * (9 * 1024 * 1024), id="too large"),
]


@pytest.mark.parametrize("frame", NONSENSE)
@pytest.mark.parametrize("let_in", [pytest.param(True, id="after the welcome"), pytest.param(False, id="before")])
async def test_nonsense_ends_a_connection_is_counted_and_nothing_else(bench, console, frame, let_in):
    agent = bench.agent()
    async with running(agent, console.way):
        line = await console.line()
        if let_in:
            await line.let_in(sealed_secret(), snapshot())
            await line.hear(Applied)
        await line.say(frame)
        assert (await line.gone())[0] in {1007, 1008, 1009}
        again = await console.line()
        await again.let_in(sealed_secret(), snapshot())
        assert (await again.hear(Applied)).fault == ""
    assert agent.talk.unusable == 1
    assert len(bench.kernel.peers) == 2


@pytest.mark.parametrize("first", ["nonsense", '{"type":"resync"}', '{"type":"challenge","nonce":"x","versions":[99]}'])
async def test_a_bad_first_frame_is_survived(bench, console, first):
    console.first = first
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)


async def test_a_burst_of_deltas_is_followed_to_its_end(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        await line.let_in(sealed_secret(), snapshot(1))
        for number in range(2, 60):
            member = replace_index(DELTA, number + 10).member()
            await line.say(
                Delta(
                    since=Revision(1, number - 1), revision=Revision(1, number), secret_generation=1, changed=(member,)
                )
            )
        while (await line.hear(Applied)).revision != Revision(1, 59):
            pass
    assert len(bench.kernel.peers) == 60


def replace_index(machine, index):
    return replace(someone(f"{machine.name}-{index}", index))


async def test_the_secret_is_in_no_frame_that_the_agent_sends(bench, console):
    async with running(bench.agent(), console.way):
        line = await console.line()
        secret = sealed_secret()
        assert isinstance(secret, ClusterSecret)
        await line.let_in(secret, snapshot())
        heard = b""
        while b'"report"' not in heard:
            frame = await line.socket.recv()
            heard += frame if isinstance(frame, bytes) else frame.encode()
    assert SECRET.encode() not in heard
    assert ALPHA.keys.private_key.encode() not in heard
