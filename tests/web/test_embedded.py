"""What a console makes for itself on a machine that has nothing."""

import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubespan_web import env
from nodes import certificates, embedded


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_run_gets_all_that_settings_need(tmp_path, monkeypatch):
    environ = {}
    embedded.prepare(["manage.py", "run", "--data", str(tmp_path / "data")], environ)
    assert set(environ) == {
        "ALLOWED_HOSTS",
        "KUBESPAN_DATA",
        "KUBESPAN_KEYS",
        "KUBESPAN_SECRET_KEY",
        "KUBESPAN_URL",
        "REDIS_URL",
    }
    assert mode(tmp_path / "data") == 0o700
    assert mode(tmp_path / "data" / "keys.env") == 0o600
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert list(env.keys("KUBESPAN_KEYS")) == ["first"]
    assert env.secret_key("KUBESPAN_SECRET_KEY")
    assert env.base_url("KUBESPAN_URL", "") == "http://127.0.0.1:8000"


def test_keys_stay(tmp_path):
    first, again = {}, {}
    embedded.prepare(["manage.py", "run", "--data", str(tmp_path)], first)
    embedded.prepare(["manage.py", "run", f"--data={tmp_path}"], again)
    assert again == first


def test_other_commands_use_a_named_directory(tmp_path):
    made, used = {}, {"KUBESPAN_DATA": str(tmp_path)}
    embedded.prepare(["manage.py", "run", "--data", str(tmp_path)], made)
    embedded.prepare(["manage.py", "migrate"], used)
    shared = ("KUBESPAN_KEYS", "KUBESPAN_SECRET_KEY", "REDIS_URL")
    assert {name: used[name] for name in shared} == {name: made[name] for name in shared}


def test_other_commands_make_no_keys(tmp_path):
    environ = {"KUBESPAN_DATA": str(tmp_path)}
    embedded.prepare(["manage.py", "migrate"], environ)
    assert "KUBESPAN_SECRET_KEY" not in environ


def test_a_restore_loads_the_settings_with_keys_that_nobody_keeps(tmp_path):
    environ = {}
    embedded.prepare(["manage.py", "restore", "file", "--data", str(tmp_path / "data")], environ)
    assert environ["KUBESPAN_KEYS"].startswith(f"{embedded.NO_KEY}:")
    assert list((tmp_path / "data").iterdir()) == []


def test_files_come_back_where_they_were_and_for_their_owner_alone(tmp_path):
    old, new, environ = embedded.make_private(tmp_path / "old"), embedded.make_private(tmp_path / "new"), {}
    embedded.prepare(["manage.py", "run", "--data", str(old)], environ)
    certificate = certificates.ensure(old, ["console.example"], datetime.now(UTC))
    embedded.place_files(new, embedded.read_files(old, environ))
    assert certificates.ensure(new, [], datetime.now(UTC)).fingerprint == certificate.fingerprint
    assert embedded.read_keys(new) == embedded.read_keys(old)
    assert {mode(new / name) for name in (*embedded.TLS_FILES, embedded.KEY_FILE)} == {0o600}
    environ["KUBESPAN_KEYS"] = "other:key"  # from the environment: not the console's own to keep
    assert sorted(embedded.read_files(old, environ)) == sorted(embedded.TLS_FILES)


def test_other_commands_without_a_directory_are_left_alone():
    environ = {}
    embedded.prepare(["manage.py", "migrate"], environ)
    assert environ == {}


def test_what_the_environment_says_stays(tmp_path):
    given = {
        "KUBESPAN_SECRET_KEY": "given",
        "KUBESPAN_KEYS_FILE": "/run/secrets/keys",
        "REDIS_URL": "redis://elsewhere/0",
        "ALLOWED_HOSTS": "console.example",
    }
    environ = dict(given)
    embedded.prepare(["manage.py", "run", "--data", str(tmp_path)], environ)
    assert environ | given == environ
    assert "KUBESPAN_KEYS" not in environ


def test_names_of_the_tls_listener_are_allowed(tmp_path):
    environ = {}
    arguments = ["--tls-listen", "10.1.2.3:8443", "--tls-name", "console.example"]
    embedded.prepare(["manage.py", "run", "--data", str(tmp_path), *arguments], environ)
    assert {"10.1.2.3", "console.example", "127.0.0.1"} <= set(environ["ALLOWED_HOSTS"].split(","))


