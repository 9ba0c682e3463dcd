"""What is shipped for others to run: the compose file, the image, the names that must not be in any file."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nodes.management.commands import run

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_the_compose_file_follows_the_specification():
    checker = Path(sys.executable).parent / "check-jsonschema"
    command = [checker, "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout


def test_every_process_is_there():
    processes = {"migrate", "web", "worker", "beat", "discovery"}
    assert set(COMPOSE["services"]) == processes | {"redis", "postgres", "caddy"}
    assert COMPOSE["services"]["caddy"]["profiles"] == ["tls"]


def test_every_process_has_every_setting_that_readers_are_told_of():
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    told = {name.strip("`") for row in rows for name in row.split(", ")}
    given = {name.removesuffix("_FILE") for name in COMPOSE["services"]["web"]["environment"]}
    # The embedded default's own, what a container must not have, and what the image says.
    elsewhere = {"KUBESPAN_AGENT_FILES", "KUBESPAN_BACKUP_PASSPHRASE", "KUBESPAN_DATA", "KUBESPAN_DEBUG"}
    # In a container TLS is the front's, by a certificate that machines trust anyway; the image says how logs look.
    assert told - given == elsewhere | {"DISCOVERY_ROOTS", "LOG_FORMAT", "STATIC_ROOT"}
    assert given <= told


def test_no_secret_is_in_the_compose_file():
    for service in COMPOSE["services"].values():
        for name in service.get("environment", {}):
            assert not re.search("SECRET|PASSWORD|KEYS|DATABASE_URL", name) or name.endswith("_FILE"), name


def test_every_file_that_the_image_copies_is_there():
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), name


def test_messages_are_as_small_in_a_container_as_under_run():
    assert f'"--ws-max-size", "{run.AGENT_MESSAGE_LIMIT}"' in (ROOT / "Dockerfile").read_text()


def test_memory_is_given_back_in_a_container_as_under_run():
    said = (ROOT / "Dockerfile").read_text()
    assert all(f"{name}={value}" in said for name, value in run.MEMORY.items())
    assert run.web("web", "127.0.0.1", 0).environ == run.MEMORY


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="not a clone")
def test_no_tracked_file_names_a_package_host():
    ran = subprocess.run([ROOT / "scripts" / "names.sh"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
