"""`kubespanctl gen config` as a program: what it writes, for whom, and what it refuses."""

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kubespan.core.cluster import check_cluster_id, parse_cluster_secret
from kubespan.core.talos.configuration import read
from kubespan.core.talos.eras import ERAS
from nodes import certificates
from tests.factories import NOW

PROGRAM = str(Path(sys.executable).with_name("kubespanctl"))
ALL = {
    "secrets.yaml", "talos-0.12.json", "talos-1.0.json", "talos-1.2.yaml", "talos-1.5.yaml", "talos-1.7.yaml",
    "talos-1.8.yaml", "talos-1.13.yaml", "talos-1.13-upgraded.yaml", "talos-1.14.yaml", "talos-1.14-upgraded.yaml",
    "talos-1.15.yaml", "talos-1.15-upgraded.yaml",
}  # fmt: skip


def run(*arguments, **more):
    """Run it by its real entry point; nothing of what it is told is in a list of processes."""
    command = [PROGRAM, "gen", "config", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


def identity(directory):
    return read([("secrets.yaml", (directory / "secrets.yaml").read_bytes())])


def test_everything_for_a_new_cluster(tmp_path):
    made = run("--with-kubespan", "--discovery", "https://console.example:3000/", "-o", tmp_path / "out", umask=0)
    assert (made.returncode, made.stderr) == (0, "")
    directory = tmp_path / "out"
    assert {path.name for path in directory.iterdir()} == ALL
    assert {Path(line).name for line in made.stdout.splitlines()} == ALL
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    found = identity(directory)
    assert check_cluster_id(found.cluster_id) == []
    assert len(parse_cluster_secret(found.secret)) == 32
    for name in ALL - {"secrets.yaml"}:
        if name.endswith("json"):
            values = {one["path"]: one["value"] for one in json.loads((directory / name).read_text())}
            assert (values["/cluster/id"], values["/cluster/secret"]) == (found.cluster_id, found.secret)
            assert values["/machine/network/kubespan"] == {"enabled": True}
            continue
        patch = read([(name, (directory / name).read_bytes())])
        assert (patch.cluster_id, patch.secret) == (found.cluster_id, found.secret)
        assert patch.services == ("https://console.example:3000/",)
        assert patch.options["enabled"] is True


def test_without_kubespan_it_is_left_as_it_is(tmp_path):
    assert run("-o", tmp_path, "--release", "1.9").returncode == 0
    text = (tmp_path / "talos-1.8.yaml").read_text()
    assert "kubespan" not in text
    assert "https://discovery.talos.dev/" in text


def test_each_time_another_cluster(tmp_path):
    for name in ("one", "two"):
        assert run("-o", tmp_path / name, "--release", "1.14").returncode == 0
    assert identity(tmp_path / "one").secret != identity(tmp_path / "two").secret


def test_secrets_that_are_there_are_used_and_left_alone(tmp_path):
    secret = base64.b64encode(bytes(range(32))).decode()
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump({"cluster": {"id": "c", "secret": secret}, "certs": {}}))
    own = certificates.ensure(tmp_path, ["d.example"], NOW)
    (tmp_path / "root.pem").write_bytes(own.key.read_bytes() + own.certificate.read_bytes())
    made = run("--with-secrets", "theirs.yaml", "--roots", "root.pem", "--release", "v1.14.1", cwd=tmp_path)
    assert made.stdout.split() == ["talos-1.14.yaml", "talos-1.14-upgraded.yaml"]
    documents = {one["kind"]: one for one in yaml.safe_load_all((tmp_path / "talos-1.14.yaml").read_text())}
    assert documents["DiscoveryIdentityConfig"]["clusterSecret"] == secret
    assert documents["TrustedRootsConfig"]["certificates"] == own.certificate.read_text()


def test_nothing_is_written_over_unasked(tmp_path):
    (tmp_path / "talos-1.15.yaml").write_text("mine")
    refused = run("-o", tmp_path)
    assert refused.returncode == 1
    assert "talos-1.15.yaml is there already; --force writes over it" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["talos-1.15.yaml"]
    assert (tmp_path / "talos-1.15.yaml").read_text() == "mine"


def test_what_is_written_over_is_for_its_owner_alone_and_nobody_elses_file(tmp_path):
    (tmp_path / "elsewhere").write_text("somebody else's")
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "secrets.yaml").symlink_to(tmp_path / "elsewhere")
    (directory / "talos-1.8.yaml").write_text("old")
    (directory / "talos-1.8.yaml").chmod(0o644)
    assert run("-o", directory, "--force", "--release", "1.8").returncode == 0
    assert (tmp_path / "elsewhere").read_text() == "somebody else's"
    assert {stat.S_IMODE(path.lstat().st_mode) for path in directory.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--discovery", "console.example"], "scheme is required", id="no URL"),
        pytest.param(["--discovery", "grpc://d.example"], "not all releases take such an endpoint", id="gRPC's scheme"),
        pytest.param(["--discovery", "https://d.example/path"], "not all releases take such an endpoint", id="a path"),
        pytest.param(["--release", "newest"], "not a release of Talos", id="no release"),
        pytest.param(["--with-secrets", "none.yaml"], "none.yaml: No such file or directory", id="no file"),
        pytest.param(["--with-secrets", "half.yaml"], "not both a cluster id and a cluster secret", id="no secret"),
        pytest.param(["--with-secrets", "wrong.yaml"], "wrong.yaml: invalid cluster secret", id="a wrong secret"),
        pytest.param(["--with-secrets", "binary"], "not UTF-8", id="no text"),
        pytest.param(["--roots", "half.yaml"], "half.yaml: it holds no certificate in PEM form", id="no certificate"),
        pytest.param(["-o", "half.yaml/in"], "half.yaml/in: Not a directory", id="no directory"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(tmp_path, arguments, sentence):
    (tmp_path / "half.yaml").write_text("cluster: {id: a}")
    (tmp_path / "wrong.yaml").write_text("cluster: {id: a, secret: hunter2}")
    (tmp_path / "binary").write_bytes(b"\xff")
    refused = run(*arguments, cwd=tmp_path)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr
    assert sorted(os.listdir(tmp_path)) == ["binary", "half.yaml", "wrong.yaml"]


def test_every_era_has_a_file():
    assert {f"talos-{era.first}" for era in ERAS} <= {Path(name).stem for name in ALL}
