"""Joining without a console: what is checked, what is kept, what an operator reads."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import click.testing
import msgspec
import pytest

from kubespan.agent import start
from kubespan.agent.__main__ import main
from kubespan.agent.join import JoinError
from kubespan.agent.join_command import discovery_of, join_by_environment
from kubespan.agent.publish import Condition
from kubespan.agent.registries import Standing
from kubespan.agent.store import DiscoveryService, Store
from kubespan.agent.units import EXIT_SETUP
from kubespan.core.cluster import ula_prefix
from kubespan.core.options import Options
from tests.agent.console_double import ALPHA, BRAVO, CLUSTER_ID, SECRET, Bench
from tests.agent.discovery_double import Lone, listed
from tests.discovery.apart import ServiceApart

RAW = base64.b64decode(SECRET)
OTHER_SECRET = base64.b64encode(bytes(32)).decode()
BUNDLE = f"cluster:\n    id: {CLUSTER_ID}\n    secret: {SECRET}\nsecrets:\n    more: than we need\n"


@pytest.fixture
def service():
    with ServiceApart() as service:
        yield service


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "state")


@pytest.fixture
def call(store, monkeypatch):
    """Call the command on a state directory of the test's own, on a machine that preflight finds nothing about."""
    monkeypatch.setenv("KUBESPAN_STATE_DIR", str(store.directory))
    for name in [name for name in os.environ if name.startswith(("KUBESPAN_CLUSTER", "KUBESPAN_DISCOVERY"))]:
        monkeypatch.delenv(name)
    runner = click.testing.CliRunner()
    return lambda *arguments, **other: runner.invoke(main, arguments, catch_exceptions=False, **other)


def join(call, service, *more, secret=SECRET, **other):
    given = {"input": BUNDLE.replace(SECRET, secret)} | other
    return call("join", "--secrets-file", "-", "--discovery", service.url, "--name", "alpha", *more,
                "--ignore", "all", **given)  # fmt: skip


def test_it_checks_keeps_and_says_what_comes(call, service, store):
    service.put(CLUSTER_ID, RAW, listed(BRAVO))
    result = join(call, service, "--advertise", "10.8.0.0/16", "--mtu", "1400", "--harvest-extra-endpoints",
                  "--extra-endpoint", "198.51.100.7:4000", "--endpoint-filter", "!10.0.0.0/8",
                  "--endpoint-filter", "0.0.0.0/0")  # fmt: skip
    assert result.exit_code == 0, result.output
    state = store.agent()
    assert (state.enrolment.alone, state.enrolment.cluster_id, state.name) == (True, CLUSTER_ID, "alpha")
    assert state.networks == ("10.8.0.0/16",)
    assert f"joined; this machine's address is {state.enrolment.address}" in result.output
    assert state.enrolment.address.startswith(str(ula_prefix(CLUSTER_ID).network_address).rstrip(":"))
    assert "1 other machine listed" in result.output
    assert "192.0.2.2/32 (bravo)" in result.output
    assert "next: kubespan-agent install" in result.output
    settings = store.settings(CLUSTER_ID)
    assert settings.secret == SECRET
    assert settings.snapshot.options == Options(
        mtu=1400, harvest_extra_endpoints=True, endpoint_filters=("!10.0.0.0/8", "0.0.0.0/0")
    )
    discovery = store.discovery()
    assert discovery.services == (DiscoveryService(url=service.url),)
    assert discovery.extra_endpoints == ("198.51.100.7:4000",)
    assert service.names(CLUSTER_ID) == {BRAVO.node_id}  # it looks, and says nothing


def test_what_is_kept_is_roots_alone_and_the_secret_in_one_file(call, service, store):
    assert join(call, service).exit_code == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory.iterdir()}
    assert set(modes.values()) == {0o600}
    holders = [path.name for path in store.directory.iterdir() if SECRET.encode() in path.read_bytes()]
    assert holders == ["settings.json"]


