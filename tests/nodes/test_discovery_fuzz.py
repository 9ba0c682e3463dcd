"""Anything at all to a discovery service whose affiliates are rows."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from django.urls import reverse
from hypothesis import given, settings
from hypothesis import strategies as st

from kubespan.core.affiliate import Affiliate
from kubespan.core.endpoint import Endpoint
from kubespan.discovery import service as names
from kubespan.discovery.proto import cluster_pb2 as proto
from kubespan.discovery.sealing import seal_affiliate, seal_endpoint
from nodes.discovery.registry import DatabaseRegistry
from nodes.models import Node
from tests.factories import Machine, enrol
from tests.fuzzing import MEANT, Running, ids, updates
from tests.nodes.test_affiliates import Talos

AT = Endpoint.parse("192.0.2.1:51820")
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


@pytest.mark.parametrize("seconds", [-1, -(10**6), -(2**63)])
def test_a_time_to_live_below_nothing_is_a_date_that_can_be_written(valkey, client, django_user_model, seconds):
    """It was none, for whoever followed the cluster or looked at it."""
    talos = Talos(harvest_extra_endpoints=True)
    ours = enrol(talos.cluster, Machine())
    with Running(registry := DatabaseRegistry(grace=3600.0), lambda: started(registry)) as running:
        for affiliate in (talos.machine(), Affiliate(ours.node_id)):
            sealed = seal_affiliate(affiliate, talos.secret, bytes(12)), seal_endpoint(AT, talos.secret)
            request = proto.AffiliateUpdateRequest(
                cluster_id=talos.cluster.cluster_id,
                affiliate_id=affiliate.node_id,
                affiliate_data=sealed[0],
                affiliate_endpoints=sealed[1:],
            )
            request.ttl.seconds = seconds
            assert running.call(names.AFFILIATE_UPDATE, request) == (grpc.StatusCode.OK, b"")
    talos.follow()
    assert Node.objects.filter(node_id="talos-1").exists()
    client.force_login(django_user_model.objects.create_superuser("alice"))
    assert client.get(reverse("cluster-discovery", args=[talos.cluster.uuid])).status_code == 200
