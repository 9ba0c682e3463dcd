"""The agent as it reaches a machine: by the line alone, told why where it cannot be, and gone without a trace."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from kubespan.core.resources import FILE_NAME, PEER_STATUSES, parse
from nodes.lab import LabError, Machine
from nodes.playground import Site, await_true, open_site
from tests.agent.archives import alter, sha256
from tests.consoles import PreparedConsole
from tests.distributions import SYSTEMD, Distribution, boot, extend, lend, unpack, unpack_unconfigured
from tests.end_to_end.pinger import no_ping_lost
from tests.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(900)]

BARE = ("python3", "nftables", "wireguard-go")
"""What a Debian 12 has beside its base; wireguard-go for kernels without WireGuard, such as a test may run on."""
OLD = ("python3",)
SECONDS = 120.0
PUBLISHED = f"/var/lib/kubespan-agent/{FILE_NAME}"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Machines of other distributions."""
    with open_site(["golf", "hotel", "india", "mike", *Fleet.NAMES]) as site:
        yield site


@pytest.fixture(scope="module")
def console(site: Site, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedConsole]:
    """A console that hands out that agent."""
    directory = tmp_path_factory.mktemp("delivery")
    # A copy: the tree's own may be built anew at any time.
    shutil.copytree(built, directory / "agent")
    console = PreparedConsole(directory, listen=f"127.0.0.1:{free_port()}", tls_listen=f"{site.host}:8444")
    console.env |= {"KUBESPAN_AGENT_FILES": str(directory / "agent"), "KUBESPAN_AGENT_URL": console.tls_url}
    try:
        console.start()
        console.call("create_cluster", "bureau")
        yield console
    finally:
        console.stop()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare Debian 12."""
    return unpack("bookworm", *BARE)


def line(console: PreparedConsole, cluster: str = "bureau") -> str:
    """What the page shows."""
    return str(console.call("create_token", cluster)["line"])


def reporting(console: PreparedConsole) -> set[str]:
    """Nodes whose reports the console has."""
    return {node["name"] for node in console.call("list_nodes", "bureau")["nodes"] if node["reporting"]}


def states(machine: Distribution) -> list[str]:
    """How the machine sees its links; read from the agent's file, for it is asked very often."""
    done = machine.execute("cat", PUBLISHED)
    published = parse(done.stdout.encode()) if done.returncode == 0 else []
    return [str(one.spec["state"]) for one in published if one.metadata.type == PEER_STATUSES.type]


def named(line: str, name: str) -> str:
    """The line with a name: all machines of a laboratory have the same host name."""
    until, end, rest = line.partition(";;")
    return f"{until} --name {name}{end}{rest}"


def test_the_line_alone_meshes_a_bare_debian_and_uninstall_leaves_nothing(
    site: Site, console: PreparedConsole, debian: Path, tmp_path: Path
) -> None:
    with (
        lend(site.machines["golf"], debian, tmp_path / "golf") as golf,
        lend(site.machines["hotel"], debian, tmp_path / "hotel") as hotel,
    ):
        files, network = golf.files(), golf.network()
        lines = {name: named(line(console), name) for name in ("golf", "hotel")}
        for machine, name in ((golf, "golf"), (hotel, "hotel")):
            done = machine.sh(lines[name])
            assert done.returncode == 0, done.stderr
            assert "started in the background" in done.stdout
            assert "`/opt/kubespan-agent/kubespan-agent run` at each boot" in done.stdout
        await_true(lambda: states(golf) == states(hotel) == ["up"], SECONDS, "the two machines do not mesh")
        await_true(lambda: reporting(console) >= {"golf", "hotel"}, SECONDS, "the console does not hear of them")
        version = json.loads((console.directory / "agent" / "release.json").read_text())["version"]
        assert golf.execute("kubespan-agent", "version").stdout.strip() == version
        assert "up" in golf.execute("kubespan-agent", "status").stdout

        # Again, though its token is used up: nothing is different but that the agent has been started anew.
        keys = golf.execute("cat", "/var/lib/kubespan-agent/kubespan-identity.yaml").stdout
        golf.execute("rm", PUBLISHED)  # what it says next is the new one's
        again = golf.sh(lines["golf"])
        assert again.returncode == 0, again.stderr
        assert golf.execute("cat", "/var/lib/kubespan-agent/kubespan-identity.yaml").stdout == keys
        await_true(lambda: states(golf) == ["up"], SECONDS, "golf is not back")

        gone = golf.execute("kubespan-agent", "uninstall", "--yes")
        assert gone.returncode == 0, gone.stderr
        assert "remove this node on its console too" in gone.stdout
        assert golf.machine.processes() == []
        after = golf.files()
        assert {path: after.get(path) for path in {*files, *after} if files.get(path) != after.get(path)} == {}
        assert golf.network() == network


