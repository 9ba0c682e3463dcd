"""Clocks that are wrong, in a virtual machine: there the findings' remedies are run, which set its clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time

import pytest

from kubespan.agent.preflight.facts import Mine
from kubespan.agent.preflight.find import find
from kubespan.agent.preflight.look import look

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(not os.environ.get("KUBESPAN_VM"), reason="sets the machine's clock: tests/vm runs it"),
]

HOUR = 3600.0


@pytest.fixture
def skew():
    """Seconds by which the clock is off what it would show had nobody set it; put right in the end."""
    right = time.time() - time.monotonic()
    yield lambda: time.time() - time.monotonic() - right
    time.clock_settime(time.CLOCK_REALTIME, time.monotonic() + right)


def examine(*, skew=None, state=None):
    """What preflight finds of the clock."""
    facts = asyncio.run(look(Mine(), wall=time.time(), skew=skew, state=state))
    return [finding for finding in find(facts) if finding.code.startswith("clock-")]


def set_clock(seconds):
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


def mend(finding):
    subprocess.run(["sh", "-c", finding.remedy], check=True)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_clock_that_is_off_is_put_right_by_the_remedy(skew, seconds):
    assert examine(skew=skew()) == []
    set_clock(seconds)
    (found,) = examine(skew=skew())
    assert found.code == "clock-skew"
    mend(found)
    assert examine(skew=skew()) == []


def test_a_clock_that_was_set_back_catches_up_by_the_remedy(skew, tmp_path):
    (tmp_path / "settings.json").touch()
    assert examine(state=tmp_path) == []
    set_clock(-HOUR)
    (found,) = examine(state=tmp_path)
    assert found.code == "clock-set-back"
    mend(found)
    assert examine(state=tmp_path) == []
