"""What a running agent loads: every machine of a mesh carries it, all the time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.agent import hidden

LOADED = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
import kubespan.agent.__main__, kubespan.agent.start
print(json.dumps([name for name, module in sys.modules.items() if module]))
"""


@pytest.fixture(scope="module")
def loaded():
    """The modules of a fresh process, without what only developers have."""
    done = subprocess.run([sys.executable, "-c", LOADED, json.dumps(hidden())], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_only_these_packages_are_loaded(loaded):
    packages = {name.partition(".")[0] for name in loaded}
    packages = {name for name in packages - sys.stdlib_module_names if not name.startswith("_")}
    allowed = {"aiohappyeyeballs", "click", "cryptography", "kubespan", "msgspec", "pyroute2", "structlog"}
    assert packages <= allowed | {"websockets", "yaml", "cython_runtime", "sitecustomize"}  # the last is Debian's


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("urllib3", id="only enrolling and fetching speak HTTP"),
        pytest.param("pyroute2.ndb", id="no database of the network"),
        pytest.param("sqlite3", id="nor one at all"),
        pytest.param("cryptography.x509", id="certificates are OpenSSL's business"),
        pytest.param("h2", id="gRPC is for who asks discovery"),
        pytest.param("google.protobuf", id="and protobuf with it"),
        pytest.param("websockets.asyncio.server", id="it never listens"),
        pytest.param("websockets.legacy", id="one WebSocket is enough"),
    ],
)
def test_what_a_running_agent_has_no_use_for(loaded, name):
    assert name not in loaded
