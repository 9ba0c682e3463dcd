"""The discovery process as it is started: gRPC, TLS whose files are replaced, figures."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest
import urllib3
from django.conf import settings

from kubespan.discovery import service as names
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.registry import MemoryRegistry
from kubespan.discovery.server import Service, serve
from nodes import certificates
from nodes.discovery.tls import CertificateFiles
from tests.web.test_run import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0


async def greet(channel):
    hello = channel.unary_unary(names.HELLO, proto.HelloRequest.SerializeToString, proto.HelloResponse.FromString)
    return await hello(proto.HelloRequest(cluster_id="c"), timeout=PATIENCE)


def make_files(directory):
    """A certificate of the console's own kind, in the place of those that a service reads."""
    made = certificates.ensure(directory, ["127.0.0.1"], datetime.now(UTC))
    return made.certificate, made.key


async def test_a_certificate_that_is_replaced_serves_the_next_connection(tmp_path):
    old, new = make_files(tmp_path / "old"), make_files(tmp_path / "new")
    places = tmp_path / "certificate.pem", tmp_path / "key.pem"
    for file, place in zip(old, places, strict=True):
        place.write_bytes(file.read_bytes())
    server, port = await serve(Service(MemoryRegistry()), "127.0.0.1:0", CertificateFiles(*places).credentials())
    try:
        for certificate in (old[0], new[0]):
            trust = grpc.ssl_channel_credentials(certificate.read_bytes())
            async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trust) as channel:
                assert (await greet(channel)).client_ip == b"\x7f\0\0\1"
            for file, place in zip(new, places, strict=True):
                place.write_bytes(file.read_bytes())
    finally:
        await server.stop(None)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        CertificateFiles(tmp_path / "missing.pem", tmp_path / "key.pem")


@pytest.fixture
def settings_of_a_console(tmp_path, valkey):
    base = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environ = base | {
        "KUBESPAN_DATA": str(tmp_path),
        "KUBESPAN_SECRET_KEY": "only for checks, and long enough: 0123456789 abcdefghijklmnopqrstuvwxyz",
        "KUBESPAN_KEYS": "check:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "REDIS_URL": settings.REDIS_URL,
        "DISCOVERY_SERVE": "all",
    }
    subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=environ, check=True)
    return environ


async def greet_at(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        return (await greet(channel)).client_ip


def test_the_process_serves_counts_and_ends(settings_of_a_console):
    port, figures = free_port(), free_port()
    command = ["manage.py", "discovery", "--listen", f"127.0.0.1:{port}", "--metrics", f"127.0.0.1:{figures}"]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=settings_of_a_console, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == f"discovery: 127.0.0.1:{port}\n"
        assert asyncio.run(greet_at(port)) == b"\x7f\0\0\1"
        told = urllib3.request("GET", f"http://127.0.0.1:{figures}/metrics", retries=False, timeout=PATIENCE).data
        assert b'discovery_server_hello_requests_total{client_version="unknown"} 1.0' in told
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE)
        process.stdout.close()
    assert status == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--certificate", "/nowhere"], "give both --certificate and --key"),
        (["--certificate", "/nowhere", "--key", "/nowhere"], "No such file or directory: '/nowhere'"),
        (["--listen", "192.0.2.1:1"], "cannot listen on 192.0.2.1:1"),
    ],
)
def test_what_cannot_be_is_said(settings_of_a_console, options, words):
    command = [sys.executable, "manage.py", "discovery", *options]
    ended = subprocess.run(
        command, cwd=ROOT, env=settings_of_a_console, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
