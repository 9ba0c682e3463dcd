"""Tests that share something of the machine run one after another."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("groups")
def test_whoever_spreads_tests_knows_of_their_groups(request):
    """pytest-xdist goes by the end of a test's name; a pytest that gives it no such end has all groups run at once."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("tests are not spread by group: needs -n 2 --dist loadgroup")
    assert request.node.nodeid.endswith("@groups")
