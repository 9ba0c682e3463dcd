"""The recordings themselves: whole, and strict enough to judge by."""

from __future__ import annotations

import inspect
import json

import pytest
from jsonschema import ValidationError

from kubespan.core.messages import (
    VERSIONS,
    Finding,
    Findings,
    FromAgent,
    FromConsole,
    SecretKept,
    Upgrade,
    UpgradeFailed,
    Welcome,
    dump,
)
from kubespan_web.celery import app
from tests.dialogues.recorded import PREVIOUS, read


def test_every_version_but_the_present_one_is_recorded():
    assert [recorded.version for recorded in PREVIOUS] == list(VERSIONS[1:])


@pytest.mark.parametrize("recorded", PREVIOUS, ids=lambda recorded: f"version {recorded.version}")
def test_each_message_of_that_time_was_said(recorded):
    frames = [frame for frames in recorded.dialogue["conversations"] for frame in frames]
    for side, kinds in (("console", FromConsole), ("agent", FromAgent)):
        known = set(recorded.schema[side]["discriminator"]["mapping"])
        said = {json.loads(frame)["type"] for who, frame in frames if who == side}
        assert known <= said
        assert known <= {kind.__name__.lower() for kind in kinds.__args__}
        for who, frame in frames:
            if who == side and "nonsense" not in frame:
                recorded.understand(side, frame)


@pytest.mark.parametrize("recorded", PREVIOUS, ids=lambda recorded: f"version {recorded.version}")
def test_what_a_web_process_of_that_time_asks_of_a_worker_is_done(recorded):
    app.loader.import_default_modules()
    for name, arguments in recorded.dialogue["tasks"].items():
        inspect.signature(app.tasks[name].run).bind(*range(arguments))


@pytest.mark.parametrize(
    ("side", "newer"),
    [
        ("console", Upgrade(version="2", sha256="0" * 64, size=1)),
        ("console", Welcome(version=1, status="approved", console_time=0.0, cluster_id="x")),
        ("agent", UpgradeFailed(version="2", reason="none")),
        ("agent", SecretKept(generation=2)),
        ("agent", Findings(findings=(Finding(code="clock", text="late", remedy="wind it up"),))),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_version_1_does_not_know_what_came_after_it(side, newer):
    with pytest.raises(ValidationError):
        read(1).understand(side, dump(newer))
