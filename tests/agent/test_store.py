"""The state directory: whole files or errors, and never a second identity."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from msgspec.structs import replace

from kubespan.agent.store import (
    AGENT,
    ENROLLING,
    KUBESPAN_IDENTITY,
    NODE_IDENTITY,
    SETTINGS,
    SEVERAL_SECRETS_VERSION,
    STATE_VERSION,
    AgentState,
    Busy,
    Settings,
    Store,
    StoreError,
)
from kubespan.core.identity import KeyPair
from tests.agent.console_double import ALPHA, CLUSTER, SECRET, SIGNING_KEY, VERIFY_KEY, Bench, snapshot

KEYS_ALONE = [AGENT, KUBESPAN_IDENTITY, NODE_IDENTITY, "write.lock"]
SETTINGS_HELD = Settings(cluster=CLUSTER, secret=SECRET, secret_generation=1, snapshot=snapshot())


@pytest.fixture
def store(tmp_path):
    return Bench(tmp_path / "state").store


def test_kubespan_identity_has_the_form_of_talos(store):
    lines = store.path(KUBESPAN_IDENTITY).read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["address", "subnet", "privateKey", "publicKey"]
    assert lines[0].partition(": ")[2] in {"''", '""'}
    assert store.path(NODE_IDENTITY).read_text() == f"nodeId: {ALPHA.node_id}\n"


def test_stored_address_and_subnet_are_ignored(store):
    keys = ALPHA.keys
    store.path(KUBESPAN_IDENTITY).write_text(
        f"address: fd00::1/128\nsubnet: fd00::/64\nprivateKey: {keys.private_key}\npublicKey: {keys.public_key}\n"
    )
    assert store.keys() == keys


def test_everything_is_readable_by_its_owner_only(store):
    store.save_settings(SETTINGS_HELD)
    store.publish("resources.json", b"{}")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory.iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700


def test_nothing_there_is_no_error(tmp_path):
    store = Store(tmp_path / "none")
    assert (store.keys(), store.node_id(), store.agent(), store.settings(CLUSTER)) == (None, None, None, None)
    assert not store.is_locked()
    assert not store.directory.exists()


def test_an_identity_is_never_overwritten(store):
    with pytest.raises(StoreError, match="never overwritten"):
        store.create_keys(KeyPair.make(bytes(32)))
    with pytest.raises(StoreError, match="never overwritten"):
        store.create_node_id("other")
    assert store.keys() == ALPHA.keys
    assert sorted(path.name for path in store.directory.iterdir()) == KEYS_ALONE


@pytest.mark.parametrize("name", [KUBESPAN_IDENTITY, NODE_IDENTITY, AGENT, SETTINGS])
def test_half_a_file_is_an_error_with_its_name_and_no_secret(store, name):
    store.save_settings(SETTINGS_HELD)
    read = {
        KUBESPAN_IDENTITY: store.keys,
        NODE_IDENTITY: store.node_id,
        AGENT: store.agent,
        SETTINGS: lambda: store.settings(CLUSTER),
    }[name]
    content = store.path(name).read_bytes()
    for length in range(len(content)):
        store.path(name).write_bytes(content[:length])
        with pytest.raises(StoreError) as error:
            read()
        assert str(store.path(name)) in str(error.value)
        assert "remove it" in str(error.value)
        assert ALPHA.keys.private_key[:8] not in str(error.value)
        assert SECRET[:8] not in str(error.value)
        assert store.path(name).read_bytes() == content[:length]


def test_a_node_id_of_other_than_32_bytes_is_damage(store):
    store.path(NODE_IDENTITY).write_text(f"nodeId: {ALPHA.node_id[:-9]}\n")
    with pytest.raises(StoreError, match="32 bytes"):
        store.node_id()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(AGENT, "version: {v}\nlater: yes\n", id="agent"),
        pytest.param(SETTINGS, '{{"version":{v},"later":1}}', id="settings"),
    ],
)
def test_what_a_newer_release_wrote_is_refused_and_kept(store, name, content):
    text = content.format(v=(STATE_VERSION if name == AGENT else SEVERAL_SECRETS_VERSION) + 1)
    store.path(name).write_text(text)
    with pytest.raises(StoreError, match="install the newer release"):
        store.agent() if name == AGENT else store.settings(CLUSTER)
    assert store.path(name).read_text() == text


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"privateKey: {ALPHA.keys.private_key}\npublicKey: {ALPHA.keys.private_key}\n", id="not a pair"),
        pytest.param(f"privateKey: {'A' * 40}\npublicKey: x\n", id="short key"),
        pytest.param("privateKey: [\n", id="no yaml"),
        pytest.param("", id="empty"),
        pytest.param("\x00" * 64, id="zeros after a power cut"),
    ],
)
def test_a_damaged_identity_is_an_error(store, content):
    store.path(KUBESPAN_IDENTITY).write_text(content)
    with pytest.raises(StoreError, match="damaged"):
        store.keys()


def test_settings_come_back_whole_and_for_their_cluster_only(store):
    store.save_settings(SETTINGS_HELD)
    assert store.settings(CLUSTER) == SETTINGS_HELD
    assert store.settings("another") is None


def test_forgetting_leaves_keys_and_nothing_of_the_cluster(store):
    store.save_settings(SETTINGS_HELD)
    store.publish("resources.json", b"{}")
    os.link(store.path(SETTINGS), store.path(f".{SETTINGS}.new"))  # as a kill in the middle of writing leaves it
    store.forget_settings()
    store.forget_enrolment(store.agent().enrolment)
    state = store.agent()
    assert (state.enrolment, state.signing_key) == (None, SIGNING_KEY)
    assert sorted(path.name for path in store.directory.iterdir()) == KEYS_ALONE


def test_a_kill_between_link_and_unlink_does_not_cost_the_identity(store):
    """The left-over is another name of the file itself: truncating it would empty the identity."""
    fresh = store.path(f".{KUBESPAN_IDENTITY}.new")
    os.link(store.path(KUBESPAN_IDENTITY), fresh)
    with pytest.raises(StoreError):
        store.create_keys(KeyPair.make(bytes(32)))
    assert store.keys() == ALPHA.keys
    assert not fresh.exists()


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(store):
    store.save_settings(SETTINGS_HELD)
    # A directory in the way stands in for every reason why a file cannot be made.
    store.path(f".{SETTINGS}.new").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        store.save_settings(Settings(cluster=CLUSTER))
    assert store.settings(CLUSTER) == SETTINGS_HELD


def test_no_secret_in_a_representation():
    state = AgentState(signing_key=SIGNING_KEY, verify_key=VERIFY_KEY, mac=ALPHA.mac)
    assert SIGNING_KEY not in repr(state)
    assert SECRET not in repr(SETTINGS_HELD)


def test_one_agent_a_directory(store):
    with store.lock():
        assert store.is_locked()
        with pytest.raises(Busy, match=f"process {os.getpid()}"), store.lock():
            pytest.fail("held twice")
        with store.lock(ENROLLING):
            pass
    assert not store.is_locked()
    with store.lock():
        pass


def test_whoever_never_ends_writing_is_not_waited_for_without_end(store, monkeypatch):
    monkeypatch.setattr("kubespan.agent.store.WRITE_ATTEMPTS", 2)
    with store.lock("write.lock"), pytest.raises(Busy, match="does not come to its end of writing"):
        store.save_settings(SETTINGS_HELD)
    assert store.settings(CLUSTER) is None
    store.save_settings(SETTINGS_HELD)


def test_an_enrolment_made_meanwhile_is_neither_forgotten_nor_replaced(store):
    """An operator enrols beside a running agent, which keeps or forgets what it goes by in the same moment."""
    state = store.agent()
    known = state.enrolment
    learnt, new = replace(known, cluster_name="learnt"), replace(state, enrolment=replace(known, url="https://new"))
    acts = [lambda: store.save_enrolment(known, learnt), lambda: store.forget_enrolment(known)] * 15
    with ThreadPoolExecutor() as operator:
        for act in acts:
            store.save_agent(state)
            enrolling = operator.submit(store.save_agent, new)
            act()
            enrolling.result()
            assert store.agent() == new


WRITER = """
import sys
from pathlib import Path
from kubespan.agent.store import AgentState, Settings, Store
from kubespan.core.messages import Revision, Snapshot
from kubespan.core.options import Options

store = Store(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    snapshot = Snapshot(revision=Revision(1, number), secret_generation=1, options=Options(), members=())
    store.save_settings(Settings(cluster="c", secret="s" * (number % 2 * 20000), snapshot=snapshot))
    store.save_agent(AgentState(signing_key="k", verify_key="v", mac="m", name="n" * (number % 2 * 20000)))
    if number == 2:
        print("writing", flush=True)
"""


def test_killed_at_any_instant_the_files_are_whole(tmp_path):
    """The old file or the new one, however often: a writer is killed at random and everything is read back."""
    store = Store(tmp_path)
    chance = random.Random(180)
    for _ in range(15):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        time.sleep(chance.random() / 100)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        settings, state = store.settings("c"), store.agent()
        assert settings is not None
        assert settings.snapshot is not None
        assert len(settings.secret) == settings.snapshot.revision.number % 2 * 20000
        assert state is not None
        assert len(state.name) in {0, 20000}


def test_what_is_published_is_json_that_msgspec_reads(store):
    store.publish("status.json", msgspec.json.encode({"connected": True}))
    assert json.loads(store.read_published("status.json")) == {"connected": True}
