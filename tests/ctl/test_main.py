"""`kubespanctl` as a person uses it."""

import os

import pytest
import yaml
from click.testing import CliRunner

import kubespan
from kubespan.agent.store import Store
from kubespan.core.cluster import check_cluster_id, parse_cluster_secret
from kubespan.core.resources import FILE_NAME, MEMBERS, Record, dump, update
from kubespan.ctl.__main__ import main


@pytest.fixture
def state_dir(tmp_path):
    records = [Record(MEMBERS, name, {"hostname": f"{name}.example.org"}) for name in ("one", "two")]
    (tmp_path / FILE_NAME).write_bytes(dump(update([], records, 100.0)))
    return tmp_path


def run(*arguments, **environment):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def test_get(state_dir):
    result = run("get", "members", "--state-dir", state_dir)
    assert result.exit_code == 0
    assert [line.split()[3] for line in result.stdout.splitlines()] == ["ID", "one", "two"]


def test_get_says_since_when_nobody_keeps_the_records(state_dir):
    """Exit status 0 all the same: what was known last is an answer, too."""
    os.utime(state_dir / FILE_NAME, (1e9, 1e9))
    result = run("get", "members", "--state-dir", state_dir)
    assert (result.exit_code, result.stderr) == (0, "the agent does not run; as of 2001-09-09T01:46:40Z\n")
    with Store(state_dir).lock():
        beside = run("get", "members", "--state-dir", state_dir)
    assert (beside.exit_code, beside.stderr, beside.stdout) == (0, "", result.stdout)


def test_get_one_as_yaml_by_the_environments_directory(state_dir):
    result = run("get", "member", "two", "-o", "yaml", KUBESPAN_STATE_DIR=str(state_dir))
    assert yaml.safe_load(result.stdout)["spec"] == {"hostname": "two.example.org"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("pods",), "'pods' is no resource that a node has", id="unknown resource"),
        pytest.param(("ksps",), "'ksps' may mean several resources", id="ambiguous resource"),
        pytest.param(("members", "three"), "there is no Member 'three' on this machine", id="unknown id"),
    ],
)
def test_get_says_what_is_wrong(state_dir, arguments, sentence):
    result = run("get", *arguments, "--state-dir", state_dir)
    assert result.exit_code == 1
    assert sentence in result.stderr


def test_get_without_an_agent(tmp_path):
    result = run("get", "members", "--state-dir", tmp_path)
    assert result.exit_code == 1
    assert "is kubespan-agent running here" in result.stderr


@pytest.mark.parametrize("content", [b"", b'{"version":1', b'{"version":9,"resources":[]}'])
def test_get_from_a_bad_file(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    result = run("get", "members", "--state-dir", tmp_path)
    assert result.exit_code == 1
    assert FILE_NAME in result.stderr


def test_get_from_a_directory_in_the_files_place(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    assert "cannot be read" in run("get", "members", "--state-dir", tmp_path).stderr


def test_gen_secrets_makes_new_ones_each_time():
    one, other = (yaml.safe_load(run("gen", "secrets").stdout)["cluster"] for _ in range(2))
    assert check_cluster_id(one["id"]) == []
    assert len(parse_cluster_secret(one["secret"])) == 32
    assert one["id"] != other["id"]
    assert one["secret"] != other["secret"]


def test_version():
    assert run("version").stdout == f"{kubespan.__version__}\n"
