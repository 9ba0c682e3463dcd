"""Discovery's rows and the processes around them: one state for all, whatever is away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from kubespan.core.options import ClusterOptions
from kubespan.discovery.limits import AFFILIATES, Exhausted
from kubespan.discovery.proto.cluster_pb2 import WatchResponse
from kubespan.discovery.registry import NotServed, Unavailable
from kubespan.discovery.state import Deletion, Update
from nodes.agents.rows import in_thread
from nodes.discovery import registry as registries
from nodes.discovery.registry import DatabaseRegistry
from nodes.models import DiscoveryAffiliate, DiscoveryCluster
from nodes.services import clusters, discovery
from tests.factories import NOW, make_cluster
from tests.players import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


def update(affiliate_id="af1", data=b"d", endpoints=(), ttl=60.0):
    return Update(affiliate_id, data, tuple(endpoints), ttl)


@contextlib.asynccontextmanager
async def running(**options):
    registry = DatabaseRegistry(**{"serve_all": True, "grace": 3600.0} | options)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()


async def hear(watcher):
    """What the next message says: contents by id, or the ids of those that are gone."""
    async with asyncio.timeout(PATIENCE):
        message = WatchResponse.FromString(await watcher.take())
    if message.deleted:
        return {one.id for one in message.affiliates}
    return {one.id: (one.data, list(one.endpoints)) for one in message.affiliates}


# Rows.


@pytest.fixture
def cluster():
    return discovery.find("c", serve_all=True)


def test_rows_keep_what_is_said_and_number_what_changed(cluster):
    applied = discovery.apply(cluster, [update(endpoints=[b"e1"]), update("af2"), update(endpoints=[b"e1"])], 100.0)
    assert ([event.id for event in applied.events], applied.since) == (["af1", "af2"], 0)
    assert discovery.apply(cluster, [Deletion("af2"), Deletion("af3")], 110.0).since == 2
    contents = discovery.read(cluster)
    assert contents.number == 3
    assert {one.id: (one.data, one.expires) for one in contents.affiliates.values()} == {"af1": (b"d", 160.0)}
    assert DiscoveryAffiliate.objects.get().due == 160.0


def test_the_limit_counts_those_that_are_not_touched(cluster):
    discovery.apply(cluster, [update(f"af{number}") for number in range(AFFILIATES - 1)], 0.0)
    first, second = discovery.apply(cluster, [update("x"), update("y")], 0.0).outcomes
    assert (first.refusal, str(second.refusal)) == (None, "too many affiliates in the cluster")


def test_many_at_once_cost_as_much_as_one(cluster, django_assert_num_queries, django_assert_max_num_queries):
    with django_assert_max_num_queries(10) as few:
        discovery.apply(cluster, [update("a")], 0.0)
    with django_assert_num_queries(len(few)):
        discovery.apply(cluster, [update(f"af{number}") for number in range(100)], 0.0)


def test_a_renewal_costs_less_than_news_and_moves_nobody(cluster, django_assert_num_queries):
    discovery.apply(cluster, [update("af1", endpoints=[b"e1"]), update("af2")], 0.0)
    with django_assert_num_queries(5):  # a transaction's two ends, the cluster, the affiliate, and what is written
        applied = discovery.apply(cluster, [update("af1", endpoints=[b"e1"])], 10.0)
    assert applied.events == ()
    contents = discovery.read(cluster)
    assert [(one.id, one.expires) for one in contents.affiliates.values()] == [("af1", 70.0), ("af2", 60.0)]
    assert contents.affiliates["af1"].endpoints[0].expires == 70.0


def test_only_what_is_due_is_collected(cluster):
    discovery.apply(cluster, [update("af1", endpoints=[b"e1"], ttl=60.0), update("af1", b"", [b"e2"], 180.0)], 0.0)
    discovery.apply(cluster, [update("af2", ttl=60.0)], 0.0)
    assert discovery.collect(50.0) == []
    (applied,) = discovery.collect(120.0)
    assert {event.id: event.affiliate and len(event.affiliate.endpoints) for event in applied.events} == {
        "af1": 1, "af2": None}  # fmt: skip
    assert discovery.read(cluster).number == applied.since + 2
    assert discovery.collect(120.0) == []


def test_which_clusters_are_served():
    known = make_cluster()
    assert discovery.find(known.cluster_id, serve_all=False) == discovery.find(known.cluster_id, serve_all=True)
    with pytest.raises(NotServed):
        discovery.find("unknown", serve_all=False)
    assert not DiscoveryCluster.objects.filter(cluster_id="unknown").exists()
    discovery.find("unknown", serve_all=True)
    with pytest.raises(NotServed):
        discovery.find("unknown", serve_all=False)


def test_a_cluster_that_is_not_to_be_served_is_not_and_is_forgotten(cluster):
    known = make_cluster()
    row = discovery.find(known.cluster_id, serve_all=True)
    discovery.apply(row, [update()], 0.0)
    assert discovery.numbers([cluster, row], serve_all=True) == {cluster: 0, row: 1}
    assert discovery.numbers([cluster, row], serve_all=False) == {row: 1}
    clusters.set_options("alice", known, ClusterOptions(discovery=False), NOW)
    assert not DiscoveryAffiliate.objects.exists()
    assert discovery.numbers([cluster, row], serve_all=True) == {cluster: 0}
    with pytest.raises(NotServed):
        discovery.find(known.cluster_id, serve_all=True)
    clusters.set_options("alice", known, ClusterOptions(), NOW)
    assert discovery.find(known.cluster_id, serve_all=False)


def test_a_cap_over_all_clusters(cluster, settings):
    settings.DISCOVERY_AFFILIATES = 10
    known = discovery.find(make_cluster().cluster_id, serve_all=True)
    discovery.apply(cluster, [update(f"af{number}") for number in range(4)], 0.0)
    outcomes = discovery.apply(known, [update(f"af{number}") for number in range(5)], 0.0).outcomes
    assert [outcome.refusal for outcome in outcomes] == [None] * 5
    (stranger,) = discovery.apply(cluster, [update("one more")], 0.0).outcomes
    assert str(stranger.refusal) == "too many affiliates in the service"
    ours, none = discovery.apply(known, [update("the last"), update("one more")], 0.0).outcomes
    assert (ours.refusal, str(none.refusal)) == (None, "too many affiliates in the service")
    assert discovery.apply(cluster, [update("af1", b"renewed")], 0.0).outcomes[0].refusal is None


def test_a_cap_on_strangers_clusters(cluster, settings):
    settings.DISCOVERY_CLUSTERS = 2
    discovery.find("another", serve_all=True)
    with pytest.raises(Exhausted, match="too many clusters in the service"):
        discovery.find("one more", serve_all=True)
    assert discovery.find("c", serve_all=True) == cluster
    assert discovery.find(make_cluster().cluster_id, serve_all=True)


def test_a_cluster_of_which_nobody_speaks_is_forgotten(cluster):
    other = discovery.find("another", serve_all=True)
    now = timezone.now()
    late = now + discovery.EMPTY_KEPT + timedelta(seconds=1)
    discovery.apply(cluster, [update()], 0.0)
    assert discovery.forget_empty(now) == 0
    discovery.note_used([other], late)
    assert discovery.forget_empty(late) == 0  # one is watched, the other has an affiliate
    discovery.collect(61.0)
    assert discovery.forget_empty(late + timedelta(minutes=1)) == 1
    assert list(DiscoveryCluster.objects.values_list("pk", flat=True)) == [other]


def test_rows_say_where_an_affiliate_speaks_from_and_how_many_endpoints_it_has(cluster):
    discovery.apply(cluster, [Update("af1", b"d", (b"e1", b"e2"), 60.0, "2001:db8::1"), update("af2")], 0.0)
    rows = DiscoveryAffiliate.objects.order_by("affiliate_id").values_list("address", "endpoint_count")
    assert list(rows) == [("2001:db8::1", 2), (None, 0)]
    assert [one.address for one in discovery.read(cluster).affiliates.values()] == ["2001:db8::1", ""]
    assert discovery.totals() == discovery.Totals(clusters=1, affiliates=2, endpoints=2)


def test_downtime_makes_nobody_older():
    assert discovery.beat(1000.0) == 0.0
    assert discovery.beat(1010.0) == 0.0
    assert discovery.beat(2010.0) == 1000.0
    assert discovery.beat(2000.0) == 1000.0  # a clock that was set back
    assert discovery.beat(2015.0) == 1000.0


# Processes.


async def test_what_one_process_is_told_the_watchers_of_another_hear(valkey):
    async with running() as one, running() as other, other.watch("c") as watcher:
        assert await hear(watcher) == {}
        await one.update("c", update(endpoints=[b"e1"]))
        assert await hear(watcher) == {"af1": (b"d", [b"e1"])}
        await other.update("c", update("af2"))
        assert await hear(watcher) == {"af2": (b"d", [])}
        await one.delete("c", "af1")
        assert await hear(watcher) == {"af1"}
        assert [affiliate.id for affiliate in await other.list("c")] == ["af2"]


async def test_many_processes_and_changes_leave_everybody_with_the_same(valkey):
    async with running() as one, running() as other, one.watch("c") as here, other.watch("c") as there:
        asked = [registry.update("c", update(f"af{number}", b"%d" % step)) for number in range(20) for step, registry in
                 enumerate((one, other, one))]  # fmt: skip
        await asyncio.gather(*asked)
        wanted = {affiliate.id: affiliate.data for affiliate in await one.list("c")}
        for watcher in (here, there):
            known = {}
            while known != wanted:
                known.update({key: data for key, (data, _) in (await hear(watcher)).items()})


async def test_a_burst_is_few_transactions(valkey, monkeypatch):
    transactions = []
    write = discovery.apply

    def apply(cluster, operations, now):
        transactions.append(len(operations))
        return write(cluster, operations, now)

    monkeypatch.setattr(discovery, "apply", apply)
    async with running() as registry:
        await asyncio.gather(*(registry.update("c", update(f"af{number}")) for number in range(100)))
        assert sum(transactions) == 100
        assert len(transactions) < 20


async def test_a_restart_keeps_everything_and_declares_nobody_gone(valkey):
    clock = [1000.0]
    async with running(wall=lambda: clock[0]) as registry:
        await registry.update("c", update(ttl=60.0))
    clock[0] += 500.0  # nobody serves
    async with running(wall=lambda: clock[0], grace=0.0) as registry, registry.watch("c") as watcher:
        assert await hear(watcher) == {"af1": (b"d", [])}
        assert await in_thread(discovery.collect, registry.now) == []
        clock[0] += 61.0
        applied = await in_thread(discovery.collect, registry.now)
        assert [event.id for event in applied[0].events] == ["af1"]


async def test_nobody_is_gone_during_the_grace_after_a_start(valkey):
    clock = [1000.0]
    async with running(wall=lambda: clock[0]) as registry:
        await registry.update("c", update(ttl=60.0))
        clock[0] += 20.0  # no downtime yet, by which anything would be renewed
        await in_thread(discovery.beat, clock[0])
    clock[0] += 25.0
    await in_thread(discovery.beat, clock[0])
    clock[0] += 20.0
    async with running(wall=lambda: clock[0]) as careful:
        assert [one.id for one in await careful.list("c")] == ["af1"]
        async with running(wall=lambda: clock[0], grace=0.0), careful.watch("c") as watcher:
            assert await hear(watcher) in ({"af1": (b"d", [])}, {})  # the other has no grace
            async with asyncio.timeout(PATIENCE):
                while await careful.list("c"):
                    await asyncio.sleep(0.01)
        assert careful.metrics.registry.get_sample_value("discovery_state_gc_runs_total") == 0.0


async def test_what_was_asked_is_written_before_it_stops(valkey):
    registry = DatabaseRegistry(serve_all=True, grace=3600.0)
    await registry.start()
    await registry.list("c")
    asked = asyncio.create_task(registry.update("c", update()))
    while not registry._writers:
        await asyncio.sleep(0)
    await registry.stop()
    await asked
    assert [one.affiliate_id for one in await in_thread(list, DiscoveryAffiliate.objects.all())] == ["af1"]


async def test_it_stops_though_a_cancellation_is_lost(valkey):
    async def deaf():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    registry = DatabaseRegistry(serve_all=True, grace=3600.0)
    await registry.start()
    registry._spawn(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await registry.stop()


async def test_without_redis_others_are_heard_by_their_numbers(valkey, monkeypatch):
    monkeypatch.setattr(registries, "COMPARE_SECONDS", 0.05)
    async with running() as one, running() as other, other.watch("c") as watcher:
        assert await hear(watcher) == {}
        valkey.stop()
        await one.update("c", update())
        assert await hear(watcher) == {"af1": (b"d", [])}


async def test_nobody_who_publishes_waits_for_redis(valkey, monkeypatch):
    async with running() as registry, registry.watch("c") as watcher:
        await hear(watcher)
        asked = asyncio.Event()

        async def publish(*_):
            asked.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(registry._redis, "publish", publish)
        async with asyncio.timeout(PATIENCE):
            await registry.update("c", update())
        assert await hear(watcher) == {"af1": (b"d", [])}
        await asked.wait()
        for writer in registry._writers:
            writer.cancel()


async def test_limits_reach_the_client(valkey):
    async with running() as registry:
        await registry.update("c", update(endpoints=[bytes([number]) for number in range(1, 65)]))
        with pytest.raises(Exhausted, match="too many endpoints"):
            await registry.update("c", update(endpoints=[b"one more"]))


async def test_an_unknown_cluster_is_not_served(valkey):
    async with running(serve_all=False) as registry:
        with pytest.raises(NotServed):
            await registry.list("unknown")
        cluster = await in_thread(make_cluster)
        assert await registry.list(cluster.cluster_id) == []


async def test_who_watches_what_is_not_served_any_more_begins_anew(valkey, monkeypatch):
    monkeypatch.setattr(registries, "COMPARE_SECONDS", 0.05)
    cluster = await in_thread(make_cluster)
    async with running(serve_all=False) as registry, registry.watch(cluster.cluster_id) as watcher:
        assert await hear(watcher) == {}
        await in_thread(clusters.set_options, "alice", cluster, ClusterOptions(discovery=False), NOW)
        async with asyncio.timeout(PATIENCE):
            assert await watcher.take() is None
        assert registry.mirrors == {}
        with pytest.raises(NotServed):
            await registry.list(cluster.cluster_id)


async def test_a_cluster_that_was_forgotten_meanwhile_is_found_anew(valkey):
    async with running() as registry:
        await registry.list("c")
        await in_thread(DiscoveryCluster.objects.all().delete)
        with pytest.raises(Unavailable):
            await registry.update("c", update())
        await registry.update("c", update())
        assert [one.id for one in await registry.list("c")] == ["af1"]


async def test_what_is_collected_is_counted_and_what_is_watched_is_not_forgotten(valkey):
    clock = [time.time()]
    async with running(wall=lambda: clock[0]) as registry, registry.watch("watched") as watcher:
        assert await hear(watcher) == {}
        await registry.update("c", update(ttl=60.0))
        clock[0] += discovery.EMPTY_KEPT.total_seconds() + 1
        await registry.collect()
        clock[0] += discovery.EMPTY_KEPT.total_seconds() + 1
        await registry.collect()
        assert await in_thread(list, DiscoveryCluster.objects.values_list("cluster_id", flat=True)) == ["watched"]
        counted = {name: registry.metrics.registry.get_sample_value(f"discovery_state_gc_{name}_total") for name in
                   ("runs", "affiliates", "clusters")}  # fmt: skip
        assert counted == {"runs": 2.0, "affiliates": 1.0, "clusters": 1.0}


async def test_whoever_begins_to_watch_at_any_moment_ends_with_what_all_have(valkey):
    """A snapshot and what follows it are one: nothing is missed between them, and nothing told twice goes back."""
    async with running() as one, running() as other:

        async def change():
            for step in range(12):
                registry = (one, other)[step % 2]
                await asyncio.gather(*(registry.update("c", update(f"af{n}", b"%d" % step)) for n in range(5)))
                await one.delete("c", f"af{step % 5}")

        async def follow(registry):
            known = {}
            async with registry.watch("c") as watcher:
                while known.get("last") != (b"", []):
                    heard = await hear(watcher)
                    if isinstance(heard, set):
                        known = {key: value for key, value in known.items() if key not in heard}
                    else:
                        known |= heard
            return known

        changing = asyncio.create_task(change())
        followers = []
        while not changing.done() and len(followers) < 40:
            followers += [asyncio.create_task(follow(registry)) for registry in (one, other)]
            await asyncio.wait({changing}, timeout=0.05)
        await changing
        await one.update("c", update("last", b""))
        wanted = {one.id: (one.data, []) for one in await other.list("c")}
        assert len(followers) > 10
        assert await asyncio.gather(*followers) == [wanted] * len(followers)


async def test_who_watches_no_more_leaves_nothing(valkey):
    async with running() as registry:
        async with registry.watch("c") as watcher:
            await hear(watcher)
            assert len(registry.mirrors) == 1
        assert registry.mirrors == {}
