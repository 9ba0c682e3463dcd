"""The agent's own size and its share of a processor, with 1,000 peers that are up, beside one with three.

Both are the real process with wireguard-go, connected to a console that takes their reports at the normal pace. They
are started anew in each round, and looked at after a window in which both run and nothing happens. Sizes are resident;
shares are seconds of processor a second, of the agent with what it starts (nft), over that window. The peers answer
its probes; `measured` is of how many it knows the round trip at the end. `imports`, beside
them, is what each adds to a process that does nothing but import.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from ipaddress import IPv6Address
from pathlib import Path

import msgspec

from kubespan.agent.store import RESOURCES, AgentState, Enrolment, Store
from kubespan.core.cluster import ula_prefix
from kubespan.core.identity import KeyPair
from kubespan.core.messages import REPORT_SECONDS, VERSIONS, Snapshot, Welcome
from tests.agent.console_double import (
    ALPHA,
    CLUSTER,
    CLUSTER_ID,
    CONSOLE_KEY,
    OWN_INDEX,
    SECRET,
    SIGNING_KEY,
    VERIFY_KEY,
    ConsoleDouble,
    Someone,
    sealed_secret,
    snapshot,
)
from tests.bench.answering import Answering
from tests.bench.console import CannotRun
from tests.bench.example import MEMBERS, make_keys, make_snapshot
from tests.bench.figures import spread
from tests.bench.processes import memory, shares
from tests.namespaces import Lab, Machine

FEW = 3
ROUNDS = 5
WINDOW_SECONDS = 30.0
"""The agent looks at its peers each 30 s where nothing happens."""
UP_SECONDS = 120.0
LOCK = Path(__file__).parent.parent.parent / "requirements" / "agent.lock"
PORT = 51820

IMPORTS = (
    "asyncio", "ssl", "msgspec", "structlog", "cryptography.hazmat.primitives.hpke", "click", "yaml",
    "websockets.asyncio.client", "pyroute2", "kubespan.agent.__main__", "kubespan.agent.start",
)  # fmt: skip
"""In this order, so that what two share counts for the first."""

LAUNCH = "import sys; sys.modules.update(dict.fromkeys({hidden!r})); from kubespan.agent.__main__ import main; main()"
"""An agent as it is delivered: what the developers' environment has besides is not there for it."""

IMPORTING = """
import importlib, json, sys
sys.modules.update(dict.fromkeys({hidden!r}))
def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("Rss:"))
sizes = dict(python=resident())
for name in sys.argv[1:]:
    before = resident()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sizes[name] = resident() - before
print(json.dumps(sizes))
"""


def bench(peers: int = MEMBERS, rounds: int = ROUNDS, window: float = WINDOW_SECONDS) -> dict[str, object]:
    """Start both, wait until all peers are up, look at what they use, and do so again."""
    if os.geteuid() != 0:
        raise CannotRun("needs root: network namespaces")
    for program in ("wireguard-go", "nft"):
        if shutil.which(program) is None:
            raise CannotRun(f"{program} is not installed")
    found: list[dict[str, float]] = []
    imports: list[dict[str, float]] = []
    for _ in range(rounds):
        found.append(_measure(peers, window))
        imports.append(_measure_imports())
    sizes = _gather(found)
    return {
        "agent_mib": (whole := spread(sizes["agent"], "mib"))["mib"],
        "agent": {
            "peers": peers,
            "rounds": rounds,
            "window_seconds": window,
            **whole,
            "private": spread(sizes["private"], "mib"),
            "measured": min(sizes["measured"]),
            "idle": spread(sizes["share"], "share"),
            "wireguard_idle": spread(sizes["wireguard_share"], "share"),
            "with_few": {"peers": FEW, **spread(sizes["few"], "mib"), "idle": spread(sizes["few_share"], "share")},
            "imports": {name: spread(column, "mib") for name, column in _gather(imports).items()},
        },
    }


def _gather(rounds: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [one[name] for one in rounds] for name in rounds[0]}


def _measure(peers: int, window: float) -> dict[str, float]:
    """One round: bytes, and shares of a processor."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubespan-bench-")))
        lab = stack.enter_context(Lab())
        many = stack.enter_context(running(lab, "many", directory, peers))
        few = stack.enter_context(running(lab, "few", directory, FEW))
        many.wait_up()
        few.wait_up()
        used = shares([many.pid, few.pid, many.wireguard_pid()], window)
        sizes = memory(many.pid)
        return {
            "agent": sizes["Rss"],
            "private": sizes["Private_Dirty"],
            "few": memory(few.pid)["Rss"],
            "measured": float((directory / "many" / RESOURCES).read_bytes().count(b'"rtt":')),
            **dict(zip(("share", "few_share", "wireguard_share"), used, strict=True)),
        }


def _measure_imports() -> dict[str, float]:
    """Bytes that each import adds to a fresh process' resident size, and all of them."""
    script = IMPORTING.format(hidden=hidden())
    done = subprocess.run([sys.executable, "-c", script, *IMPORTS], capture_output=True, check=True)
    found: dict[str, float] = msgspec.json.decode(done.stdout)
    return {**found, "all": sum(found.values())}