@pytest.mark.parametrize("way", ["files", "environment", "environment's files", "bundle's file"])
def test_ways_of_id_and_secret(call, service, store, tmp_path, way):
    for name, text in (("id", f"{CLUSTER_ID}\n"), ("secret", f"{SECRET}\n"), ("bundle", BUNDLE)):
        (tmp_path / name).write_text(text)
    environment = {"KUBESPAN_DISCOVERY": service.url}
    arguments = []
    match way:
        case "files":
            arguments = ["--cluster-id-file", f"{tmp_path}/id", "--secret-file", f"{tmp_path}/secret"]
        case "environment":
            environment |= {"KUBESPAN_CLUSTER_ID": CLUSTER_ID, "KUBESPAN_CLUSTER_SECRET": SECRET}
        case "environment's files":
            environment |= {"KUBESPAN_CLUSTER_ID_FILE": f"{tmp_path}/id"}
            environment |= {"KUBESPAN_CLUSTER_SECRET_FILE": f"{tmp_path}/secret"}
        case "bundle's file":
            environment |= {"KUBESPAN_SECRETS_FILE": f"{tmp_path}/bundle"}
    result = call("join", "--ignore", "all", *arguments, env=environment)
    assert result.exit_code == 0, result.output
    assert (store.agent().enrolment.cluster_id, store.settings(CLUSTER_ID).secret) == (CLUSTER_ID, SECRET)
    assert SECRET not in result.output


def test_the_form_that_kubespanctl_writes_is_read(call, service, store):
    made = subprocess.run(
        [str(Path(sys.executable).with_name("kubespanctl")), "gen", "secrets"], capture_output=True, check=True
    ).stdout.decode()
    result = join(call, service, input=made)
    assert result.exit_code == 0, result.output
    assert store.agent().enrolment.cluster_id in made


