"""One mesh of Linux machines and a Talos machine, which knows of it only what discovery tells it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodes.playground import Agent, Site, await_true, open_site
from tests.answers import await_answer
from tests.end_to_end.mixed import SECONDS, Console, Office, open_console, open_office
from tests.end_to_end.nat import give_default_routes, outer_port, put_behind
from tests.end_to_end.pinger import Pinger
from tests.go_client import build
from tests.web.test_run import descendants

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(1200)]

UP_SECONDS = 180.0
"""For a link that needs harvested endpoints: each end first gives up one that does not answer."""
SEED = int(os.environ.get("KUBESPAN_FAULTS_SEED", "20264"))
BRAVO, TALOS, YANKEE, ZULU = 71, 72, 73, 74
"""Networks behind routers."""
PAIRS = list(itertools.permutations(("alpha", "bravo", "talos"), 2))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Machines that everybody reaches, and routers before those that nobody does."""
    with open_site(["alpha", "charlie", "tango", "gate-bravo", "gate-talos", "gate-yankee", "gate-zulu"]) as site:
        for name in ("alpha", "charlie", "tango"):
            give_default_routes(site, name)
        yield site


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upstream's client."""
    if shutil.which("wireguard-go") is None:
        pytest.skip("no wireguard-go on this machine: apt-get install -y --no-install-recommends wireguard-go")
    return build(tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="module")
def console(program: Path, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """Which all machines of the site find."""
    with open_console(site, tmp_path_factory.mktemp("talos")) as console:
        yield console


@pytest.fixture(scope="module")
def office(site: Site, console: Console, program: Path) -> Iterator[Office]:
    """Alpha can be reached; bravo, and talos, are each behind a router."""
    machine = put_behind(site, "gate-talos", "talos", TALOS)
    node_id = "sou7yy34ykX3n373Zw1DXKb8zD7UnyKT6HT3QDsGH6L"
    options = {"harvest_extra_endpoints": "on"}
    with open_office(console, "office", program, machine, "talos", node_id, **options) as office:
        bravo = Agent("bravo", put_behind(site, "gate-bravo", "bravo", BRAVO), console.directory)
        office.join(Agent("alpha", site.machines["alpha"], console.directory), bravo)
        office.await_links(("alpha", "bravo"), ("alpha", "talos"))
        yield office


@pytest.fixture(scope="module")
def annex(site: Site, console: Console, program: Path) -> Iterator[Office]:
    """tango, which behaves as Talos does, can be reached; the agents' machines are each behind a router."""
    node_id = "7x1SuC8Ege5BGXdAfTEff5iQnlWZLfv9h1LGMxA2pYkC"
    with open_office(console, "annex", program, site.machines["tango"], "tango", node_id) as office:
        office.join(
            Agent("yankee", put_behind(site, "gate-yankee", "yankee", YANKEE), console.directory),
            Agent("zulu", put_behind(site, "gate-zulu", "zulu", ZULU), console.directory),
        )
        office.await_links(("yankee", "tango"), ("zulu", "tango"))
        yield office


@pytest.fixture
def meshed(office: Office) -> Office:
    """The same, once everybody has met everybody."""
    office.await_links(("bravo", "talos"), seconds=UP_SECONDS)
    return office


def outside(site: Site, gate: str, number: int) -> str:
    """Where the world sees WireGuard of a machine behind a router."""
    return f"{site.addresses[gate][0]}:{outer_port(number)}"


@pytest.mark.usefixtures("annex")  # its machines give each other up meanwhile
def test_what_an_agent_saw_brings_two_machines_behind_routers_together(site: Site, meshed: Office) -> None:
    assert meshed.endpoint("bravo", "talos") == outside(site, "gate-talos", TALOS)
    assert meshed.endpoint("talos", "bravo") == outside(site, "gate-bravo", BRAVO)


def test_what_a_talos_machine_saw_brings_two_agents_together(site: Site, annex: Office) -> None:
    down: set[str] = set()

    def gave_up() -> bool:  # either for as long as it takes until the next try
        down.update(a for a, b in itertools.permutations(("yankee", "zulu")) if annex.links(a).get(b) == "down")
        return len(down) == 2

    await_true(gave_up, SECONDS, "two machines behind routers have not given each other up")
    annex.set_options(harvest_extra_endpoints="on")
    annex.talos.harvest = True
    annex.await_links(("yankee", "zulu"), seconds=UP_SECONDS)
    assert annex.endpoint("yankee", "zulu") == outside(site, "gate-zulu", ZULU)
    assert annex.endpoint("zulu", "yankee") == outside(site, "gate-yankee", YANKEE)


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=[f"{a} to {b}" for a, b in PAIRS])
def test_every_pair_pings_by_kubespan_address_and_by_node_addresses(meshed: Office, here: str, there: str) -> None:
    for address in meshed.addresses(there):
        await_answer(meshed.machine(here), address)