def hidden() -> list[str]:
    """Top-level modules of packages that the agent's lock file does not name."""
    own = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)==", LOCK.read_text(), re.MULTILINE)}
    own.add("kubespan-web")
    return sorted(
        module
        for module, distributions in packages_distributions().items()
        if module.isidentifier() and not {re.sub(r"[-_.]+", "-", one).lower() for one in distributions} & own
    )


@dataclass
class Running:
    """An agent at work on a machine, and what it should have."""

    machine: Machine
    process: subprocess.Popen[bytes]
    peers: int
    log: Path

    def wait_up(self) -> None:
        """Wait until every peer has had a handshake, and the agent knows it."""
        deadline = time.monotonic() + UP_SECONDS
        while (up := self._count_up()) < self.peers:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{up} of {self.peers} peers are up: {self.log.read_text()[-500:]}")
            time.sleep(0.5)

    def _count_up(self) -> int:
        # Not every moment has an interface.
        found = self.machine.run("wg", "show", "kubespan", "latest-handshakes", check=False)
        return sum(line.split()[1] != "0" for line in found.splitlines())

    @property
    def pid(self) -> int:
        """The agent's; nsenter becomes what it starts."""
        return self.process.pid

    def wireguard_pid(self) -> int:
        return next(pid for pid in self.machine.processes() if _command(pid).startswith(b"wireguard-go"))


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def running(lab: Lab, name: str, directory: Path, peers: int) -> Iterator[Running]:
    """An agent on a machine of its own, connected to a console there, with peers on another machine."""
    here, there = lab.machine(name), lab.machine(f"{name}-peers")
    lab.join(here, there, addresses=("192.0.2.1/24", "192.0.2.2/24"))
    keys, settings = make_settings(peers)
    with serving(there, lambda: _answer(keys)), serving(here, lambda: _console(settings)) as port:
        make_state(directory / name, ALPHA, f"http://127.0.0.1:{port}")
        log = directory / f"{name}.log"
        words = [
            sys.executable,
            "-c",
            LAUNCH.format(hidden=hidden()),
            "run",
            "--data-plane",
            "userspace",
            "--state-dir",
            str(directory / name),
        ]
        with log.open("wb") as output:
            process = here.start(*words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield Running(here, process, peers, log)
        finally:
            process.terminate()
            process.wait()


def make_state(directory: Path, someone: Someone, url: str) -> Store:
    """The state directory of a machine that enrolled at this console."""
    store = Store(directory)
    store.create_keys(someone.keys)
    store.create_node_id(someone.node_id)
    enrolment = Enrolment(
        url=url,
        cluster=CLUSTER,
        cluster_id=CLUSTER_ID,
        cluster_name="office",
        console_key=CONSOLE_KEY,
        node_id=someone.node_id,
        address=str(someone.address),
    )
    store.save_agent(AgentState(signing_key=SIGNING_KEY, verify_key=VERIFY_KEY, mac=someone.mac, enrolment=enrolment))
    return store


def make_settings(peers: int) -> tuple[list[KeyPair], Snapshot]:
    """The keys of so many peers, and what the console tells of them: two endpoints and two addresses each."""
    prefix = int(ula_prefix(CLUSTER_ID).network_address)
    numbers = range(2, 2 + peers)
    endpoints = (f"192.0.2.2:{PORT}", f"[2001:db8::2]:{PORT}")
    members = [
        msgspec.structs.replace(member, index=number, endpoints=endpoints, address=str(IPv6Address(prefix + number)))
        for number, member in zip(numbers, make_snapshot(peers).members, strict=True)
    ]
    return [make_keys(number + 1) for number in range(peers)], snapshot(1, ALPHA.member(), *members)


@contextlib.asynccontextmanager
async def _answer(keys: list[KeyPair]) -> AsyncIterator[int]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Answering(keys, SECRET), local_addr=("192.0.2.2", PORT)
    )
    with contextlib.closing(transport):
        yield PORT


@contextlib.asynccontextmanager
async def _console(settings: Snapshot) -> AsyncIterator[int]:
    """A console that says what it has to, and takes what comes."""

    async def converse(console: ConsoleDouble) -> None:
        while True:
            line = await console.line()
            welcome = Welcome(
                version=VERSIONS[0],
                status="approved",
                console_time=time.time(),
                index=OWN_INDEX,
                report_seconds=REPORT_SECONDS,
            )
            await line.say(welcome, sealed_secret(), settings)
            await line.gone()

    async with ConsoleDouble().listening() as console:
        task = asyncio.create_task(converse(console))
        yield console.way.url.port
        task.cancel()


@contextlib.contextmanager
def serving(machine: Machine, serve: Callable[[], AbstractAsyncContextManager[int]]) -> Iterator[int]:
    """Serve on a machine, in a thread of this process; gives the port."""
    ports: queue.Queue[int] = queue.Queue()
    ended = threading.Event()

    async def stay() -> None:
        async with serve() as port:
            ports.put(port)
            await asyncio.get_running_loop().run_in_executor(None, ended.wait)

    thread = threading.Thread(target=machine.call, args=(stay,))
    thread.start()
    try:
        yield ports.get(timeout=UP_SECONDS)
    finally:
        ended.set()
        thread.join()
