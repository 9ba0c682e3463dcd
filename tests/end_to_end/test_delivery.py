"""The agent as it reaches a machine: by the line alone, told why where it cannot be, and gone without a trace."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.playground import RunningConsole, Site, await_true, open_site
from tests.distributions import Distribution, lend, unpack
from tests.end_to_end.conftest import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("end_to_end"), pytest.mark.timeout(900)]

BARE = ("python3", "nftables", "wireguard-go")
"""What a Debian 12 has beside its base; wireguard-go for kernels without WireGuard, such as a test may run on."""
OLD = ("python3",)
SECONDS = 120.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built() -> Path:
    """The agent of these sources, as `make agent` builds it."""
    done = subprocess.run([ROOT / "scripts" / "agent.sh"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the agent cannot be built here: {done.stderr.strip()[-300:]}")
    return ROOT / "build" / "agent"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Machines of other distributions."""
    with open_site(["golf", "hotel", "india"]) as site:
        yield site


@pytest.fixture(scope="module")
def console(site: Site, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningConsole]:
    """A console that hands out that agent."""
    directory = tmp_path_factory.mktemp("delivery")
    # A copy: the tree's own may be built anew at any time.
    shutil.copytree(built, directory / "agent")
    console = RunningConsole(directory, listen=f"127.0.0.1:{free_port()}", tls_listen=f"{site.host}:8444")
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


def line(console: RunningConsole) -> str:
    """What the page shows."""
    return str(console.call("create_token", "bureau")["line"])


def reporting(console: RunningConsole) -> set[str]:
    """Nodes whose reports the console has."""
    return {node["name"] for node in console.call("list_nodes", "bureau")["nodes"] if node["reporting"]}


def states(machine: Distribution) -> list[str]:
    """How the machine sees its links."""
    done = machine.execute("kubespanctl", "get", "kubespanpeerstatuses", "-o", "json")
    decoder, rest, found = json.JSONDecoder(), done.stdout.strip(), []
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value["spec"]["state"])
        rest = rest[end:].lstrip()
    return found


def enrol(machine: Distribution, console: RunningConsole, name: str) -> subprocess.CompletedProcess:
    """Run the line as it is, but with a name: all machines of a laboratory have the same host name."""
    pin_ends = line(console).partition(";;")
    return machine.sh(f"{pin_ends[0]} --name {name};;{pin_ends[2]}")


def test_the_line_alone_meshes_a_bare_debian_and_uninstall_leaves_nothing(
    site: Site, console: RunningConsole, debian: Path, tmp_path: Path
) -> None:
    with (
        lend(site.machines["golf"], debian, tmp_path / "golf") as golf,
        lend(site.machines["hotel"], debian, tmp_path / "hotel") as hotel,
    ):
        files, network = golf.files(), golf.network()
        for machine, name in ((golf, "golf"), (hotel, "hotel")):
            done = enrol(machine, console, name)
            assert done.returncode == 0, done.stderr
            assert "started in the background" in done.stdout
            assert "`/opt/kubespan-agent/kubespan-agent run` at each boot" in done.stdout
        await_true(lambda: states(golf) == states(hotel) == ["up"], SECONDS, "the two machines do not mesh")
        await_true(lambda: reporting(console) >= {"golf", "hotel"}, SECONDS, "the console does not hear of them")
        version = json.loads((console.directory / "agent" / "release.json").read_text())["version"]
        assert golf.execute("kubespan-agent", "version").stdout.strip() == version
        assert "up" in golf.execute("kubespan-agent", "status").stdout

        # Again, with a line of its own: nothing is different but that the agent has been started anew.
        keys = golf.execute("cat", "/var/lib/kubespan-agent/kubespan-identity.yaml").stdout
        again = enrol(golf, console, "golf")
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


def test_an_old_python_is_told_in_a_sentence_and_nothing_is_changed(
    site: Site, console: RunningConsole, tmp_path: Path
) -> None:
    tree = unpack("bullseye", *OLD)
    with lend(site.machines["india"], tree, tmp_path) as india:
        files, network = india.files(), india.network()
        done = india.sh(line(console))
        assert done.returncode != 0
        assert done.stderr == (
            "kubespan-agent was not installed: Python 3.11 to 3.14 is needed, and this machine has 3.9.2.\n"
        )
        assert done.stdout == ""
        after = india.files()
        assert {path for path in {*files, *after} if files.get(path) != after.get(path)} == set()
        assert india.network() == network
    assert "india" not in {node["name"] for node in console.call("list_nodes", "bureau")["nodes"]}