@pytest.mark.parametrize(
    ("arguments", "given", "sentence"),
    [
        pytest.param(["--secrets-file", "-"], "nonsense", "has no cluster with id and secret", id="no bundle"),
        pytest.param(["--secrets-file", "-"], "cluster:\n  id: x\n", "has no cluster with id and secret", id="half"),
        pytest.param(["--secrets-file", "-"], BUNDLE.replace(SECRET, "c2hvcnQ="), "expected 32 bytes, got 5",
                     id="short"),
        pytest.param(["--secrets-file", "-"], BUNDLE.replace(CLUSTER_ID, '""'), "the cluster id is required",
                     id="no id"),
        pytest.param(["--secrets-file", "/no/such"], "", "cannot read the cluster id and secret from /no/such",
                     id="no file"),
        pytest.param([], "", "there is no cluster id: give it by --cluster-id-file, KUBESPAN_CLUSTER_ID", id="nothing"),
        pytest.param(["--mtu", "1000"], BUNDLE, "MTU must be at least 1280", id="mtu"),
        pytest.param(["--endpoint-filter", "/8"], BUNDLE, 'filter is not valid: "/8"', id="filter"),
        pytest.param(["--extra-endpoint", "192.0.2.1"], BUNDLE, "is not an endpoint", id="endpoint"),
        pytest.param(["--advertise", "10.0.0.0/99"], BUNDLE, "is not a network", id="network"),
        pytest.param(["--name", "a\nb"], BUNDLE, "all of which can be seen", id="name"),
        pytest.param(["--discovery", "discovery.example"], BUNDLE, "scheme is required", id="no URL"),
        pytest.param(["--discovery", "https://h", "--ca-file", __file__], BUNDLE, "none in PEM form",
                     id="no certificate"),
        pytest.param(["--discovery", "https://h", "--ca-file", "/no/such"], BUNDLE, "cannot read the certificates",
                     id="no CA file"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_sentence_and_changes_nothing(call, service, store, arguments, given, sentence):
    source = [] if "--secrets-file" in arguments or not given else ["--secrets-file", "-"]
    result = call("join", *source, "--discovery", service.url, "--ignore", "all", *arguments, input=given)
    assert (result.exit_code != 0, sentence in result.output) == (True, True), result.output
    assert SECRET not in result.output
    assert not store.directory.exists()


def test_without_a_discovery_service_there_is_nobody_to_mesh_with(call, store):
    result = call("join", "--secrets-file", "-", input=BUNDLE)
    assert (result.exit_code, "a discovery service is required" in result.output) == (1, True)
    assert not store.directory.exists()


def test_a_secret_never_stands_among_the_arguments(call):
    words = call("join", "--help").output
    assert "--secret-file" in words
    assert not any(line.strip().startswith(("--secret ", "--cluster-id ")) for line in words.splitlines())


def test_a_wrong_secret_is_refused(call, service, store):
    service.put(CLUSTER_ID, RAW, listed(BRAVO))
    result = join(call, service, "--unchecked", secret=OTHER_SECRET)
    assert (result.exit_code, "the cluster secret is not the one of this cluster" in result.output) == (1, True)
    assert store.agent() is None


def test_a_service_that_is_away_is_said_and_may_be_joined_all_the_same(call, service, store):
    service.stop()
    result = join(call, service)
    assert (result.exit_code, "Connection refused; to join all the same, add --unchecked" in result.output) == (1, True)
    assert store.agent() is None
    result = join(call, service, "--unchecked")
    assert result.exit_code == 0, result.output
    assert "kubespan-agent preflight says it later" in result.output
    assert store.agent().enrolment.alone
    service.start()


@pytest.mark.parametrize("double", ["name", "address"])
def test_a_machine_that_is_there_already_keeps_its_place(call, service, store, double):
    Lone(store.directory, ALPHA).join()
    own = store.agent().enrolment
    other = listed(BRAVO, nodename="alpha") if double == "name" else listed(BRAVO, address=ALPHA.address)
    service.put(CLUSTER_ID, RAW, other)
    result = join(call, service)
    assert (result.exit_code, f"this one's {double}" in result.output) == (1, True), result.output
    assert store.agent().enrolment == own


def test_again_it_keeps_keys_and_members_and_takes_what_is_new(call, service, store):
    lone = Lone(store.directory, ALPHA)
    lone.join()
    before = store.keys(), store.node_id(), store.agent().signing_key
    settings = store.settings(CLUSTER_ID)
    members = (BRAVO.member(),)
    store.save_settings(_with_members(settings, members))
    service.put(CLUSTER_ID, RAW, listed(ALPHA))  # of itself
    result = join(call, service, "--mtu", "1300", "--listen-port", "4000")
    assert result.exit_code == 0, result.output
    assert (store.keys(), store.node_id(), store.agent().signing_key) == before
    snapshot = store.settings(CLUSTER_ID).snapshot
    assert (snapshot.members, snapshot.options.mtu, store.agent().listen_port) == (members, 1300, 4000)


def _with_members(settings, members):
    snapshot = msgspec.structs.replace(settings.snapshot, members=members)
    return msgspec.structs.replace(settings, snapshot=snapshot)


def test_one_cluster_a_machine(call, service, store):
    bench = Bench(store.directory)
    result = join(call, service)
    assert (result.exit_code, "enrolled at the console http://127.0.0.1" in result.output) == (1, True)
    assert f"kubespan-agent leave --state-dir {store.directory}" in result.output
    assert store.agent().enrolment == bench.enrolment


def test_another_cluster_is_left_first(call, service, store):
    Lone(store.directory, ALPHA).join()
    result = join(call, service, input=BUNDLE.replace(CLUSTER_ID, CLUSTER_ID[::-1]))
    assert (result.exit_code, "this machine is of another cluster" in result.output) == (1, True)


def test_a_console_takes_none_that_has_joined(call, store):
    Lone(store.directory, ALPHA).join()
    result = call("enrol", "http://127.0.0.1:9", "--ignore", "all", input="token")
    assert (result.exit_code, "of a cluster without a console" in result.output) == (1, True)


def test_plain_is_said_aloud(call, service):
    assert "WARNING: what is said to 127.0.0.1" in join(call, service).output


# By the environment, for `run`.


def environment(**other):
    return {"KUBESPAN_CLUSTER_ID": CLUSTER_ID, "KUBESPAN_CLUSTER_SECRET": SECRET} | other


def by_environment(store, monkeypatch, **other):
    for name, value in environment(**other).items():
        monkeypatch.setenv(name, value)
    join_by_environment(store, os.environ)


def test_run_joins_as_its_environment_says(store, monkeypatch):
    by_environment(
        store, monkeypatch, KUBESPAN_DISCOVERY="https://a.example https://b.example:3000", KUBESPAN_NODE_NAME="alpha",
        KUBESPAN_ADVERTISE="10.8.0.0/16 10.9.0.0/16", KUBESPAN_HARVEST_EXTRA_ENDPOINTS="yes", KUBESPAN_MTU="1400",
    )  # fmt: skip
    state = store.agent()
    assert (state.enrolment.alone, state.name, state.networks) == (True, "alpha", ("10.8.0.0/16", "10.9.0.0/16"))
    assert [service.url for service in store.discovery().services] == ["https://a.example", "https://b.example:3000"]
    assert store.settings(CLUSTER_ID).snapshot.options == Options(mtu=1400, harvest_extra_endpoints=True)
    # wireguard-go and nft, which the agent starts, have no use for it.
    assert not {"KUBESPAN_CLUSTER_ID", "KUBESPAN_CLUSTER_SECRET"} & set(os.environ)


def test_an_environment_that_says_nothing_changes_nothing(store):
    join_by_environment(store, {})
    assert not store.directory.exists()
    assert discovery_of({}) is None


def test_the_environment_may_say_where_discovery_is_alone():
    discovery = discovery_of({"KUBESPAN_DISCOVERY": "https://a.example"})
    assert discovery.services == (DiscoveryService(url="https://a.example"),)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        pytest.param({"KUBESPAN_CLUSTER_SECRET": ""}, "there is no cluster secret", id="no secret"),
        pytest.param({}, "a discovery service is required", id="no service"),
        pytest.param({"KUBESPAN_DISCOVERY": "https://a", "KUBESPAN_MTU": "x"}, "KUBESPAN_MTU", id="no number"),
        pytest.param({"KUBESPAN_DISCOVERY": "a"}, "scheme is required", id="no URL"),
    ],
)
def test_an_environment_that_cannot_be_stops_run_for_good(call, store, other, sentence):
    result = call("run", env=environment(**other))
    assert (result.exit_code, sentence in result.output) == (EXIT_SETUP, True), result.output
    assert SECRET not in result.output
    assert store.agent() is None


def test_an_environment_that_names_no_discovery_service_stops_run_for_good(call, store):
    Bench(store.directory)
    result = call("run", env={"KUBESPAN_DISCOVERY": "discovery.example"})
    assert (result.exit_code, "KUBESPAN_DISCOVERY: the endpoint's scheme" in result.output) == (EXIT_SETUP, True)


@pytest.mark.parametrize(
    ("file", "before", "after", "sentence"),
    [
        pytest.param(
            "settings.json", None, None, "settings.json is missing, and with it the cluster secret", id="gone"
        ),
        pytest.param(
            "settings.json", SECRET, "", "settings.json is missing, and with it the cluster secret", id="none"
        ),
        pytest.param("settings.json", "}", "", "a machine without one joins again", id="settings cut off"),
        pytest.param("discovery.yaml", None, None, "names no discovery service: join again", id="nowhere to ask"),
        pytest.param("discovery.yaml", "https://", "", "is damaged (the endpoint's scheme", id="no URL"),
        pytest.param("discovery.yaml", "...\n", "", "it ends too early", id="half a list"),
    ],
)
def test_what_is_missing_stops_run_for_good_and_names_the_file(call, store, file, before, after, sentence):
    Lone(store.directory, ALPHA).join()
    path = store.path(file)
    if before is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(before, after))
    result = call("run")
    assert (result.exit_code, sentence in result.output) == (EXIT_SETUP, True), result.output


