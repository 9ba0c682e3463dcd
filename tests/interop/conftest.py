"""Upstream's own client, built once a run where Go is at hand."""

import pytest

from tests import go_client as sources


@pytest.fixture(scope="session")
def go_client(tmp_path_factory):
    """The program of `discovery/`, as a path."""
    return sources.build(tmp_path_factory.mktemp("go"))
