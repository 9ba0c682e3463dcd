"""The file of the links' history."""

from __future__ import annotations

import os

import pytest
import structlog

from kubespan.agent.shelf import FileShelf


@pytest.fixture
def shelf(tmp_path):
    made = FileShelf(tmp_path)
    yield made
    made.close()


def test_what_was_written_is_read_and_the_rest_is_zeros(shelf):
    shelf.write(100, b"abc")
    assert shelf.read(98, 8) == b"\0\0abc\0\0\0"
    assert shelf.read(10_000, 4) == bytes(4)


def test_nothing_of_it_has_a_name(shelf, tmp_path):
    shelf.write(0, b"abc")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_takes_nothing_is_said_once_and_stops_nobody(tmp_path):
    shelf = FileShelf(tmp_path / "gone")
    with structlog.testing.capture_logs() as logs:
        shelf.write(0, b"abc")
        assert shelf.read(0, 3) == bytes(3)
    assert [entry["event"] for entry in logs] == ["the history of links cannot be kept"]