def test_an_environment_takes_no_machine_from_its_console(store, monkeypatch):
    Bench(store.directory)
    with pytest.raises(JoinError, match="enrolled at the console"):
        by_environment(store, monkeypatch, KUBESPAN_DISCOVERY="https://a.example")


# Afterwards.


def publish(store, *standings, fault=""):
    condition = Condition(
        connected=False, console="not connected yet", fault=fault, revision="0.7", backend="kernel", discovery=standings
    )
    store.publish("status.json", msgspec.json.encode(condition))
    store.publish("resources.json", b'{"version":1,"resources":[]}')


def test_status_says_how_discovery_stands(call, store):
    Lone(store.directory, ALPHA).join()
    publish(store, Standing("a.example:443", 1e9), Standing("b.example:3000", 2e9, "Connection refused"))
    with store.lock():
        result = call("status")
    assert result.exit_code == 0, result.output
    assert f"cluster   ({CLUSTER_ID})\n" in result.output
    assert "console   none: whoever discovery lists is a member\n" in result.output
    assert "discovery a.example:443 connected since 2001-09-09T01:46:40Z\n" in result.output
    assert "discovery b.example:3000 not connected since 2033-05-18T03:33:20Z: Connection refused\n" in result.output
    assert "revision" not in result.output
    assert "not connected yet" not in result.output


