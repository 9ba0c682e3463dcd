"""The search for known bytes finds them wherever they are planted; else its silence would say nothing."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys

import pytest
import redis

from tests.leaks import Monitor, Processes, dump_redis, find, find_in_files

KEY = os.urandom(32)
SECRETS = {
    "the key": base64.b64encode(KEY).decode(),
    "the token": "kst_" + base64.urlsafe_b64encode(KEY[::-1]).decode(),
}


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(KEY, id="raw"),
        pytest.param(base64.b64encode(KEY), id="base64"),
        pytest.param(base64.urlsafe_b64encode(KEY).rstrip(b"="), id="URL-safe and unpadded"),
        pytest.param(KEY.hex().encode(), id="hex"),
        pytest.param(KEY.hex().upper().encode(), id="upper-case hex"),
        pytest.param(base64.b64encode(KEY)[:30], id="cut off"),
        *[
            pytest.param(base64.b64encode(b"x" * at + json.dumps([SECRETS["the key"]]).encode()), id=f"task body {at}")
            for at in range(3)
        ],
    ],
)
def test_every_form_is_found(written):
    assert find(b"before" + written + b"after", SECRETS)
    assert all(found.startswith("the key") for found in find(b"before" + written + b"after", SECRETS))


def test_what_is_not_there_is_not_found():
    assert find(os.urandom(1 << 16) + base64.b64encode(os.urandom(1 << 16)), SECRETS) == []


@pytest.fixture
def client(valkey):
    with redis.Redis.from_url(valkey.url) as client:
        yield client


@pytest.mark.parametrize("value", [KEY, SECRETS["the token"].encode()], ids=["raw", "text"])
@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda client, value: client.set("key", value), id="string"),
        pytest.param(lambda client, value: client.set(b"key:" + value, 1), id="name of a key"),
        pytest.param(lambda client, value: client.rpush("key", "a", value), id="list"),
        pytest.param(lambda client, value: client.sadd("key", "a", value), id="set"),
        pytest.param(lambda client, value: client.zadd("key", {value: 1}), id="sorted set"),
        pytest.param(lambda client, value: client.hset("key", "a", value), id="hash"),
        pytest.param(lambda client, value: client.hset("key", value, "a"), id="field of a hash"),
        pytest.param(lambda client, value: client.xadd("key", {"a": value}), id="stream"),
    ],
)
def test_what_is_kept_in_redis_is_found(client, plant, value):
    assert find(dump_redis(client), SECRETS) == []
    plant(client, value)
    assert find(dump_redis(client), SECRETS)


@pytest.mark.parametrize("value", [KEY, SECRETS["the token"].encode()], ids=["raw", "text"])
def test_what_passes_redis_is_found_though_nobody_keeps_it(client, valkey, value):
    monitor = Monitor(valkey.url.removeprefix("unix://"))
    client.publish("channel", b"x" + value)
    client.ping()
    assert find(monitor.stop(), SECRETS)
    assert find(dump_redis(client), SECRETS) == []


def test_what_a_process_is_called_with_is_found():
    command = [sys.executable, "-c", "import sys; print('here', flush=True); sys.stdin.read()", SECRETS["the token"]]
    with (
        Processes().watched() as processes,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        process.stdout.readline()
        processes.look()
        process.stdin.close()
    assert "the token (as it is)" in find(processes.lines, SECRETS)


def test_what_is_in_a_database_file_or_a_log_is_found(tmp_path):
    rows = sqlite3.connect(tmp_path / "rows.sqlite3")
    rows.execute("CREATE TABLE t (a)")
    rows.commit()
    (tmp_path / "log").write_text("quiet\n")
    assert find_in_files(tmp_path.iterdir(), SECRETS) == []
    rows.execute("INSERT INTO t VALUES (?)", [KEY])
    rows.commit()
    rows.close()
    (tmp_path / "log").write_text(f'{{"event": "enrolled", "token": "{SECRETS["the token"]}"}}\n')
    found = find_in_files(sorted(tmp_path.iterdir()), SECRETS)
    assert "rows.sqlite3: the key (raw bytes)" in found
    assert "log: the token (as it is)" in found
