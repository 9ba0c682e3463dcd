"""The commands, as a person or a script calls them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from functools import partial

import click.testing
import pytest
from msgspec.structs import replace

import kubespan
from kubespan.agent.__main__ import _describe_measured, main
from kubespan.agent.store import ENROLLING, Store
from kubespan.agent.units import EXIT_SETUP
from kubespan.core.messages import Applied, RefusedClaim
from kubespan.core.peer_status import PeerStatus
from kubespan.core.resources import dump, parse, peer_status_records, update
from tests.agent.console_double import ALPHA, Bench, ConsoleDouble, running, sealed_secret, snapshot
from tests.agent.test_enrol import TOKEN, agree, console


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the command on a state directory of the test's own."""
    monkeypatch.setenv("KUBESPAN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("KUBESPAN_TOKEN", raising=False)
    runner = click.testing.CliRunner()
    return lambda *arguments, **other: runner.invoke(main, arguments, catch_exceptions=False, **other)


async def mesh(directory):
    bench = Bench(directory)
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        line = await there.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
    return bench


def test_version(call):
    assert call("version").output == f"{kubespan.__version__}\n"


def test_enrolling_says_what_is_not_believed_and_what_waits_for_a_yes(call):
    refused = (RefusedClaim(claim="0.0.0.0/0", reason="it is a default route"),)
    with console(partial(agree, refused=refused)) as there:
        networks = ["--advertise", "10.8.0.0/16", "--advertise", "0.0.0.0/0"]
        result = call("enrol", there.url, "--name", "alpha", *networks, input=TOKEN)
    assert result.exit_code == 0, result.output
    assert "not believed: 0.0.0.0/0: it is a default route" in result.output
    assert "waiting for an operator's yes before others route to them: 10.8.0.0/16\n" in result.output


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"file": True}, id="file"),
        pytest.param({"input": f"{TOKEN}\n"}, id="standard input"),
        pytest.param({"arguments": ["--token-file", "-"], "input": TOKEN}, id="standard input, named"),
        pytest.param({"env": {"KUBESPAN_TOKEN": TOKEN}}, id="environment"),
        pytest.param({"arguments": ["--token", TOKEN, "--token-on-command-line"]}, id="command line, as asked for"),
    ],
)
def test_ways_of_the_token(call, tmp_path, how):
    arguments = how.get("arguments", [])
    if how.get("file"):
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        arguments = ["--token-file", str(tmp_path / "token")]
    with console(agree) as there:
        result = call("enrol", there.url, "--name", "alpha", *arguments, input=how.get("input"), env=how.get("env"))
    assert result.exit_code == 0, result.output
    assert [request.token for _, request in there.seen] == [TOKEN]
    assert "enrolled in cluster office" in result.output
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--token", TOKEN], "--token-on-command-line", id="token among the arguments"),
        pytest.param([], "there is no token", id="no token"),
        pytest.param(["--token-file", "/no/such/file"], "cannot read the token", id="no file"),
        pytest.param(["--pin", "sha256:00"], "64 hex digits", id="half a pin"),
        pytest.param(["--advertise", "10.0.0.0/99"], "not a network", id="no network"),
        pytest.param(["--listen-port", "0"], "0 is not in the range", id="no port"),
        pytest.param(["--data-plane", "magic"], "'magic' is not one of", id="no data plane"),
    ],
)
def test_bad_arguments_are_a_sentence_and_reach_nobody(call, tmp_path, arguments, sentence):
    with console(agree) as there:
        result = call("enrol", there.url, *arguments, input="")
    assert (result.exit_code, sentence in result.output) == (2, True), result.output
    assert TOKEN not in result.output
    assert there.seen == []
    assert not (tmp_path / "state").exists()


def test_plain_http_over_a_network_is_refused_and_loud_when_allowed(call):
    assert "plain HTTP" in call("enrol", "http://192.0.2.1", input=TOKEN).output
    with console(agree) as there:
        result = call("enrol", there.url, "--insecure-http", input=TOKEN)
    assert "WARNING" in result.stderr


def test_enrolment_beside_a_running_agent_says_what_to_do(call, tmp_path):
    bench = Bench(tmp_path / "state")
    with console(agree) as there, bench.store.lock():
        bench.store.save_agent(replace(bench.store.agent(), enrolment=replace(bench.enrolment, url=there.url)))
        result = call("enrol", there.url, input=TOKEN)
    assert (result.exit_code, "systemctl restart kubespan-agent" in result.output) == (0, True)


@pytest.mark.parametrize("command", ["run", "status", "install"])
def test_before_enrolment_there_is_a_sentence(call, command):
    result = call(command)
    assert "not enrolled" in result.output
    assert result.exit_code == (EXIT_SETUP if command == "run" else 1)


def test_a_damaged_file_stops_run_for_good_and_is_counted(call, tmp_path):
    bench = Bench(tmp_path / "state")
    bench.store.path("kubespan-identity.yaml").write_text("privateKey: half")
    for starts in (1, 2):
        result = call("run")
        assert (result.exit_code, "kubespan-identity.yaml is damaged" in result.output) == (EXIT_SETUP, True)
        damage = bench.store.damage()
        assert (damage.starts, damage.last) == (starts, result.output.removeprefix("Error: ").strip())
    assert f"starts    2 came to nothing for a damaged file: {damage.last}" in call("status").output


