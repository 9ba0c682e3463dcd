"""A console of the release before, by its recorded frames, and this agent: real sockets and store, a fake kernel.

The agent has the recorded machine's keys. The console says what it said then, at the same place of the conversation;
what it then heard, it must hear again. All that the agent says is judged by the strict schema of that time.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import msgspec
import pytest
from websockets.asyncio.server import serve

from kubespan.agent.enrol import EnrolError, Machine, Wish, enrol
from kubespan.agent.loop import Agent, Ending, Facts, Place
from kubespan.agent.mesh import Own
from kubespan.agent.store import AgentState, Store
from kubespan.agent.trust import ConsoleUrl, Way
from kubespan.core.endpoint import parse_address
from kubespan.core.identity import KeyPair, verify
from kubespan.core.messages import challenge_text
from tests.agent.console_double import FakeHost, WatchedKernel, running
from tests.agent.test_enrol import console
from tests.dialogues.recorded import PREVIOUS

PATIENCE = 60.0

pytestmark = pytest.mark.parametrize("recorded", PREVIOUS, ids=lambda recorded: f"version {recorded.version}")


@pytest.fixture
def store(tmp_path, recorded):
    """The recorded machine's state, before it enrolled."""
    machine, store = recorded.dialogue["machine"], Store(tmp_path / "state")
    store.create_keys(KeyPair.from_private(machine["private_key"]))
    store.create_node_id(machine["node_id"])
    store.save_agent(
        AgentState(signing_key=machine["signing_key"], verify_key=machine["verify_key"], mac=machine["mac"])
    )
    return store


def join(recorded, store, number):
    """Enrol with a recorded answer; the reply, and the request as the console of then read it."""
    then = recorded.dialogue["enrolments"][number]
    said = then["request"]
    answer = lambda _: (then["status"], json.dumps(then["reply"]).encode())  # noqa: E731 - what the double asks for
    machine = Machine(said["hostname"], said["operating_system"], tuple(said["addresses"]), None)
    with console(answer) as there:
        try:
            enrol(store, Wish(url=there.url, token=said["token"], name=said["name"]), machine)
        finally:
            ((_, request),) = there.seen
            recorded.understand("enrol-request", msgspec.json.encode(request))
    return request


@pytest.mark.parametrize("number", [0, 1], ids=["to wait for a yes", "at once"])
def test_it_is_enrolled(recorded, store, number):
    request = join(recorded, store, number)
    then = recorded.dialogue["enrolments"][number]
    for name in ("token", "node_id", "name", "public_key", "verify_key", "interface_id"):
        assert getattr(request, name) == then["request"][name]
    assert recorded.version in request.versions
    enrolment = store.agent().enrolment
    kept = {"cluster", "cluster_id", "cluster_name", "console_key", "node_id", "address"}
    assert {name: getattr(enrolment, name) for name in kept} == {name: then["reply"][name] for name in kept}


def test_it_hears_why_it_is_refused(recorded, store):
    with pytest.raises(EnrolError) as refused:
        join(recorded, store, 2)
    assert recorded.dialogue["enrolments"][2]["reply"]["reason"] in str(refused.value)


class Console:
    """The recorded console, on one connection after another."""

    def __init__(self, recorded, kernel, host) -> None:
        self.recorded, self.kernel, self.host = recorded, kernel, host
        self.left = list(recorded.dialogue["conversations"][:2])
        self.heard: list[dict] = []
        self.over = asyncio.Event()
        self.fault: BaseException | None = None

    async def serve(self, line) -> None:
        """Play one conversation."""
        try:
            await self.play(self.left.pop(0), line)
        except BaseException as fault:
            self.fault = fault
            raise
        finally:
            if not self.left or self.fault:
                self.over.set()

    async def play(self, frames, line) -> None:
        """Say what was said, and hear what was heard."""
        self.heard.clear()
        nonce = json.loads(frames[0][1])["nonce"]
        for side, frame in frames:
            then = json.loads(frame)
            if side == "console":
                await line.send(frame)
            elif then["type"] == "hello":
                self.check_hello(await self.hear(line, then), nonce)
            elif then["type"] != "report" or then["complete"]:  # how many reports there are is a matter of time
                await self.hear(line, then)

    async def hear(self, line, then) -> dict:
        """Until the agent says the same, as far as it is the same machine."""
        await self.provoke(then)
        async with asyncio.timeout(PATIENCE):
            while True:
                for said in self.heard:
                    if said["type"] == then["type"] and _same(said, then):
                        if said["type"] != "applied":  # two of then may be one now
                            self.heard.remove(said)
                        return said
                self.heard.append(self.recorded.understand("agent", await line.recv()))

    async def provoke(self, then) -> None:
        """Let happen on the machine what had happened then."""
        if then["type"] == "claim":
            self.host.now = Facts(then["hostname"], then["operating_system"], tuple(then["addresses"]))
            await self.host.events.put("address")
        if then["type"] == "notice":
            self.kernel.rules.pop()
            await self.host.events.put("rule")

    def check_hello(self, hello, nonce) -> None:
        """The version of then, and a signature that counts there."""
        was, machine = self.recorded.dialogue["cluster"], self.recorded.dialogue["machine"]
        assert hello["version"] == self.recorded.version
        text = challenge_text(was["console_key"], was["uuid"], machine["node_id"], nonce)
        assert verify(machine["verify_key"], hello["signature"], text)


def _same(said: dict, then: dict) -> bool:
    match then["type"]:
        case "applied":
            return said["revision"] >= then["revision"] and not said["fault"]
        case "claim":
            return said["addresses"] == then["addresses"]
        case "report":
            return said["complete"] and said["members"] == then["members"]
        case "notice":
            return said["kind"] == then["kind"]
    return True


@asynccontextmanager
async def listening(there):
    """Serve it on a free port."""
    async with serve(there.serve, "127.0.0.1", 0, compression=None, max_size=None) as server:
        yield Way(ConsoleUrl.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), None)


async def test_it_meshes_applies_reports_and_leaves(recorded, store):
    await asyncio.to_thread(join, recorded, store, 0)
    kernel, host, state = WatchedKernel(), FakeHost(), store.agent()
    own = Own(store.keys(), store.node_id(), parse_address(state.enrolment.address), 51820)
    agent = Agent(store, state.enrolment, state.signing_key, own, Place(kernel, host, "userspace"), chance=lambda: 0.01)
    there = Console(recorded, kernel, host)
    async with listening(there) as way, running(agent, way) as task:
        async with asyncio.timeout(2 * PATIENCE):
            await there.over.wait()
            assert there.fault is None
            assert await task is Ending.REMOVED
    assert agent.talk.unusable == 0
    assert (kernel.link, kernel.peers) == (None, {})
    assert store.settings(recorded.dialogue["cluster"]["uuid"]) is None


async def test_its_secret_is_the_one_of_then(recorded, store):
    await asyncio.to_thread(join, recorded, store, 0)
    kernel, host, state = WatchedKernel(), FakeHost(), store.agent()
    own = Own(store.keys(), store.node_id(), parse_address(state.enrolment.address), 51820)
    agent = Agent(store, state.enrolment, state.signing_key, own, Place(kernel, host, "userspace"), chance=lambda: 0.01)
    there = Console(recorded, kernel, host)
    there.left = there.left[:1]
    async with listening(there) as way, running(agent, way):
        await there.over.wait()
    assert there.fault is None
    assert {peer.preshared_key for peer in kernel.peers.values()} == {recorded.dialogue["cluster"]["secret"]}
    assert kernel.link.mtu == 1380
