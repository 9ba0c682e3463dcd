"""Anything at all to a discovery service whose affiliates are rows."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubespan.discovery import service as names
from kubespan.discovery.proto import cluster_pb2 as proto
from nodes.discovery.registry import DatabaseRegistry
from tests.fuzzing import MEANT, Running, ids, updates

pytestmark = pytest.mark.django_db(transaction=True)


@contextlib.asynccontextmanager
async def started(registry):
    await registry.start()
    try:
        yield
    finally:
        await registry.stop()


def test_whatever_is_said_it_becomes_a_row_or_is_refused(valkey):
    registry = DatabaseRegistry(serve_all=True, grace=3600.0)

    @settings(deadline=None, max_examples=40)
    @given(updates(), st.sampled_from([names.LIST, names.WATCH, names.AFFILIATE_DELETE]), ids)
    def say(request, other, cluster):
        status, words = running.call(names.AFFILIATE_UPDATE, request)
        assert status in MEANT, words
        if status == grpc.StatusCode.OK:
            assert request.affiliate_id in running.list(request.cluster_id)
        asked = proto.AffiliateDeleteRequest(cluster_id=cluster, affiliate_id=request.affiliate_id)
        if other != names.AFFILIATE_DELETE:
            asked = proto.ListRequest(cluster_id=cluster)
        status, words = running.call(other, asked)
        assert status in MEANT, words
        running.assert_serves()

    with Running(registry, lambda: started(registry)) as running:
        say()