def test_under_systemd_it_is_a_service_that_goes_without_a_trace(
    site: Site, console: PreparedConsole, debian: Path, tmp_path: Path
) -> None:
    tree = extend(debian, *SYSTEMD)
    with lend(site.machines["mike"], tree, tmp_path) as still, boot(still) as mike:
        units = ("find", "/etc/systemd", "/run/systemd/system", "/run/systemd/transient", "!", "-type", "d")
        before, network, service = mike.files(), mike.network(), mike.execute(*units).stdout
        done = mike.sh(named(line(console), "mike"))
        assert done.returncode == 0, done.stderr
        assert "the service is enabled and started" in done.stdout
        await_true(lambda: "mike" in reporting(console), SECONDS, "the console does not hear of it")
        assert mike.execute("systemctl", "is-active", "kubespan-agent").stdout == "active\n"
        assert mike.execute("systemctl", "is-enabled", "kubespan-agent").stdout == "enabled\n"
        gone = mike.execute("kubespan-agent", "uninstall", "--yes")
        assert gone.returncode == 0, gone.stderr
        assert mike.execute("systemctl", "list-units", "--all", "--no-legend", "kubespan*").stdout == ""
        assert mike.execute(*units).stdout == service
        after = mike.files()
        journal = ("var/log", "run/log")
        changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        assert {path for path in changed if not path.startswith(journal)} == set()
        assert mike.network() == network


def test_an_old_python_is_told_in_a_sentence_and_nothing_is_changed(
    site: Site, console: PreparedConsole, tmp_path: Path
) -> None:
    tree = unpack_unconfigured("bullseye", *OLD)
    with lend(site.machines["india"], tree, tmp_path) as india:
        files, network = india.files(), india.network()
        done = india.sh(line(console))
        assert done.returncode != 0
        assert done.stderr == (
            "kubespan-agent was not installed: Python 3.11 to 3.14 is needed, and this machine has 3.9.2.\n"
        )
        assert done.stdout == ""
        after = india.files()
        changed = {path for path in {*files, *after} if files.get(path) != after.get(path)}
        # Of packages that are not configured Python's library is not compiled, which Python makes up for.
        assert {path for path in changed if not re.match(r"usr/lib/python3[.]9/(.*/)?__pycache__", path)} == set()
        assert india.network() == network
    assert "india" not in {node["name"] for node in console.call("list_nodes", "bureau")["nodes"]}


# Upgrades: three machines that the line brought into the mesh, and agents that are made to fail.

TRIAL_SECONDS = "40"
WAY = b"way = None if enrolment.alone else way_to(enrolment)"
SABOTAGE = {
    "crashes": b"__import__('os')._exit(1)",
    "hangs": b"[__import__('signal').signal(15, 1), __import__('time').sleep(600)]",  # and ignores SIGTERM
    "cannot connect": b"way = way_to(__import__('msgspec').structs.replace(enrolment, url='https://127.0.0.1:1'))",
}
"""What the new agent does where it begins to mesh; to say its version it is good enough."""


