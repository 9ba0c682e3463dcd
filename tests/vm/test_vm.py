"""The kernel's own WireGuard, and a clock to set, in virtual machines where this machine's kernel has none."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kubespan.agent.wireguard import is_available

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LACKING = 77
SECONDS = 900
FOR_THE_KERNEL = re.compile(r"\b(DATA_PLANES|mark\.kernel)\b")
CASES = sorted(
    str(file.relative_to(ROOT))
    for file in (ROOT / "tests").rglob("test_*.py")
    if HERE not in file.parents and FOR_THE_KERNEL.search(file.read_text())
)
"""All files with cases for the kernel: where its WireGuard is missing, they run here or nowhere."""

PYTEST = [
    *(sys.executable, "-m", "pytest", "-c", str(HERE / "guest.ini"), f"--rootdir={ROOT}", "--noconftest"),
    *("-m", "kernel", *CASES),
]


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory):
    """All that the cases import, compiled by a collection here: an emulated processor takes a minute for it."""
    place = tmp_path_factory.mktemp("bytecode")
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPYCACHEPREFIX": str(place)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [*PYTEST, "--collect-only", "-q"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.xdist_group("browser")  # both take a processor each, all the time: not at once
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("machine", ["run", "user-mode"])
def test_the_kernel_data_plane(machine, request):
    """Debian's own kernel, emulated, on every run; where a kernel of the user mode is built, that as well."""
    if asyncio.run(is_available()):
        pytest.skip("this machine's own kernel has WireGuard: the kernel cases run on it")
    bytecode = request.getfixturevalue("bytecode")
    done = subprocess.run(
        [
            *(str(HERE / machine), "-t", str(SECONDS)),
            *("env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", f"PYTHONPYCACHEPREFIX={bytecode}"),
            *PYTEST,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == LACKING:
        pytest.skip(done.stderr.strip())
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