@pytest.mark.parametrize(
    ("certificate", "mac"),
    [
        pytest.param("x", ALPHA.mac, id="certificate that is no base64"),
        pytest.param("eHh4", ALPHA.mac, id="certificate that is none"),
        pytest.param("", "02:42", id="mac"),
    ],
)
def test_a_state_that_cannot_be_stops_run_for_good(call, tmp_path, certificate, mac):
    bench = Bench(tmp_path / "state")
    enrolment = replace(bench.enrolment, url="https://127.0.0.1", certificate=certificate)
    bench.store.save_agent(replace(bench.store.agent(), mac=mac, enrolment=enrolment))
    result = call("run")
    assert (result.exit_code, "agent.yaml is damaged" in result.output) == (EXIT_SETUP, True), result.output


def test_a_missing_identity_is_not_made_anew_by_run(call, tmp_path):
    bench = Bench(tmp_path / "state")
    bench.store.path("kubespan-identity.yaml").unlink()
    result = call("run")
    assert (result.exit_code, "is missing" in result.output) == (EXIT_SETUP, True)
    assert bench.store.damage() is None
    assert not bench.store.path("kubespan-identity.yaml").exists()


@pytest.mark.parametrize("command", ["run", "down"])
def test_one_agent_at_a_time(call, tmp_path, command):
    bench = Bench(tmp_path / "state")
    with bench.store.lock():
        result = call(command)
    assert (result.exit_code, "stop it first" in result.output) == (1, True)


def test_nobody_leaves_while_the_machine_enrols(call, tmp_path):
    bench = Bench(tmp_path / "state")
    with bench.store.lock(ENROLLING):
        result = call("leave", "--yes")
    assert (result.exit_code, "stop it first" in result.output) == (1, True)
    assert bench.store.agent().enrolment == bench.enrolment


def test_whoever_enrolled_anew_before_the_yes_was_typed_has_not_left(call, tmp_path):
    store = Bench(tmp_path / "state").store
    anew = replace(store.agent(), enrolment=replace(store.agent().enrolment, cluster="another"))

    class Yes(io.BytesIO):
        def read1(self, size=-1):
            store.save_agent(anew)
            return super().read1(size)

    result = call("leave", input=Yes(b"y\n"))
    assert (result.exit_code, "enrolled anew meanwhile" in result.output) == (1, True)
    assert store.agent() == anew


async def test_get_shows_what_was_published(call, tmp_path):
    await mesh(tmp_path / "state")
    table = call("get", "kubespanpeerstatuses").output
    assert "bravo" in table
    assert "charlie" in table
    identity = json.loads(call("get", "kubespanidentities", "-o", "json").stdout)
    assert str(ALPHA.address) in json.dumps(identity)
    assert ALPHA.keys.private_key not in json.dumps(identity)
    assert "type: KubeSpanPeerSpecs.kubespan.talos.dev" in call("get", "kubespanpeerspecs", "-o", "yaml").output


def test_get_without_anything_published_is_a_sentence(call):
    assert "is kubespan-agent running here" in call("get", "members").output
    assert call("get", "nonsense").exit_code == 1


async def test_status_of_a_running_agent(call, tmp_path):
    bench = await mesh(tmp_path / "state")
    with bench.store.lock():
        result = call("status")
    assert result.exit_code == 0, result.output
    assert "office" in result.output
    assert "2 unknown" in result.output
    assert f"process {os.getpid()}, kernel WireGuard" in result.output


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([("bravo", 0.002, 0.0)], "round trip 2ms, loss 0%", id="one"),
        pytest.param([("bravo", 0.002, None), ("charlie", 0.03, None)], "round trip 30ms at most (charlie)", id="two"),
        pytest.param([("a", None, 1.0), ("c", 0.03, 0.05)], "round trip 30ms, loss 100% at most (a)", id="a loss"),
    ],
)  # fmt: skip
def test_status_says_what_was_measured(measured, line):
    records = peer_status_records(
        {label: PeerStatus(label) for label, *_ in measured}, 0.0, 0.0, {label: figures for label, *figures in measured}
    )
    assert _describe_measured(parse(dump(update([], records, 0.0)))) == (line or "")


async def test_status_counts_what_the_console_sent_that_could_not_be_used(call, tmp_path):
    bench = Bench(tmp_path / "state")
    async with ConsoleDouble().listening() as there, running(bench.agent(), there.way):
        await (await there.line()).say("nonsense")
        line = await there.line()
        await line.let_in(sealed_secret(), snapshot())
        await line.hear(Applied)
    with bench.store.lock():
        assert "1 of its frames could not be used" in call("status").output


async def test_status_of_an_agent_that_does_not_run(call, tmp_path):
    await mesh(tmp_path / "state")
    result = call("status")
    assert (result.exit_code, "does not run" in result.output) == (1, True)


def test_secrets_are_in_no_output(call, tmp_path):
    asyncio.run(mesh(tmp_path / "state"))
    state = Store(tmp_path / "state").agent()
    outputs = [call(*command).output for command in (["status"], ["get", "kubespanconfigs", "-o", "yaml"])]
    assert state.signing_key not in "".join(outputs)


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        pytest.param("kubespan.agent.__main__", ["pyroute2", "urllib3", "django"], id="to answer get"),
        pytest.param("kubespan.agent.start", ["urllib3", "django"], id="to run"),
    ],
)
def test_libraries_that_have_no_use_are_not_loaded(module, unused):
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in {unused}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="shows what happens without root")
def test_without_root_the_remedy_is_named(call, tmp_path):
    Bench(tmp_path / "state")
    assert "root" in call("down").output