def kill_child(console: Console, *words: str) -> None:
    """Kill one process of the console's, which starts it again."""
    assert console.running.process is not None
    console_pid = console.running.process.pid
    found: list[int] = []

    def runs() -> bool:  # what fell with something else may have to be started first
        found[:] = [pid for pid, line in descendants(console_pid).items() if all(word in line for word in words)]
        return bool(found)

    await_true(runs, SECONDS, f"no process of the console is {' '.join(words)}")
    os.kill(found[0], signal.SIGKILL)


CHILDREN = {
    "discovery": ("manage.py", "discovery"),
    "web": ("uvicorn", "--ssl-keyfile"),
    "worker": ("celery", "worker"),
}
FAULTS = [*CHILDREN, "redis", "everything"]


def make_fault(fault: str, console: Console, meanwhile: Callable[[], None]) -> None:
    """Kill something, and see to it that it starts again."""
    if fault == "everything":
        console.running.kill()
        meanwhile()
        console.running.start()
    elif fault == "redis":
        console.running.kill_redis()
    else:
        kill_child(console, *CHILDREN[fault])
    await_true(console.running.ready, SECONDS, f"{fault}: the console is not ready again")


def await_answers(pingers: list[Pinger], count: int) -> None:
    """Wait until each has had so many more answers."""
    wanted = [pinger.answered + count for pinger in pingers]
    await_true(lambda: all(p.answered >= n for p, n in zip(pingers, wanted, strict=True)), SECONDS, "no answers")


def test_whatever_is_killed_the_mesh_carries_traffic_and_converges(
    site: Site, console: Console, meshed: Office, tmp_path: Path
) -> None:
    order = random.Random(SEED).sample(FAULTS, len(FAULTS))
    print(f"seed {SEED}: {', '.join(order)}")
    talos = meshed.talos
    with ExitStack() as stack:
        pingers = [
            stack.enter_context(Pinger(meshed.machine(here), address, tmp_path))
            for here, there in PAIRS
            for address in meshed.addresses(there)[:2]
        ]
        await_answers(pingers, 3)
        for number, fault in enumerate(order, 1):
            messages = talos.messages
            make_fault(fault, console, lambda: await_answers(pingers, 20))
            if fault in {"discovery", "everything"}:
                await_true(lambda told=messages: talos.messages > told, SECONDS, f"{fault}: nothing from discovery")
            assert talos.knows() == {"alpha", "bravo"}
            talos.further.append(f"10.{TALOS}.9.{number}")
            await_followed(meshed, talos.further[-1], fault)
        meshed.join(Agent("charlie", site.machines["charlie"], console.directory))
        meshed.await_links(*((name, "charlie") for name in ("alpha", "bravo", "talos")))
        assert talos.knows() == {"alpha", "bravo", "charlie"}
        await_answers(pingers, 10)
    assert {pinger.log.name: pinger.lost for pinger in pingers if pinger.lost} == {}


def await_followed(office: Office, address: str, fault: str) -> None:
    """Wait until every agent has what the Talos machine said last."""

    def followed() -> bool:
        return all(office.sends(name, address) for name in office.agents)

    await_true(followed, SECONDS, f"{fault}: what the Talos machine says now does not arrive")


def test_a_removed_agent_is_gone_from_the_talos_machine(meshed: Office, tmp_path: Path) -> None:
    talos, address = meshed.talos, meshed.agents["bravo"].address()
    key = next(one["public_key"] for one in talos.received if one["nodename"] == "bravo")
    with Pinger(talos.machine, meshed.agents["alpha"].address(), tmp_path) as pinger:
        await_answers([pinger], 3)
        meshed.console.running.call("remove_node", "office", "bravo")
        await_true(lambda: "bravo" not in talos.knows(), SECONDS, "discovery still lists it")
        await_true(lambda: key not in talos.configured(), SECONDS, "WireGuard still has it")
        await_answers([pinger], 3)
    assert pinger.lost == set()
    assert talos.machine.execute("ping", "-n", "-c", "1", "-W", "2", address).returncode != 0