def test_status_says_that_a_secret_is_wrong(call, store):
    Lone(store.directory, ALPHA).join()
    publish(store, Standing("a.example:443", 1e9), fault="the cluster secret is not the one of this cluster")
    with store.lock():
        result = call("status")
    assert (result.exit_code, "Error: the cluster secret is not" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [("run", "kubespan-agent join without a console"), ("status", "kubespan-agent join without a console")],
)
def test_before_anything_both_ways_are_named(call, command, sentence):
    assert sentence in call(command).output


@pytest.fixture
def taken_down(monkeypatch):
    """What would be the machine's own mesh is none of these tests' business."""
    done = []

    async def take_mesh_down():
        done.append(True)

    monkeypatch.setattr(start, "take_mesh_down", take_mesh_down)
    return done


def test_who_leaves_is_forgotten_by_discovery_and_may_join_elsewhere(call, service, store, taken_down):
    Lone(store.directory, ALPHA).join(services=(DiscoveryService(url=service.url),))
    service.put(CLUSTER_ID, RAW, listed(ALPHA))
    service.put(CLUSTER_ID, RAW, listed(BRAVO))
    result = call("leave", "--yes")
    assert (result.exit_code, result.output, taken_down) == (0, "this machine is of no cluster\n", [True])
    assert service.names(CLUSTER_ID) == {BRAVO.node_id}
    assert store.agent().enrolment is None
    assert store.keys() == ALPHA.keys
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in store.directory.iterdir())
    assert join(call, service, input=BUNDLE.replace(CLUSTER_ID, CLUSTER_ID[::-1])).exit_code == 0


def test_who_leaves_while_discovery_is_away_leaves_all_the_same(call, service, store, taken_down):
    Lone(store.directory, ALPHA).join(services=(DiscoveryService(url=service.url),))
    service.stop()
    result = call("leave", "--yes")
    assert (result.exit_code, taken_down) == (0, [True])
    assert "cannot be told: Connection refused; others forget this machine by themselves" in result.output
    service.start()
