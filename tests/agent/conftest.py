"""What all tests of the agent share."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_as_before():
    """The command sets logs up for its own process, which here is everybody's."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
