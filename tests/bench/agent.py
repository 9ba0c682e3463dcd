"""The agent's own size and its share of a processor, with 1,000 peers that are up, beside one with three.

Both are the real process with wireguard-go, connected to a console that takes their reports at the normal pace. Sizes
are MiB of /proc/PID/smaps_rollup once the agent is settled; shares are seconds of processor a second, of the agent with
what it starts (nft), over windows in which both run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import msgspec

from kubespan.agent.store import AgentState, Enrolment, Store
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
from tests.bench.console import TICKS, CannotRun
from tests.bench.example import MEMBERS, make_keys, make_snapshot
from tests.namespaces import Lab, Machine

FEW = 3
WINDOWS = 5
WINDOW_SECONDS = 30.0
"""The agent looks at its peers each 30 s where nothing happens."""
UP_SECONDS = 120.0
ROUNDS = 5
LOCK = Path(__file__).parent.parent.parent / "requirements" / "agent.lock"
PORT = 51820

IMPORTS = (
    "asyncio", "ssl", "msgspec", "structlog", "cryptography.hazmat.primitives.hpke", "click", "yaml",
    "websockets.asyncio.client", "pyroute2", "kubespan.agent.__main__", "kubespan.agent.start",
)  # fmt: skip
"""In this order, so that what two share counts for the first."""

LAUNCH = "import sys; sys.modules.update(dict.fromkeys({hidden!r})); from kubespan.agent.__main__ import main; main()"
"""An agent as it is delivered: what the developers' environment has besides is not there for it."""

SHARES = """
import importlib, json, sys
sys.modules.update(dict.fromkeys({hidden!r}))
def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))
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


def bench(peers: int = MEMBERS, windows: int = WINDOWS, window: float = WINDOW_SECONDS) -> dict[str, object]:
    """Start both, wait until all peers are up, and look at what they use."""
    if os.geteuid() != 0:
        raise CannotRun("needs root: network namespaces")
    for program in ("wireguard-go", "nft"):
        if shutil.which(program) is None:
            raise CannotRun(f"{program} is not installed")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubespan-bench-")))
        lab = stack.enter_context(Lab())
        many = stack.enter_context(running(lab, "many", directory, peers))
        few = stack.enter_context(running(lab, "few", directory, FEW))
        many.wait_up()
        few.wait_up()
        shares = _measure_shares((many, few), windows, window)
        sizes = {"agent": many.memory(), "few": few.memory()}
    return {
        "peers": peers,
        "agent_mib": sizes["agent"]["Rss"],
        "agent_private_mib": sizes["agent"]["Private_Dirty"],
        "with_few_mib": sizes["few"]["Rss"],
        "imports_mib": measure_imports(),
        "idle_share": shares[0],
        "idle_share_with_few": shares[1],
        "wireguard_share": shares[2],
        "window_seconds": window,
        "windows": windows,
    }


def measure_imports() -> dict[str, float]:
    """What each import adds to a fresh process' resident size, in MiB; medians."""
    script = SHARES.format(hidden=hidden())
    runs = [
        msgspec.json.decode(
            subprocess.run([sys.executable, "-c", script, *IMPORTS], capture_output=True, check=True).stdout
        )
        for _ in range(ROUNDS)
    ]
    return {name: round(statistics.median(run[name] for run in runs) / 1024, 2) for name in runs[0]}


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

    def pid(self) -> int:
        # nsenter becomes what it starts: no process in between.
        return self.process.pid

    def wireguard_pid(self) -> int:
        return next(pid for pid in self.machine.processes() if _command(pid).startswith(b"wireguard-go"))

    def memory(self) -> dict[str, float]:
        """Of /proc/PID/smaps_rollup, in MiB."""
        lines = Path(f"/proc/{self.pid()}/smaps_rollup").read_text().splitlines()[1:]
        return {line.split()[0][:-1]: round(int(line.split()[1]) / 1024, 2) for line in lines}


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def used(pid: int) -> float:
    """Seconds of processor, with those of children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _measure_shares(agents: Sequence[Running], windows: int, window: float) -> list[dict[str, float]]:
    pids = [*(agent.pid() for agent in agents), agents[0].wireguard_pid()]
    columns: list[list[float]] = [[] for _ in pids]
    for _ in range(windows):
        started, before = time.monotonic(), [used(pid) for pid in pids]
        time.sleep(window)
        seconds = time.monotonic() - started
        for pid, column, earlier in zip(pids, columns, before, strict=True):
            column.append((used(pid) - earlier) / seconds)
    return [
        {"share": round(statistics.median(column), 5), "from": round(min(column), 5), "to": round(max(column), 5)}
        for column in columns
    ]


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
    numbers = range(2, 2 + peers)
    endpoints = (f"192.0.2.2:{PORT}", f"[2001:db8::2]:{PORT}")
    members = [
        msgspec.structs.replace(member, index=number, endpoints=endpoints)
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
