"""`kubespanctl discovery test`, as a program, against a real service."""

import asyncio
import base64
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.server import Manners, Service, serve

PROGRAM = str(Path(sys.executable).with_name("kubespanctl"))


async def run(*arguments):
    command = [PROGRAM, "discovery", "test", *map(str, arguments)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=60)


@contextlib.asynccontextmanager
async def listening(**manners):
    server, port = await serve(Service(MemoryRegistry(gather=0.01), Manners(**manners)), "127.0.0.1:0")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_one_line_says_that_all_is_well(tmp_path):
    (tmp_path / "secrets.yaml").write_text(f"cluster: {{id: c, secret: {base64.b64encode(bytes(32)).decode()}}}")
    async with listening() as url:
        alone = await run(url)
        with_cluster = await run(url, "--with-secrets", tmp_path / "secrets.yaml")
    assert (alone.returncode, alone.stdout) == (0, "It is a discovery service: it sees us at 127.0.0.1.\n")
    assert with_cluster.stdout == "All is well: it sees us at 127.0.0.1; 0 machines are listed there.\n"


async def test_one_line_says_what_is_wrong():
    async with listening(redirect="elsewhere:443") as url:
        found = await run(url)
    assert found.returncode == 1
    assert found.stderr == "Error: It sends every client on to elsewhere:443: test that one.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["console.example"], "scheme is required"), (["http://h", "--with-secrets", __file__], "It is not YAML")],
)
async def test_what_is_asked_wrongly(arguments, words):
    found = await run(*arguments)
    assert found.returncode == 1
    assert words in found.stderr
    assert "Traceback" not in found.stderr
