"""`manage.py demo`: what a script gets of it, what is said when it cannot be, and that nothing of it stays."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
import urllib3

from kubespan.discovery import service as names
from kubespan.discovery.proto import cluster_pb2 as proto
from nodes.playground import await_true
from tests.ports import free_port
from tests.web.test_run import descendants

ROOT = Path(__file__).resolve().parents[2]
LABORATORY = "198.18."
SECONDS = 120
"""What addresses of any laboratory begin with."""
NO_PATIENCE = "import manage; from nodes.management.commands import demo; demo.LIMIT_SECONDS = 0.0; manage.main()"


def by_make(*options):
    """The command as README has it."""
    return ["make", "-s", "demo", f"ARGS={' '.join(options)}"]


def by_manage(*options):
    """What make runs."""
    return [sys.executable, "manage.py", "demo", *options]


def without_patience(*options):
    """One whose mesh has no time to come up."""
    return [sys.executable, "-c", NO_PATIENCE, "demo", *options]


def free_address():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def demonstrate(tmp_path_factory):
    """Starts a demonstration, which has ended after the test, whatever became of that."""
    with ExitStack() as stack:

        def start(*options, **how):
            # A short name: that of a Unix socket in it may not be long.
            demonstration = Demonstration(tmp_path_factory.mktemp("demo"), *options, **how)
            stack.callback(demonstration.end)
            stack.callback(demonstration.process.terminate)
            return demonstration

        yield start


class Demonstration:
    """One in a process of its own, whose temporary files are all in one directory."""

    def __init__(self, directory, *options, command=by_manage, under=()):
        self.temporary, self.listen = directory / "tmp", free_address()
        self.out, self.err = directory / "out", directory / "err"
        self.temporary.mkdir()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*under, *command("--listen", self.listen, *options)],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "HOME": str(directory), "TMPDIR": str(self.temporary)},
                stdout=out,
                stderr=err,
            )

    def await_true(self, condition, what):
        """Wait until this is so of it."""

        def so():
            ended = self.process.poll() is not None  # before the look: it may end between the two
            found = condition(self)
            assert found or not ended, self.err.read_text()
            return found

        await_true(so, SECONDS, what)

    def await_word(self, word):
        """Wait until it has printed this."""
        self.await_true(lambda _: word in self.out.read_text(), word)

    def end(self):
        """Wait until it has ended; returns status, standard output and standard error."""
        status = self.process.wait(SECONDS)
        return status, self.out.read_text(), self.err.read_text()

    def left_over(self):
        return list(self.temporary.iterdir())


def await_hello(channel):
    """Greet a discovery service, once it is there."""
    with channel:
        hello = channel.unary_unary(names.HELLO, proto.HelloRequest.SerializeToString, proto.HelloResponse.FromString)
        return hello(proto.HelloRequest(cluster_id="c"), timeout=60, wait_for_ready=True).client_ip


def laboratory(text):
    """What there is on this host of the laboratory that a text has an address of: namespaces, links, directories."""
    name = f"ks{re.search(r'198[.]18[.]([0-9]+)[.]', text)[1]}"
    places = {"/run/netns": f"{name}-*", "/sys/class/net": f"{name}-*", "/run": f"kubespan-lab-{name}"}
    return [path for place, pattern in places.items() for path in Path(place).glob(pattern)]


@pytest.mark.root
@pytest.mark.slow
def test_a_script_learns_that_every_link_is_up(demonstrate):
    """What README promises, but for the ports: others may have them."""
    plain = free_address()
    options = ["--nodes", "4", "--until-up", "--json", "--discovery-plain-listen", plain]
    demonstration = demonstrate(*options, command=by_make)
    demonstration.await_word("discovery: ")
    secure, told = re.search(r"discovery: https://(\S+) {2}http://(\S+)", demonstration.out.read_text()).groups()
    assert told == plain
    trust = grpc.ssl_channel_credentials(next(demonstration.temporary.glob("*/tls/certificate.pem")).read_bytes())
    assert await_hello(grpc.insecure_channel(plain)) == b"\x7f\0\0\1"
    assert await_hello(grpc.secure_channel(secure, trust)) == ip_address(secure.rpartition(":")[0]).packed
    status, out, err = demonstration.end()
    assert status == 0, err
    outcome = json.loads(out.splitlines()[-1])
    assert outcome.pop("seconds") > 0
    assert outcome == {"nodes": 4, "links": 12, "up": 12}
    assert laboratory(out) == []
    assert demonstration.left_over() == []


@pytest.mark.root
@pytest.mark.slow
def test_a_script_learns_which_links_are_not_up(demonstrate):
    demonstration = demonstrate("--nodes", "2", "--until-up", "--json", command=without_patience)
    status, out, err = demonstration.end()
    assert status == 1
    assert err.startswith("CommandError: the mesh is not up: not within 0 s; missing of 2 links: node-1 → node-2 (")
    assert "{" not in out
    assert laboratory(out) == []
    assert demonstration.left_over() == []


def enrolling(demonstration):
    """A machine has enrolled, and others have not."""
    return "node-1 " in demonstration.out.read_text()


def starting(demonstration):
    """The console has been started, and is far from ready."""
    return LABORATORY in consoles(demonstration)


def consoles(demonstration):
    """The command line of its console, where there is one; others have such addresses for a moment."""
    return " ".join(one for one in descendants(demonstration.process.pid).values() if "manage.py run " in one)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGINT, enrolling, id="SIGINT as machines enrol"),
        pytest.param(signal.SIGTERM, starting, id="SIGTERM as the console starts"),
        pytest.param(signal.SIGHUP, starting, id="SIGHUP as the console starts"),
    ],
)
def test_ended_early_it_takes_everything_away_and_is_no_success(demonstrate, number, moment):
    demonstration = demonstrate("--nodes", "2", "--until-up", "--json")
    demonstration.await_true(moment, moment.__name__)
    listens = consoles(demonstration)
    assert laboratory(listens)
    demonstration.process.send_signal(number)
    demonstration.await_word("taking everything away")
    demonstration.process.send_signal(number)  # whoever is impatient does not stop it
    status, out, err = demonstration.end()
    assert (status, err) == (1, "CommandError: ended before every link was up\n")
    assert "{" not in out
    assert laboratory(listens) == []
    assert demonstration.left_over() == []


@pytest.mark.slow
def test_an_ordinary_user_gets_the_console_alone(demonstrate):
    # Root becomes an ordinary user who may still read this clone, wherever it is.
    under = ["unshare", "--map-user=65534", "--map-group=65534", "--"] if os.geteuid() == 0 else []
    if under and subprocess.run([*under, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this host has no user namespaces")
    demonstration = demonstrate(under=under)

    def ready():
        assert demonstration.process.poll() is None
        try:
            url = f"http://{demonstration.listen}/readyz"
            return urllib3.request("GET", url, retries=False, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    await_true(ready, SECONDS, "the console is not ready")
    demonstration.process.terminate()
    status, out, err = demonstration.end()
    assert status == 0
    assert "network namespaces, which need root" in err
    assert "first administrator: " in out
    assert demonstration.left_over() == []


@pytest.mark.parametrize("count", ["1", "201"])
def test_what_cannot_mesh_is_said(demonstrate, count):
    demonstration = demonstrate("--nodes", count, "--until-up", "--json")
    status, out, err = demonstration.end()
    assert (status, out) == (1, "")
    assert err == f"CommandError: --nodes {count}: from 2 to 200 machines can mesh here\n"
    assert demonstration.left_over() == []
