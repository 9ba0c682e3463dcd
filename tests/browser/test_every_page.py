"""Every page that there is, found by itself: nothing for axe to find, nothing beyond the screen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN = ("KUBESPAN_", "REDIS_URL", "DATABASE_URL", "DJANGO_", "ALLOWED_HOSTS")
"""Of these tests' surroundings, which the console that is looked at must not have."""
SOME = 40
"""There are more."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_page():
    env = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    command = [sys.executable, "-m", "tests.browser.every_page"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert len(found) >= SOME
    assert "cluster-links-list" in found
    assert not any(found.values()), "\n".join(f"{name}: {said}" for name, wrong in found.items() for said in wrong)