def test_names_behind_a_proxy_of_ones_own_are_allowed(tmp_path):
    environ = {"KUBESPAN_URL": "https://console.example", "KUBESPAN_AGENT_URL": "https://agents.example:8443"}
    embedded.prepare(["manage.py", "run", "--data", str(tmp_path)], environ)
    assert {"console.example", "agents.example", "127.0.0.1"} <= set(environ["ALLOWED_HOSTS"].split(","))


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        pytest.param([], None, id="no discovery"),
        pytest.param(["--discovery-listen", "127.0.0.1:3000"], "http://127.0.0.1:3000", id="for this machine"),
        pytest.param(["--discovery-plain-listen", "127.0.0.1:3001"], "http://127.0.0.1:3001", id="plain alone"),
        pytest.param(
            ["--discovery-listen=10.1.2.3:3000", "--tls-listen", "10.1.2.3:8443"], "https://10.1.2.3:3000", id="by TLS"
        ),
        pytest.param(
            ["--discovery-listen", "[::]:3000", "--tls-listen", "[::]:8443", "--tls-name", "console.example"],
            "https://console.example:3000",
            id="by its first name",
        ),
        pytest.param(
            ["--discovery-listen", "[::1]:3000", "--tls-listen", "[::]:8443", "--tls-name", "console.example"],
            "https://[::1]:3000",
            id="for this machine although it has a name",
        ),
    ],
)
def test_run_tells_where_discovery_is_and_what_to_trust_for_it(tmp_path, arguments, url):
    environ = {}
    embedded.prepare(["manage.py", "run", "--data", str(tmp_path), *arguments], environ)
    assert environ.get("DISCOVERY_URL") == url
    roots = str(tmp_path / "tls" / "certificate.pem") if "--tls-listen" in arguments else None
    assert environ.get("DISCOVERY_ROOTS") == roots


def test_a_demonstration_has_a_directory_of_its_own(tmp_path):
    environ = {"KUBESPAN_DATA": str(tmp_path)}
    embedded.prepare(["manage.py", "demo"], environ)
    assert environ["KUBESPAN_DATA"] != str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    embedded.make_keys(tmp_path)
    (tmp_path / "keys.env").chmod(0o644)
    with pytest.raises(embedded.NotPossible, match="others may read it; do: chmod 600 "):
        embedded.read_keys(tmp_path)


def test_one_console_a_directory(tmp_path):
    with embedded.only_one(tmp_path), pytest.raises(embedded.NotPossible, match="another console runs on "):
        embedded.only_one(tmp_path).__enter__()
    with embedded.only_one(tmp_path):
        pass


def test_a_long_path_gets_a_short_socket(tmp_path):
    data = tmp_path / ("x" * 100)
    path = embedded.socket_path(data)
    assert len(str(path)) < embedded.SOCKET_PATH_LIMIT
    assert path == embedded.socket_path(data)
    assert path != embedded.socket_path(tmp_path / ("y" * 100))


def test_a_directory_of_somebody_elses_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(embedded.NotPossible, match="not a directory of this user"):
        embedded.make_private(tmp_path / "link")


def test_valkey_listens_nowhere_but_on_its_owners_socket(valkey):
    with valkey.client() as client:
        assert client.config_get("port") == {"port": "0"}
    assert mode(embedded.socket_path(valkey.data)) == 0o700
    assert mode(valkey.data) == 0o700


def test_valkey_writes_nothing_to_disk(valkey):
    with valkey.client() as client:
        client.set("kubespan:something", 1)
        before = set(valkey.data.rglob("*"))
        client.shutdown()  # in its own good time, so that it would save
    assert set(valkey.data.rglob("*")) <= before
    valkey.stop()


@pytest.mark.parametrize("text", ["localhost", "127.0.0.1:", "127.0.0.1:http"])
def test_an_address_without_a_port_is_refused(text):
    with pytest.raises(embedded.NotPossible, match="expected HOST:PORT"):
        embedded.split_address(text)


def test_split_address():
    assert embedded.split_address("[::1]:8000") == ("::1", 8000)


def test_the_command_line_says_what_stops_it(tmp_path):
    ran = subprocess.run(
        [sys.executable, "manage.py", "run", "--data", "/proc/version"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (1, "/proc/version: not a directory of this user\n")


MOUNTS = """\
22 1 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /home rw shared:12 - nfs4 server:/home rw
31 30 0:27 / /home/me/local\\040disk rw - ext4 /dev/vdb rw
32 22 0:28 / /srv rw - ext4 /dev/vdc rw
33 22 0:29 / /srv rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        pytest.param("/var/lib/console", "ext4", id="of the root"),
        pytest.param("/home/me/console", "nfs4", id="below a share"),
        pytest.param("/home/me/local disk/console", "ext4", id="a disk below a share"),
        pytest.param("/homes", "ext4", id="only named alike"),
        pytest.param("/srv/console", "cifs", id="mounted over"),
    ],
)
def test_the_file_system_of_a_path(path, kind):
    assert embedded.find_file_system(Path(path), MOUNTS) == kind


def test_a_share_is_no_place_for_the_embedded_database(tmp_path):
    embedded.check_local(tmp_path, embedded.read_mounts())
    with pytest.raises(embedded.NotPossible, match=r"\(nfs4\).* set DATABASE_URL to a PostgreSQL"):
        embedded.check_local(Path("/home/me/console"), MOUNTS)
