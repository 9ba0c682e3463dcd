"""Benchmarks are run by hand: what they import may go without anybody noticing."""

from __future__ import annotations

import importlib

import pytest

from tests.bench.__main__ import BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_can_be_imported(name):
    assert callable(importlib.import_module(f"tests.bench.{name}").bench)
