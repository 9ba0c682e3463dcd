"""The discovery process as it is started: gRPC, TLS whose files are replaced, figures."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
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
from tests.consoles import place_rows
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


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


def settings_of(directory):
    """The environment of a discovery process that serves anybody."""
    base = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return base | {
        "KUBESPAN_DATA": str(directory),
        "KUBESPAN_SECRET_KEY": "only for checks, and long enough: 0123456789 abcdefghijklmnopqrstuvwxyz",
        "KUBESPAN_KEYS": "check:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "DISCOVERY_SERVE": "all",
    }


@pytest.fixture
def settings_of_a_console(tmp_path, valkey):
    environ = settings_of(tmp_path) | {"REDIS_URL": settings.REDIS_URL}
    place_rows(tmp_path)
    return environ


async def greet_at(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        return (await greet(channel)).client_ip


async def greet_by_tls(port, certificate):
    trust = grpc.ssl_channel_credentials(certificate.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trust) as channel:
        return (await greet(channel)).client_ip


@contextmanager
def process(environ, *options):
    """The real command; it must end well when it is asked to."""
    command = [sys.executable, "manage.py", "discovery", *options]
    running = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        status = running.wait(PATIENCE)
        running.stdout.close()
    assert status == 0


def scrape(port):
    """What the process tells Prometheus: a value by name and labels."""
    told = urllib3.request("GET", f"http://127.0.0.1:{port}/metrics", retries=False, timeout=PATIENCE).data.decode()
    lines = (line.rpartition(" ") for line in told.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


CALL = 'grpc_method="{}",grpc_service="sidero.discovery.server.Cluster",grpc_type="{}"'


def test_the_process_serves_counts_and_ends(settings_of_a_console):
    port, figures = free_port(), free_port()
    listen = ["--listen", f"127.0.0.1:{port}", "--metrics", f"127.0.0.1:{figures}"]
    with process(settings_of_a_console, *listen) as running:
        assert running.stdout.readline() == f"discovery: 127.0.0.1:{port}\n"
        assert asyncio.run(greet_at(port)) == b"\x7f\0\0\1"
        asyncio.run(use(port))
        update, watch = CALL.format("AffiliateUpdate", "unary"), CALL.format("Watch", "server_stream")
        expected = {
            'discovery_server_hello_requests_total{client_version="unknown"}': 1.0,
            f"grpc_server_started_total{{{update}}}": 2.0,
            f'grpc_server_handled_total{{grpc_code="OK",{update}}}': 1.0,
            f'grpc_server_handled_total{{grpc_code="InvalidArgument",{update}}}': 1.0,
            f"grpc_server_msg_received_total{{{update}}}": 2.0,
            f"grpc_server_msg_sent_total{{{update}}}": 1.0,
            f"grpc_server_handling_seconds_count{{{update}}}": 2.0,
            f"grpc_server_started_total{{{watch}}}": 1.0,
            f"grpc_server_msg_sent_total{{{watch}}}": 1.0,
            "discovery_state_gc_runs_total": 0.0,
            "discovery_state_gc_affiliates_total": 0.0,
            "discovery_state_gc_clusters_total": 0.0,
        }
        expected |= {f"discovery_state_{name}": value for name, value in
                     (("clusters", 1.0), ("affiliates", 1.0), ("endpoints", 2.0), ("subscriptions", 0.0))}  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        # A message is counted once it was sent, which whoever has it may know before.
        while {name: (told := scrape(figures)).get(name) for name in expected} != expected:
            assert time.monotonic() < deadline, told
            time.sleep(0.2)


async def use(port):
    """An update, one that is refused, and a watch."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        update = channel.unary_unary(
            names.AFFILIATE_UPDATE, proto.AffiliateUpdateRequest.SerializeToString,
            proto.AffiliateUpdateResponse.FromString,
        )  # fmt: skip
        said = proto.AffiliateUpdateRequest(cluster_id="c", affiliate_id="af1", affiliate_endpoints=[b"e1", b"e2"])
        said.ttl.FromSeconds(1800)
        await update(said, timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError):
            await update(proto.AffiliateUpdateRequest(cluster_id="c"), timeout=PATIENCE)
        watch = channel.unary_stream(
            names.WATCH, proto.WatchRequest.SerializeToString, proto.WatchResponse.FromString
        )(proto.WatchRequest(cluster_id="c"), timeout=PATIENCE)  # fmt: skip
        assert [one.id for one in (await watch.read()).affiliates] == ["af1"]
        watch.cancel()


def test_it_listens_by_tls_and_without(settings_of_a_console, tmp_path):
    certificate, key = make_files(tmp_path / "own")
    secure, plain = free_port(), free_port()
    options = ["--listen", f"127.0.0.1:{secure}", "--certificate", str(certificate), "--key", str(key)]
    options += ["--plain-listen", f"127.0.0.1:{plain}", "--metrics", ""]
    with process(settings_of_a_console, *options) as running:
        assert [running.stdout.readline() for _ in range(2)] == [
            f"discovery: 127.0.0.1:{port}\n" for port in (secure, plain)
        ]
        assert asyncio.run(greet_at(plain)) == b"\x7f\0\0\1"
        assert asyncio.run(greet_by_tls(secure, certificate)) == b"\x7f\0\0\1"


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