class Fleet:
    """Three machines with the agent that the console handed out."""

    NAMES = ("juliett", "kilo", "lima")

    def __init__(self, site: Site, console: PreparedConsole, machines: dict[str, Distribution]) -> None:
        self.site, self.console, self.machines = site, console, machines
        self.first = (console.directory / "agent" / "kubespan-agent.pyz").read_bytes()

    def join(self) -> None:
        for name, machine in self.machines.items():
            done = machine.sh(named(line(self.console, "fleet"), name), KUBESPAN_TRIAL_SECONDS=TRIAL_SECONDS)
            assert done.returncode == 0, done.stderr
        await_true(self.meshed, SECONDS, "the three machines do not mesh")

    def meshed(self) -> bool:
        return all(states(machine) == ["up", "up"] for machine in self.machines.values())

    def versions(self) -> dict[str, str]:
        """By name, of the agents that are connected."""
        nodes = self.console.call("list_nodes", "fleet")["nodes"]
        return {node["name"]: node["agent"] for node in nodes if node["reporting"]}

    def await_versions(self, wanted: dict[str, str]) -> None:
        """Wait until these run; what runs instead is said."""
        with suppress(LabError):
            await_true(lambda: self.versions() == wanted, SECONDS, "other versions run")
        assert self.versions() == wanted

    def hand_out(self, content: bytes, version: str) -> None:
        directory = self.console.directory / "agent"
        release = json.loads((directory / "release.json").read_text())
        release |= {"version": version, "sha256": sha256(content), "size": len(content)}
        (directory / "kubespan-agent.pyz").write_bytes(content)
        (directory / "release.json").write_text(json.dumps(release))

    def rollout(self) -> dict:
        """Upgrade, and wait for the end of it; how it stands then."""
        with suppress(LabError):  # it did not end well, as is seen below
            self.console.call("upgrade_agents", "fleet", "--wait", env={"KUBESPAN_AGENT_URL": self.console.tls_url})
        return self.console.call("upgrade_agents", "fleet", "--show")

    def upgrade_all(self) -> None:
        """Upgrade; whoever is not connected at the moment when that begins takes part in a second one."""
        upgraded: set[str] = set()
        while upgraded != set(self.NAMES):
            await_true(lambda: set(self.versions()) == set(self.NAMES), SECONDS, "not all are connected")
            ended = self.rollout()
            assert (ended["state"], ended["reason"]) == ("done", "")
            done = {name for name, state in ended["nodes"].items() if state == "done"}
            assert done - upgraded, ended
            upgraded |= done

    def processes(self, *names: str) -> dict[str, str]:
        """The running agent's process, by name of the machine."""
        return {name: self.machines[name].execute("cat", "/var/lib/kubespan-agent/lock").stdout for name in names}

    def address(self, name: str) -> str:
        done = self.machines[name].execute("kubespanctl", "get", "kubespanidentities", "-o", "json")
        return str(json.loads(done.stdout)["spec"]["address"]).partition("/")[0]

    def ring(self) -> Iterator[tuple[Machine, str]]:
        """Who pings whom."""
        names = list(self.NAMES)
        for here, there in zip(names, names[1:] + names[:1], strict=True):
            yield self.machines[here].machine, self.address(there)


@pytest.fixture(scope="module")
def fleet(
    site: Site, console: PreparedConsole, debian: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    console.call("create_cluster", "fleet")
    scratch = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        machines = {
            name: stack.enter_context(lend(site.machines[name], debian, scratch / name)) for name in Fleet.NAMES
        }
        fleet = Fleet(site, console, machines)
        fleet.join()
        yield fleet


@pytest.mark.parametrize("how", list(SABOTAGE))
def test_a_new_agent_that_fails_makes_the_former_one_come_back_and_nobody_else_is_upgraded(
    fleet: Fleet, tmp_path: Path, how: str
) -> None:
    def break_it(files: dict[str, bytes]) -> None:
        assert WAY in files["kubespan/agent/start.py"]
        files["kubespan/agent/start.py"] = files["kubespan/agent/start.py"].replace(WAY, SABOTAGE[how])

    before = fleet.versions()
    assert set(before) == set(Fleet.NAMES)
    processes = fleet.processes("kilo", "lima")
    version = f"0.9.0+{list(SABOTAGE).index(how):08x}"
    fleet.hand_out(alter(fleet.first, version, break_it), version)
    with no_ping_lost(fleet.ring(), tmp_path):
        ended = fleet.rollout()
        assert ended["state"] == "stopped"
        assert ended["nodes"]["kilo"] == ended["nodes"]["lima"] == "waiting"
        expected = {
            "crashes": "it ended 3 times before it was connected to the console",
            "hangs": f"it was not connected to the console within {TRIAL_SECONDS} seconds",
            "cannot connect": f"it was not connected to the console within {TRIAL_SECONDS} seconds",
        }
        assert ended["reason"] == f"juliett: {expected[how]}"
        fleet.await_versions(before)
    assert fleet.processes("kilo", "lima") == processes
    await_true(fleet.meshed, SECONDS, "they do not mesh any more")


def test_a_good_one_reaches_all_of_them_without_a_lost_ping(fleet: Fleet, tmp_path: Path) -> None:
    version = "0.9.1+00000001"
    fleet.hand_out(alter(fleet.first, version), version)
    with no_ping_lost(fleet.ring(), tmp_path):
        fleet.upgrade_all()
        fleet.await_versions(dict.fromkeys(Fleet.NAMES, version))
    await_true(fleet.meshed, SECONDS, "they do not mesh any more")
    for machine in fleet.machines.values():
        assert machine.execute("test", "-e", "/opt/kubespan-agent/trial").returncode != 0

    # By hand, and with what it left: the next one from the machine itself.
    again = "0.9.2+00000002"
    fleet.hand_out(alter(fleet.first, again), again)
    done = fleet.machines["lima"].execute("kubespan-agent", "upgrade")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "it is connected"), done.stderr
    await_true(lambda: fleet.versions().get("lima") == again, SECONDS, "lima does not run it")
    nothing = fleet.machines["lima"].execute("kubespan-agent", "upgrade")
    assert "nothing to do" in nothing.stderr
